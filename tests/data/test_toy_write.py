"""Writing toy data: the same bytes again, and never over anything else."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from virtex.data.layouts import LAYOUTS, missing_paths
from virtex.data.toy import has_toy_data, write_toy_data
from virtex.errors import UserError

SMALL = {"train_images": 6, "val_images": 2}


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_toy_data(tmp_path / "toy", **SMALL)
    return tmp_path / "toy"


def test_the_same_seed_gives_the_same_bytes_in_every_file(written, tmp_path):
    write_toy_data(tmp_path / "again", **SMALL)
    assert digests(written) == digests(tmp_path / "again")


def test_another_seed_gives_other_images(written, tmp_path):
    write_toy_data(tmp_path / "other", seed=1, **SMALL)
    first, second = digests(written), digests(tmp_path / "other")
    images = [name for name in first if name.endswith("jpg") and name in second]
    assert images
    assert all(first[name] != second[name] for name in images)


def test_more_images_leave_the_first_ones_as_they_are(written, tmp_path):
    write_toy_data(tmp_path / "more", train_images=8, val_images=2)
    first, second = digests(written), digests(tmp_path / "more")
    assert all(first[name] == second[name] for name in first if "coco/train2017" in name)


def test_coco_may_have_more_training_images_than_the_others(tmp_path):
    write_toy_data(tmp_path, **SMALL, coco_train_images=9)
    folders = ("coco/train2017", "coco/val2017", "VOC2007/JPEGImages", "VOC2012/JPEGImages")
    assert [len(list((tmp_path / folder).iterdir())) for folder in folders] == [9, 2, 3 + 2, 3]
    assert has_toy_data(tmp_path, 0, 6, 2, coco_train_images=9)
    assert not has_toy_data(tmp_path, 0, 6, 2)


def test_no_two_images_are_the_same(toy_root):
    images = [path for path in toy_root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    assert len({path.read_bytes() for path in images}) == len(images)


@pytest.mark.parametrize("task", LAYOUTS)
def test_toy_data_have_all_that_every_task_needs(toy_root, task):
    assert missing_paths(toy_root, task) == []


def test_the_number_of_files_of_each_layout_is_returned(tmp_path):
    files = write_toy_data(tmp_path, **SMALL)
    for layout, count in files.items():
        assert count == sum(path.is_file() for path in (tmp_path / layout).rglob("*"))
    assert files["coco"] == 6 + 2 + 4


def test_written_again_nothing_is_touched(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    write_toy_data(written, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}


def test_written_again_the_same_numbers_are_returned(written, tmp_path):
    assert write_toy_data(written, **SMALL) == write_toy_data(tmp_path / "again", **SMALL)


def test_other_sizes_in_the_same_folder_are_refused(written):
    with pytest.raises(UserError, match=r"train_images 6.*--overwrite"):
        write_toy_data(written, train_images=7, val_images=2)


def test_a_lost_file_is_noticed(written):
    next((written / "coco" / "train2017").iterdir()).unlink()
    assert not has_toy_data(written, 0, 6, 2)
    with pytest.raises(UserError, match="added or deleted"):
        write_toy_data(written, **SMALL)


def test_overwrite_replaces_other_toy_data(written):
    write_toy_data(written, seed=1, overwrite=True, **SMALL)
    assert has_toy_data(written, 1, 6, 2)


def test_overwrite_leaves_nothing_of_the_former_data(written, tmp_path):
    write_toy_data(written, train_images=4, val_images=2, overwrite=True)
    write_toy_data(tmp_path / "fresh", train_images=4, val_images=2)
    assert digests(written) == digests(tmp_path / "fresh")


def test_overwrite_keeps_what_else_is_in_the_folder(written):
    (written / "notes.txt").write_text("mine")
    write_toy_data(written, overwrite=True, **SMALL)
    assert (written / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_never_touched(tmp_path, overwrite):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "real.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="not empty"):
        write_toy_data(tmp_path, overwrite=overwrite, **SMALL)
    assert digests(tmp_path) == {"coco/real.jpg": hashlib.sha256(b"precious").hexdigest()}


def interrupt(out: Path) -> None:
    """Leave what an interruption leaves: files, and a marker that says unfinished."""
    (out / "toy.json").rename(out / "toy.unfinished.json")
    (out / "lvis" / "lvis_v1_val.json").unlink()


def test_interrupted_writing_says_what_to_do(written):
    interrupt(written)
    with pytest.raises(UserError, match=r"never finished.*--overwrite"):
        write_toy_data(written, **SMALL)


def test_interrupted_writing_is_begun_afresh_with_overwrite(written, tmp_path):
    interrupt(written)
    write_toy_data(written, overwrite=True, **SMALL)
    write_toy_data(tmp_path / "fresh", **SMALL)
    assert digests(written) == digests(tmp_path / "fresh")


def test_writing_that_fails_looks_unfinished(tmp_path, monkeypatch):
    def no_room(plan):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("virtex.data.toy.write.WRITERS", (no_room,))
    with pytest.raises(UserError, match="No space left on device"):
        write_toy_data(tmp_path / "toy", **SMALL)
    assert not has_toy_data(tmp_path / "toy", 0, 6, 2)
    assert (tmp_path / "toy" / "toy.unfinished.json").is_file()


def test_a_broken_marker_is_not_taken_for_finished(written):
    (written / "toy.json").write_text("{")
    with pytest.raises(UserError, match="never finished"):
        write_toy_data(written, **SMALL)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "toy").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_toy_data(tmp_path / "toy", **SMALL)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write toy data to"):
        write_toy_data(tmp_path / "file" / "toy", **SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_toy_data(tmp_path / "toy", **SMALL)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "numbers",
    [
        {"seed": -1},
        {"train_images": 1},
        {"val_images": 0},
        {"train_images": -5},
        {"coco_train_images": 0},
    ],
)
def test_numbers_without_sense_are_refused(tmp_path, numbers):
    with pytest.raises(UserError):
        write_toy_data(tmp_path / "toy", **{**SMALL, **numbers})
    assert not (tmp_path / "toy").exists()


def test_the_smallest_world_is_complete(tmp_path):
    write_toy_data(tmp_path, train_images=2, val_images=1)
    assert [missing_paths(tmp_path, task) for task in LAYOUTS] == [[]] * len(LAYOUTS)


def test_the_marker_states_seed_and_sizes(written):
    marker = json.loads((written / "toy.json").read_text())
    assert (marker["seed"], marker["train_images"], marker["val_images"]) == (0, 6, 2)

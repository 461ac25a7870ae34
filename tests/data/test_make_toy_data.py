"""Writing toy data: reproducible, and never over anything else."""

import functools
import hashlib
import json
from pathlib import Path

import cv2
import pytest

from tests.data.test_data_layouts import TOY_LAYOUTS
from tests.errors import assert_invalid_input, raises_code
from tests.tool_runs import completed
from virtex.data.layouts import missing_paths
from virtex.data.toy import has_toy_data, write_toy_data
from virtex.eval_tools import make_toy_data

run = functools.partial(completed, make_toy_data)
SMALL = {"train_images": 4, "val_images": 1}
SIZES = ("--train-images", "4", "--val-images", "1")


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """Return toy data that no test changes."""
    root = tmp_path_factory.mktemp("fresh") / "toy"
    files = write_toy_data(root, **SMALL)
    assert files["coco"] == 4 + 1 + 4 + 5  # the last of persons
    return root


@pytest.fixture
def written(fresh, tmp_path) -> Path:
    root = tmp_path / "toy"
    for path in fresh.rglob("*"):
        if path.is_file():
            (root / path.relative_to(fresh)).parent.mkdir(parents=True, exist_ok=True)
            (root / path.relative_to(fresh)).write_bytes(path.read_bytes())
    return root


def test_tool_writes_the_same_bytes(fresh, tmp_path):
    done = run(tmp_path / "toy", *SIZES, "--preview", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "toy") == digests(fresh)
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10
    again = run(tmp_path / "toy", *SIZES, "--preview", tmp_path / "none/sheet.png")
    assert_invalid_input(again, "data.unwritable", "sheet.png")
    assert "nothing written" in again.stdout
    assert_invalid_input(run(tmp_path / "toy", "--seed", "5", *SIZES), "data.not_empty", "toy")


def test_preview_suffix_is_checked_first(tmp_path):
    done = run(tmp_path / "toy", *SIZES, "--preview", tmp_path / "sheet.pdf")
    assert_invalid_input(done, "arguments.invalid", "sheet.pdf")
    assert not (tmp_path / "toy").exists()


def test_seed_and_sizes(fresh, tmp_path):
    write_toy_data(tmp_path / "other", seed=1, **SMALL)
    write_toy_data(tmp_path / "more", **SMALL, coco_train_images=6)
    first, other, more = (digests(p) for p in (fresh, tmp_path / "other", tmp_path / "more"))
    images = [name for name in first if name.endswith("jpg") and name in other]
    assert images and all(first[name] != other[name] for name in images)
    assert all(first[name] == more[name] for name in first if name.endswith("jpg"))
    assert len(list((tmp_path / "more/coco/train2017").iterdir())) == 6 + 2  # of persons
    assert has_toy_data(tmp_path / "more", 0, 4, 1, coco_train_images=6)
    assert not has_toy_data(tmp_path / "more", 0, 4, 1)
    marker = json.loads((tmp_path / "other/toy.json").read_text())
    assert (marker["seed"], marker["train_images"], marker["val_images"]) == (1, 4, 1)


def test_second_write_changes_nothing(written, monkeypatch):
    monkeypatch.setattr("virtex.data.toy.write.WRITERS", ())
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_toy_data(written, **SMALL)["coco"] == 4 + 1 + 4 + 5
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}


def lose_file(out: Path) -> None:
    next((out / "coco/train2017").iterdir()).unlink()


def interrupt(out: Path) -> None:
    (out / "toy.json").rename(out / "toy.unfinished.json")
    (out / "lvis/lvis_v1_val.json").unlink()


def break_marker(out: Path) -> None:
    (out / "toy.json").write_text("{")


@pytest.mark.parametrize("name", ["imagenet/train/n01440764/mine.JPEG", "coco/train2017/mine"])
def test_overwrite_never_deletes_other_files(written, name):
    (written / name).parent.mkdir(exist_ok=True)
    (written / name).write_text("mine")
    before = digests(written)
    with raises_code("data.not_empty", written / name):
        write_toy_data(written, overwrite=True, **SMALL)
    assert digests(written) == before


@pytest.mark.parametrize("marker", ["toy.json", "toy.unfinished.json"])
def test_overwrite_keeps_a_link_to_real_data(tmp_path, marker):
    real, root = tmp_path / "real", tmp_path / "toy"
    real.mkdir()
    root.mkdir()
    (real / "a.jpg").write_text("mine")
    (root / "imagenet").symlink_to(real)
    (root / marker).write_text("{}")
    with raises_code("data.not_empty", root / "imagenet"):
        write_toy_data(root, overwrite=True, **SMALL)
    assert (root / "imagenet" / "a.jpg").read_text() == "mine"


@pytest.mark.parametrize("damage", [lose_file, interrupt, break_marker])
def test_damaged_data_are_replaced_with_overwrite_only(written, fresh, damage):
    damage(written)
    (written / "notes.txt").write_text("mine")
    assert not has_toy_data(written, 0, 4, 1)
    with raises_code("data.not_empty", written, "--overwrite"):
        write_toy_data(written, **SMALL)
    write_toy_data(written, overwrite=True, **SMALL)
    assert (written / "notes.txt").read_text() == "mine"
    (written / "notes.txt").unlink()
    assert digests(written) == digests(fresh)


def test_other_sizes_are_replaced_with_overwrite_only(written):
    with raises_code("data.not_empty", "train_images 4", "--overwrite"):
        write_toy_data(written, train_images=2, val_images=1)
    write_toy_data(written, train_images=2, val_images=1, overwrite=True)
    assert has_toy_data(written, 0, 2, 1)
    assert all(missing_paths(written, layout) == [] for layout in TOY_LAYOUTS.values())


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_touched(tmp_path, overwrite):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/real.jpg").write_bytes(b"precious")
    with raises_code("data.not_empty", tmp_path):
        write_toy_data(tmp_path, overwrite=overwrite, **SMALL)
    assert digests(tmp_path) == {"coco/real.jpg": hashlib.sha256(b"precious").hexdigest()}


def test_failed_write_is_incomplete(tmp_path, monkeypatch):
    def fail(plan):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("virtex.data.toy.write.WRITERS", (fail,))
    with raises_code("data.unwritable", tmp_path / "toy", "No space left on device"):
        write_toy_data(tmp_path / "toy", **SMALL)
    assert not has_toy_data(tmp_path / "toy", 0, 4, 1)
    assert (tmp_path / "toy/toy.unfinished.json").is_file()


def test_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "toy").write_text("")
    with raises_code("data.not_empty", tmp_path / "toy"):
        write_toy_data(tmp_path / "toy", **SMALL)
    with raises_code("data.unwritable", tmp_path / "toy/below"):
        write_toy_data(tmp_path / "toy/below", **SMALL)


@pytest.mark.parametrize(
    "numbers",
    [{"seed": -1}, {"train_images": 1}, {"val_images": 0}, {"coco_train_images": 0}],
)
def test_invalid_sizes(tmp_path, numbers):
    with raises_code("arguments.invalid"):
        write_toy_data(tmp_path / "toy", **{**SMALL, **numbers})
    assert not (tmp_path / "toy").exists()

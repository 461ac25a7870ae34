"""The feature cache is shared by probes of the same images and checkpoint."""

import re

import pytest

from tests.eval_tools.probe_runs import (
    CHECKPOINT,
    IMAGENET,
    TRAIN_IMAGES,
    record_of,
    run_to_end,
    status_of,
)


def computed(folder):
    """Datasets whose features a run computed."""
    return re.findall(r" INFO: features of (\S+): ", (folder / "log.txt").read_text())


def entries(cache):
    return sorted(path.parent.name for path in cache.glob("*/entry.json"))


def test_probes_share_features(data, out, cache):
    run_to_end("knn", data, out / "knn")
    found = entries(cache)
    assert computed(out / "knn") == ["imagenet_train", "imagenet_val"]
    assert len(found) == 2
    run_to_end("cached", data, out / "cached")
    assert computed(out / "cached") == []
    assert entries(cache) == found
    assert "extract_seconds" not in record_of(out / "cached")["timing"]


def test_svm_protocols_share_features(data, out, cache):
    run_to_end("svm", data, out / "first")
    assert computed(out / "first") == ["voc_2007_trainval", "voc_2007_test"]
    found = entries(cache)
    run_to_end("svm voc11", data, out / "second")
    run_to_end("low-shot", data, out / "third")
    assert computed(out / "second") == computed(out / "third") == []
    assert entries(cache) == found


def test_cached_features_give_the_same_metrics(finished, data, out):
    run_to_end("knn", data, out / "knn")
    run_to_end("cached", data, out / "cached")
    assert record_of(out / "cached")["metrics"] == record_of(finished("cached"))["metrics"]


@pytest.mark.parametrize(
    "other",
    [
        {"flags": ("--checkpoint", f"{CHECKPOINT}?seed=1")},
        {"DATA__IMAGE_CROP_SIZE": 36},
        {"DATA__IMAGE_RESIZE_SIZE": 40},
    ],
)
def test_features_depend_on_checkpoint_and_crop(data, out, cache, other):
    run_to_end("knn", data, out / "first")
    before = entries(cache)
    flags = other.pop("flags", ())
    run_to_end("knn", data, out / "second", *flags, **other)
    assert computed(out / "second") == ["imagenet_train", "imagenet_val"]
    assert len(entries(cache)) == 4
    assert set(before) < set(entries(cache))


def test_features_of_changed_images_are_recomputed(copy_of_data, out):
    run_to_end("knn", copy_of_data, out / "first")
    changed, other = sorted((copy_of_data / "imagenet/val").rglob("*.JPEG"))[:2]
    changed.write_bytes(other.read_bytes())
    run_to_end("knn", copy_of_data, out / "second")
    assert computed(out / "second") == ["imagenet_val"]


def test_list_cache_requires_no_checkpoint(data, out, tmp_path, capsys):
    folder = tmp_path / "elsewhere"
    run_to_end("knn", data, out, "--cache-dir", folder)
    capsys.readouterr()
    for kind in ("svm", "knn"):
        assert status_of(kind, ["--list-cache", "--cache-dir", str(folder)]) == 0
        listed = capsys.readouterr().out
        assert f"{folder}: 0.000 of 100 GB, 2 entries" in listed
        for name in (*IMAGENET, CHECKPOINT, f"{TRAIN_IMAGES} x 512", *entries(folder)):
            assert name in listed

"""Probes of the same images share the features of a checkpoint, and nothing else."""

import re

import pytest

from tests.eval_tools.probe_runs import (
    CHECKPOINT,
    IMAGENET,
    TRAIN_IMAGES,
    ended_well,
    record_of,
    status_of,
)


def computed(folder):
    """The data sets whose features a run computed."""
    return re.findall(r"features of (\S+): ", (folder / "log.txt").read_text())


def entries(cache):
    return sorted(path.parent.name for path in cache.glob("*/entry.json"))


def test_probes_of_the_same_images_share_their_features(data, out, cache):
    ended_well("knn", data, out / "knn")
    found = entries(cache)
    assert computed(out / "knn") == ["imagenet_train", "imagenet_val"]
    assert len(found) == 2
    ended_well("cached", data, out / "cached")
    assert computed(out / "cached") == []
    assert entries(cache) == found
    assert "extract_seconds" not in record_of(out / "cached")["timing"]


def test_an_svm_with_another_solver_uses_the_features_that_are_there(data, out, cache):
    ended_well("svm", data, out / "first")
    assert computed(out / "first") == ["voc_2007_trainval", "voc_2007_test"]
    found = entries(cache)
    ended_well("svm voc11", data, out / "second")
    ended_well("low-shot", data, out / "third")
    assert computed(out / "second") == computed(out / "third") == []
    assert entries(cache) == found


def test_cached_features_give_the_numbers_of_computed_ones(finished, data, out):
    ended_well("knn", data, out / "knn")
    ended_well("cached", data, out / "cached")
    assert record_of(out / "cached")["metrics"] == record_of(finished("cached"))["metrics"]


@pytest.mark.parametrize(
    "other",
    [
        {"flags": ("--checkpoint", f"{CHECKPOINT}?seed=1")},
        {"DATA__IMAGE_CROP_SIZE": 36},
        {"DATA__IMAGE_RESIZE_SIZE": 40},
    ],
)
def test_features_of_another_checkpoint_or_crop_are_never_used(data, out, cache, other):
    ended_well("knn", data, out / "first")
    before = entries(cache)
    flags = other.pop("flags", ())
    ended_well("knn", data, out / "second", *flags, **other)
    assert computed(out / "second") == ["imagenet_train", "imagenet_val"]
    assert len(entries(cache)) == 4
    assert set(before) < set(entries(cache))


def test_features_of_changed_images_are_computed_again(copy_of_data, out):
    ended_well("knn", copy_of_data, out / "first")
    changed, other = sorted((copy_of_data / "imagenet/val").rglob("*.JPEG"))[:2]
    changed.write_bytes(other.read_bytes())
    ended_well("knn", copy_of_data, out / "second")
    assert computed(out / "second") == ["imagenet_val"]


def test_the_cache_is_listed_without_a_checkpoint(data, out, tmp_path, capsys):
    folder = tmp_path / "elsewhere"
    ended_well("knn", data, out, "--cache-dir", folder)
    capsys.readouterr()
    for kind in ("svm", "knn"):
        assert status_of(kind, ["--list-cache", "--cache-dir", str(folder)]) == 0
        listed = capsys.readouterr().out
        assert f"{folder}: 0.000 of 100 GB, 2 entries" in listed
        for name in (*IMAGENET, CHECKPOINT, f"{TRAIN_IMAGES} x 512", *entries(folder)):
            assert name in listed

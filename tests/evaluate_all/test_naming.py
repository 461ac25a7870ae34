"""Folder names of checkpoints are readable, short and unique."""

import pytest

from virtex.evaluate_all.naming import MAX_LENGTH, checkpoint_folders, is_uri, normalize_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random:resnet18?seed=0", "random_resnet18_seed_0"),
        ("torchvision://resnet50", "torchvision_resnet50"),
        ("moco_v2_800ep.pth.tar", "moco_v2_800ep.pth.tar"),
        ("runs/a-b/model_final.pth", "runs_a-b_model_final.pth"),
        ("../up.pth", "up.pth"),
        ("Ünï cødé.pth", "n_c_d_.pth"),
    ],
)
def test_names_are_readable(name, expected):
    assert checkpoint_folders([name]) == {name: expected}


@pytest.mark.parametrize(
    "names",
    [
        ("a/b.pth", "a_b.pth"),
        ("Model.pth", "model.pth"),
        ("模型.pth", "検査.pth"),
        ("x" * 300 + "1", "x" * 300 + "2"),
    ],
)
def test_names_are_unique(names):
    assert len({slug.lower() for slug in checkpoint_folders(names).values()}) == 2


@pytest.mark.parametrize("name", ["logs", "leaderboard.csv", "x" * 300, "..", "/", "模型"])
def test_unusable_names_get_a_hash(name):
    slug = checkpoint_folders([name])[name]
    assert slug not in ("logs", "leaderboard.csv", "", ".", "..")
    assert "/" not in slug and len(slug) <= MAX_LENGTH + 9


def test_paths_are_normalized_and_uris_kept(tmp_path, monkeypatch):
    assert normalize_name("./a//b.pth") == "a/b.pth"
    assert normalize_name("https://host//b.pth") == "https://host//b.pth"
    monkeypatch.chdir(tmp_path)
    assert is_uri("random:resnet18")
    (tmp_path / "random:resnet18").touch()
    assert not is_uri("random:resnet18")

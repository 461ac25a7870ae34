"""A folder for each checkpoint: readable, short, and of no other."""

import pytest

from virtex.evaluate_all.naming import LONGEST, checkpoint_folders, is_address, normal_name


def folder(name):
    return checkpoint_folders([name])[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random:resnet18?seed=0", "random_resnet18_seed_0"),
        ("torchvision://resnet50", "torchvision_resnet50"),
        ("moco_v2_800ep.pth.tar", "moco_v2_800ep.pth.tar"),
        ("runs/a-b/model_final.pth", "runs_a-b_model_final.pth"),
        ("https://example.org/x/model.pth?raw=1", "https_example.org_x_model.pth_raw_1"),
        ("../up.pth", "up.pth"),
        ("Ünï cødé.pth", "n_c_d_.pth"),
    ],
)
def test_names_stay_readable(name, expected):
    assert folder(name) == expected


@pytest.mark.parametrize(
    "names",
    [
        ("a/b.pth", "a_b.pth"),
        ("Model.pth", "model.pth"),
        ("random:resnet18?seed=0", "random:resnet18?seed:0"),
        ("模型.pth", "検査.pth"),
        ("x" * 300 + "1", "x" * 300 + "2"),
    ],
)
def test_two_names_never_share_a_folder(names):
    found = checkpoint_folders(names)
    assert len({slug.lower() for slug in found.values()}) == 2


@pytest.mark.parametrize("name", ["logs", "leaderboard.csv", "x" * 300, "..", "/", "模型"])
def test_a_name_that_cannot_be_a_folder_gets_some_digits_of_its_hash(name):
    slug = folder(name)
    assert slug not in ("logs", "leaderboard.csv", "", ".", "..")
    assert "/" not in slug and len(slug) <= LONGEST + 9


def test_a_path_has_one_spelling_and_an_address_its_own():
    assert normal_name("./a//b.pth") == normal_name("a/b.pth") == "a/b.pth"
    assert normal_name("https://host//b.pth") == "https://host//b.pth"


def test_a_file_that_looks_like_an_address_is_a_file(here):
    assert is_address("random:resnet18")
    (here / "random:resnet18").write_text("")
    assert not is_address("random:resnet18")

"""Runs of the probes with a vision transformer: representation, record, cache, resuming."""

import shutil

import pytest
import torch

from tests.eval_tools.probe_runs import (
    arguments,
    assert_rejected,
    lines_of,
    overrides_in,
    record_of,
    run_to_end,
)
from tests.probes.small_vit import FEATURES, FORMAT, write_vit
from tests.run_states import assert_equal, content_of
from virtex.checkpoints import load_backbone

LAYERS = {
    "OPTIM__LAYER_DECAY": 0.5,
    "OPTIM__OPTIMIZER_NAME": "adamw",
    "OPTIM__CNN_LR": 0.001,
    "OPTIM__LR": 0.001,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def flags(checkpoint):
    return ("--checkpoint", checkpoint, "--format", FORMAT)


def computed(folder):
    return " INFO: features of imagenet_train: " in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("kind", "representation"),
    [
        ("knn", "default"),
        ("svm", "avg"),
        ("low-shot", "last4-cls"),
        ("linear", "last4-cls"),
        ("cached", "cls+avg"),
        ("inaturalist", "cls+avg"),
    ],
)
def test_record_has_the_representation(data, out, flags, kind, representation):
    settings = {} if representation == "default" else {"MODEL__REPRESENTATION": representation}
    record = record_of(run_to_end(kind, data, out, *flags, **settings))
    resolved = "cls" if representation == "default" else representation
    assert record["details"]["representation"] == {
        "name": resolved,
        "features": FEATURES[resolved],
    }
    assert overrides_in(record).get("MODEL.REPRESENTATION", "default") == representation
    assert record["model"]["family"] == "vit"
    if kind == "inaturalist":
        assert record["verification"] == {}
    else:
        assert record["verification"]["backbone"]["unchanged"] is True


def test_resolved_default_is_read_from_the_cache(data, out, flags):
    run_to_end("knn", data, out / "first", *flags)
    run_to_end("knn", data, out / "same", *flags, MODEL__REPRESENTATION="cls")
    run_to_end("knn", data, out / "other", *flags, MODEL__REPRESENTATION="avg")
    assert [computed(out / name) for name in ("first", "same", "other")] == [True, False, True]
    found = [record_of(out / name) for name in ("first", "same")]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert "MODEL.REPRESENTATION" in overrides_in(found[1])


@pytest.mark.parametrize("kind", ["knn", "cached", "linear", "fractions"])
def test_unknown_representation_is_refused_before_data_is_read(tmp_path, out, flags, capsys, kind):
    for split in ("train", "val"):
        (tmp_path / "data/imagenet" / split / "class without images").mkdir(parents=True)
    argv = arguments(kind, tmp_path / "data", out, *flags, MODEL__REPRESENTATION="cls+mean")
    named = ("MODEL.REPRESENTATION", "cls+avg", "cls+mean")
    assert_rejected(capsys, out, kind, argv, "config.representation", *named)


def test_representation_of_another_family_is_refused(data, out, capsys):
    argv = arguments("svm", data, out, MODEL__REPRESENTATION="cls")
    assert_rejected(capsys, out, "svm", argv, "config.representation", "avg")


TRAINING = ("--log-every", "1", "--checkpoint-every", "3")


@pytest.fixture(scope="module")
def trained(data, flags, tmp_path_factory):
    """A finished fine-tuning of 10 iterations, read-only."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    yield run_to_end("inaturalist", data, folder, *flags, *TRAINING, **LAYERS)
    shutil.rmtree(folder)


def test_layers_have_their_own_rates(trained):
    first = next(line for line in lines_of(trained) if "lr/rest" in line)
    rates = {key.removeprefix("lr/"): rate for key, rate in first.items() if "lr/" in key}
    assert rates == {"rest": 0.001, "rest, no decay": 0.001} | {
        f"cnn, layer {layer}{suffix}": pytest.approx(0.001 * 0.5 ** (5 - layer))
        for layer in range(6)  # the stem, 4 blocks, the final norm
        for suffix in ("", ", no decay")
        if (layer, suffix) != (5, "")
    }


def test_resume_is_bit_exact_with_layer_decay(data, out, flags, trained):
    shutil.copytree(trained, out)
    for lost in ("result.json", "model_final.pth", "model_0000009.pth", "per_class.csv"):
        (out / lost).unlink()
    (out / "last_checkpoint").write_text("model_0000006.pth")
    run_to_end("inaturalist", data, out, *flags, *TRAINING, "--resume", **LAYERS)
    assert "after iteration 6" in (out / "log.txt").read_text()
    assert_equal(content_of(out), content_of(trained))
    assert record_of(out)["metrics"] == record_of(trained)["metrics"]


def test_fine_tuned_network_is_loaded_again(trained, checkpoint):
    found, before = load_backbone(trained / "model_final.pth"), load_backbone(checkpoint, FORMAT)
    assert (found.source.format, found.arch, found.input) == ("virtex", before.arch, before.input)
    assert found.arch.interpolation == "offset"  # not shown by the tensors
    assert found.state_dict.keys() == before.state_dict.keys()
    assert not any(torch.equal(t, before.state_dict[n]) for n, t in found.state_dict.items())

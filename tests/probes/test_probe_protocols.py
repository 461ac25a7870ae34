"""The protocols of the probes: published numbers, and every override is reported."""

import inspect
import re
from pathlib import Path

import pytest

from tests.errors import raises_code
from virtex.config import flatten
from virtex.errors import UserError
from virtex.optim.schedules import multiplier
from virtex.probes.classifier_training import with_iterations
from virtex.probes.settings import load_settings
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.records import Deviation
from virtex.tasks import TASKS, packaged_protocol

ALL = [
    (name, short)
    for name, task in TASKS.items()
    if task.command != "detectron2_transfer"
    for short in task.protocols
]
IMAGENET_IMAGES = TASKS["imagenet_linear"].default_protocol.images
INATURALIST_IMAGES = TASKS["inaturalist"].default_protocol.images
VOC07_IMAGES = TASKS["voc07_svm"].default_protocol.images
TOYS = [(task, name) for task, name in ALL if name.startswith("toy")]
DEFAULTS = {
    "voc07_svm": "paper",
    "imagenet_linear": "paper",
    "imagenet_knn": "k20",
    "inaturalist": "paper",
    "coco_captioning": "paper",
    "imagenet_semi_supervised": "20-epochs",
}
TRAIN_IMAGES = {
    "imagenet_linear": IMAGENET_IMAGES["imagenet_train"],
    "inaturalist": INATURALIST_IMAGES["inaturalist_2018_train"],
}


def settings_of(task, name=None, *overrides):
    return load_settings(packaged_protocol(task, name), overrides)[0]


def at_real_size(task):
    return with_iterations(settings_of(task), TRAIN_IMAGES[task]).OPTIM


# Packaged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), ALL)
def test_protocols_load_without_deviations(task, name):
    settings, deviations = load_settings(packaged_protocol(task, name))
    assert deviations == []
    assert settings.is_frozen()


@pytest.mark.parametrize("task", DEFAULTS)
def test_default_protocol(task):
    assert packaged_protocol(task).name == DEFAULTS[task]
    assert packaged_protocol(task) == packaged_protocol(task, DEFAULTS[task])


@pytest.mark.parametrize(("task", "name"), TOYS)
def test_toy_protocols_have_the_same_keys(task, name):
    toy, full = (
        settings_of(task, n) for n in (name, "cached" if name == "toy-cached" else DEFAULTS[task])
    )
    assert toy.DATA.IMAGE_CROP_SIZE == 64 < full.DATA.IMAGE_CROP_SIZE
    assert list(flatten(toy)) == list(flatten(full))
    assert packaged_protocol(task, name).images == {}


def test_unknown_protocol():
    with pytest.raises(UserError, match=r"fast.*cached"):
        packaged_protocol("imagenet_linear", "fast")


# Published numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", DEFAULTS)
def test_image_sizes(task):
    data = settings_of(task).DATA
    assert (data.IMAGE_RESIZE_SIZE, data.IMAGE_CROP_SIZE) == (256, 224)
    assert list(data.get("CROP_SCALE", [0.08, 1.0])) == [0.08, 1.0]


def test_voc07_protocol():
    svm = settings_of("voc07_svm").SVM
    assert svm.COSTS == [0.01, 0.1, 1, 10]
    assert (svm.FOLDS, svm.POSITIVE_WEIGHT) == (3, 2)
    assert inspect.signature(fit_svms_liblinear).parameters["max_iterations"].default == 2000
    assert packaged_protocol("voc07_svm").primary_metric == "mAP"
    assert VOC07_IMAGES == {"voc_2007_trainval": 5011, "voc_2007_test": 4952}


def test_imagenet_linear_protocol():
    settings, optim = settings_of("imagenet_linear"), at_real_size("imagenet_linear")
    assert settings.MODEL.FROZEN is True
    assert optim.NUM_ITERATIONS == 500_500
    assert (optim.BATCH_SIZE, optim.OPTIMIZER_NAME, optim.SGD_MOMENTUM) == (256, "sgd", 0.9)
    assert (optim.LR, optim.WEIGHT_DECAY) == (0.3, 0)
    assert (optim.LR_DECAY_NAME, optim.WARMUP_STEPS, optim.CLIP_GRAD_NORM) == ("cosine", 0, 0)
    halves = [multiplier(step, optim) for step in (0, 250_250, 500_500)]
    assert halves == pytest.approx([1, 0.5, 0])


def test_inaturalist_protocol():
    settings, optim = settings_of("inaturalist"), at_real_size("inaturalist")
    assert (settings.MODEL.FROZEN, settings.AMP) == (False, True)
    assert optim.NUM_ITERATIONS == 171_000
    assert optim.LR_STEPS == [119_700, 153_900]
    assert (optim.BATCH_SIZE, optim.OPTIMIZER_NAME, optim.SGD_MOMENTUM) == (256, "sgd", 0.9)
    assert (optim.LR, optim.CNN_LR, optim.WEIGHT_DECAY) == (0.025, 0.025, 0.0001)
    rates = [multiplier(s, optim) for s in (0, 119_699, 119_700, 153_899, 153_900, 170_999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_semi_supervised_protocol():
    settings = settings_of("imagenet_semi_supervised")
    optim = settings.OPTIM
    assert settings.MODEL.FROZEN is False
    assert (optim.NUM_EPOCHS, optim.BATCH_SIZE, optim.WEIGHT_DECAY) == (20, 256, 0)
    assert (optim.CNN_LR, optim.LR, optim.LR_DECAY_NAME) == (0.005, 0.5, "cosine")


def test_knn_protocol():
    knn = settings_of("imagenet_knn").KNN
    assert (knn.NEIGHBORS[0], knn.TEMPERATURE) == (20, 0.07)


def test_cached_protocol():
    probe = settings_of("imagenet_linear", "cached").PROBE
    assert 0 < probe.HELD_OUT < 0.1
    assert len(probe.LRS) * len(probe.WEIGHT_DECAYS) >= 12
    assert 0 in probe.WEIGHT_DECAYS


@pytest.mark.parametrize(
    ("images", "iterations", "steps"),
    [(256, 100, [70, 90]), (257, 200, [140, 180]), (1, 100, [70, 90])],
)
def test_epochs_are_rounded_up_to_batches(images, iterations, steps):
    optim = with_iterations(settings_of("inaturalist"), images).OPTIM
    assert iterations == optim.NUM_ITERATIONS
    assert steps == optim.LR_STEPS


def test_fractions_of_an_epoch():
    short = settings_of(
        "imagenet_linear", None, "OPTIM.NUM_EPOCHS", "0.3", "OPTIM.BATCH_SIZE", "10"
    )
    assert with_iterations(short, 100).OPTIM.NUM_ITERATIONS == 3
    assert with_iterations(short, 3).OPTIM.NUM_ITERATIONS == 1


def test_with_iterations_copies_the_settings():
    settings = settings_of("inaturalist")
    before = str(settings)
    assert with_iterations(settings, 1000).is_frozen()
    assert str(settings) == before


def test_warmup_longer_than_training_is_rejected():
    settings = settings_of("inaturalist", None, "OPTIM.WARMUP_EPOCHS", "101")
    with raises_code("config.invalid_value", "OPTIM.WARMUP_EPOCHS"):
        with_iterations(settings, 1000)


# Overrides ---------------------------------------------------------------------------------------


def test_override_is_a_deviation():
    settings, deviations = load_settings(
        packaged_protocol("voc07_svm"), ["SVM.COSTS", "[0.5, 2]", "SVM.FOLDS", "5"]
    )
    assert (settings.SVM.COSTS, settings.SVM.FOLDS) == ([0.5, 2], 5)
    assert deviations == [
        Deviation("SVM.COSTS", [0.01, 0.1, 1.0, 10.0], [0.5, 2], "override"),
        Deviation("SVM.FOLDS", 3, 5, "override"),
    ]


def test_override_of_a_toy_protocol():
    _, deviations = load_settings(
        packaged_protocol("imagenet_linear", "toy"), ["OPTIM.BATCH_SIZE", "16"]
    )
    assert deviations == [Deviation("OPTIM.BATCH_SIZE", 32, 16, "override")]


def test_documented_overrides_load():
    """The table of published evaluations in docs/protocols.md."""
    page = Path(__file__).parents[2].joinpath("docs/protocols.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]+\| `(paper|cached)` \| `([A-Z][^`|]+)` \|", page, re.MULTILINE)
    assert len(rows) == 7
    for name, overrides in rows:
        _, deviations = load_settings(packaged_protocol("imagenet_linear", name), overrides.split())
        assert len(deviations) == len(overrides.split()) / 2  # none repeats the protocol


@pytest.mark.parametrize("value", ["0.3", 0.3])
def test_override_without_change_is_no_deviation(value):
    assert load_settings(packaged_protocol("imagenet_linear"), ["OPTIM.LR", value])[1] == []


def test_integers_become_floats():
    settings, deviations = load_settings(
        packaged_protocol("imagenet_linear"), ["OPTIM.LR", "1", "OPTIM.NUM_EPOCHS", "100"]
    )
    assert type(settings.OPTIM.LR) is float
    assert [deviation.key for deviation in deviations] == ["OPTIM.LR"]


UNKNOWN = ("SVM.COST 1", "OPTIM.LR 1", "SVM 1")
INVALID = {
    "voc07_svm": (
        *("SVM.FOLDS 2.5", "SVM.FOLDS True", "SVM.FOLDS 1", "SVM.COSTS 1", "SVM.COSTS []"),
        *("SVM.COSTS [1,0]", "SVM.COSTS ['a']", "SVM.COSTS [1e999]", "SVM.POSITIVE_WEIGHT 0"),
        *("LOW_SHOT.SAMPLES 0", "DATA.IMAGE_CROP_SIZE 257", "DATA.IMAGE_CROP_SIZE 0"),
    ),
    "imagenet_knn": ("KNN.NEIGHBORS [1.5]", "KNN.NEIGHBORS [0]", "KNN.TEMPERATURE 0"),
    "imagenet_linear": (
        *("OPTIM.LR fast", "OPTIM.LR 1e999", "MODEL.FROZEN 1", "DATA.CROP_SCALE [0.5]"),
        *("DATA.CROP_SCALE [1.0,0.5]", "DATA.CROP_SCALE [0.1,1.1]", "OPTIM.OPTIMIZER_NAME lars"),
        *("OPTIM.LR_DECAY_NAME step", "OPTIM.BATCH_SIZE 0", "OPTIM.NUM_EPOCHS 0"),
        *("OPTIM.LAYER_DECAY 0", "OPTIM.LAYER_DECAY 1.5"),
    ),
    "imagenet_linear/cached": (
        *("PROBE.LRS [1e999]", "PROBE.HELD_OUT 1", "PROBE.HELD_OUT 0", "PROBE.MOMENTUM 1"),
        "DATA.AUGMENTATIONS -1",
    ),
    "inaturalist": (
        *("OPTIM.LR_STEP_EPOCHS [1e999]", "OPTIM.LR_STEP_EPOCHS []", "OPTIM.NUM_EPOCHS 90"),
        *("OPTIM.LR_STEP_EPOCHS [90,70]", "OPTIM.LR_STEP_EPOCHS [70,70]", "OPTIM.NO_DECAY ("),
        "OPTIM.LR_STEP_EPOCHS [0,70]",
    ),
}


@pytest.mark.parametrize(
    ("task", "override"), [(task, each) for task, found in INVALID.items() for each in found]
)
def test_invalid_value(task, override):
    task, _, name = task.partition("/")
    with raises_code("config.invalid_value", override.split()[0]) as caught:
        load_settings(packaged_protocol(task, name or None), override.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", UNKNOWN)
def test_unknown_key(override):
    with raises_code("config.unknown_key", override.split()[0]):
        load_settings(packaged_protocol("voc07_svm"), override.split())


def test_key_without_value():
    with raises_code("config.unpaired_override", "SVM.FOLDS"):
        load_settings(packaged_protocol("voc07_svm"), ["SVM.FOLDS"])


def test_settings_are_frozen():
    settings = settings_of("voc07_svm")
    with pytest.raises(AttributeError, match="is immutable"):
        settings.SVM.FOLDS = 2

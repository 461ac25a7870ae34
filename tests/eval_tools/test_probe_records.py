"""Outputs of a probe: the record, curves, tables and the model."""

import csv
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoints import checkpoint_writers
from tests.detectron.backbones import make_state_dict
from tests.eval_tools.probe_runs import (
    CACHING,
    CHECKPOINT,
    DATA,
    KINDS,
    TRAINING,
    VAL_IMAGES,
    comparable,
    from_data_in,
    lines_of,
    log_flags,
    overrides_in,
    quick,
    record_of,
    run_to_end,
)
from tests.run_states import assert_equal, content_of
from tests.selection import whole_only
from virtex.checkpoints.loading import load_backbone
from virtex.records import SCHEMA_VERSION

# The record ---------------------------------------------------------------------------------------


def records_of(finished, kind):
    folder = finished(kind)
    folders = sorted(folder.glob("fraction_*")) if kind == "fractions" else [folder]
    return [record_of(folder) for folder in folders]


VIRTEX, DINO, BARLOW_TWINS = ("bilinear", False), ("bicubic", True), ("bilinear", True)
PREPROCESSING = dict.fromkeys(("svm", "low-shot", "linear", "inaturalist"), VIRTEX)
PREPROCESSING |= {"cached": DINO, "knn": DINO, "fractions": BARLOW_TWINS}


@pytest.mark.parametrize("kind", KINDS)
def test_record_has_protocol_and_overrides(finished, kind):
    for record in records_of(finished, kind):
        fraction = re.fullmatch(r"toy-fraction-0\.\d", record["protocol"]["name"])
        assert record["task"] == KINDS[kind].task
        assert fraction if kind == "fractions" else record["protocol"]["name"] == KINDS[kind].name
        assert record["protocol"]["version"] == ("1" if kind == "fractions" else "2")
        found = record["protocol"]["preprocessing"]
        assert (found["INTERPOLATION"], found["ANTIALIAS"]) == PREPROCESSING[kind.split()[0]]
        assert found["IMAGE_CROP_SIZE"] == overrides_in(record)["DATA.IMAGE_CROP_SIZE"]
        assert overrides_in(record) == KINDS[kind].settings
        assert len(record["protocol"]["overrides"]) == len(KINDS[kind].settings)
        packaged = {d["key"]: d["protocol"] for d in record["protocol"]["overrides"]}
        assert packaged["DATA.IMAGE_CROP_SIZE"] == 64


@pytest.mark.parametrize("kind", KINDS)
def test_record_has_metrics_in_percent(finished, kind):
    for record in records_of(finished, kind):
        assert record["primary_metric"] == KINDS[kind].metric
        assert record["higher_is_better"] is True
        assert all(0 <= value <= 100 for value in record["metrics"].values())
        assert record["primary_metric"] in record["metrics"]
        assert any(value > 0 for value in record["metrics"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_record_identifies_model_and_data(finished, kind):
    for record in records_of(finished, kind):
        model = record["model"]
        content = Path(model["source"]).read_bytes()
        assert model["sha256"] == hashlib.sha256(content).hexdigest()
        assert (model["name"], model["format"]) == (CHECKPOINT, "torchvision")
        assert model["arch"]["name"] == "resnet18"
        assert model["coverage"]["complete"]
        assert record["seed"] == 0
        counts = {name: described["images"] for name, described in record["data"].items()}
        if kind == "fractions":
            assert counts.pop("imagenet_train") == 20  # half of each class, at least one
            assert counts == {"imagenet_val": VAL_IMAGES}
        else:
            assert counts == DATA[record["task"]]
        for described in record["data"].values():
            assert len(described["files_sha256"]) == len(described["annotations_sha256"]) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_record_verifies_frozen_backbone(finished, kind):
    for record in records_of(finished, kind):
        if KINDS[kind].frozen:
            assert record["verification"]["backbone"]["unchanged"] is True
            assert len(record["verification"]["backbone"]["tensors_sha256"]) == 64
        else:
            assert record["verification"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_record_has_environment_and_timing(finished, kind):
    for record in records_of(finished, kind):
        assert (record["schema_version"], record["created"][:2]) == (SCHEMA_VERSION, "20")
        environment = record["environment"]
        assert (environment["device"], environment["processes"]) == ("cpu", 1)
        assert environment["torch"] == torch.__version__
        speeds = [v for k, v in record["timing"].items() if k.endswith("images_per_second")]
        assert [speed > 0 for speed in speeds] == [True]
        assert all(value > 0 for value in record["timing"].values())


def test_svm_record_has_solver_and_costs(finished):
    record = record_of(finished("svm"))
    assert record["environment"]["svm_solver"] == "fast"
    costs = record["details"]["svm_costs"]
    assert len(costs) == 20
    assert set(costs.values()) <= {0.01, 0.1, 1.0, 10.0}
    by_liblinear = record_of(finished("svm by liblinear"))["environment"]
    assert by_liblinear["svm_solver"] == "liblinear"


def test_average_precision_option(finished):
    kinds = ("svm", "svm voc11", "svm interpolated")
    found = [record_of(finished(kind))["metrics"] for kind in kinds]
    assert len({metrics["mAP"] for metrics in found}) == 3
    plain, _, interpolated = found
    assert all(interpolated[name] >= value - 1e-9 for name, value in plain.items())


def test_low_shot_metrics(finished):
    metrics = record_of(finished("low-shot"))["metrics"]
    assert set(metrics) == {"1-shot/mAP", "1-shot/std", "2-shot/mAP", "2-shot/std"}


def test_knn_metrics_at_each_k(finished):
    metrics = record_of(finished("knn"))["metrics"]
    for name in ("top1", "top5", "mean_per_class"):
        assert metrics[name] == metrics[f"k10/{name}"]
        assert f"k20/{name}" in metrics


def test_each_fraction_has_its_own_run(finished):
    runs = {path.name: record_of(path) for path in finished("fractions").iterdir()}
    assert set(runs) == {"fraction_0.1", "fraction_0.5"}
    names = {name: record["protocol"]["name"] for name, record in runs.items()}
    assert names == {name: f"toy-{name.replace('_', '-')}" for name in runs}


# Other outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINING)
def test_training_logs_curves(finished, kind):
    lines = lines_of(finished(kind))
    assert [line["iteration"] for line in lines if "train/loss" in line] == list(range(1, 11))
    metrics = record_of(finished(kind))["metrics"]
    assert lines[-1] == {"iteration": 10} | {f"val/{name}": v for name, v in metrics.items()}
    assert list(finished(kind).glob("events.out.tfevents.*"))
    assert "iter: 10  loss: " in (finished(kind) / "log.txt").read_text()


@pytest.mark.parametrize("kind", CACHING)
def test_cached_probe_logs_metrics(finished, kind):
    assert lines_of(finished(kind)) == [{"iteration": 0} | record_of(finished(kind))["metrics"]]
    assert list(finished(kind).glob("events.out.tfevents.*"))
    assert "This run deviates from its protocol" in (finished(kind) / "log.txt").read_text()


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", [*TRAINING, "cached"])
def test_per_class_table(finished, kind):
    rows = rows_of(finished(kind) / "per_class.csv")
    assert len(rows) == (30 if kind == "inaturalist" else 20)
    images = [int(row["images"]) for row in rows]
    assert sum(images) == VAL_IMAGES
    right = sum(n * float(row["top1"]) for n, row in zip(images, rows, strict=True) if n)
    metrics = record_of(finished(kind))["metrics"]
    assert right / VAL_IMAGES == pytest.approx(metrics["top1"], abs=1e-3)


def test_grid_is_sorted_by_held_out_accuracy(finished):
    rows = rows_of(finished("cached") / "grid.csv")
    settings = [(float(row["learning_rate"]), float(row["weight_decay"])) for row in rows]
    rates, decays = [0.001, 0.01, 0.1], [0.0, 0.00001, 0.0001, 0.001]
    assert sorted(settings) == [(rate, decay) for rate in rates for decay in decays]
    record = record_of(finished("cached"))
    chosen = record["details"]["chosen"]
    assert settings[0] == (chosen["LR"], chosen["WEIGHT_DECAY"])
    scores = [float(row["held_out_top1"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(record["metrics"]["held_out/top1"], abs=1e-4)


@pytest.mark.parametrize("every", [4, 5, 1000])
def test_last_iteration_is_validated_and_saved(data, out, every):
    run_to_end("linear", data, out, "--checkpoint-every", every)
    validated = [line["iteration"] for line in lines_of(out) if "val/top1" in line]
    assert validated == {4: [4, 8, 10], 5: [5, 10], 1000: [10]}[every]
    assert content_of(out)["iteration"] == 10


# The trained model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caffe_file(tmp_path_factory):
    """A ResNet-18 in Caffe2's format: BGR input, without BatchNorm statistics."""
    path = tmp_path_factory.mktemp("checkpoints") / "R-18.pkl"
    content = checkpoint_writers.caffe2(make_state_dict("resnet18"))
    yield checkpoint_writers.save(content, path, checkpoint_writers.caffe2)
    path.unlink()


def assert_loads_again(folder, before):
    after = load_backbone(str(folder / "model_final.pth"))
    assert after.source.format == "virtex"
    assert after.source.coverage.complete
    assert (after.input, after.arch) == (before.input, before.arch)
    return after


@pytest.mark.parametrize("is_bgr", [False, True])
def test_probed_backbone_is_saved_bit_exact(finished, data, out, caffe_file, is_bgr):
    if is_bgr:
        folder = run_to_end("linear", data, out, "--checkpoint", caffe_file, **quick())
    else:
        folder = finished("linear")
    before = load_backbone(caffe_file if is_bgr else CHECKPOINT)
    assert before.input.channel_order == ("BGR" if is_bgr else "RGB")
    after = assert_loads_again(folder, before)
    assert_equal(dict(after.state_dict), dict(before.state_dict))


@pytest.mark.parametrize("is_bgr", [False, True])
def test_finetuned_backbone_changes_every_layer(finished, data, out, caffe_file, is_bgr):
    if is_bgr:
        folder = run_to_end("inaturalist", data, out, "--checkpoint", caffe_file, **quick())
    else:
        folder = finished("inaturalist")
    before = load_backbone(caffe_file if is_bgr else CHECKPOINT)
    after = assert_loads_again(folder, before)
    same = {k for k, v in after.state_dict.items() if torch.equal(v, before.state_dict[k])}
    assert same == set()


def test_checkpoint_of_a_probe_can_be_probed(finished, data, out):
    trained = finished("linear") / "model_final.pth"
    run_to_end("knn", data, out, "--checkpoint", trained)
    assert record_of(out)["metrics"] == record_of(finished("knn"))["metrics"]


# Seeds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["svm", "low-shot", "cached", "linear", "inaturalist"])
def test_same_seed_gives_same_record(finished, data, out, kind):
    again = run_to_end(kind, data, out, *log_flags(kind))
    assert comparable(record_of(again)) == comparable(record_of(finished(kind)))
    if kind in TRAINING:
        assert_equal(content_of(again), content_of(finished(kind)))


@pytest.mark.parametrize("kind", ["linear", *whole_only("inaturalist")])
def test_training_depends_on_seed(finished, data, out, kind):
    other = run_to_end(kind, data, out, "--seed", "1")
    assert record_of(other)["seed"] == 1
    weights = [content_of(folder)["model"]["head.weight"] for folder in (finished(kind), other)]
    assert not torch.equal(*weights)


def test_initialization_depends_on_seed(data, out):
    still = quick() | {"OPTIM__LR": 0.0}
    runs = [run_to_end("linear", data, out / s, "--seed", s, **still) for s in ("0", "1", "00")]
    first, other, again = (content_of(run)["model"]["head.weight"] for run in runs)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def test_fraction_depends_on_seed(finished, data, out):
    other = run_to_end("fractions", data, out, "--fraction", "0.5", "--seed", "1", **quick())
    sampled = [
        record_of(folder / "fraction_0.5")["data"]["imagenet_train"]
        for folder in (finished("fractions"), other)
    ]
    assert sampled[0]["images"] == sampled[1]["images"]
    assert sampled[0]["files_sha256"] != sampled[1]["files_sha256"]


# Custom data --------------------------------------------------------------------------------------


@pytest.fixture
def shapes(data, tmp_path):
    """An image folder with three classes."""
    for split in ("train", "val"):
        for source, name in zip(
            sorted((data / "imagenet" / split).iterdir()), ("circle", "square", "heart"),
            strict=False,
        ):  # fmt: skip
            shutil.copytree(source, tmp_path / "my-shapes" / split / name)
    return tmp_path / "my-shapes"


@pytest.mark.parametrize(
    ("kind", "task", "flags"),
    [
        ("linear", "my-shapes_linear", ()),
        ("cached", "my-shapes_linear", ("--protocol", "cached")),
        ("knn", "my-shapes_knn", ("--protocol", "k20")),
        ("fractions", "my-shapes_semi_supervised", ("--fraction", "1.0")),
    ],
)
def test_image_folder_is_a_task_of_its_name(tmp_path, out, shapes, kind, task, flags):
    small = quick() if kind in ("linear", "fractions") else {}
    run_to_end(kind, tmp_path / "nowhere", out, "--image-folder", shapes, *flags, **small)
    record = record_of(out / "fraction_1" if kind == "fractions" else out)
    assert record["task"] == task
    assert {name: (d["images"], d["classes"]) for name, d in record["data"].items()} == {
        "my-shapes_train": (6, 3),
        "my-shapes_val": (4, 3),
    }
    assert from_data_in(record) == {}  # the number of images is not known
    assert ("top5" in record["metrics"]) is False  # only three classes
    if kind in ("linear", "fractions"):
        folder = out / "fraction_1" if kind == "fractions" else out
        assert content_of(folder)["model"]["head.weight"].shape == (3, 512)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("svm", {"voc_2007_trainval": 5011, "voc_2007_test": 4952}),
        ("linear", {"imagenet_train": 1281167, "imagenet_val": 50000}),
        ("cached", {"imagenet_train": 1281167, "imagenet_val": 50000}),
        ("knn", {"imagenet_train": 1281167, "imagenet_val": 50000}),
        ("inaturalist", {"inaturalist_2018_train": 437513, "inaturalist_2018_val": 24426}),
    ],
)
def test_toy_data_deviate_from_published_protocol(data, out, kind, expected):
    small = quick() if kind in TRAINING else {}
    protocol = {"cached": "cached", "knn": "k20"}.get(kind, "paper")
    run_to_end(kind, data, out, "--protocol", protocol, **small)
    record = record_of(out)
    assert record["protocol"]["name"] == protocol
    assert from_data_in(record) == {
        f"{name}: images": (count, DATA[record["task"]][name]) for name, count in expected.items()
    }


def test_imagenet_as_image_folder_is_checked(data, out):
    """A toy run must not be recorded as ImageNet's published protocol without a deviation."""
    folder = data / "imagenet"
    run_to_end("knn", data, out, "--image-folder", folder, "--protocol", "k20")
    record = record_of(out)
    assert record["task"] != "imagenet_knn" or from_data_in(record)


@pytest.mark.whole
def test_probes_do_not_import_detectron2():
    code = "import sys; sys.modules['detectron2'] = None; import virtex.tasks"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)

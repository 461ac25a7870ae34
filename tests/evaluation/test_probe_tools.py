"""The probes end to end: a checkpoint goes in, a record that can be believed comes out."""

import csv
import functools
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.checkpoints import checkpoint_writers
from tests.detectron.backbones import make_state_dict
from tests.evaluation.probe_runs import (
    CHECKPOINT,
    CROPS,
    KINDS,
    TRAIN_IMAGES,
    VAL_IMAGES,
    arguments,
    command,
    ended_well,
    from_data_in,
    lines_of,
    overrides_in,
    record_of,
    status_of,
    write_data,
)
from tests.pretraining_runs import files_in
from tests.run_states import assert_equal, content_of
from virtex.checkpoints.loading import load_backbone

TOOLS = sorted({kind.tool.__file__ for kind in KINDS.values()})
CACHING = ("svm", "cached", "knn")
TRAINING = ("linear", "inaturalist")
# data set -> images; VOC2007 has half of the training images
VOC = {"voc_2007_trainval": TRAIN_IMAGES // 2, "voc_2007_test": VAL_IMAGES}
IMAGENET = {"imagenet_train": TRAIN_IMAGES, "imagenet_val": VAL_IMAGES}
DATA = {
    "voc07_svm": VOC,
    "imagenet_linear": IMAGENET,
    "imagenet_knn": IMAGENET,
    "inaturalist": {"inaturalist_2018_train": TRAIN_IMAGES, "inaturalist_2018_val": VAL_IMAGES},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("probe_data") / "data")


@pytest.fixture(scope="module", autouse=True)
def no_cache_of_the_users(tmp_path_factory):
    """Random backbones are kept here; features in a folder that each test has for itself."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FVCORE_CACHE", str(folder))
        yield
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "features"
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(folder))
    return folder


@pytest.fixture
def out(tmp_path):
    """An output folder that is not there yet; deleted after the test, for checkpoints are large."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Kind -> a finished run, to look at and never to change."""
    folder = tmp_path_factory.mktemp("finished")

    @functools.cache
    def run(kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIRTEX_FEATURE_CACHE", str(folder / f"features of {kind}"))
            patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # liblinear's processes take long to start
            return ended_well(kind, data, folder / kind, *often(kind))

    yield run
    shutil.rmtree(folder)


def often(kind):
    return ("--log-every", "1") if kind in TRAINING else ()


@pytest.fixture
def copy_of_data(data, tmp_path):
    """ImageNet and iNaturalist to be spoiled, and VOC2007."""
    root = tmp_path / "data"
    for name in ("imagenet", "inaturalist", "VOC2007"):
        shutil.copytree(data / name, root / name)
    return root


# --- the record ----------------------------------------------------------------------------------


def records_of(finished, kind):
    folder = finished(kind)
    folders = sorted(folder.glob("fraction_*")) if kind == "fractions" else [folder]
    return [record_of(folder) for folder in folders]


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_names_task_protocol_and_every_departure(finished, kind):
    for record in records_of(finished, kind):
        fraction = re.fullmatch(r"toy-fraction-0\.\d", record["protocol"]["name"])
        assert record["task"] == KINDS[kind].task
        assert fraction if kind == "fractions" else record["protocol"]["name"] == KINDS[kind].name
        assert record["protocol"]["version"] == "1"
        assert overrides_in(record) == KINDS[kind].settings
        assert len(record["protocol"]["departures"]) == len(KINDS[kind].settings)
        packaged = {d["key"]: d["protocol"] for d in record["protocol"]["departures"]}
        assert packaged["DATA.IMAGE_CROP_SIZE"] == 96


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_holds_metrics_in_percent_and_the_one_that_ranks(finished, kind):
    for record in records_of(finished, kind):
        assert record["primary_metric"] == KINDS[kind].metric
        assert record["higher_is_better"] is True
        assert all(0 <= value <= 100 for value in record["metrics"].values())
        assert record["primary_metric"] in record["metrics"]
        assert any(value > 0 for value in record["metrics"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_tells_which_model_was_judged_on_which_images(finished, kind):
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
            assert counts.pop("imagenet_train") == 20  # one of two a class, or at least one
            assert counts == {"imagenet_val": VAL_IMAGES}
        else:
            assert counts == DATA[record["task"]]
        for described in record["data"].values():
            assert len(described["images_sha256"]) == len(described["annotations_sha256"]) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_proves_that_a_frozen_backbone_did_not_change(finished, kind):
    for record in records_of(finished, kind):
        if KINDS[kind].frozen:
            assert record["verification"]["backbone"]["unchanged"] is True
            assert len(record["verification"]["backbone"]["tensors_sha256"]) == 64
        else:
            assert record["verification"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_says_where_it_ran_and_how_fast(finished, kind):
    for record in records_of(finished, kind):
        assert (record["schema_version"], record["created"][:2]) == (1, "20")
        environment = record["environment"]
        assert (environment["device"], environment["processes"]) == ("cpu", 1)
        assert environment["torch"] == torch.__version__
        speeds = [v for k, v in record["timing"].items() if k.endswith("images_per_second")]
        assert [speed > 0 for speed in speeds] == [True]
        assert all(value > 0 for value in record["timing"].values())


def test_the_record_of_an_svm_says_the_solver_and_each_class_cost(finished):
    environment = record_of(finished("svm"))["environment"]
    assert environment["svm_solver"] == "fast"
    assert len(environment["svm_costs"]) == 20
    assert set(environment["svm_costs"].values()) <= {0.01, 0.1, 1.0, 10.0}
    by_liblinear = record_of(finished("svm by liblinear"))["environment"]
    assert by_liblinear["svm_solver"] == "liblinear"


def test_the_average_precision_that_is_asked_for_is_used(finished):
    kinds = ("svm", "svm voc11", "svm interpolated")
    found = [record_of(finished(kind))["metrics"] for kind in kinds]
    assert len({metrics["mAP"] for metrics in found}) == 3
    plain, _, interpolated = found
    assert all(interpolated[name] >= value - 1e-9 for name, value in plain.items())


def test_low_shot_gives_mean_and_deviation_of_each_number_of_images(finished):
    metrics = record_of(finished("low-shot"))["metrics"]
    assert set(metrics) == {"1-shot/mAP", "1-shot/std", "2-shot/mAP", "2-shot/std"}


def test_neighbours_are_scored_at_every_number_and_the_first_ranks(finished):
    metrics = record_of(finished("knn"))["metrics"]
    for name in ("top1", "top5", "mean_per_class"):
        assert metrics[name] == metrics[f"k10/{name}"]
        assert f"k20/{name}" in metrics


def test_each_fraction_is_a_run_of_its_own(finished):
    runs = {path.name: record_of(path) for path in finished("fractions").iterdir()}
    assert set(runs) == {"fraction_0.1", "fraction_0.5"}
    names = {name: record["protocol"]["name"] for name, record in runs.items()}
    assert names == {name: f"toy-{name.replace('_', '-')}" for name in runs}


# --- what else a run leaves ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINING)
def test_curves_of_a_training_are_there(finished, kind):
    lines = lines_of(finished(kind))
    assert [line["iteration"] for line in lines if "train/loss" in line] == list(range(1, 11))
    metrics = record_of(finished(kind))["metrics"]
    assert lines[-1] == {"iteration": 10} | {f"val/{name}": v for name, v in metrics.items()}
    assert list(finished(kind).glob("events.out.tfevents.*"))
    assert "iteration 10/10  loss" in (finished(kind) / "log.txt").read_text()


@pytest.mark.parametrize("kind", CACHING)
def test_metrics_of_a_probe_without_iterations_are_there_too(finished, kind):
    assert lines_of(finished(kind)) == [{"iteration": 0} | record_of(finished(kind))["metrics"]]
    assert list(finished(kind).glob("events.out.tfevents.*"))
    assert "This run departs from its protocol" in (finished(kind) / "log.txt").read_text()


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", [*TRAINING, "cached"])
def test_every_class_has_its_row(finished, kind):
    rows = rows_of(finished(kind) / "per_class.csv")
    assert len(rows) == (30 if kind == "inaturalist" else 20)
    images = [int(row["images"]) for row in rows]
    assert sum(images) == VAL_IMAGES
    right = sum(n * float(row["top1"]) for n, row in zip(images, rows, strict=True) if n)
    metrics = record_of(finished(kind))["metrics"]
    assert right / VAL_IMAGES == pytest.approx(metrics["top1"], abs=1e-3)


def test_the_grid_tells_every_setting_and_the_chosen_one_is_the_best(finished):
    rows = rows_of(finished("cached") / "grid.csv")
    settings = [(float(row["learning_rate"]), float(row["weight_decay"])) for row in rows]
    rates, decays = [0.001, 0.01, 0.1], [0.0, 0.00001, 0.0001, 0.001]
    assert sorted(settings) == [(rate, decay) for rate in rates for decay in decays]
    record = record_of(finished("cached"))
    chosen = record["environment"]["chosen"]
    assert settings[0] == (chosen["LR"], chosen["WEIGHT_DECAY"])
    scores = [float(row["held_out_top1"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(record["metrics"]["held_out/top1"], abs=1e-4)


@pytest.mark.parametrize("every", [4, 5, 1000])
def test_the_last_iteration_is_validated_and_saved_whatever_the_interval(data, out, every):
    ended_well("linear", data, out, "--checkpoint-every", every)
    validated = [line["iteration"] for line in lines_of(out) if "val/top1" in line]
    assert validated == {4: [4, 8, 10], 5: [5, 10], 1000: [10]}[every]
    assert content_of(out)["iteration"] == 10


# --- the model that is trained -------------------------------------------------------------------


@pytest.fixture(scope="module")
def caffe_file(tmp_path_factory):
    """A ResNet-18 as Caffe2 writes it: blue first, bytes, no statistics."""
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


@pytest.mark.parametrize("blue_first", [False, True])
def test_a_probed_backbone_is_saved_bit_by_bit_as_it_came(
    finished, data, out, caffe_file, blue_first
):
    if blue_first:
        folder = ended_well("linear", data, out, "--checkpoint", caffe_file, **quick())
    else:
        folder = finished("linear")
    before = load_backbone(caffe_file if blue_first else CHECKPOINT)
    assert before.input.channel_order == ("BGR" if blue_first else "RGB")
    after = assert_loads_again(folder, before)
    assert_equal(dict(after.state_dict), dict(before.state_dict))


@pytest.mark.parametrize("blue_first", [False, True])
def test_a_finetuned_backbone_differs_in_every_layer_and_loads_again(
    finished, data, out, caffe_file, blue_first
):
    if blue_first:
        folder = ended_well("inaturalist", data, out, "--checkpoint", caffe_file, **quick())
    else:
        folder = finished("inaturalist")
    before = load_backbone(caffe_file if blue_first else CHECKPOINT)
    after = assert_loads_again(folder, before)
    same = {k for k, v in after.state_dict.items() if torch.equal(v, before.state_dict[k])}
    assert same == set()


def quick():
    """One iteration; ``KEY=VALUE`` as ``arguments`` takes it."""
    return {"OPTIM__NUM_EPOCHS": 0.2, "OPTIM__LR_STEP_EPOCHS": [0.1]} | {"OPTIM__LR": 0.01}


def test_the_checkpoint_that_a_probe_wrote_can_be_probed(finished, data, out):
    """The features are the checkpoint's own: so are the votes of the neighbours."""
    trained = finished("linear") / "model_final.pth"
    ended_well("knn", data, out, "--checkpoint", trained)
    assert record_of(out)["metrics"] == record_of(finished("knn"))["metrics"]


# --- the cache of features -----------------------------------------------------------------------


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
    assert record_of(out / "cached")["timing"]["extract_images_per_second"] == 0


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


# --- seeds ---------------------------------------------------------------------------------------


def comparable(record):
    """A record but for times and dates, and the state of this checkout."""
    environment = record["environment"] | {"git_revision": None}
    return record | {"environment": environment, "timing": None, "created": None}


@pytest.mark.parametrize("kind", ["svm", "low-shot", "cached", "linear", "inaturalist"])
def test_the_same_seed_gives_the_same_record(finished, data, out, kind):
    again = ended_well(kind, data, out, *often(kind))
    assert comparable(record_of(again)) == comparable(record_of(finished(kind)))
    if kind in TRAINING:
        assert_equal(content_of(again), content_of(finished(kind)))


@pytest.mark.parametrize("kind", TRAINING)
def test_another_seed_gives_another_head(finished, data, out, kind):
    other = ended_well(kind, data, out, "--seed", "1")
    assert record_of(other)["seed"] == 1
    weights = [content_of(folder)["model"]["head.weight"] for folder in (finished(kind), other)]
    assert not torch.equal(*weights)


def test_another_seed_begins_with_another_head(data, out):
    still = quick() | {"OPTIM__LR": 0.0}
    runs = [ended_well("linear", data, out / s, "--seed", s, **still) for s in ("0", "1", "00")]
    first, other, again = (content_of(run)["model"]["head.weight"] for run in runs)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def test_another_seed_draws_other_images_of_a_fraction(finished, data, out):
    other = ended_well("fractions", data, out, "--fraction", "0.5", "--seed", "1", **quick())
    sampled = [
        record_of(folder / "fraction_0.5")["data"]["imagenet_train"]
        for folder in (finished("fractions"), other)
    ]
    assert sampled[0]["images"] == sampled[1]["images"]
    assert sampled[0]["images_sha256"] != sampled[1]["images_sha256"]


# --- data of one's own ---------------------------------------------------------------------------


@pytest.fixture
def shapes(data, tmp_path):
    """Three classes in a folder of any name."""
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
def test_any_folder_of_classes_is_a_task_of_its_name(tmp_path, out, shapes, kind, task, flags):
    small = quick() if kind in ("linear", "fractions") else {}
    ended_well(kind, tmp_path / "nowhere", out, "--image-folder", shapes, *flags, **small)
    record = record_of(out / "fraction_1" if kind == "fractions" else out)
    assert record["task"] == task
    assert {name: (d["images"], d["classes"]) for name, d in record["data"].items()} == {
        "my-shapes_train": (6, 3),
        "my-shapes_val": (4, 3),
    }
    assert from_data_in(record) == {}  # nobody knows how many images it should have
    assert ("top5" in record["metrics"]) is False  # of three classes
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
def test_toy_data_under_the_published_protocol_are_a_departure(data, out, kind, expected):
    small = quick() if kind in TRAINING else {}
    protocol = {"cached": "cached", "knn": "k20"}.get(kind, "paper")
    ended_well(kind, data, out, "--protocol", protocol, **small)
    record = record_of(out)
    assert record["protocol"]["name"] == protocol
    assert from_data_in(record) == {
        f"{name}: images": (count, DATA[record["task"]][name]) for name, count in expected.items()
    }


def test_imagenet_named_as_a_folder_is_held_to_its_size(data, out):
    """Else a toy run would be recorded as ImageNet's published protocol without a departure."""
    folder = data / "imagenet"
    ended_well("knn", data, out, "--image-folder", folder, "--protocol", "k20")
    record = record_of(out)
    assert record["task"] != "imagenet_knn" or from_data_in(record)


# --- resuming ------------------------------------------------------------------------------------


def wait_for_line(process, log, text):
    while not (log.exists() and text in log.read_text()):
        assert process.poll() is None, f"ended before it said {text!r}"
        time.sleep(0.01)


def losses_of(folder):
    return [
        (line["iteration"], line["train/loss"]) for line in lines_of(folder) if "train/loss" in line
    ]


def assert_resumed(folder, undisturbed):
    assert "going on after iteration" in (folder / "log.txt").read_text()
    assert_equal(content_of(folder), content_of(undisturbed))
    assert record_of(folder)["metrics"] == record_of(undisturbed)["metrics"]
    assert losses_of(folder) == losses_of(undisturbed)


def test_a_killed_training_resumes_to_the_same_bits(finished, data, out):
    flags = (*often("inaturalist"), "--checkpoint-every", "3")
    with open(os.devnull, "w") as nowhere:
        killed = command("inaturalist", data, out, *flags)
        process = subprocess.Popen(killed, stdout=nowhere, stderr=nowhere)
    wait_for_line(process, out / "log.txt", "iteration 4/")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    assert (out / "last_checkpoint").read_text() != "model_final.pth"
    ended_well("inaturalist", data, out, *flags, "--resume")
    assert_resumed(out, finished("inaturalist"))


def test_a_probe_goes_on_from_its_newest_checkpoint_to_the_same_bits(finished, data, out):
    flags = (*often("linear"), "--checkpoint-every", "3")
    ended_well("linear", data, out, *flags)
    for lost in ("result.json", "model_final.pth", "model_0000009.pth", "per_class.csv"):
        (out / lost).unlink()
    (out / "last_checkpoint").write_text("model_0000006.pth")
    ended_well("linear", data, out, *flags, "--resume")
    assert_resumed(out, finished("linear"))
    assert "going on after iteration 6" in (out / "log.txt").read_text()
    per_class = [(run / "per_class.csv").read_text() for run in (out, finished("linear"))]
    assert per_class[0] == per_class[1]


def test_a_run_killed_before_its_record_is_validated_and_recorded(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "result.json").unlink()
    ended_well("linear", data, out, "--resume")
    assert comparable(record_of(out)) == comparable(record_of(finished("linear")))


@pytest.mark.parametrize("kind", ["svm", "cached", "knn", "linear", "inaturalist", "fractions"])
def test_a_finished_run_is_not_run_again(finished, data, capsys, kind):
    folder = finished(kind)
    before = files_in(folder)
    capsys.readouterr()
    assert status_of(kind, arguments(kind, data, folder, "--resume")) == 0
    printed = capsys.readouterr().out
    assert "this run is finished" in printed
    assert f"{KINDS[kind].task}, protocol toy" in printed
    assert "result.json" in printed
    assert files_in(folder) == before


def test_only_the_fractions_that_are_missing_are_run(finished, data, out):
    shutil.copytree(finished("fractions"), out)
    done = files_in(out / "fraction_0.5")
    shutil.rmtree(out / "fraction_0.1")
    ended_well("fractions", data, out, "--resume")
    assert files_in(out / "fraction_0.5") == done
    assert record_of(out / "fraction_0.1")["protocol"]["name"] == "toy-fraction-0.1"


def refused(capsys, out, kind, argv):
    """The sentence with which a tool declines; nothing is written."""
    before = files_in(out)
    capsys.readouterr()
    assert status_of(kind, argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert files_in(out) == before
    return error.partition("error: ")[2].strip()


def refused_in_a_line(capsys, out, kind, argv):
    error = refused(capsys, out, kind, argv)
    assert error and "\n" not in error
    return error


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "named"),
    [
        ("linear", ("--seed", "1"), {}, "seed 0, not 1"),
        ("linear", ("--checkpoint", f"{CHECKPOINT}?seed=1"), {}, "checkpoint sha256"),
        ("linear", (), {"OPTIM__LR": 0.5}, "setting OPTIM.LR 0.2, not 0.5"),
        ("linear", ("--skip-bad-images",), {}, "setting skip bad images"),
        ("linear", ("--protocol", "paper"), {}, 'protocol ["toy", "1"], not ["paper", "1"]'),
        ("linear", ("--knn",), CROPS, 'task "imagenet_linear", not "imagenet_knn"'),
        ("svm", ("--solver", "liblinear"), {}, 'solver "fast", not "liblinear"'),
        ("svm", ("--ap", "voc11"), {}, 'protocol ["toy", "1"], not ["toy-voc11", "1"]'),
        ("low-shot", ("--low-shot", "2"), {}, "low shot [1, 2], not [2]"),
        ("cached", (), {"PROBE__HELD_OUT": 0.3}, "setting PROBE.HELD_OUT"),
    ],
)
def test_resume_with_something_else_is_refused(
    finished, data, capsys, kind, flags, settings, named
):
    folder = finished(kind)
    argv = arguments(kind, data, folder, *flags, "--resume", **settings)
    if "--knn" in flags:  # which knows no OPTIM
        argv = argv[: argv.index("OPTIM.BATCH_SIZE")]
    assert f"was started with {named}" in refused_in_a_line(capsys, folder, kind, argv)


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_resume_with_other_images_is_refused(finished, copy_of_data, capsys, kind):
    folder, place = finished(kind), {"linear": "imagenet/val", "svm": "VOC2007/JPEGImages"}[kind]
    changed, *_, other = sorted(p for p in (copy_of_data / place).rglob("*") if p.is_file())
    changed.write_bytes(other.read_bytes())
    argv = arguments(kind, copy_of_data, folder, "--resume")
    error = refused_in_a_line(capsys, folder, kind, argv)
    assert "was started with data set " in error


@pytest.mark.parametrize("kind", ["svm", "linear", "fractions"])
def test_a_folder_with_a_run_is_refused(finished, data, capsys, kind):
    folder = finished(kind)
    error = refused_in_a_line(capsys, folder, kind, arguments(kind, data, folder))
    assert "holds another run" in error
    assert "--resume" in error
    assert "--overwrite" in error


def test_overwrite_replaces_the_run_and_nothing_else(finished, data, out):
    shutil.copytree(finished("linear"), out)
    (out / "notes.txt").write_text("mine")
    ended_well("knn", data, out, "--overwrite")
    assert record_of(out)["task"] == "imagenet_knn"
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob("model_*")) and not (out / "per_class.csv").exists()
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert len(lines_of(out)) == 1


# --- bad input: one sentence, status 2, nothing written ------------------------------------------


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        ("svm", ("VOC2007/JPEGImages", "VOC2007/ImageSets/Main/trainval.txt")),
        ("linear", ("imagenet/train", "imagenet/val")),
        ("knn", ("imagenet/train", "imagenet/val")),
        ("fractions", ("imagenet/train", "imagenet/val")),
        ("inaturalist", ("inaturalist/train_val2018", "inaturalist/annotations/val2018.json")),
    ],
)
def test_a_data_root_without_the_data_says_what_is_missing_and_what_is_there(
    tmp_path, out, capsys, kind, paths
):
    root = tmp_path / "elsewhere"
    (root / "coco").mkdir(parents=True)
    error = refused(capsys, out, kind, arguments(kind, root, out))
    for path in paths:
        assert f"{root / path}  (no such" in error
    assert f"The data root {root} holds coco/." in error


def test_an_empty_class_folder_is_named(copy_of_data, out, capsys):
    empty = min((copy_of_data / "imagenet/train").iterdir())
    for image in empty.iterdir():
        image.unlink()
    error = refused_in_a_line(capsys, out, "linear", arguments("linear", copy_of_data, out))
    assert f"1 class folders of {empty.parent} hold no image: {empty.name}" in error


def test_val_with_other_classes_than_train_is_refused(copy_of_data, out, capsys):
    folder = min((copy_of_data / "imagenet/val").iterdir())
    folder.rename(folder.with_name("n12345678"))
    error = refused_in_a_line(capsys, out, "knn", arguments("knn", copy_of_data, out))
    assert "1 class folders of val are not in train (n12345678)" in error
    assert f"1 class folders of train are not in val ({folder.name})" in error


def test_labels_of_voc_that_disagree_with_the_list_of_images_are_named(copy_of_data, out, capsys):
    path = copy_of_data / "VOC2007/ImageSets/Main/cat_trainval.txt"
    path.write_text(path.read_text().partition("\n")[2])
    error = refused_in_a_line(capsys, out, "svm", arguments("svm", copy_of_data, out))
    assert f"{path} does not have the images of trainval.txt: it lacks 1 images (000001)" in error


def broken_image(folder):
    path = min(folder.rglob("*.jpg"), default=None) or min(folder.rglob("*.JPEG"))
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("svm", "VOC2007/JPEGImages"),
        ("knn", "imagenet/val"),
        ("cached", "imagenet/train"),
        ("linear", "imagenet/train"),
        ("inaturalist", "inaturalist/train_val2018"),
    ],
)
def test_an_image_that_does_not_decode_is_named_and_no_result_is_written(
    copy_of_data, out, cache, capsys, kind, place
):
    path = broken_image(copy_of_data / place)
    assert status_of(kind, arguments(kind, copy_of_data, out)) == 2
    error = capsys.readouterr().err
    assert f"error: the image {path} cannot be read (" in error
    assert len(error.strip().splitlines()) == 1
    assert not (out / "result.json").exists()
    assert not list(cache.glob("partial-*"))


def test_a_probe_goes_on_once_the_image_is_restored(copy_of_data, data, out, finished):
    path = broken_image(copy_of_data / "imagenet/val")
    assert status_of("knn", arguments("knn", copy_of_data, out)) == 2
    shutil.copyfile(data / path.relative_to(copy_of_data), path)
    ended_well("knn", copy_of_data, out, "--overwrite")
    assert record_of(out)["metrics"] == record_of(finished("knn"))["metrics"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [("linear", "imagenet/train"), ("inaturalist", "inaturalist/train_val2018")],
)
def test_training_goes_on_without_bad_images_where_that_is_asked(
    copy_of_data, out, finished, kind, place
):
    if kind == "linear":
        path = broken_image(copy_of_data / place)
    else:  # a training image, for validation leaves none out
        annotations = (copy_of_data / "inaturalist/annotations/train2018.json").read_text()
        path = copy_of_data / "inaturalist" / re.search(r'"file_name": ?"([^"]+)"', annotations)[1]
        path.write_bytes(path.read_bytes()[:200])
    ended_well(kind, copy_of_data, out, "--skip-bad-images")
    assert f"left out: the image {path} cannot be read" in (out / "log.txt").read_text()
    departures = record_of(out)["protocol"]["departures"]
    assert {
        "key": "skip bad images",
        "protocol": False,
        "run": True,
        "why": "override",
    } in departures
    assert len(departures) == len(KINDS[kind].settings) + 1


def test_a_bad_validation_image_is_never_left_out(copy_of_data, out, capsys):
    path = broken_image(copy_of_data / "imagenet/val")
    argv = arguments("linear", copy_of_data, out, "--skip-bad-images", **quick())
    assert status_of("linear", argv) == 2
    assert f"the image {path} cannot be read" in capsys.readouterr().err
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    ("kind", "flags", "settings", "message"),
    [
        ("svm", ("--protocol", "cached"), {}, "task voc07_svm has no protocol 'cached'; it has"),
        ("linear", ("--protocol", "x"), {}, "it has paper, cached, toy, toy-cached"),
        ("knn", ("--protocol", "cached"), {}, "task imagenet_knn has no protocol 'cached'"),
        ("inaturalist", ("--protocol", "x"), {}, "task inaturalist has no protocol 'x'"),
        ("svm", (), {"SVM__COST": 1}, "there is no setting SVM.COST; the nearest is SVM.COSTS"),
        ("linear", (), {"OPTIM__RATE": 1}, "there is no setting OPTIM.RATE"),
        ("linear", (), {"PROBE__LRS": [1.0]}, "there is no setting PROBE.LRS"),
        ("linear", (), {"OPTIM__LR": "high"}, "OPTIM.LR"),
        ("linear", (), {"DATA__IMAGE_CROP_SIZE": 64}, "DATA.IMAGE_CROP_SIZE is 64"),
        ("linear", (), {"OPTIM__WARMUP_EPOCHS": 9.0}, "OPTIM.WARMUP_EPOCHS is 9.0"),
        ("svm", ("SVM.COSTS",), {}, "overrides come in pairs KEY VALUE"),
        ("svm", ("--low-shot", "0"), {}, "argument --low-shot: '0' is not a whole number above 0"),
        ("fractions", ("--fraction", "2"), {}, "--fraction 2 is more than all"),
        ("fractions", ("--fraction", "0"), {}, "argument --fraction: '0' is not a number above 0"),
        ("inaturalist", ("--image-folder", "."), {}, "--image-folder belongs to --fraction"),
        ("knn", ("--checkpoint", "nowhere.pth"), {}, "nowhere.pth"),
        ("knn", ("--checkpoint", "random:resnet19"), {}, "resnet18"),
        ("knn", ("--image-folder", "nowhere"), {}, "nowhere has no folder train"),
        ("svm", ("--num-gpus", "4096"), {}, "--num-gpus 0 runs on the CPU"),
    ],
)
def test_a_wrong_flag_or_setting_is_refused(data, out, capsys, kind, flags, settings, message):
    argv = arguments(kind, data, out, *flags, **settings)
    assert message in refused_in_a_line(capsys, out, kind, argv)


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist"])
def test_without_a_checkpoint_the_flag_is_named(data, out, capsys, kind):
    argv = arguments(kind, data, out)[2:]
    assert "--checkpoint is missing" in refused_in_a_line(capsys, out, kind, argv)


@pytest.mark.parametrize("kind", ["svm", "linear", "inaturalist", "fractions"])
def test_an_output_folder_that_is_a_file_is_refused(data, out, capsys, kind):
    out.write_text("a file")
    error = refused_in_a_line(capsys, out, kind, arguments(kind, data, out))
    assert f"--output-dir {out}" in error
    assert out.read_text() == "a file"


def test_a_feature_cache_that_cannot_be_written_is_told_before_anything_is(
    data, out, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    argv = arguments("knn", data, out, "--cache-dir", tmp_path / "file")
    error = refused_in_a_line(capsys, out, "knn", argv)
    assert f"features cannot be cached in {tmp_path / 'file'}" in error
    assert "--cache-dir" in error


def test_a_feature_cache_that_is_too_small_is_told_before_anything_is(data, out, capsys):
    argv = arguments("knn", data, out, "--cache-limit", "0.000001")
    error = refused_in_a_line(capsys, out, "knn", argv)
    assert "more than the cache may hold" in error
    assert "--cache-limit" in error


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: Path(tool).stem)
def test_help_answers_at_once(tool):
    def seconds():
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = seconds()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", tool, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "examples:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "virtex.tool" in imported
    assert not {"torch", "sklearn", "numpy"} & imported
    assert seconds() - before < 1

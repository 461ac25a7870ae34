"""Short runs of the probe tools on toy data, and helpers to read their outputs."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.pretraining_runs import files_in
from tests.toy_data import copy_toy_data
from virtex.cli import run_tool
from virtex.eval_tools import imagenet_linear, inaturalist_finetune, voc07_svm

# odd, so that two processes validate different numbers of images; at least one per class
TRAIN_IMAGES, VAL_IMAGES = 40, 21
CHECKPOINT = "random:resnet18"

CROPS = {"DATA.IMAGE_CROP_SIZE": 32, "DATA.IMAGE_RESIZE_SIZE": 36}
EPOCH = CROPS | {"OPTIM.BATCH_SIZE": 8, "OPTIM.NUM_EPOCHS": 1.0}
# 10 iterations
TRAINED = EPOCH | {"OPTIM.NUM_EPOCHS": 2.0, "OPTIM.LR": 0.2}
FINETUNED = TRAINED | {"OPTIM.CNN_LR": 0.01, "OPTIM.LR_STEP_EPOCHS": [1.0]}
GRID = CROPS | {"PROBE.NUM_EPOCHS": 5, "PROBE.LRS": [0.001, 0.01, 0.1], "PROBE.BATCH_SIZE": 16}


@dataclass(frozen=True)
class Kind:
    """A tool and its arguments.

    Attributes:
        name: protocol in the record.
        metric: primary metric.
        settings: overrides, the deviations in the record.
    """

    tool: ModuleType
    task: str
    name: str
    metric: str
    flags: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frozen(self) -> bool:
        return self.tool is not inaturalist_finetune


def svm(name: str, metric: str, *flags: str, **settings: Any) -> Kind:
    return Kind(voc07_svm, "voc07_svm", name, metric, flags, CROPS | settings)


KINDS = {
    "svm": svm("toy", "mAP"),
    "svm by liblinear": svm(
        "toy", "mAP", "--solver", "liblinear", **{"SVM.COSTS": [0.1], "SVM.FOLDS": 2}
    ),
    "svm voc11": svm("toy-voc11", "mAP", "--ap", "voc11"),
    "svm interpolated": svm("toy-interpolated", "mAP", "--ap", "interpolated"),
    "low-shot": svm(
        "toy-low-shot-1-2", "2-shot/mAP", "--low-shot", "2,1", **{"LOW_SHOT.SAMPLES": 2}
    ),
    "linear": Kind(imagenet_linear, "imagenet_linear", "toy", "top1", (), TRAINED),
    "cached": Kind(imagenet_linear, "imagenet_linear", "toy-cached", "top1", (), GRID),
    "knn": Kind(imagenet_linear, "imagenet_knn", "toy", "top1", ("--knn",), CROPS),
    "inaturalist": Kind(inaturalist_finetune, "inaturalist", "toy", "top1", (), FINETUNED),
    "fractions": Kind(
        inaturalist_finetune,
        "imagenet_semi_supervised",
        "toy",
        "top1",
        ("--fraction", "0.5", "0.1"),
        EPOCH,
    ),
}


def write_data(root: Path) -> Path:
    """Write a data root with toy images of every task."""
    return copy_toy_data(root, TRAIN_IMAGES, VAL_IMAGES)


def arguments(kind, data, out, *flags, **settings):
    """Return command-line arguments; ``OPTIM__LR=1`` stands for ``OPTIM.LR 1``."""
    kind = KINDS[kind]
    # without the suffixes of --low-shot and --ap
    protocol = "toy-cached" if kind.name == "toy-cached" else "toy"
    settings = {**kind.settings, **{k.replace("__", "."): v for k, v in settings.items()}}
    return [
        *("--checkpoint", CHECKPOINT, *kind.flags, "--protocol", protocol),
        *("--data-root", str(data), "--output-dir", str(out), "--num-gpus", "0"),
        *map(str, flags),
        *("--num-workers", "0"),  # ends the values of --fraction
        *(str(word) for pair in settings.items() for word in pair),
    ]


def status_of(kind, argv):
    """Run the tool in this process and return its exit status."""
    tool = KINDS[kind].tool
    try:
        run_tool(tool.main, tool.build_parser(), argv)
    except SystemExit as exit_error:
        return exit_error.code


def command(kind, data, out, *flags, **settings):
    """Return the command line of a separate process."""
    tool = str(Path(KINDS[kind].tool.__file__))
    return [sys.executable, tool, *arguments(kind, data, out, *flags, **settings)]


def run_to_end(kind, data, out, *flags, **settings):
    """Run to the end and return the output folder."""
    assert status_of(kind, arguments(kind, data, out, *flags, **settings)) == 0
    return out


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def overrides_in(record):
    """Key -> value of the requested deviations."""
    deviations = record["protocol"]["overrides"]
    return {d["key"]: d["run"] for d in deviations if d["reason"] == "override"}


def from_data_in(record):
    """Key -> (value of the protocol, value of the run) of deviations caused by the data."""
    deviations = record["protocol"]["overrides"]
    return {d["key"]: (d["protocol"], d["run"]) for d in deviations if d["reason"] == "data"}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


TOOLS = sorted({kind.tool.__file__ for kind in KINDS.values()})
CACHING = ("svm", "cached", "knn")
TRAINING = ("linear", "inaturalist")
# dataset -> images; VOC2007 has half of the training images
VOC = {"voc_2007_trainval": TRAIN_IMAGES // 2, "voc_2007_test": VAL_IMAGES}
IMAGENET = {"imagenet_train": TRAIN_IMAGES, "imagenet_val": VAL_IMAGES}
DATA = {
    "voc07_svm": VOC,
    "imagenet_linear": IMAGENET,
    "imagenet_knn": IMAGENET,
    "inaturalist": {"inaturalist_2018_train": TRAIN_IMAGES, "inaturalist_2018_val": VAL_IMAGES},
}


def quick():
    """Return settings of ``arguments`` for one iteration."""
    return {"OPTIM__NUM_EPOCHS": 0.2, "OPTIM__LR_STEP_EPOCHS": [0.1]} | {"OPTIM__LR": 0.01}


def assert_rejected(capsys, out, kind, argv, code, *named):
    """Expect exit status 2 and one error with ``code`` that names each of ``named``.

    The output folder must not change.
    """
    before = files_in(out)
    capsys.readouterr()
    assert status_of(kind, argv) == 2
    assert_error(capsys, code, *named)
    assert files_in(out) == before


def assert_error(capsys, code, *named):
    """Expect one error with ``code`` on stderr that names each of ``named``."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("error: ") == 1 and f"[{code}]" in error, error
    for name in named:
        assert str(name) in error


def comparable(record):
    """Return a record without times, memory, the cache's folder and the state of this checkout."""
    environment = record["environment"] | {"git_revision": None, "peak_memory": None}
    model = record["model"] | {"source": Path(record["model"]["source"]).name}
    changed = {"environment": environment, "model": model, "timing": None, "created": None}
    return record | changed


def log_flags(kind):
    return ("--log-every", "1") if kind in TRAINING else ()

"""Short runs of the probes' tools on toy data, and what they leave behind.

As a program it runs several of them in the processes that torchrun has started, one after the
other: ``torchrun --nproc-per-node 2 -m tests.eval_tools.probe_runs FILE``, which holds a list of
[kind, port, arguments].
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.pretraining_runs import files_in
from virtex.cli import run_tool
from virtex.data.toy import write_toy_data
from virtex.eval_tools import imagenet_linear, inaturalist_finetune, voc07_svm

# odd, so that two processes validate different numbers of images; one of each class at least
TRAIN_IMAGES, VAL_IMAGES = 40, 21
CHECKPOINT = "random:resnet18"

CROPS = {"DATA.IMAGE_CROP_SIZE": 32, "DATA.IMAGE_RESIZE_SIZE": 36}
EPOCH = CROPS | {"OPTIM.BATCH_SIZE": 8, "OPTIM.NUM_EPOCHS": 1.0}
# of 10 iterations
TRAINED = EPOCH | {"OPTIM.NUM_EPOCHS": 2.0, "OPTIM.LR": 0.2}
FINETUNED = TRAINED | {"OPTIM.CNN_LR": 0.01, "OPTIM.LR_STEP_EPOCHS": [1.0]}
GRID = CROPS | {"PROBE.NUM_EPOCHS": 5, "PROBE.LRS": [0.001, 0.01, 0.1], "PROBE.BATCH_SIZE": 16}


@dataclass(frozen=True)
class Kind:
    """A tool, as it is called.

    Attributes:
        name: of the protocol, as the record says it.
        metric: the primary one.
        settings: overrides, which are the deviations of the record.
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
    """A data root with toy images of every task."""
    write_toy_data(root, seed=0, train_images=TRAIN_IMAGES, val_images=VAL_IMAGES)
    return root


def arguments(kind, data, out, *flags, **settings):
    """Command-line arguments; ``OPTIM__LR=1`` for ``OPTIM.LR 1``. Later flags win."""
    kind = KINDS[kind]
    # the part of the name that --low-shot and --ap do not add
    protocol = "toy-cached" if kind.name == "toy-cached" else "toy"
    settings = {**kind.settings, **{k.replace("__", "."): v for k, v in settings.items()}}
    return [
        *("--checkpoint", CHECKPOINT, *kind.flags, "--protocol", protocol),
        *("--data-root", str(data), "--output-dir", str(out), "--num-gpus", "0"),
        *map(str, flags),
        *("--num-workers", "0"),  # after --fraction, which would take the settings for fractions
        *(str(word) for pair in settings.items() for word in pair),
    ]


def status_of(kind, argv):
    """Exit status of the tool, in this process."""
    tool = KINDS[kind].tool
    try:
        run_tool(tool.main, tool.build_parser(), argv)
    except SystemExit as left:
        return left.code


def command(kind, data, out, *flags, **settings):
    """The same as a command of its own."""
    tool = str(Path(KINDS[kind].tool.__file__))
    return [sys.executable, tool, *arguments(kind, data, out, *flags, **settings)]


def ended_well(kind, data, out, *flags, **settings):
    """The folder of a run that ended well."""
    assert status_of(kind, arguments(kind, data, out, *flags, **settings)) == 0
    return out


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def overrides_in(record):
    """Key -> value of the deviations that somebody asked for."""
    deviations = record["protocol"]["overrides"]
    return {d["key"]: d["run"] for d in deviations if d["reason"] == "override"}


def from_data_in(record):
    """Key -> (protocol's, run's) value of the deviations that the data made necessary."""
    deviations = record["protocol"]["overrides"]
    return {d["key"]: (d["protocol"], d["run"]) for d in deviations if d["reason"] == "data"}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


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


def quick():
    """One iteration; ``KEY=VALUE`` as ``arguments`` takes it."""
    return {"OPTIM__NUM_EPOCHS": 0.2, "OPTIM__LR_STEP_EPOCHS": [0.1]} | {"OPTIM__LR": 0.01}


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


def comparable(record):
    """A record but for times and dates, and the state of this checkout."""
    environment = record["environment"] | {"git_revision": None}
    return record | {"environment": environment, "timing": None, "created": None}


def often(kind):
    return ("--log-every", "1") if kind in TRAINING else ()


if __name__ == "__main__":
    for chosen, port, argv in json.loads(Path(sys.argv[1]).read_text()):
        # a store of each run's own, for torchrun's would give it the last one's addresses
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        if status_of(chosen, argv):
            sys.exit(f"{chosen} did not end well")

"""The shortest run of each tool that resumes, and what it results in."""

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from tests import pretraining_runs
from tests.captioning import small_captioners
from tests.eval_tools import probe_runs
from tests.faults import files
from tests.faults.processes import STOP_AT, Process, torchrun_environments
from tests.toy_data import copy_toy_data
from virtex.data.tokenizer import read_caption_files, train_tokenizer

TOOLS = "virtex.eval_tools"
CLASSIFIER = {
    **probe_runs.CROPS,
    **{"OPTIM.BATCH_SIZE": 4, "OPTIM.NUM_EPOCHS": 1.2, "OPTIM.LR": 0.01},
}
FINETUNED = CLASSIFIER | {"OPTIM.CNN_LR": 0.01, "OPTIM.LR_STEP_EPOCHS": [1.0]}
DETECTOR = {
    **{"SOLVER.MAX_ITER": 6, "SOLVER.STEPS": "(4,)", "SOLVER.CHECKPOINT_PERIOD": 2},
    **{"SOLVER.IMS_PER_BATCH": 2, "SOLVER.WARMUP_ITERS": 2, "TEST.PRECISE_BN.NUM_ITER": 1},
    **{"DATALOADER.NUM_WORKERS": 0, "INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.MIN_SIZE_TEST": 64},
}
CHECKPOINTS = ("--num-workers", "0", "--log-every", "1", "--checkpoint-every", "4")


@dataclass(frozen=True)
class Inputs:
    """What the runs read.

    Attributes:
        data: toy data of all tasks, and a vocabulary of its captions.
        network: a ResNet-18 as torchvision saves it.
        captioner: a captioning model.
        scratch: a temporary folder.
    """

    data: Path
    network: Path
    captioner: Path
    scratch: Path


@functools.cache
def scratch() -> Path:
    keeper = scratch.keeper = tempfile.TemporaryDirectory(prefix="virtex-faults-")
    return Path(keeper.name)


@functools.cache
def network() -> Path:
    path = scratch() / "resnet18.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@functools.cache
def inputs() -> Inputs:
    data, vocabulary = scratch() / "data", scratch() / "data/vocab/toy.model"
    copy_toy_data(data, probe_runs.TRAIN_IMAGES, probe_runs.VAL_IMAGES)
    captions = data / pretraining_runs.CAPTIONS.format("train")
    train_tokenizer(read_caption_files([captions]), pretraining_runs.VOCABULARY, vocabulary)
    captioner = small_captioners.write_checkpoint(scratch() / "captioner", vocabulary)
    return Inputs(data, network(), captioner, scratch())


@dataclass(frozen=True)
class Run:
    """A short run of a tool.

    Attributes:
        arguments: (output folder, *flags, **settings) -> command line.
        early, late: files whose writing marks a point at which a process can stop itself.
        record: the result record; outputs: other files to compare.
        workers: flag or setting of the number of workers.
    """

    module: str
    arguments: Callable[..., list]
    early: str = "run.json"
    late: str = "result.json"
    record: str = "result.json"
    outputs: tuple[str, ...] = ()
    workers: str = "--num-workers"

    def start(
        self, out: Path, *flags, environment=None, stop_at=None, workers=None, **settings
    ) -> Process:
        environment = {
            "VIRTEX_FEATURE_CACHE": f"{out}-features",
            **({STOP_AT: stop_at} if stop_at else {}),
            **(environment or {}),
        }
        if workers is not None and self.workers.startswith("-"):
            flags += (self.workers, workers)
        elif workers is not None:
            settings[self.workers] = workers
        number = len(list(out.parent.glob(f"{out.name}-printed-*")))
        printed = out.with_name(f"{out.name}-printed-{number}")
        return Process(self.module, self.arguments(out, *flags, **settings), printed, environment)


def evaluated(out, *flags, **settings):
    """Arguments of all evaluations; ``OPTIM__LR=1`` stands for ``OPTIM.LR 1``."""
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    return [
        *("--checkpoint", inputs().network, "--data-root", inputs().data, "--output-dir", out),
        *("--num-gpus", "0", *flags, *(str(word) for pair in settings.items() for word in pair)),
    ]


def pretraining(out, *flags, **settings):
    return pretraining_runs.arguments(inputs().data, out, *flags, **settings)


def detection(task):
    def arguments(out, *flags, **settings):
        return evaluated(out, "--task", task, "--protocol", "toy", *flags, **DETECTOR | settings)

    return arguments


def trained(defaults):
    def arguments(out, *flags, **settings):
        return evaluated(out, "--protocol", "toy", *CHECKPOINTS, *flags, **defaults | settings)

    return arguments


def probe(name):
    kind = probe_runs.KINDS[name]
    protocol = "toy-cached" if name == "cached" else "toy"

    def arguments(out, *flags, **settings):
        own = (*kind.flags, "--protocol", protocol, "--num-workers", "0")
        return evaluated(out, *own, *flags, **kind.settings | settings)

    return arguments


def captioning(out, *flags, **settings):
    own = ("--data-root", inputs().data, "--batch-size", "1")
    return small_captioners.arguments(inputs().captioner, out, *own, *flags, **settings)


FINAL = ("model_final.pth",)
LINEAR, SVM = f"{TOOLS}.imagenet_linear", f"{TOOLS}.voc07_svm"
TRANSFER, FINETUNE = f"{TOOLS}.detectron2_transfer", f"{TOOLS}.inaturalist_finetune"
RUNS = {
    "pretraining": Run(
        *("virtex.pretrain", pretraining, "model_0000005.pth", "model_final.pth"),
        *("pretraining.json", FINAL),
    ),
    "transfer": Run(
        *(TRANSFER, detection("coco"), "model_0000003.pth", "model_final.pth"),
        outputs=FINAL,
        workers="DATALOADER.NUM_WORKERS",
    ),
    "linear": Run(LINEAR, trained(CLASSIFIER), "model_0000004.pth", *FINAL, outputs=FINAL),
    "fine-tuning": Run(FINETUNE, trained(FINETUNED), "model_0000004.pth", *FINAL, outputs=FINAL),
    "svm": Run(SVM, probe("svm"), "features.npy"),
    "captioning": Run(
        *(f"{TOOLS}.coco_captioning", captioning, "captions.partial.rank0.jsonl", "captions.json"),
        outputs=("captions.json",),
    ),
}
# tested for determinism alone
OTHERS = {
    "VOC detection": Run(TRANSFER, detection("voc"), workers="DATALOADER.NUM_WORKERS"),
    "LVIS": Run(TRANSFER, detection("lvis"), workers="DATALOADER.NUM_WORKERS"),
    "Cityscapes": Run(TRANSFER, detection("cityscapes"), workers="DATALOADER.NUM_WORKERS"),
    "cached probe": Run(LINEAR, probe("cached")),
    "kNN": Run(LINEAR, probe("knn")),
    "svm by liblinear": Run(SVM, probe("svm by liblinear")),
    "low-shot": Run(SVM, probe("low-shot")),
    "fractions": Run(FINETUNE, probe("fractions"), record="fraction_0.1/result.json"),
}


def two_processes(run: Run, out: Path, *flags, environments=({}, {}), **settings) -> list[Process]:
    """Start a run in two processes, as torchrun does."""
    return [
        run.start(out, *flags, environment=torchrun | own, **settings)
        for torchrun, own in zip(torchrun_environments(2), environments, strict=True)
    ]


@functools.cache
def undisturbed(kind: str) -> dict:
    """Return the result of a run without faults."""
    out = scratch() / "undisturbed" / kind
    out.parent.mkdir(exist_ok=True)
    RUNS[kind].start(out).succeeds()
    return result_of(RUNS[kind], out)


def result_of(run: Run, out: Path) -> dict:
    """Return file -> content without times and dates, for the files that a run results in."""
    names = (run.record, *run.outputs, "metrics.json")
    return {name: files.timeless(files.read(out / name)) for name in names}


def names_in(out: Path) -> list[str]:
    """Return the files of a run; those of TensorBoard have another name each time."""
    paths = (path for path in out.rglob("*") if path.is_file())
    names = (os.path.relpath(path, out) for path in paths)
    return sorted("events" if name.startswith("events") else name for name in names)

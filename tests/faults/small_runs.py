"""The shortest run of each tool that trains, validates and records; and what it leaves behind."""

import functools
import json
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from tests import pretraining_runs
from tests.captioning import small_captioners
from tests.eval_tools import probe_runs
from tests.faults.started_tools import (
    CAPTIONING,
    EVALUATE_ALL,
    INATURALIST,
    LINEAR,
    PRETRAIN,
    SVM,
    TRANSFER,
    Started,
)
from tests.run_states import content_of
from virtex.data.tokenizer import read_caption_files, train_tokenizer
from virtex.data.toy import write_toy_data

CLASSIFIER = {
    **probe_runs.CROPS,
    **{"OPTIM.BATCH_SIZE": 4, "OPTIM.NUM_EPOCHS": 1.2, "OPTIM.LR": 0.01},
}
FINETUNED = CLASSIFIER | {"OPTIM.CNN_LR": 0.01, "OPTIM.LR_STEP_EPOCHS": [1.0]}
DETECTOR = {
    **{"SOLVER.MAX_ITER": 10, "SOLVER.STEPS": "(8,)", "SOLVER.CHECKPOINT_PERIOD": 2},
    **{"SOLVER.IMS_PER_BATCH": 2, "SOLVER.WARMUP_ITERS": 2, "TEST.PRECISE_BN.NUM_ITER": 1},
    **{"DATALOADER.NUM_WORKERS": 0, "INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.MIN_SIZE_TEST": 64},
}
OFTEN = ("--log-every", "1", "--checkpoint-every", "4")
WITHOUT_WORKERS = ("--num-workers", "0")


@dataclass(frozen=True)
class Places:
    """What the runs read.

    Attributes:
        data: toy data of all tasks, and a vocabulary of its captions.
        network: a ResNet-18 as torchvision saves it.
        captioner: a captioning model.
        scratch: takes whatever else there is; gone in the end.
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
    """A ResNet-18 as torchvision saves it."""
    path = scratch() / "resnet18.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@functools.cache
def places() -> Places:
    root = scratch()
    data, vocabulary = root / "data", root / "data/vocab/toy.model"
    write_toy_data(data, seed=0, train_images=40, val_images=21, coco_train_images=24)
    captions = read_caption_files([data / pretraining_runs.CAPTIONS.format("train")])
    train_tokenizer(captions, pretraining_runs.VOCABULARY, vocabulary)
    captioner = small_captioners.write_checkpoint(root / "captioner", vocabulary)
    return Places(data, network(), captioner, root)


def words(settings: dict) -> list[str]:
    return [str(word) for pair in settings.items() for word in pair]


def evaluated(out, *flags, **settings):
    """What all evaluations take; ``OPTIM__LR=1`` for ``OPTIM.LR 1``."""
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    return [
        *("--checkpoint", places().network, "--data-root", places().data, "--output-dir", out),
        *("--num-gpus", "0", *flags, *words(settings)),
    ]


def pretraining(out, *flags, **settings):
    return pretraining_runs.arguments(places().data, out, *flags, **settings)


def transfer(out, *flags, **settings):
    own = ("--task", "coco", "--protocol", "toy")
    return evaluated(out, *own, *flags, **DETECTOR | settings)


def classifier(out, *flags, **settings):
    own = ("--protocol", "toy", *WITHOUT_WORKERS, *OFTEN)
    return evaluated(out, *own, *flags, **CLASSIFIER | settings)


def finetuning(out, *flags, **settings):
    return classifier(out, *flags, **FINETUNED | settings)


def svm(out, *flags, **settings):
    cache = ("--cache-dir", Path(out).with_name(f"{Path(out).name} features"))
    own = ("--protocol", "toy", *WITHOUT_WORKERS, *cache, "--batch-size", "1")
    return evaluated(out, *own, *flags, **probe_runs.CROPS | settings)


def captioning(out, *flags, **settings):
    own = ("--data-root", places().data, "--batch-size", "1")
    return small_captioners.arguments(places().captioner, out, *own, *flags, **settings)


def evaluation(out, *flags):
    options = [*OFTEN, *(f'"{word}"' for word in words(CLASSIFIER))]
    return [
        *("--checkpoint", places().network, "--tasks", "imagenet_linear", "--protocol", "toy"),
        *("--data-root", places().data, "--output-dir", out, "--num-gpus", "0", *WITHOUT_WORKERS),
        *("--arguments", "imagenet_linear", " ".join(options), *flags),
    ]


@dataclass(frozen=True)
class Run:
    """A tool's short run.

    Attributes:
        arguments: (output folder, further flags; settings) to its command line.
        training, evaluating: what it says, or a file that it has written, when it is so far.
        left: what else it comes to than its record: torch's files, or others.
    """

    module: str
    arguments: Callable[..., list]
    training: str
    evaluating: str
    record: str = "result.json"
    left: tuple[str, ...] = ("model_final.pth",)

    def start(self, out: Path, *flags, name="first", environment=None, **settings) -> Started:
        argv = self.arguments(out, *flags, **settings)
        return Started(self.module, argv, said_in(out, name), environment or {})


RUNS = {
    "pretraining": Run(
        PRETRAIN, pretraining, "iteration 2/12", "validation: loss", "pretraining.json"
    ),
    "transfer": Run(TRANSFER, transfer, "model_0000001.pth", "inference coco"),
    "linear": Run(LINEAR, classifier, "iteration 2/12", "validation: top1"),
    "fine-tuning": Run(INATURALIST, finetuning, "iteration 2/12", "validation: top1"),
    "svm": Run(SVM, svm, "images: voc", "features of voc_2007_trainval", left=()),
    "captioning": Run(
        *(CAPTIONING, captioning, "images: coco", "captions.partial.rank0.jsonl"),
        left=("captions.json",),
    ),
}
EVALUATE_ALL_RUN = Run(EVALUATE_ALL, evaluation, "iteration 2/12", "validation: top1")


def said_in(out: Path, name: str) -> Path:
    """Where what a run says is kept: a folder of its own beside the run's."""
    number = len(list(out.parent.glob(f"{out.name} said by {name} *")))
    return out.with_name(f"{out.name} said by {name} {number}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_processes(run: Run, out: Path, *flags, environment=None, **settings) -> list[Started]:
    """A run in two processes, as torchrun starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        Started(
            run.module,
            run.arguments(out, *flags, **settings),
            said_in(out, f"process {rank}"),
            {**shared, "LOCAL_RANK": str(rank), "RANK": str(rank), **(environment or {})},
        )
        for rank in (0, 1)
    ]


def has_come(started: Started, out: Path, mark: str):
    """Wait until a run is so far."""
    return started.until(
        lambda: mark in started.said + started.errors or (out / mark).exists(), repr(mark)
    )


@functools.cache
def undisturbed(kind: str):
    """What a run came to that nobody disturbed, and the names of its files."""
    out = places().scratch / "undisturbed" / kind
    out.parent.mkdir(exist_ok=True)
    RUNS[kind].start(out).ended_well()
    return result_of(RUNS[kind], out), names_in(out)


def result_of(run: Run, out: Path) -> dict:
    """What a run came to, but for times and dates."""
    record = json.loads((out / run.record).read_text())
    found = {"record": record | {"timing": None, "created": None, "environment": None}}
    for name in run.left:
        text = name.endswith(".json")
        found[name] = json.loads((out / name).read_text()) if text else content_of(out, name)
    found["curves"] = [untimed(json.loads(line)) for line in (out / "metrics.json").open()]
    return found


def untimed(line: dict) -> dict:
    """A line of metrics.json without seconds and images a second."""
    return {k: v for k, v in line.items() if not any(w in k for w in ("time", "second", "eta"))}


def names_in(out: Path) -> list[str]:
    """The files of a run; those of events have other names each time."""
    paths = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    return sorted("events" if path.startswith("events") else path for path in paths)

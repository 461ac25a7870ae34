"""Every tool that writes, in its shortest run: a row of a table each; and what it comes to."""

import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import pretraining_runs
from tests.captioning import small_captioners
from tests.eval_tools import probe_runs
from tests.faults import left_behind
from tests.faults.places import places
from tests.faults.started_tools import (
    CAPTIONING,
    EVALUATE_ALL,
    INATURALIST,
    LINEAR,
    PRETRAIN,
    SVM,
    TOOLS,
    TRANSFER,
    Started,
)

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
FEATURES, DOWNLOADS = {"VIRTEX_FEATURE_CACHE": "features"}, {"FVCORE_CACHE": "cache"}


@dataclass(frozen=True)
class Run:
    """A tool's short run.

    Attributes:
        arguments: (output folder, further flags; settings) to its command line.
        again: what is given to go on.
        training, evaluating: what it says, or a file that it has written, when it is so far.
        record: what it comes to; left: what else of importance.
        caches: variable of the environment -> what its folder beside the output is called.
        commands: it has subcommands.
        workers: of the number of processes that load images: flags and settings.
        statuses: with which it may say what the user must fix.
        spared: files that are not missed where they are missing.
    """

    module: str
    arguments: Callable[..., list]
    again: tuple[str, ...] = ("--resume",)
    training: str = ""
    evaluating: str = ""
    record: str = "result.json"
    left: tuple[str, ...] = ()
    caches: dict[str, str] = field(default_factory=dict)
    commands: bool = False
    workers: str | None = "--num-workers"
    statuses: tuple[int, ...] = (2,)
    spared: tuple[str, ...] = ()

    def environment(self, out: Path) -> dict[str, str]:
        caches = {name: f"{out} {folder}" for name, folder in self.caches.items()}
        return {"VIRTEX_ZOO": str(places().zoo), **caches}

    def start(
        self, out: Path, *flags, name="first", environment=None, workers=None, **settings
    ) -> Started:
        """
        Args:
            workers: how many processes load images.
        """
        if workers is not None and self.workers:
            if self.workers.startswith("-"):
                flags += (self.workers, workers)
            else:
                settings[self.workers] = workers
        return Started(
            self.module,
            self.arguments(out, *flags, **settings),
            said_in(out, name),
            self.environment(out) | (environment or {}),
            self.commands,
        )


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


def detection(task):
    def arguments(out, *flags, **settings):
        return evaluated(out, "--task", task, "--protocol", "toy", *flags, **DETECTOR | settings)

    return arguments


def trained(defaults):
    def arguments(out, *flags, **settings):
        own = ("--protocol", "toy", *WITHOUT_WORKERS, *OFTEN)
        return evaluated(out, *own, *flags, **defaults | settings)

    return arguments


def probe(name):
    kind = probe_runs.KINDS[name]
    protocol = "toy-cached" if name == "cached" else "toy"

    def arguments(out, *flags, **settings):
        own = (*kind.flags, "--protocol", protocol, *WITHOUT_WORKERS)
        return evaluated(out, *own, *flags, **kind.settings | settings)

    return arguments


def svm(out, *flags, **settings):
    """Image by image, so that there is time to meet it."""
    return probe("svm")(out, "--batch-size", "1", *flags, **settings)


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


def leaderboard(out, *flags):
    files = {"output": "csv", "markdown": "md", "html": "html", "plot": "png"}
    named = [word for flag, kind in files.items() for word in (f"--{flag}", out / f"board.{kind}")]
    return [places().records, *named, *flags]


# Those that train or evaluate, each in a folder that it owns.
RUNS = {
    "pretraining": Run(
        *(PRETRAIN, pretraining),
        training="iter: 2  ",
        evaluating="validation: loss",
        record="pretraining.json",
        left=("model_final.pth",),
    ),
    "transfer": Run(
        *(TRANSFER, detection("coco")),
        training="model_0000001.pth",
        evaluating="inference coco",
        left=("model_final.pth",),
        workers="DATALOADER.NUM_WORKERS",
    ),
    "linear": Run(
        *(LINEAR, trained(CLASSIFIER)),
        training="iter: 2  ",
        evaluating="validation: top1",
        left=("model_final.pth",),
    ),
    "fine-tuning": Run(
        *(INATURALIST, trained(FINETUNED)),
        training="iter: 2  ",
        evaluating="validation: top1",
        left=("model_final.pth",),
    ),
    "svm": Run(
        *(SVM, svm),
        training="images: voc",
        evaluating="features of voc_2007_trainval",
        caches=FEATURES,
    ),
    "captioning": Run(
        *(CAPTIONING, captioning),
        training="images: coco",
        evaluating="captions.partial.rank0.jsonl",
        left=("captions.json",),
    ),
}
EVALUATE_ALL_RUN = Run(
    *(EVALUATE_ALL, evaluation),
    again=(),
    training="iter: 2  ",
    evaluating="validation: top1",
    workers=None,
    statuses=(1, 2),  # 1: a task's tool has failed, whose sentence is told
)


def other(name, arguments, again=(), module=f"{TOOLS}.{{}}", **more):
    return Run(module.format(name), arguments, again, workers=None, **more)


ALL = {
    **RUNS,
    "evaluate all": EVALUATE_ALL_RUN,
    "VOC detection": Run(TRANSFER, detection("voc"), workers="DATALOADER.NUM_WORKERS"),
    "cached probe": Run(LINEAR, probe("cached"), caches=FEATURES),
    "kNN": Run(LINEAR, probe("knn"), caches=FEATURES),
    "leaderboard": other("leaderboard", leaderboard),
    "download": other(
        *("inspect_checkpoint", lambda out, *flags: [places().url, *flags]),
        caches=DOWNLOADS,
        spared=("m.pth.sha256",),
    ),
    "random network": other(
        *("inspect_checkpoint", lambda out, *flags: ["random:resnet18?seed=3", *flags]),
        caches=DOWNLOADS,
    ),
    "zoo's config": other(
        "model_zoo",
        lambda out, *_: ["config", "bicaptioning_R_50_L1_H2048", "-o", out / "a.yaml"],
        commands=True,
    ),
    "zoo's download": other(
        *("model_zoo", lambda out, *_: ["download", "my/model", "-o", out]),
        caches=DOWNLOADS,
        commands=True,
        spared=("m.pth.sha256",),
    ),
    "toy data": other(
        "make_toy_data",
        lambda out, *flags: [out, "--train-images", "4", "--val-images", "2", *flags],
        ("--overwrite",),
    ),
    "vocabulary": other(
        "virtex.data.tokenizer",
        lambda out, *flags: [
            *("--captions", places().captions, "--vocab-size", "120"),
            *("--output", out / "toy.model", *flags),
        ],
        ("--overwrite",),
        module="{}",
    ),
}


def said_in(out: Path, name: str) -> Path:
    """Where what a run says is kept: a folder of its own beside the run's."""
    number = len(list(out.parent.glob(f"{out.name} said by {name} *")))
    return out.with_name(f"{out.name} said by {name} {number}.log")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_processes(run: Run, out: Path, *flags, environment=None, **settings) -> list[Started]:
    """A run in two processes, as torchrun starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **(environment or {})}
    return [
        run.start(
            *(out, *flags),
            name=f"process {rank}",
            environment={**shared, "LOCAL_RANK": str(rank), "RANK": str(rank)},
            **settings,
        )
        for rank in (0, 1)
    ]


def two_machines(run: Run, out: Path, *flags) -> list[Started]:
    """A run on two machines, each with a process that its launcher starts."""
    address = f"tcp://127.0.0.1:{free_port()}"
    return [
        run.start(
            *(out, *flags, "--num-machines", "2", "--machine-rank", rank, "--dist-url", address),
            name=f"machine {rank}",
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
    """What a run came to, but for times and dates: file -> what it says."""
    names = (run.record, *run.left, "metrics.json")
    return {name: left_behind.said_by(out / name) for name in names}


def names_in(out: Path) -> list[str]:
    """The files of a run; those of events have other names each time."""
    paths = [path.relative_to(out).as_posix() for path in left_behind.files_of(out)]
    return sorted("events" if path.startswith("events") else path for path in paths)

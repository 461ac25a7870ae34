"""Every tool that writes, in its shortest run: one row of a table each."""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision

from tests import pretraining_runs
from tests.captioning import small_captioners
from tests.checkpoints.fault_server import start_server
from tests.eval_tools import probe_runs
from tests.leaderboard import board_records
from virtex.data.tokenizer import read_caption_files, train_tokenizer

DETECTOR = [
    *("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "TEST.PRECISE_BN.NUM_ITER", "2"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.AMP.ENABLED", "False"),
]


@dataclass(frozen=True)
class World:
    """What the runs read: none of it lies on the small disk."""

    data: Path
    checkpoint: Path
    captioner: Path
    records: Path
    caches: Path
    zoo: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"FVCORE_CACHE": str(self.caches), "VIRTEX_ZOO": str(self.zoo)}


@functools.cache
def world() -> World:
    world.kept = tempfile.TemporaryDirectory(prefix="virtex-faults-")
    folder = Path(world.kept.name)
    data = probe_runs.write_data(folder / "data")
    vocabulary = data / "vocab/toy.model"
    captions = read_caption_files([data / pretraining_runs.CAPTIONS.format("train")])
    train_tokenizer(captions, pretraining_runs.VOCABULARY, vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    captioner = small_captioners.write_checkpoint(folder / "captioner", vocabulary)
    records = board_records.write(
        folder / "records",
        board_records.record("a", value=88.0),
        board_records.record("b", value=70.0),
        board_records.record("b", "coco"),
    )
    server, _ = start_server()
    address = server.serve("/m.pth", (folder / "resnet18.pth").read_bytes())
    zoo = folder / "zoo.yaml"
    zoo.write_text(f"models: {{my/model: {{urls: [{address}], arch: resnet18}}}}")
    return World(data, folder / "resnet18.pth", captioner, records, folder / "caches", zoo)


@dataclass(frozen=True)
class Tool:
    """A tool that writes to the folder it is given.

    Attributes:
        arguments: of the world and that folder.
        again: what is given to go on after a failure.
        environment: variables that name a place in the folder.
        commands: it has subcommands.
        forgotten: names of files that tell the time, or are not missed where they are missing.
        statuses: with which it may say what the user must mend.
        every: of so many faults one is tried, where a run takes long.
    """

    module: str
    arguments: Callable[[World, Path], list[str]]
    again: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    commands: bool = False
    forgotten: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (2,)
    every: int = 1


def pretraining(there: World, out: Path) -> list[str]:
    return pretraining_runs.arguments(
        there.data,
        out / "run",
        *("--checkpoint-every", 2),
        **{"OPTIM.NUM_ITERATIONS": 4, "OPTIM.LOOKAHEAD.USE": False, "MODEL.VISUAL.FROZEN": True},
    )


def probe(kind: str, *flags: str, **settings: object) -> Tool:
    chosen = probe_runs.KINDS[kind]
    often = ("--log-every", "1", "--checkpoint-every", "2") if kind in probe_runs.TRAINING else ()

    def arguments(there: World, out: Path) -> list[str]:
        given = ("--checkpoint", there.checkpoint, *often, *flags)
        return probe_runs.arguments(kind, there.data, out / "run", *given, **settings)

    return Tool(
        chosen.tool.__name__,
        arguments,
        ("--resume",),
        {"VIRTEX_FEATURE_CACHE": "features"} if kind in probe_runs.CACHING else {},
    )


def detector(task: str) -> Tool:
    def arguments(there: World, out: Path) -> list[str]:
        return [
            *("--checkpoint", str(there.checkpoint), "--task", task, "--protocol", "toy"),
            *("--data-root", str(there.data), "--output-dir", str(out / "run")),
            *("--num-gpus", "0", *DETECTOR),
        ]

    return Tool("virtex.eval_tools.detectron2_transfer", arguments, ("--resume",), every=4)


def captioning(there: World, out: Path) -> list[str]:
    given = ("--data-root", there.data, "--batch-size", "2")
    return small_captioners.arguments(there.captioner, out / "run", *given)


def leaderboard(there: World, out: Path) -> list[str]:
    return [
        *(str(there.records), "--output", f"{out}/board/table.csv"),
        *("--markdown", f"{out}/board/table.md", "--html", f"{out}/board/page.html"),
        *("--plot", f"{out}/board/plot.png"),
    ]


def evaluate_all(there: World, out: Path) -> list[str]:
    small = " ".join(f"{key} {value}" for key, value in probe_runs.CROPS.items())
    return [
        *("--checkpoint", str(there.checkpoint), "--tasks", "voc07_svm", "--protocol", "toy"),
        *("--data-root", str(there.data), "--output-dir", f"{out}/all"),
        *("--num-gpus", "0", "--num-workers", "0", "--arguments", "voc07_svm", small),
    ]


TOOLS = {
    "pretrain": Tool("virtex.pretrain", pretraining, ("--resume",)),
    "detectron2_transfer": detector("coco"),
    "detectron2_transfer voc": detector("voc"),
    "imagenet_linear": probe(
        "linear", OPTIM__NUM_EPOCHS=0.8, OPTIM__LR_STEP_EPOCHS=[0.4], OPTIM__LR=0.01
    ),
    "imagenet_linear toy-cached": probe("cached"),
    "imagenet_linear --knn": probe("knn"),
    "voc07_svm": probe("svm"),
    "inaturalist_finetune": probe(
        "inaturalist", OPTIM__NUM_EPOCHS=0.8, OPTIM__LR_STEP_EPOCHS=[0.4], OPTIM__LR=0.01
    ),
    "coco_captioning": Tool("virtex.eval_tools.coco_captioning", captioning, ("--resume",)),
    "leaderboard": Tool("virtex.eval_tools.leaderboard", leaderboard),
    "evaluate_all": Tool(
        "virtex.eval_tools.evaluate_all",
        evaluate_all,
        (),
        {"VIRTEX_FEATURE_CACHE": "features"},
        forgotten=("leaderboard.html",),
        statuses=(1, 2),  # 1: a task's tool has failed, whose sentence is told
        every=8,
    ),
    "make_toy_data": Tool(
        "virtex.eval_tools.make_toy_data",
        lambda there, out: [f"{out}/toy", "--train-images", "4", "--val-images", "2"],
        ("--overwrite",),
    ),
    "model_zoo config": Tool(
        "virtex.eval_tools.model_zoo",
        lambda there, out: ["config", "bicaptioning_R_50_L1_H2048", "-o", f"{out}/zoo/a.yaml"],
        commands=True,
    ),
    "model_zoo download": Tool(
        "virtex.eval_tools.model_zoo",
        lambda there, out: ["download", "my/model", "-o", f"{out}/models"],
        (),
        {"FVCORE_CACHE": "cache"},
        commands=True,
        forgotten=("m.pth.sha256",),
    ),
    "tokenizer": Tool(
        "virtex.data.tokenizer",
        lambda there, out: [
            *("--captions", str(there.data / pretraining_runs.CAPTIONS.format("train"))),
            *("--vocab-size", "120", "--output", f"{out}/vocab/toy.model"),
        ],
        ("--overwrite",),
    ),
    "inspect_checkpoint http": Tool(
        "virtex.eval_tools.inspect_checkpoint",
        lambda there, out: [there.zoo.read_text().partition("[")[2].partition("]")[0]],
        (),
        {"FVCORE_CACHE": "cache"},
        forgotten=("m.pth.sha256",),
    ),
    "inspect_checkpoint random": Tool(
        "virtex.eval_tools.inspect_checkpoint",
        lambda there, out: ["random:resnet18?seed=3"],
        (),
        {"FVCORE_CACHE": "cache"},
    ),
}


def start(disk, name, *more, **asked):
    """Run a tool of the table on the disk."""
    tool, there = TOOLS[name], world()
    places = {key: f"{disk.place}/{folder}" for key, folder in tool.environment.items()}
    environment = there.environment | places | {"TMPDIR": str(disk.place)}
    argv = [str(word) for word in (*tool.arguments(there, disk.place), *more)]
    return disk.run(tool.module, argv, tool.commands, environment=environment, **asked)

"""The tools that are killed: what starts each on the smallest input that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.captioning import small_captioners
from tests.eval_tools.probe_runs import CROPS, FINETUNED, GRID, TRAINED
from tests.leaderboard.board_records import record, write
from tests.pretraining_runs import CAPTIONS, SMALL, VOCABULARY
from virtex.data.tokenizer import read_caption_files, train_tokenizer
from virtex.data.toy import write_toy_data

BACKBONE = "random:resnet18"
WORKERS = ("--num-workers", "1")
SOON = ("--checkpoint-every", "3", "--log-every", "1")
DETECTION = {
    "SOLVER.MAX_ITER": 4,
    "SOLVER.STEPS": "(3,)",
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 2,
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "TEST.EVAL_PERIOD": 2,
}
RECORDS = 40


@dataclass(frozen=True)
class Inputs:
    """What the tools read; never changed.

    Attributes:
        url: of a checkpoint.
    """

    data: Path
    captioner: Path
    records: Path
    url: str


def write_inputs(folder: Path, url: str) -> Inputs:
    data = folder / "data"
    write_toy_data(data, seed=0, train_images=40, val_images=21)
    vocabulary = data / "vocab/toy.model"
    train_tokenizer(read_caption_files([data / CAPTIONS.format("train")]), VOCABULARY, vocabulary)
    captioner = small_captioners.write_checkpoint(folder / "captioner", vocabulary)
    names = [f"model_{number}.pth" for number in range(RECORDS)]
    records = write(folder / "records", *(record(name, value=50 + len(name)) for name in names))
    return Inputs(data, captioner, records, url)


def words(settings: dict) -> list[str]:
    return [str(word) for pair in settings.items() for word in pair]


@dataclass(frozen=True)
class Tool:
    """How a tool is called.

    Attributes:
        module: has ``main`` and ``build_parser``, and is a program.
        argv: of the inputs and the folder that everything is written below.
        again: what the command gets to go on.
        workers: what it gets to load images in a process of their own.
        quick: whether a selection has it; of those that train alike one is enough.
        preloads: whether it does its work itself, so that it need not be started anew.
    """

    module: str
    argv: Callable[[Inputs, Path], list]
    again: tuple[str, ...] = ("--resume",)
    workers: tuple[str, ...] = WORKERS
    quick: bool = True
    preloads: bool = True


def probe(inputs: Inputs, place: Path, *flags: str, protocol: str = "toy") -> list:
    return [
        *("--checkpoint", BACKBONE, "--protocol", protocol, "--data-root", inputs.data),
        *("--output-dir", place / "out", "--num-gpus", "0", "--num-workers", "0", *flags),
    ]


def trained(settings: dict) -> Callable[[Inputs, Path], list]:
    return lambda inputs, place: [*probe(inputs, place, *SOON), *words(settings)]


def cached(protocol: str, settings: dict) -> Callable[[Inputs, Path], list]:
    return lambda inputs, place: [
        *probe(inputs, place, "--cache-dir", str(place / "features"), protocol=protocol),
        *words(settings),
    ]


TOOLS = {
    "pretraining": Tool(
        "virtex.pretrain",
        lambda inputs, place: [
            *("--config", "toy/bicaptioning_R_18_L1_H256", "--data-root", inputs.data),
            *("--output-dir", place / "out", "--num-gpus", "0", "--num-workers", "0", *SOON),
            *words(SMALL | {"OPTIM.NUM_ITERATIONS": 8}),
        ],
    ),
    "detection": Tool(
        "virtex.eval_tools.detectron2_transfer",
        lambda inputs, place: [
            *("--checkpoint", BACKBONE, "--task", "coco", "--protocol", "toy"),
            *("--data-root", inputs.data, "--output-dir", place / "out", "--num-gpus", "0"),
            *words(DETECTION | {"DATALOADER.NUM_WORKERS": 0}),
        ],
        workers=("DATALOADER.NUM_WORKERS", "1"),
    ),
    "linear probe": Tool("virtex.eval_tools.imagenet_linear", trained(TRAINED), quick=False),
    "fine-tuning": Tool("virtex.eval_tools.inaturalist_finetune", trained(FINETUNED), quick=False),
    "SVM": Tool("virtex.eval_tools.voc07_svm", cached("toy", CROPS)),
    "cached probe": Tool(
        "virtex.eval_tools.imagenet_linear", cached("toy-cached", GRID), quick=False
    ),
    "captioning": Tool(
        "virtex.eval_tools.coco_captioning",
        lambda inputs, place: small_captioners.arguments(
            inputs.captioner, place / "out", "--data-root", inputs.data
        ),
    ),
    "download": Tool(
        "virtex.eval_tools.inspect_checkpoint",
        lambda inputs, place: [inputs.url],
        again=(),
        workers=(),
    ),
    "leaderboard": Tool(
        "virtex.eval_tools.leaderboard",
        lambda inputs, place: [
            *(inputs.records, "--output", place / "board.csv", "--markdown", place / "board.md"),
            *("--html", place / "board.html", "--plot", place / "board.png"),
        ],
        again=(),
        workers=(),
    ),
    "evaluate all": Tool(
        "virtex.eval_tools.evaluate_all",
        lambda inputs, place: [
            *("--checkpoint", BACKBONE, "--tasks", "imagenet_linear", "--protocol", "toy"),
            *("--data-root", inputs.data, "--output-dir", place / "out", "--num-gpus", "0"),
            *("--num-workers", "0"),
            *("--arguments", "imagenet_linear", " ".join([*SOON, *map(quoted, words(TRAINED))])),
        ],
        again=(),
        workers=(),
        quick=False,
        preloads=False,
    ),
}


def quoted(word: str) -> str:
    return f'"{word}"'

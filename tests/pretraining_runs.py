"""Short pretraining runs on toy data, and readers of their outputs."""

import json
import sys
from pathlib import Path

import pytest

from tests.run_states import content_of
from tests.toy_data import copy_toy_data
from virtex import pretrain
from virtex.cli import run_tool
from virtex.data.tokenizer import read_caption_files, train_tokenizer

TRAIN_IMAGES, VAL_IMAGES = 24, 9  # odd, so that two processes have unequal shares
VOCABULARY, ITERATIONS = 120, 12
CAPTIONS = "coco/annotations/captions_{}2017.json"

# Overrides that make the packaged toy config even smaller.
SMALL = {
    "DATA.IMAGE_CROP_SIZE": 32,
    "DATA.IMAGE_TRANSFORM_TRAIN": ["random_resized_crop", "horizontal_flip", "normalize"],
    "DATA.VOCAB_SIZE": VOCABULARY,
    "MODEL.TEXTUAL.NAME": "transdec_postnorm::L1_H32_A4_F64",
    "MODEL.DECODER.MAX_DECODING_STEPS": 5,
    "OPTIM.LR": 0.05,
    "OPTIM.CNN_LR": 0.05,
    "OPTIM.BATCH_SIZE": 4,
    "OPTIM.NUM_ITERATIONS": ITERATIONS,
    "OPTIM.WARMUP_STEPS": 2,
    "OPTIM.LOOKAHEAD.USE": True,
    "OPTIM.LOOKAHEAD.STEPS": 2,
}


def write_data(root: Path) -> Path:
    """Write toy images, captions and a vocabulary."""
    copy_toy_data(root, TRAIN_IMAGES, VAL_IMAGES)
    captions = read_caption_files([root / CAPTIONS.format("train")])
    train_tokenizer(captions, VOCABULARY, root / "vocab/toy.model")
    return root


def arguments(data, out, *flags, config="toy/bicaptioning_R_18_L1_H256", **settings):
    """Command-line arguments; ``OPTIM__LR=1`` for ``OPTIM.LR 1``."""
    settings = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
    return [
        *("--config", config, "--data-root", str(data), "--output-dir", str(out)),
        *("--num-gpus", "0", "--num-workers", "0", "--log-every", "1", "--checkpoint-every", "5"),
        *map(str, flags),
        *(str(word) for pair in settings.items() for word in pair),
    ]


def command(data, out, *flags, **settings):
    """The same as a command line."""
    return [sys.executable, "-m", "virtex.pretrain", *arguments(data, out, *flags, **settings)]


def status_of(argv):
    """Run the tool in this process; return its exit status."""
    with pytest.raises(SystemExit) as left:
        run_tool(pretrain.main, pretrain.build_parser(), argv)
    return left.value.code


def trained(data, out, *flags, **settings):
    """Run successfully; return the output folder."""
    assert status_of(arguments(data, out, *flags, **settings)) == 0
    return out


def record_of(folder):
    return json.loads((folder / "pretraining.json").read_text())


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def training_lines(folder):
    """Iterations, losses and learning rates of training in metrics.json."""
    return [
        {key: value for key, value in line.items() if key.startswith(("iter", "train/", "lr/"))}
        for line in lines_of(folder)
        if "train/loss" in line
    ]


def validation_lines(folder):
    return [line for line in lines_of(folder) if "val/loss" in line]


def weights_of(folder):
    return content_of(folder)["model"]


def files_in(folder):
    """Every path below a folder, files with size and modification time; None if it is missing.

    The modification time of a folder changes when a run locks it.
    """
    if not folder.exists():
        return None
    return {
        path: path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }

"""Small untrained captioning checkpoints, and runs of the tool with them."""

import json
import sys
from pathlib import Path

import torch

from tests.pretraining_runs import SMALL, VOCABULARY
from virtex.cli import run_tool
from virtex.config import load_config, save_config
from virtex.data.tokenizer import Tokenizer
from virtex.eval_tools import coco_captioning
from virtex.pretraining.models.build import build_model

TOOL = Path(coco_captioning.__file__)
MODEL = "toy/bicaptioning_R_18_L1_H256"
STEPS = 8
# settings for images as small as the model
QUICK = {"DATA.IMAGE_CROP_SIZE": 32, "DATA.IMAGE_RESIZE_SIZE": 32}


def write_checkpoint(folder, tokenizer, seed=0, **settings):
    """Write ``model_final.pth``, its config and its vocabulary as virtex.pretrain does."""
    settings = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
    overrides = [word for pair in settings.items() for word in pair]
    config = load_config(MODEL, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "pretrain_config.yaml")
    (folder / "tokenizer.model").write_bytes(Path(tokenizer).read_bytes())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config)
        if hasattr(model, "backward_textual"):
            diversify(model, Tokenizer(tokenizer))
    torch.save({"model": model.state_dict(), "iteration": 1}, folder / "model_final.pth")
    return folder / "model_final.pth"


def diversify(model, tokenizer):
    """Scale weights so that an untrained model writes words that depend on the image."""
    torch.nn.init.normal_(model.textual.visual_projection.weight, std=30.0)
    torch.nn.init.normal_(model.textual.embedding.words.weight, std=0.2)
    whole = [
        len(tokenizer.id_to_piece(i)) > 2 and tokenizer.id_to_piece(i)[0] == "▁"
        for i in range(VOCABULARY)
    ]
    with torch.no_grad():
        model.textual.output.bias.copy_(2.0 * torch.tensor(whole))


def arguments(checkpoint, out, *flags, **settings):
    settings = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
    return [
        *("--checkpoint", str(checkpoint), "--output-dir", str(out), "--protocol", "toy"),
        *("--num-gpus", "0", "--num-workers", "0", "--batch-size", "4", "--scorer", "python"),
        *("--max-length", str(STEPS)),
        *(str(word) for pair in settings.items() for word in pair),
        *map(str, flags),  # settings must come before --images
    ]


def command(*args, **settings):
    return [sys.executable, str(TOOL), *arguments(*args, **settings)]


def exit_status(argv):
    try:
        run_tool(coco_captioning.main, coco_captioning.build_parser(), argv)
    except SystemExit as error:
        return error.code


def run_to_end(checkpoint, out, *flags, **settings):
    assert exit_status(arguments(checkpoint, out, *flags, **settings)) == 0
    return out


def read_captions(folder):
    """Return image id -> caption of a run's ``captions.json``."""
    rows = json.loads((folder / "captions.json").read_text())
    assert all(row.keys() == {"image_id", "caption"} for row in rows)
    found = {row["image_id"]: row["caption"] for row in rows}
    assert len(found) == len(rows)
    return found


def read_record(folder):
    return json.loads((folder / "result.json").read_text())

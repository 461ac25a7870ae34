"""The output folder of a run: one run a folder, nothing overwritten by accident."""

import json
import shutil
from pathlib import Path
from typing import Any

from virtex.errors import UserError
from virtex.results import RECORD_NAME, write_json

IDENTITY = "run.json"
GALLERY = "gallery"
# Kept in the identity for a later record; a resumed run need not agree on them.
DEPARTURES, CHANGES = "departures", "changes"
# What an evaluation does not depend on.
TRAINING_KEYS = ("processes", "skip bad images", "setting SOLVER.", "setting DATALOADER.")
RUN_FILES = (
    *(IDENTITY, RECORD_NAME, "config.yaml", "metrics.json", "last_checkpoint"),
    *("pretraining.json", "pretrain_config.yaml", "tokenizer.model"),
    *("per_class.csv", "grid.csv"),
    *("captions.json", "captions.html", "captions.partial*.jsonl"),
    *(
        "model_*.pth",
        "log.txt*",
        "events.out.tfevents.*",
        "detections_*.json",
        "evaluation_*",
        GALLERY,
    ),
)


def run_files(folder: Path) -> list[Path]:
    """What a run has left in this folder."""
    return sorted(path for pattern in RUN_FILES for path in folder.glob(pattern))


def claim(folder: Path, resume: bool, overwrite: bool) -> None:
    """Check that a run may use this folder. Writes and deletes nothing.

    Raises:
        UserError: it is a file, or holds a run and neither flag is given.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output-dir {folder} is a file; name a folder")
    found = run_files(folder)
    if found and not (resume or overwrite):
        raise UserError(
            f"{folder} holds another run ({found[0].name}, …); give --resume to continue it, "
            "--overwrite to replace it, or another --output-dir"
        )


def clear(folder: Path) -> None:
    """Delete what a run has left, and nothing else."""
    for path in run_files(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder was started with; None where there is no run.

    Raises:
        UserError: the folder's run cannot be told.
    """
    path = folder / IDENTITY
    if not path.is_file():
        if run_files(folder):
            raise UserError(f"{folder} holds a run without {IDENTITY}; start anew with --overwrite")
        return None
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}); start anew with --overwrite") from error


def check_same_run(folder: Path, identity: dict[str, Any], eval_only: bool) -> None:
    """A run is resumed with what it was started with; evaluated with its model and test data.

    Raises:
        UserError: naming what differs.
    """
    started = read_identity(folder)
    if started is None:
        return
    identity = json.loads(json.dumps(identity))  # lists for tuples, as in the file
    for key in dict.fromkeys([*identity, *started]):
        if key in (DEPARTURES, CHANGES) or (eval_only and key.startswith(TRAINING_KEYS)):
            continue
        if started.get(key) != identity.get(key) and (key in identity or not eval_only):
            raise UserError(
                f"{folder} was started with {key} {brief(started.get(key))}, not "
                f"{brief(identity.get(key))}; go on with what it was started with, start "
                "anew with --overwrite, or give another --output-dir"
            )


def brief(value: Any) -> str:
    text = "as the protocol says" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def write_identity(folder: Path, identity: dict[str, Any]) -> None:
    write_json(folder / IDENTITY, identity)

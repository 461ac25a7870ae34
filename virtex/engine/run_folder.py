"""The output folder of a run: one run a folder, nothing overwritten by accident."""

import argparse
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from virtex.errors import UserError
from virtex.files import remove_unfinished
from virtex.records import RECORD_NAME, write_json

IDENTITY = "run.json"
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of this file system
GALLERY = "gallery"
# Kept in the identity for a later record; a resumed run need not agree on them.
DEVIATIONS, CHANGES = "deviations", "changes"
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


@contextmanager
def claimed(
    folder: Path, resume: bool, overwrite: bool, inputs: Iterable[Path] = (), main: bool = True
) -> Iterator[None]:
    """Keep every other run out of this folder, which is made; one that stays empty goes again.

    Args:
        inputs: files and folders that the run reads.
        main: whether this process does it for all others of the job.

    Raises:
        UserError: another run is at work in it; it cannot be written; or as ``claim``.
    """
    claim(folder, resume, overwrite, inputs)
    if not main:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder / LOCK)
    except OSError as error:
        raise UserError(
            f"--output-dir {folder} cannot be written ({error.strerror or error}); name another"
        ) from error
    try:
        claim(folder, resume, overwrite, inputs)  # a run may have ended there meanwhile
        remove_unfinished(folder)
        yield
    finally:
        with suppress(OSError):  # it may be read-only by now
            (folder / LOCK).unlink()
        os.close(lock)
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def hold(path: Path) -> int:
    """Lock a file, which is made, until this process closes it or ends, however it ends.

    The kernel's record locks, as a data-loading worker that outlives its process inherits
    none of them.

    Returns:
        the file's descriptor.

    Raises:
        UserError: another process holds it.
        OSError: it cannot be written.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return file
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                raise
            holder = os.pread(file, 200, 0).decode(errors="replace").strip()
            os.close(file)
            raise UserError(
                f"another run is at work in {path.parent}{holder and f' ({holder})'}; wait for it, "
                "or name another --output-dir"
            ) from error
        if same_file(file, path):
            with suppress(OSError):  # it holds on a full disk too
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return file
        os.close(file)  # who held it has removed it meanwhile


def same_file(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def claim(folder: Path, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Check that a run may use this folder. Writes and deletes nothing.

    Args:
        inputs: files and folders that the run reads.

    Raises:
        UserError: it is a file; it holds a run and neither flag is given; it would be cleared of
            what no run has left there, or of what this run reads.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output-dir {folder} is a file; name a folder")
    found = run_files(folder)
    if found and not resume and not (folder / IDENTITY).is_file():
        raise UserError(
            f"{folder} holds {found[0].name}, which a run would write, but no run ({IDENTITY} is "
            "missing); name another --output-dir, or move that away"
        )
    if overwrite:
        spare(inputs, found)
    if found and not (resume or overwrite):
        raise UserError(
            f"{folder} holds another run ({found[0].name}, …); give --resume to continue it, "
            "--overwrite to replace it, or another --output-dir"
        )


def spare(inputs: Iterable[Path], doomed: Iterable[Path]) -> None:
    """What a run reads is not among what ``--overwrite`` would delete for it.

    Raises:
        UserError: it is.
    """
    for path, old in product(map(Path.resolve, inputs), doomed):
        there = old.resolve()
        # a folder that is read may be written into, as long as none of its folders is deleted
        if path == there or there in path.parents or (there.is_dir() and path in there.parents):
            raise UserError(
                f"--overwrite would delete {old}, which this run reads; name another --output-dir"
            )


def inputs_of(args: argparse.Namespace) -> list[Path]:
    """The files and folders of this machine that an evaluation's arguments name, but for data."""
    named = [getattr(args, key, None) for key in ("checkpoint", "tokenizer", "config", "weights")]
    named += getattr(args, "images", None) or []
    # os.path.exists: an address may be longer than a file's name can be
    return [
        Path(name) for name in map(os.path.expanduser, filter(None, named)) if os.path.exists(name)
    ]


def clear(folder: Path) -> None:
    """Delete what a run has left, and nothing else; last of all what says that it is one."""
    for path in sorted(run_files(folder), key=lambda path: path.name == IDENTITY):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder was started with; None where there is no run.

    Raises:
        UserError: the folder's run cannot be told.
    """
    path = folder / IDENTITY
    if not path.is_file():
        if run_files(folder):
            raise UserError(f"{folder} holds a run without {IDENTITY}; name another folder")
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
        if key in (DEVIATIONS, CHANGES) or (eval_only and key.startswith(TRAINING_KEYS)):
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

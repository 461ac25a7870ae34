"""Manage the output folder of a run: one run per folder, nothing overwritten by accident."""

import argparse
import errno
import fcntl
import json
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from virtex.errors import UserError
from virtex.files import (
    list_manifests,
    open_own,
    parse_json,
    read_file,
    read_manifests,
    remove_unfinished,
)
from virtex.records import write_json

RUN_FILE = "run.json"
RUN_VERSION = 2
LOCK_FILE = ".lock"
GALLERY = "gallery"
LABEL_MAPS = "label_maps"
# errno on file systems without locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
RUN_FILES = re.compile(
    r"(run|result|metrics|pretraining|predictions|images|detections_.*)\.json|last_checkpoint"
    r"|tokenizer\.model|(pretrain_)?config\.yaml|(per_class|grid)\.csv|log\.txt(\.rank\d+)?"
    r"|captions\.(json|html|partial(\.rank\d+)?\.jsonl)|model_(\d{7,}|final)\.pth"
)
RUN_FOLDERS = re.compile(rf"evaluation_\d{{7,}}|{GALLERY}|{LABEL_MAPS}")
EVENTS = re.compile(r"events\.out\.tfevents\..*")  # names that no two runs share


def list_run_files(folder: Path) -> list[Path]:
    """List all files with the names of a run's files or in its folders, also those of the user.

    Raises:
        UserError: one of them is a link, a pipe or the like, or a folder for a file.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = [folder / name for name in names if RUN_FILES.fullmatch(name)]
    for top in (folder / name for name in names if RUN_FOLDERS.fullmatch(name)):
        if not stat.S_ISDIR(top.lstat().st_mode):
            raise foreign_file(top, "is not a folder")
        for parent, folders, files in os.walk(top):
            links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
            found += [Path(parent, name) for name in sorted([*files, *links])]
    for path in found:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise foreign_file(path, "is not a plain file")
    return found


def foreign_file(path: Path, problem: str) -> UserError:
    return UserError(
        f"{path} {problem} that a run has written, and a run may replace it; move it away, or "
        "choose another --output-dir",
        "run.foreign_files",
    )


@contextmanager
def claim_folder(
    folder: Path,
    resume: bool,
    overwrite: bool,
    inputs: Iterable[Path] = (),
    is_main: bool = True,
) -> Iterator[None]:
    """Lock ``folder`` against other runs; create it, and remove it if it stays empty.

    Args:
        inputs: files and folders that the run reads.
        is_main: whether this process holds the lock for all processes of the run.

    Raises:
        UserError: another run is using it, it cannot be written, or see ``check_available``.
    """
    check_available(folder, resume, overwrite, inputs)
    if not is_main:
        yield
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(folder / LOCK_FILE)
    except OSError as error:
        raise UserError(
            f"--output-dir {folder} cannot be written ({error.strerror or error}); choose another",
            "run.not_writable",
        ) from error
    try:
        check_available(folder, resume, overwrite, inputs)  # another run may just have ended
        remove_unfinished(folder)
        yield
    finally:
        with suppress(OSError):  # it may have become read-only
            (folder / LOCK_FILE).unlink()
        os.close(lock)
        with suppress(OSError):  # not empty
            for path in created:
                path.rmdir()


def acquire_lock(path: Path) -> int:
    """Lock ``path``, creating it, until this process closes the descriptor or exits.

    Record locks (``lockf``) are not inherited: a DataLoader worker that outlives its parent does
    not keep the folder locked.

    Returns:
        The file descriptor.

    Raises:
        UserError: another process holds the lock, or the file is not a lock.
        OSError: the file cannot be written.
    """
    while True:
        file = open_own(path, os.O_RDWR | os.O_CREAT)
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
                f"another run is using {path.parent}{holder and f' ({holder})'}; wait for it, or "
                "give another --output-dir",
                "run.locked",
            ) from error
        if is_same_file(file, path):
            if not re.fullmatch(rb"(process \d+ on .*\n)?", os.pread(file, 200, 0)):
                os.close(file)  # a file of the user's, or another name of one
                raise foreign_file(path, "is not a lock")
            with suppress(OSError):  # the lock holds even on a full disk
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return file
        os.close(file)  # its previous owner has removed it in the meantime


def is_same_file(file: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def check_available(
    folder: Path, resume: bool, overwrite: bool, inputs: Iterable[Path] = ()
) -> None:
    """Check that a run may use ``folder``. Writes and deletes nothing.

    Args:
        inputs: files and folders that the run reads.

    Raises:
        UserError: it is a file or below one; it contains a run and neither flag is given; a file
            that no run wrote would be replaced; or overwriting would delete a file that this run
            reads.
    """
    require_folder(folder)
    found = list_run_files(folder)
    is_run = (folder / RUN_FILE).is_file()
    if not resume and (overwrite or not is_run):
        foreign = [path for path in found if path not in written_files(folder)]
        if foreign:
            raise foreign_file(foreign[0], "is not a file")
    if overwrite:
        check_inputs_are_kept(inputs, found)
    if found and not (resume or overwrite):
        raise UserError(
            f"{folder} contains another run ({found[0].name}, …); pass --resume to continue it, "
            "--overwrite to replace it, or another --output-dir",
            "run.exists",
        )


def require_folder(folder: Path) -> None:
    """Raise UserError if an output folder, or one above it, is a file."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            file = path if path == folder else f"{folder}: {path}"
            raise UserError(f"--output-dir {file} is a file; specify a folder", "run.not_a_folder")


def written_files(folder: Path) -> set[Path]:
    """Return the files that runs have written into ``folder``, and that may still exist."""
    return read_manifests(folder) | {folder / RUN_FILE}


def check_inputs_are_kept(inputs: Iterable[Path], deleted: Iterable[Path]) -> None:
    """Check that ``--overwrite`` does not delete an input of the run.

    Raises:
        UserError: it would.
    """
    for path, old in product(map(Path.resolve, inputs), deleted):
        target = old.resolve()
        # a run may write into a folder that it reads, unless it deletes a folder in it
        if path == target or target in path.parents or (target.is_dir() and path in target.parents):
            raise UserError(
                f"--overwrite would delete {old}, which this run reads; choose another "
                "--output-dir",
                "run.deletes_input",
            )


def list_inputs(args: argparse.Namespace) -> list[Path]:
    """List the local files and folders, other than data, that the arguments name."""
    keys = ("checkpoint", "tokenizer", "config", "weights", "train_json", "val_json")
    named = [getattr(args, key, None) for key in keys]
    named += getattr(args, "images", None) or []
    # os.path.exists: a URL may be longer than a file name can be
    return [
        Path(name) for name in map(os.path.expanduser, filter(None, named)) if os.path.exists(name)
    ]


def clear(folder: Path) -> None:
    """Delete the files that runs have written, and nothing else; run file and manifest last."""
    written = written_files(folder)
    events = [path for path in folder.iterdir() if EVENTS.fullmatch(path.name)]
    ours = [path for path in (*list_run_files(folder), *events) if path in written]
    for path in sorted(ours, key=lambda path: path == folder / RUN_FILE):
        path.unlink()
    for top in (path for path in folder.iterdir() if RUN_FOLDERS.fullmatch(path.name)):
        for parent, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # not empty
                os.rmdir(parent)
    for path in list_manifests(folder):
        path.unlink()


def write_run_file(folder: Path, identity: dict[str, Any], **extra: Any) -> None:
    """Write the run file.

    Args:
        identity: the values that a resumed run must match, see ``check_same_run``.
        extra: JSON types for later runs in the folder, not compared.
    """
    write_json(folder / RUN_FILE, {"version": RUN_VERSION, "identity": identity, **extra})


def read_run_file(folder: Path) -> dict[str, Any] | None:
    """Return the content of the run file, or ``None`` if the folder contains no run.

    Raises:
        UserError: the folder's run is of an earlier version or cannot be identified.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        if list_run_files(folder):
            raise UserError(
                f"{folder} contains a run without {RUN_FILE}; choose another --output-dir",
                "run.foreign_files",
            )
        return None
    from pydantic import ValidationError

    from virtex.schemas import RunFile, describe_error

    try:
        run = RunFile.model_validate(parse_json(read_file(path)))
    except ValueError as error:
        problem = describe_error(error) if isinstance(error, ValidationError) else error
        raise UserError(
            f"{path} is not a run file ({problem}); start over with --overwrite", "run.unreadable"
        ) from error
    if run.version != RUN_VERSION:
        raise UserError(
            f"{folder} contains a run of an earlier version of virtex, which cannot be resumed; "
            "start over with --overwrite, or choose another --output-dir",
            "resume.old_version",
        )
    return run.model_dump()


def check_same_run(folder: Path, identity: dict[str, Any], ignored: tuple[str, ...] = ()) -> None:
    """Check that the run in ``folder``, if there is one, was started with the same identity.

    Args:
        ignored: prefixes of dotted keys that need not match.

    Raises:
        UserError: they differ; the message names the first difference.
    """
    run = read_run_file(folder)
    if run is None:
        return
    started, current = flatten(run["identity"]), flatten(json.loads(json.dumps(identity)))
    for key in dict.fromkeys([*current, *started]):
        if key.startswith(ignored) if ignored else False:
            continue
        if started.get(key) != current.get(key):
            raise UserError(
                f"{folder} was started with {key} {abbreviate(started.get(key))}, but this run has "
                f"{abbreviate(current.get(key))}; resume with the original value, start over with "
                "--overwrite, or choose another --output-dir",
                "resume.mismatch",
            )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of nested dicts; keys with dots stay one part."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def abbreviate(value: Any) -> str:
    """Return a value as JSON of at most 80 characters, for an error message."""
    text = "(the protocol's value)" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"

"""Open a checkpoint file without letting it run anything, and say plainly when it cannot be.

A file is known by its first bytes. A pickle is gone through with stand-ins first (``vetting``).
Then torch files are unpickled with ``weights_only=True``, numpy pickles (Detectron2's and
Caffe2's) by an unpickler that knows arrays and plain containers. Whatever needs more is refused
with the names it asks for, unless the user trusts the file.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch.serialization import safe_globals

from virtex.checkpoints.architecture import HAIKU_REASON
from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.unpickling import (
    ArrayUnpickler,
    harmless_globals,
    is_known_to_arrays,
    is_known_to_torch,
)
from virtex.checkpoints.vetting import Vetting
from virtex.quoting import quoted

# torch.save before 1.6 begins with this number, pickled (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes, by the format's own definition
_LEGACY_PICKLES = 5  # the number, a protocol version, the system, the content, storage keys
# What the entries of a zip file may unpack to: torch itself never compresses them.
_UNPACKED_AT_LEAST, _UNPACKED_PER_BYTE = 512 << 20, 8

_NOT_A_CHECKPOINT = (
    (b"version https://git-lfs", "is a git-lfs pointer: run git lfs pull in its repository"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"BZh", "is compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it first"),
    (b"\x89HDF", "is an HDF5 file, not a PyTorch checkpoint"),
    (b"\x93NUMPY", "is a single numpy array, not a checkpoint"),
)
_PICKLE_STARTS = (b"\x80", b"(dp", b"}q", b"ccollections\n", b"ccopy_reg\n")


def open_checkpoint(path: str | pathlib.Path, trust_pickle: bool = False) -> tuple[Any, bool]:
    """What a file holds, its tensors on the CPU.

    Args:
        path: a local file: torch (zip or legacy), numpy pickle or safetensors.
        trust_pickle: let the pickle in it run whatever it asks for.

    Returns:
        (content, whether the file can only be a flat mapping of names to tensors). Tensors of a
        zip file are mapped from disk, so the file must stay while they are in use.

    Raises:
        CheckpointError: one sentence: what is wrong with the file, and what to do.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}: check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    with path.open("rb") as file:
        head = file.read(1024)
    for start, what in _NOT_A_CHECKPOINT:
        if head.startswith(start):
            raise CheckpointError(f"{path} {what}")
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page (an error or consent page saved in place of the file): "
            "delete it and download the checkpoint itself"
        )
    if head.startswith(b"PK"):
        return _open_zip(path, trust_pickle), False
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _SAFETENSORS_HEADER_LIMIT:
        return _open_safetensors(path, head), True
    if head.startswith(_PICKLE_STARTS):
        is_torch = _LEGACY_MAGIC in head[:24]
        return (_open_legacy if is_torch else _open_pickle)(path, trust_pickle), False
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} is a tar archive: unpack it, and give the checkpoint in it (torch itself "
            "wrote such files before 0.2: load and save it again with a newer one)"
        )
    if _is_text(head):
        raise CheckpointError(f"{path} is a text file, not a checkpoint: check the path")
    raise CheckpointError(
        f"{path} is no checkpoint that is known here (torch, safetensors or numpy pickle); "
        f"it begins with the bytes {head[:8].hex(' ')}"
    )


def _open_zip(path: pathlib.Path, trust_pickle: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled, records, stored = _read_entries(path, archive)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises of many kinds for a file that lies
        raise CheckpointError(
            f"{path} is cut off or damaged as a zip file: download or copy it again "
            f"({_first_line(error)})"
        ) from error
    if not trust_pickle:
        size = max(path.stat().st_size, len(pickled))
        _vet(path, [io.BytesIO(pickled)], size, is_known_to_torch, records)
    return _load_torch(path, trust_pickle, mmap=stored)


def _read_entries(
    path: pathlib.Path, archive: zipfile.ZipFile
) -> tuple[bytes, dict[str, int], bool]:
    """(The pickle, storage key -> bytes of its data, whether no entry is compressed).

    Reads every entry, so that those whose checksum is another are told.
    """
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    shown = ", ".join(map(quoted, names[:3]))
    root = names[0].partition("/")[0] if names else ""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise CheckpointError(
            f"{path} is a TorchScript archive: load it with torch.jit.load and save its "
            "state_dict() with torch.save"
        )
    if f"{root}/data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip file but no checkpoint (it holds {shown or 'nothing'}): "
            "if the checkpoint is inside, unpack it"
        )
    if len(set(names)) < len(names):
        raise zipfile.BadZipFile("two of its entries have one name")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _UNPACKED_AT_LEAST + _UNPACKED_PER_BYTE * path.stat().st_size:
        raise CheckpointError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB, out of all proportion to its size: "
            "no checkpoint is like that; get it from elsewhere"
        )
    for entry in entries:
        if entry.CRC:  # torch writes 0 where it was told to leave checksums out
            _read_through(archive, entry)
    start = f"{root}/data/"
    records = {e.filename.removeprefix(start): e.file_size for e in entries}
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return archive.read(f"{root}/data.pkl"), records, stored


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    with archive.open(entry) as file:
        while file.read(1 << 20):
            pass


def _open_legacy(path: pathlib.Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        with path.open("rb") as file:
            _vet(path, [file] * _LEGACY_PICKLES, path.stat().st_size, is_known_to_torch)
    return _load_torch(path, trust_pickle, mmap=False)


def _open_pickle(path: pathlib.Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        with path.open("rb") as file:
            _vet(path, [file], path.stat().st_size, is_known_to_arrays)
    unpickler = pickle.Unpickler if trust_pickle else ArrayUnpickler
    try:
        with path.open("rb") as file:
            return unpickler(file, encoding="latin1").load()
    except Exception as error:
        raise _unreadable(path, error, trust_pickle) from error


def _load_torch(path: pathlib.Path, trust_pickle: bool, mmap: bool) -> Any:
    try:
        with safe_globals(list(harmless_globals())):
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=mmap)
    except Exception as error:
        raise _unreadable(path, error, trust_pickle) from error


def _vet(
    path: pathlib.Path,
    pickles: list[IO[bytes]],
    size: int,
    is_known: Callable[[str], bool],
    records: Mapping[str, int] | None = None,
) -> None:
    """Go through pickles one after another, and refuse what is not known, or lies."""
    names: set[str] = set()
    failure = None
    try:
        for file in pickles:
            Vetting(file, size, names, records).load()
    except Exception as error:
        failure = error
    blocked = sorted(name for name in names if not is_known(name))
    if blocked:
        raise _blocked(path, blocked) from failure
    if failure is not None:
        raise _damaged(path, failure) from failure


def _unreadable(path: pathlib.Path, error: Exception, trust_pickle: bool) -> CheckpointError:
    """What unpickling raised, as a sentence. It may be anything, as pickle's documentation says."""
    if isinstance(error, ImportError):
        return _needs_package(path, error)
    blocked = re.findall(r"GLOBAL ([\w.]+\w)", str(error))
    return _blocked(path, blocked) if blocked and not trust_pickle else _damaged(path, error)


def _open_safetensors(path: pathlib.Path, head: bytes) -> dict[str, torch.Tensor]:
    header, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if 8 + header > size:
        raise CheckpointError(
            f"{path} is cut off or damaged: as a safetensors file its header should have "
            f"{header} bytes and the file has {size}; download it again"
        )
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and what torch says of types and sizes
        raise _damaged(path, error) from error


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a character cut in two by reading only the head
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)


def _needs_package(path: pathlib.Path, error: ImportError) -> CheckpointError:
    package = (error.name or "").partition(".")[0] or "another package"
    return CheckpointError(
        f"{path} can only be unpickled where the Python package {package!r} is installed: "
        f"install it, or save the state_dict alone where it is ({_first_line(error)})"
    )


def _damaged(path: pathlib.Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut off or damaged: download or copy it again "
        f"({type(error).__name__}: {_first_line(error)})"
    )


def _blocked(path: pathlib.Path, names: list[str]) -> CheckpointError:
    shown = ", ".join(map(quoted, names[:8])) + (
        f" and {len(names) - 8} more" if len(names) > 8 else ""
    )
    is_jax = any(name.startswith(("jax", "haiku", "byol", "optax")) for name in names)
    return CheckpointError(
        f"{path} is a pickle that asks for more than weights, namely {shown}; if you trust where "
        "it comes from, --trust-pickle lets it run its code"
        + (f"; note that it seems to be {HAIKU_REASON}" if is_jax else "")
    )


def _first_line(error: Exception) -> str:
    return quoted(str(error).strip().partition("\n")[0], 300)

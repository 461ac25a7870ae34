"""Open a checkpoint file without running code from it, or report why it cannot be opened.

A file is identified by its first bytes. torch files are unpickled with ``weights_only=True``, numpy
pickles (Detectron2's and Caffe2's) by an unpickler that allows arrays and plain containers. A file
that needs other globals is rejected, and the error names them, unless the user trusts the file.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.serialization import safe_globals

from virtex.checkpoints.backbone import CheckpointError
from virtex.text import escape

# torch.save before 1.6 begins with this number, pickled (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, by the format's own definition
# Limits on unpacked zip entries: torch never compresses them.
_MIN_UNPACKED, _UNPACKED_PER_BYTE = 512 << 20, 8

# Bytes per item of torch's storage types; 1 for all others.
_ITEM_SIZES = {
    **{"ComplexDouble": 16, "ComplexFloat": 8, "Double": 8, "Long": 8, "Float": 4, "Int": 4},
    **{"QInt32": 4, "Half": 2, "BFloat16": 2, "Short": 2},
}

_NOT_A_CHECKPOINT = (
    (b"version https://git-lfs", "is a git-lfs pointer; run git lfs pull in its repository"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x89HDF", "is an HDF5 file, not a PyTorch checkpoint"),
    (b"\x93NUMPY", "is a single numpy array, not a checkpoint"),
)
_PICKLE_STARTS = (b"\x80", b"(dp", b"}q", b"ccollections\n", b"ccopy_reg\n")


def open_checkpoint(path: str | pathlib.Path, trust_pickle: bool = False) -> tuple[Any, bool]:
    """Return the content of a checkpoint file, with its tensors on the CPU.

    Args:
        path: a local file: torch (zip or legacy), numpy pickle or safetensors.
        trust_pickle: allow the pickle in it to run code.

    Returns:
        (content, whether the file can only be a flat mapping of names to tensors). Tensors of a
        zip file are mapped from disk, so the file must stay while they are in use.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or needs ``trust_pickle``.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; specify the checkpoint file in it", code="checkpoint.not_found"
        )
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint not found: {path}; check the path", code="checkpoint.not_found"
        )
    if path.stat().st_size == 0:
        raise _unreadable(path, "is empty; copy or download it again")
    with path.open("rb") as file:
        head = file.read(1024)
    for start, description in _NOT_A_CHECKPOINT:
        if head.startswith(start):
            raise _unreadable(path, description)
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _unreadable(
            path, "is a web page saved in place of the file; delete it and download the checkpoint"
        )
    if head[257:262] == b"ustar":
        raise _unreadable(
            path,
            "is a tar archive; unpack it and give the checkpoint in it (torch before 0.2 wrote tar "
            "files: load and save it again with a newer version)",
        )
    if head.startswith(b"PK"):
        return _open_zip(path, trust_pickle), False
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_SAFETENSORS_HEADER:
        return _open_safetensors(path, head), True
    if head.startswith(_PICKLE_STARTS):
        if _LEGACY_MAGIC in head[:24]:
            return _load_torch(path, trust_pickle, mmap=False), False
        return _open_pickle(path, trust_pickle), False
    if _is_text(head):
        raise _unreadable(path, "is a text file, not a checkpoint; check the path")
    raise _unreadable(
        path,
        "should be a torch, safetensors or numpy pickle file, but begins with the bytes "
        f"{head[:8].hex(' ')}",
    )


def _open_zip(path: pathlib.Path, trust_pickle: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            stored = _check_entries(path, archive)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises many exception types for invalid files
        raise _damaged(path, error) from error
    return _load_torch(path, trust_pickle, mmap=stored)


def _check_entries(path: pathlib.Path, archive: zipfile.ZipFile) -> bool:
    """Read every entry to verify its checksum; return whether no entry is compressed."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    shown = ", ".join(map(escape, names[:3]))
    root = names[0].partition("/")[0] if names else ""
    if "constants.pkl" in {name.partition("/")[2] for name in names}:
        raise _unreadable(
            path,
            "is a TorchScript archive; load it with torch.jit.load and save its state_dict() with "
            "torch.save",
        )
    if f"{root}/data.pkl" not in names:
        raise _unreadable(
            path,
            f"is a zip file but not a checkpoint (it contains {shown or 'nothing'}); if the "
            "checkpoint is inside, unpack it",
        )
    if len(set(names)) < len(names):
        raise zipfile.BadZipFile("two of its entries have the same name")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MIN_UNPACKED + _UNPACKED_PER_BYTE * path.stat().st_size:
        raise _unreadable(path, f"would unpack to {unpacked / 1e9:.1f} GB; use another copy")
    _check_storage_sizes(archive, root)
    for entry in entries:
        if entry.CRC:  # torch writes 0 if checksums are disabled
            with archive.open(entry) as file:
                while file.read(1 << 20):
                    pass
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _check_storage_sizes(archive: zipfile.ZipFile, root: str) -> None:
    """Check that each storage fits in its zip entry; torch memory-maps it unchecked.

    Raises:
        zipfile.BadZipFile: an entry is missing, or smaller than its storage.
    """
    with archive.open(f"{root}/data.pkl") as file:
        scanner = StorageScanner(file)
        scanner.load()
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    for key, needed in scanner.sizes.items():
        found = sizes.get(f"{root}/data/{key}")
        if found is None or found < needed:
            raise zipfile.BadZipFile(
                f"storage {key} needs {needed} bytes, but its entry has {found or 0}"
            )


class StorageScanner(pickle.Unpickler):
    """Collect the storage sizes of a zip checkpoint without building objects or running code.

    Attributes:
        sizes: storage key -> size in bytes according to the pickle.
    """

    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        return name if is_storage else Placeholder

    def persistent_load(self, pid: Any) -> None:
        kind, key, _, count = pid[1:5]
        needed = int(count) * _ITEM_SIZES.get(kind.removesuffix("Storage"), 1)
        self.sizes[str(key)] = max(self.sizes.get(str(key), 0), needed)


class Placeholder:
    """Stand-in for any object of a pickle; ignores every operation on it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass

    def update(self, items: Any) -> None:
        pass


def _load_torch(path: pathlib.Path, trust_pickle: bool, mmap: bool) -> Any:
    try:
        with safe_globals(allowed_globals()):
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=mmap)
    except Exception as error:
        raise _unpickling_error(path, error, trust_pickle) from error


def _open_pickle(path: pathlib.Path, trust_pickle: bool) -> Any:
    unpickler = pickle.Unpickler if trust_pickle else ArrayUnpickler
    try:
        with path.open("rb") as file:
            return unpickler(file, encoding="latin1").load()
    except Exception as error:
        raise _unpickling_error(path, error, trust_pickle) from error


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers only.

    Raises:
        pickle.UnpicklingError: the pickle names another global; nothing of it has run.
    """

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module.replace('__builtin__', 'builtins')}.{name}"  # Python 2's name
        allowed = array_globals() | plain_globals() | {"_codecs.encode": codecs.encode}
        if full_name not in allowed:
            raise pickle.UnpicklingError(f"GLOBAL {full_name} is not allowed")
        return allowed[full_name]


def allowed_globals() -> list[Any]:
    """Return the globals allowed in a torch checkpoint, for ``torch.serialization``.

    These are numpy arrays and scalars, plain containers, the ``argparse.Namespace`` of a training
    script, and paths (Windows paths as pure paths).
    """
    named = array_globals() | plain_globals() | {"argparse.Namespace": argparse.Namespace}
    for name, kind in vars(np.dtypes).items():
        if isinstance(kind, type) and name != "ObjectDType":
            named[f"numpy.dtypes.{name}"] = kind
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "WindowsPath"):
            kind = getattr(pathlib, name.replace("WindowsPath", "PureWindowsPath"))
            named[f"{module}.{name}"] = kind
    return [(kind, name) for name, kind in named.items()]


def array_globals() -> dict[str, Any]:
    """Return numpy's functions that rebuild arrays, under their names in numpy 1 and numpy 2."""
    array = np.zeros(1)
    rebuilders = {
        "multiarray._reconstruct": array.__reduce__()[0],
        "multiarray.scalar": array[0].__reduce__()[0],
        "numeric._frombuffer": array.__reduce_ex__(5)[0],
    }
    named = {
        f"{core}.{n}": f for core in ("numpy.core", "numpy._core") for n, f in rebuilders.items()
    }
    return named | {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}


def plain_globals() -> dict[str, Callable]:
    """Return the allowed container and number types, by name."""
    plain = (bool, bytearray, complex, dict, float, frozenset, int, list, set, str, tuple)
    named: dict[str, Callable] = {f"builtins.{kind.__name__}": kind for kind in plain}
    named["collections.OrderedDict"] = collections.OrderedDict
    # torch's weights-only unpickler does not set items of a defaultdict
    return named | {"collections.defaultdict": lambda factory=None: {}}


def _open_safetensors(path: pathlib.Path, head: bytes) -> dict[str, torch.Tensor]:
    header, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if 8 + header > size:
        raise _damaged(path, ValueError(f"a header of {header} bytes in a file of {size} bytes"))
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and errors of torch about dtypes and sizes
        raise _damaged(path, error) from error


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a multi-byte character cut off at the end
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)


def _unpickling_error(path: pathlib.Path, error: Exception, trust_pickle: bool) -> CheckpointError:
    """Describe an unpickling error; by pickle's documentation it may be of any type."""
    if isinstance(error, ImportError) and trust_pickle:
        package = (error.name or "").partition(".")[0] or "another package"
        return CheckpointError(
            f"{path} needs the Python package {package!r} to be unpickled; install it, or save "
            f"only the state_dict where it is installed ({_first_line(error)})",
            code="checkpoint.missing_package",
        )
    blocked = re.search(r"GLOBAL ([\w.]+\w)", str(error))
    if blocked is None or trust_pickle:
        return _damaged(path, error)
    is_jax = blocked[1].startswith(("jax", "haiku", "byol", "optax"))
    note = "; JAX checkpoints are not supported, convert it first" if is_jax else ""
    return CheckpointError(
        f"{path} should contain only weights, but its pickle needs {escape(blocked[1])}; if you "
        f"trust its origin, --trust-pickle allows it to run code{note}",
        code="checkpoint.unsafe_pickle",
    )


def _damaged(path: pathlib.Path, error: Exception) -> CheckpointError:
    return _unreadable(
        path,
        "is truncated or damaged; download or copy it again "
        f"({type(error).__name__}: {_first_line(error)})",
    )


def _unreadable(path: pathlib.Path, description: str) -> CheckpointError:
    return CheckpointError(f"{path} {description}", code="checkpoint.unreadable")


def _first_line(error: Exception) -> str:
    return escape(str(error).strip().partition("\n")[0], 300)

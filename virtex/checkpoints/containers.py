"""Open a checkpoint file without running code from it, or report why it cannot be opened.

The file is read once, into a private copy in memory: what is checked, hashed and loaded are the
same bytes, whatever happens to the file meanwhile. Its first bytes identify it. Pickles (torch and
numpy), TorchScript and numpy archives are read by ``unpickler.py`` in a process of its own with
limits of memory and time, which answers with plain values and references to bytes. A file that
needs other globals than those of tensors, arrays and plain containers is rejected, and the error
names them, unless the user trusts the file.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import mmap
import os
import pathlib
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.sharding import fsdp_error, is_index, merge_shards, read_index, refuse_part
from virtex.errors import UserError
from virtex.text import escape

# torch.save before 1.6 begins with this number, pickled (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, by the format's own definition
_UNPICKLER = pathlib.Path(__file__).with_name("unpickler.py")
# Limits of the process that reads a pickle: bytes, and seconds of processor time.
MIN_MEMORY, MEMORY_PER_BYTE = 512 << 20, 8
MIN_SECONDS, SECONDS_PER_BYTE = 20, 5e-8
_WALL_TIME = 15  # times the processor time, for computers with other work to do

_NOT_A_CHECKPOINT = (
    (b"version https://git-lfs", "is a git-lfs pointer; run git lfs pull in its repository"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x89HDF", "is an HDF5 file, not a PyTorch checkpoint"),
    (b"\x93NUMPY", "is a single numpy array, not a checkpoint"),
)
_FLAT = {"safetensors", "npz"}
_PICKLE_STARTS = (b"\x80", b"(dp", b"}q", b"ccollections\n", b"ccopy_reg\n")


@dataclass(frozen=True)
class OpenedCheckpoint:
    """The content of a checkpoint file, or of all files of an index.

    Attributes:
        content: plain values, tensors on the CPU and numpy arrays. Tensors may share storages, and
            are independent of the file. Other objects are None, or mappings of their attributes.
        flat: whether the file can only be a flat mapping of names to tensors (safetensors, npz).
        size: of the file, or of index and shards together, in bytes.
        sha256: of the bytes that ``content`` was read from, in hexadecimal; of an index followed by
            its shards in the order of their names.
    """

    content: Any
    flat: bool
    size: int
    sha256: str


def open_checkpoint(path: str | os.PathLike[str], trust_pickle: bool = False) -> OpenedCheckpoint:
    """Read a checkpoint file. Every element of a tensor or array comes from the file.

    Args:
        path: a local file: torch (zip or legacy), TorchScript, numpy pickle or ``.npz``,
            safetensors, or the index of safetensors or torch files.
        trust_pickle: allow the pickle in it to run code, if it needs that.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, a part of one, takes too
            much memory or time, or needs ``trust_pickle``.
        UserError: the Python interpreter could not be started again.
    """
    path, digest = pathlib.Path(path), hashlib.sha256()
    if not is_index(path):
        refuse_part(path)
        content, kind, size = _open_file(path, trust_pickle, digest)
        return OpenedCheckpoint(content, kind in _FLAT, size, digest.hexdigest())
    with _copied(path) as (_, view):
        index, size = read_index(path, view[:]), len(view)
        digest.update(view)
    shards, kinds = {}, set()
    for file in index:
        shards[file], kind, shard_size = _open_file(path.with_name(file), trust_pickle, digest)
        kinds.add(kind)
        size += shard_size
    content = merge_shards(path, index, shards)
    return OpenedCheckpoint(content, kinds <= _FLAT, size, digest.hexdigest())


def _open_file(path: pathlib.Path, trust_pickle: bool, digest: Any) -> tuple[Any, str, int]:
    """Return the content, kind and size of one file, and add its bytes to the running hash."""
    with _copied(path) as (copy, view):
        kind = _kind_of(path, view[:1024])
        if kind == "safetensors":
            content: Any = _read_safetensors(path, copy, view)
            digest.update(view)
        else:
            content = _read_in_process(path, kind, copy, view, trust_pickle, digest)
        return content, kind, len(view)


@contextmanager
def _copied(path: pathlib.Path) -> Iterator[tuple[int, mmap.mmap]]:
    """Yield the descriptor of a private copy, which is closed afterwards, and its bytes."""
    copy = _private_copy(path)
    try:
        yield copy, mmap.mmap(copy, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(copy)


def _private_copy(path: pathlib.Path) -> int:
    """Return the descriptor of a copy in memory, which nobody else can change or truncate."""
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; specify the checkpoint file in it", code="checkpoint.not_found"
        )
    missing = CheckpointError(
        f"checkpoint not found: {path}; check the path", code="checkpoint.not_found"
    )
    if not path.is_file():
        raise missing
    source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for a writer
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise missing
        if status.st_size == 0:
            raise _unreadable(path, "is empty; copy or download it again")
        copy = _anonymous_file()
        try:
            left = status.st_size
            while left and (block := memoryview(os.read(source, min(left, 1 << 22)))):
                left -= len(block)
                while block:
                    block = block[os.write(copy, block) :]
            if left:
                raise _unreadable(path, "was truncated while it was read; copy it again")
        except BaseException:
            os.close(copy)
            raise
    finally:
        os.close(source)
    return copy


def _anonymous_file() -> int:
    """Return the descriptor of an empty file without a name, in memory where the system can."""
    try:
        return os.memfd_create("checkpoint")
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _kind_of(path: pathlib.Path, head: bytes) -> str:
    """Return ``zip``, ``npz``, ``legacy``, ``pickle`` or ``safetensors``; raise for other files."""
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
        length = int.from_bytes(head[26:28], "little")  # of the first entry's name
        return "npz" if head[30 : 30 + length].endswith(b".npy") else "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if head.startswith(_PICKLE_STARTS):
        return "legacy" if _LEGACY_MAGIC in head[:24] else "pickle"
    if _is_text(head):
        raise _unreadable(path, "is a text file, not a checkpoint; check the path")
    raise _unreadable(
        path,
        "should be a torch, safetensors, npz or numpy pickle file, but begins with the bytes "
        f"{head[:8].hex(' ')}",
    )


def _read_safetensors(path: pathlib.Path, copy: int, view: mmap.mmap) -> dict[str, Tensor]:
    try:
        header = 8 + int.from_bytes(view[:8], "little")
        if header > len(view):
            raise ValueError(f"a header of {header - 8} bytes in a file of {len(view)} bytes")
        json.loads(view[8:header], object_pairs_hook=_without_duplicates)
        return load_file(f"/proc/self/fd/{copy}")
    except Exception as error:  # SafetensorError, and errors of torch about dtypes and sizes
        raise _damaged(path, _describe(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("two entries of the header have the same name")
    return found


def _read_in_process(
    path: pathlib.Path, kind: str, copy: int, view: mmap.mmap, trust_pickle: bool, digest: Any
) -> Any:
    """Return the content of a file, and add its bytes to the running hash."""
    memory = MIN_MEMORY + MEMORY_PER_BYTE * len(view)
    seconds = int(MIN_SECONDS + SECONDS_PER_BYTE * len(view))
    output = _anonymous_file()
    try:
        os.truncate(output, memory)  # without contents, which take memory as they are written
        limits = map(str, (copy, output, memory, seconds))
        with _start_python(_UNPICKLER, kind, *limits, pass_fds=(copy, output)) as process:
            try:
                digest.update(view)
                result, messages = process.communicate(timeout=_WALL_TIME * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                result, messages = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise _too_large(path, _describe_end(process.returncode, seconds, messages))
        try:
            views = [view, mmap.mmap(output, 0, access=mmap.ACCESS_COPY)]
            problem, content = Resolver(result, views).load()
        except Exception as error:  # references that are not valid
            raise _damaged(path, _describe(error)) from error
    finally:
        os.close(output)
    if problem is None:
        return content
    what, description = problem
    if what == "blocked" and trust_pickle:
        return _run_pickle(path, kind, copy)
    if what == "sharded":
        raise fsdp_error(path)
    errors = {"blocked": _blocked, "damaged": _damaged, "memory": _too_large}
    raise errors.get(what, _unreadable)(path, escape(description, 600))


def _start_python(program: pathlib.Path, *arguments: str, pass_fds: tuple[int, ...]) -> Any:
    """Start a program that sees no packages, variables or folders of the user."""
    try:
        return subprocess.Popen(
            [sys.executable or "python3", "-I", "-S", str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd="/",
        )
    except OSError as error:
        raise UserError(
            "expected a Python interpreter to read the checkpoint with, but "
            f"{sys.executable or 'python3'} could not be started ({error.strerror}); run VirTex "
            "with an installed python3",
            "environment.python",
        ) from error


class Resolver(pickle.Unpickler):
    """Read what ``unpickler.PlainPickler`` wrote.

    Args:
        result: the pickle.
        views: the bytes of the file, and of the output.
    """

    def __init__(self, result: bytes, views: list[mmap.mmap]):
        super().__init__(io.BytesIO(result))
        self.views, self.storages = views, dict[tuple[bool, int, int], Tensor]()
        self.values = dict[Any, Any]()  # equal references are one object, as in the file

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in ("dict", "complex"):
            return getattr(builtins, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")

    def persistent_load(self, reference: Any) -> Any:
        if reference not in self.values:
            self.values[reference] = self.resolve(*reference)
        return self.values[reference]

    def resolve(self, kind: str, *fields: Any) -> Any:
        if kind in ("none", "text"):
            return fields[0] if fields else None
        name, in_output, start, size, *view = fields
        if kind == "tensor":
            return self.tensor(name, (in_output, start, size), *view)
        shape, order, scalar = view
        if any(n < 0 for n in shape):  # numpy would infer it
            raise ValueError(f"an array has the shape {shape}")
        buffer = memoryview(self.views[in_output])[start : start + size]
        array = np.ndarray(shape, name, buffer, order=order)
        return array[()] if scalar else array

    def tensor(
        self, name: str, place: tuple[bool, int, int], offset: int, shape: Any, strides: Any
    ) -> Tensor:
        dtype = getattr(torch, name)
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        if place not in self.storages:
            in_output, start, size = place
            view = self.views[in_output]
            data = torch.frombuffer(view, dtype=torch.uint8, count=size, offset=start)
            # storages of legacy files are not aligned
            self.storages[place] = data.clone() if data.data_ptr() % 16 else data
        data = self.storages[place]
        data = data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
        return data.as_strided(shape, strides, offset)  # raises if it is larger than the storage


def _run_pickle(path: pathlib.Path, kind: str, copy: int) -> Any:
    """Unpickle a trusted file, which may run code."""
    try:
        with open(copy, "rb", closefd=False) as file:
            file.seek(0)
            if kind == "pickle":
                return pickle.Unpickler(file, encoding="latin1").load()
            return torch.load(file, map_location="cpu", weights_only=False)
    except ImportError as error:
        package = (error.name or "").partition(".")[0] or "another package"
        raise CheckpointError(
            f"{path} needs the Python package {package!r} to be unpickled; install it, or save "
            f"only the state_dict where it is installed ({_describe(error)})",
            code="checkpoint.missing_package",
        ) from error
    except Exception as error:  # by pickle's documentation it may be of any type
        raise _damaged(path, _describe(error)) from error


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a multi-byte character cut off at the end
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)


def _describe_end(status: int, seconds: int, messages: bytes) -> str:
    """Describe how the process that reads a pickle ended before it answered."""
    if status == -signal.SIGXCPU:
        return f"more than {seconds} s"
    if status == -signal.SIGKILL:
        return "more time or memory than the system has"
    last = messages.decode(errors="replace").strip().rpartition("\n")[2]
    return f"a process that ended with status {status} {escape(last, 300)}".rstrip()


def _too_large(path: pathlib.Path, needed: str) -> CheckpointError:
    return _unreadable(
        path, f"cannot be read: it needs {needed}; save only the state_dict in a new file"
    )


def _blocked(path: pathlib.Path, name: str) -> CheckpointError:
    is_jax = name.startswith(("jax", "haiku", "byol", "optax"))
    note = "; JAX checkpoints are not supported, convert it first" if is_jax else ""
    return CheckpointError(
        f"{path} should contain only weights, but its pickle needs {name}; if you "
        f"trust its origin, --trust-pickle allows it to run code{note}",
        code="checkpoint.unsafe_pickle",
    )


def _damaged(path: pathlib.Path, detail: str) -> CheckpointError:
    return _unreadable(path, f"is truncated or damaged; download or copy it again ({detail})")


def _unreadable(path: pathlib.Path, description: str) -> CheckpointError:
    return CheckpointError(f"{path} {description}", code="checkpoint.unreadable")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {escape(str(error).strip().partition(chr(10))[0], 300)}"

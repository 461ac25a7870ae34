"""Read an untrusted file in a process of its own: ``containers`` starts this file as a program.

It imports the standard library only, and builds plain values only: no code of torch or numpy sees
the pickle. A tensor or array becomes a reference to bytes that were read from the file, so each of
its elements is proven to come from it. Shapes, strides and offsets are checked where references are
resolved, so a crash, hang or wrong answer here is an error there.

Arguments: kind (zip, legacy, pickle or npz), descriptors of a private copy of the file and of the
output for bytes that the file does not hold verbatim, limits of memory (bytes) and processor time
(seconds). Writes a pickle of ``(problem, content)`` to stdout, see ``Problem`` and
``PlainPickler``.
"""

from __future__ import annotations

import ast
import codecs
import io
import math
import mmap
import os
import pickle
import re
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

_DTYPES = {  # of torch's storage classes; those of quantized types have the sizes of their integers
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    **{"Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64"},
    **{"Untyped": "uint8", "QInt32": "int32", "QInt8": "int8", "QUInt8": "uint8"},
    **{"QUInt4x2": "uint8", "QUInt2x4": "uint8"},
}
# modules whose classes hold one process' shards of tensors
_DISTRIBUTED = tuple(
    f"torch.distributed.{name}" for name in ("_shard", "checkpoint", "tensor", "_tensor")
)
_NUMPY_ITEM = re.compile(r"[<>=|]?[biufc]\d+")
MAX_NPY_HEADER = 10_000  # bytes, as numpy


class Problem(Exception):
    """Why the file cannot be read: (``unreadable``, a predicate), or ``blocked`` or ``sharded`` and
    a global.
    """


class Storage:
    """Consecutive bytes.

    Attributes:
        dtype: name of a torch dtype; or the format of a numpy dtype, as in ``<f4``.
        start: offset in the file, or in the output if ``in_output``; None: not found yet.
        size: in bytes.
    """

    def __init__(self, dtype: str, size: int, start: int | None = None, in_output: bool = False):
        self.dtype, self.size, self.start, self.in_output = dtype, size, start, in_output

    @property
    def place(self) -> tuple[bool, int | None, int]:
        return self.in_output, self.start, self.size


class Tensor:
    """A view of a storage; offset and strides in items."""

    def __init__(self, storage: Storage, dtype: str, offset: int, shape: Any, strides: Any):
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.shape, self.strides = tuple(shape), tuple(strides)


class Dtype:
    """numpy.dtype: a format whose byte order is set by its state."""

    def __init__(self, text: str, *_: Any):
        self.text = text

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.text = state[1] + self.text.lstrip("<>=|")


class Array:
    """numpy.ndarray: shape, dtype and bytes are set by its state."""

    def __init__(self, *_: Any):
        self.data: Storage | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Dtype, shape: Any, order: str, scalar: bool = False) -> None:
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin1")
        if not _NUMPY_ITEM.fullmatch(dtype.text) or not isinstance(data, bytes | bytearray):
            return  # text, dates, records or objects
        self.data = Storage(dtype.text, len(data), OUTPUT.write(data), True)
        self.shape, self.order, self.scalar = tuple(shape), order, scalar


class Dict(dict):
    """OrderedDict, defaultdict, Counter and CfgNode; their attributes are dropped."""

    def __init__(self, *args: Any):
        super().__init__(*(arg for arg in args if isinstance(arg, dict | list | tuple)))

    def __setstate__(self, state: Any) -> None:
        pass


class Attributes:
    """argparse.Namespace."""


class Module:
    """A module of a TorchScript archive; its code, in other entries, is not read."""

    def __init__(self, *_: Any):
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Return its tensors and those of its modules by name."""
        found = {}
        for name, value in self.attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                found |= value.state_dict(f"{prefix}{name}.")
        return found


class Output:
    """Bytes that the file does not hold verbatim."""

    def __init__(self, descriptor: int):
        self.map = mmap.mmap(descriptor, 0)

    def write(self, data: bytes | bytearray) -> int:
        """Append bytes, aligned for any dtype, and return their offset."""
        start = -(-self.map.tell() // 64) * 64
        self.map.seek(start)
        self.map.write(data)
        return start


OUTPUT: Output


class Name(str):
    """A dtype of torch or a class, used as a value only."""


class Opaque:
    """Anything that cannot hold weights of a backbone."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def item_size(dtype: str) -> int:
    """Return the bytes per item of a torch dtype."""
    bits = re.match(r"[a-z]+(\d+)", dtype)
    size = 1 if dtype == "bool" else int(bits[1]) // 8 if bits else 0
    if size == 0:
        raise ValueError(f"items of the dtype {dtype[:30]} are smaller than a byte")
    return size


def rebuild_tensor(
    storage: Storage,
    offset: int,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
) -> Any:
    # metadata has lazy conjugation and negation
    return Opaque() if metadata else Tensor(storage, storage.dtype, offset, shape, strides)


def rebuild_tensor_v3(
    storage: Storage,
    offset: int,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Name,
    metadata: Any = None,
) -> Any:
    return Opaque() if metadata else Tensor(storage, str(dtype), offset, shape, strides)


def rebuild_array(kind: Any, shape: Any, code: Any) -> Array:
    return Array()


def rebuild_scalar(dtype: Dtype, data: Any = b"") -> Array:
    array = Array()
    array.fill(data, dtype, (), "C", scalar=True)
    return array


def rebuild_from_buffer(
    data: Any, dtype: Dtype, shape: Any, order: str, axes: Any = None
) -> Array | Opaque:
    array = Array()
    array.fill(bytes(data), dtype, shape, "F" if order == "F" else "C")
    return Opaque() if axes else array  # neither C nor Fortran order


def encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in the encoding {encoding[:30]!r}")
    return codecs.encode(text, "latin1")


def first(value: Any, *_: Any) -> Any:
    return value


def join(*parts: str) -> str:
    return "/".join(parts)


# Everything that a pickle may call, by its name in the pickle.
CALLABLES: dict[str, Callable] = {
    **{
        f"builtins.{kind.__name__}": kind
        for kind in (bool, bytearray, complex, dict, float, frozenset, int, list, set, str, tuple)
    },
    "_codecs.encode": encode,
    "collections.OrderedDict": Dict,
    "collections.defaultdict": Dict,
    "collections.Counter": Dict,
    "argparse.Namespace": Attributes,
    "yacs.config.CfgNode": Dict,  # Swin-Transformer, SimMIM
    "numpy.ndarray": Opaque,
    "numpy.dtype": Dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", rebuild_array),
            ("multiarray.scalar", rebuild_scalar),
            ("numeric._frombuffer", rebuild_from_buffer),
        )
    },
    **{
        f"{module}.{name}": join
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    "torch.Size": tuple,
    "torch.device": Opaque,
    "torch.storage.TypedStorage": Opaque,
    "torch.nn.parameter.Parameter": Opaque,
    "torch.serialization._get_layout": Opaque,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": first,
    "torch._utils._rebuild_parameter_with_state": first,
    **{  # typed lists of TorchScript
        f"torch.jit._pickle.{name}": first
        for name in ("restore_type_tag", "build_intlist", "build_doublelist", "build_boollist")
    },
    "torch.jit._pickle.build_tensorlist": first,
    "torch._tensor._rebuild_from_type_v2": lambda function, kind, args, state: function(*args),
}


class Unpickler(pickle.Unpickler):
    """Build plain values. No global of the pickle is imported, ``CALLABLES`` stand for all."""

    def __init__(self, file: Any, encoding: str, storage_of: Callable[..., Storage] | None = None):
        super().__init__(file, encoding=encoding)
        self.storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module.replace('__builtin__', 'builtins')}.{name}"  # Python 2's name
        if full_name in CALLABLES:
            return CALLABLES[full_name]
        kind = name.removesuffix("Storage") if name.endswith("Storage") else ""
        if module in ("torch", "torch.cuda", "torch.storage") and kind in _DTYPES:
            return Name(_DTYPES[kind])
        if module == "torch" and re.fullmatch(r"[a-z]+\d\w*|bool|per_\w+", name):
            return Name(name)  # a dtype or quantization scheme
        if module.startswith(_DISTRIBUTED):
            raise Problem("sharded", full_name)
        if module.partition(".")[0] == "__torch__":
            return Module
        is_class = module.partition(".")[0] == "torch" and name.endswith("Tensor")
        if module == "torch._utils" or is_class:  # sparse, quantized and nested tensors
            return Opaque
        raise Problem("blocked", full_name)

    def persistent_load(self, pid: Any) -> Storage:
        if self.storage_of is None or pid[0] != "storage":
            raise ValueError("the pickle has a persistent id that is not a storage")
        kind, key, _, count, *view = pid[1:]
        if not isinstance(kind, Name) or type(count) is not int or count < 0:
            raise ValueError("a storage has no type or size")
        return self.storage_of(str(kind), key, count * item_size(kind), *view)


class PlainPickler(pickle.Pickler):
    """Write dicts, lists, numbers and text; tensors and arrays as persistent ids."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            view = (value.offset, value.shape, value.strides)
            return ("tensor", value.dtype, *value.storage.place, *view)
        if isinstance(value, Array) and value.data is not None:
            layout = (value.shape, value.order, value.scalar)
            return ("array", value.data.dtype, *value.data.place, *layout)
        if value is dict or value is complex:  # called by the pickle that is written
            return None
        if isinstance(value, Opaque | Array | Dtype | Storage) or callable(value):
            return ("none",)
        return ("text", str(value)) if isinstance(value, Name) else None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Dict):
            return dict, (), None, None, iter(value.items())
        if isinstance(value, Attributes):
            return dict, (), None, None, iter(vars(value).items())
        return NotImplemented


def read_zip(copy: BinaryIO, view: mmap.mmap) -> Any:
    """Read the format of torch 1.6 and later, or TorchScript's, whose modules are pickled there."""
    with zipfile.ZipFile(copy) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0] if names else ""
        if f"{root}/data.pkl" not in names:
            shown = ", ".join(names[:3]) or "nothing"
            raise Problem(
                "unreadable",
                f"is a zip file but not a checkpoint (it contains {shown}); if the checkpoint is "
                "inside, unpack it",
            )
        if len(set(names)) < len(names):
            raise zipfile.BadZipFile("two of its entries have the same name")
        # zipfile skips leading data, torch's reader finds other entries in it
        if min(entry.header_offset for entry in archive.infolist()) != 0:
            raise zipfile.BadZipFile("it does not begin with its first entry")
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            raise Problem(
                "unreadable", "is in big-endian byte order; save it on a little-endian computer"
            )
        found: dict[str, Storage] = {}

        def storage_of(dtype: str, key: Any, size: int) -> Storage:
            if key not in found:
                found[key] = read_entry(archive, archive.getinfo(f"{root}/data/{key}"), view)
            entry = found[key]
            if size > entry.size:
                raise zipfile.BadZipFile(f"a storage of {size} bytes has {entry.size} in the file")
            return Storage(dtype, size, entry.start, entry.in_output)

        data = archive.read(f"{root}/data.pkl")
        content = Unpickler(io.BytesIO(data), "utf-8", storage_of).load()
        return content.state_dict() if isinstance(content, Module) else content


def read_npz(copy: BinaryIO, view: mmap.mmap) -> dict[str, Array | Tensor | Opaque]:
    """Read numpy's archive of arrays; arrays of objects, which are pickles, are not read."""
    with zipfile.ZipFile(copy) as archive:
        entries = archive.infolist()
        found = {
            entry.filename.removesuffix(".npy"): read_npy(read_entry(archive, entry, view), view)
            for entry in entries
        }
        if len(found) < len(entries):
            raise zipfile.BadZipFile("two of its entries have the same name")
        return found


def read_npy(entry: Storage, view: mmap.mmap) -> Array | Tensor | Opaque:
    """Parse numpy's format for one array: numpy/lib/format.py."""
    assert entry.start is not None
    source = OUTPUT.map if entry.in_output else view
    head = source[entry.start : entry.start + min(entry.size, MAX_NPY_HEADER)]
    if head[:6] != b"\x93NUMPY":
        raise ValueError("an entry of the archive is not an array of numpy")
    digits = 2 if head[6] == 1 else 4  # of the header's length, by version
    begin = 8 + digits
    length = int.from_bytes(head[8:begin], "little")
    header = ast.literal_eval(head[begin : begin + length].decode("latin1"))
    dtype, order = header["descr"], "F" if header["fortran_order"] else "C"
    shape = tuple(header["shape"])
    start, size = entry.start + begin + length, entry.size - begin - length
    if size < 0:
        raise ValueError("the header of an array is longer than its entry")
    if dtype == "|V2" and order == "C":  # JAX's bfloat16, which numpy does not have
        strides = tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))
        storage = Storage("bfloat16", size, start, entry.in_output)
        return Tensor(storage, "bfloat16", 0, shape, strides)
    if not isinstance(dtype, str) or not _NUMPY_ITEM.fullmatch(dtype):
        return Opaque()
    array = Array()
    array.data = Storage(dtype, size, start, entry.in_output)
    array.shape, array.order, array.scalar = shape, order, False
    return array


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, view: mmap.mmap) -> Storage:
    """Find an entry and verify its checksum; torch writes 0 if checksums are disabled."""
    if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses
        data = archive.read(entry)
        return Storage("uint8", len(data), OUTPUT.write(data), True)
    archive.open(entry).close()  # verifies the local header
    lengths = struct.unpack("<HH", view[entry.header_offset + 26 : entry.header_offset + 30])
    start = entry.header_offset + 30 + sum(lengths)
    if start + entry.file_size > len(view):
        raise zipfile.BadZipFile(f"{entry.filename} ends beyond the file")
    if entry.CRC:
        with memoryview(view) as whole, whole[start : start + entry.file_size] as content:
            if zlib.crc32(content) != entry.CRC:
                raise zipfile.BadZipFile(f"{entry.filename} has another checksum")
    return Storage("uint8", entry.file_size, start)


def read_legacy(copy: BinaryIO, view: mmap.mmap) -> Any:
    """Read torch's older format: pickles, then the storages' bytes in the order of their keys."""
    found: dict[Any, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []

    def storage_of(dtype: str, key: Any, size: int, part: Any = None) -> Storage:
        whole = found.setdefault(key, Storage(dtype, size))
        if (whole.dtype, whole.size) != (dtype, size):
            raise ValueError(f"storage {key} has two types or sizes")
        if part is None:
            return whole
        _, offset, count = part
        item = item_size(dtype)
        if not 0 <= offset <= offset + count <= size // item:
            raise ValueError(f"a view is larger than storage {key}")
        views.append((Storage(dtype, count * item), whole, offset * item))
        return views[-1][0]

    _magic, _protocol, system = (Unpickler(copy, "utf-8").load() for _ in range(3))
    if system.get("little_endian") is False:
        raise Problem(
            "unreadable", "is in big-endian byte order; save it on a little-endian computer"
        )
    content = Unpickler(copy, "utf-8", storage_of).load()
    for key in Unpickler(copy, "utf-8").load():
        storage = found[key]
        (count,) = struct.unpack("<q", copy.read(8))
        if count * item_size(storage.dtype) != storage.size:
            raise ValueError(f"storage {key} has two sizes")
        storage.start = copy.tell()
        if storage.start + storage.size > len(view):
            raise EOFError(f"the file ends within storage {key}")
        copy.seek(storage.size, os.SEEK_CUR)
    for key, storage in found.items():
        if storage.start is None:
            raise ValueError(f"the file does not contain the data of storage {key}")
    for storage, whole, start in views:
        assert whole.start is not None
        storage.start = whole.start + start
    return content


def read_pickle(copy: BinaryIO, view: mmap.mmap) -> Any:
    """Read a pickle of numpy arrays, Python 2's too."""
    return Unpickler(copy, "latin1").load()


def limit(kind: int, value: int) -> None:
    """Set a limit of this process, never above one that it has already."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, hard))


def main(kind: str, copy: int, output: int, memory: int, seconds: int) -> None:
    global OUTPUT
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CPU, seconds)  # SIGXCPU, which ends a process
    view = mmap.mmap(copy, 0, prot=mmap.PROT_READ)
    OUTPUT = Output(output)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * mmap.PAGESIZE
    limit(resource.RLIMIT_AS, used + memory)
    read = {"zip": read_zip, "legacy": read_legacy, "pickle": read_pickle, "npz": read_npz}[kind]
    result = io.BytesIO()
    try:
        with open(copy, "rb") as file:
            file.seek(0)
            content = read(file, view)
        PlainPickler(result, protocol=5).dump((None, content))
    except Problem as error:
        result = io.BytesIO(pickle.dumps((error.args, None), 5))
    except MemoryError:
        result = io.BytesIO(pickle.dumps((("memory", f"more than {memory >> 20} MiB"), None)))
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:300]}"
        result = io.BytesIO(pickle.dumps((("damaged", text), None)))
    sys.stdout.buffer.write(result.getbuffer())
    sys.stdout.flush()
    os._exit(0)  # freeing a hostile structure may take long


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

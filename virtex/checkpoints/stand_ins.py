"""What stands in for the things a pickle calls, and how each call must be.

Names are checked elsewhere. Here it is what they are called with: numpy and torch write few kinds
of calls, and whatever is not one of these would take memory without end, lie about an array, or
replace a method of what it builds.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_SCALARS = (str, bytes, int, float, complex, bool, type(None))

_DTYPE = re.compile(r"[|<>=]?(?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SU]\d{1,9}|O8?)")
_TENSOR_CLASS = re.compile(r"torch\.(?:cuda\.|sparse\.|cuda\.sparse\.)?\w*Tensor")
_MADE_OF_ITEMS = ["list", "tuple", "set", "frozenset", "dict"]
# What rebuilds a tensor out of a storage or an array, which torch compares with its bounds.
_REBUILDERS = frozenset(
    f"torch._utils._rebuild_{what}"
    for what in (
        *("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor"),
        *("sparse_tensor", "meta_tensor_no_storage"),
        *("device_tensor_from_numpy", "device_tensor_from_cpu_tensor"),
    )
)
_HASHED: dict[str, Callable] = {"builtins.tuple": tuple, "builtins.frozenset": frozenset}
_DICTS = frozenset(
    ("builtins.dict", "collections.OrderedDict", "collections.Counter", "collections.defaultdict")
)
_METHODS = frozenset(dir(torch.nn.Parameter)) | frozenset(dir(collections.Counter))


class Named:
    """Stands in for what a pickle names; a call of it is checked and gives a ``Made``."""

    __slots__ = ("name", "spend")

    def __init__(self, name: str, spend: Callable[..., None]):
        self.name, self.spend = name, spend

    def __call__(self, *args: Any) -> Any:
        self.spend(*args)
        return check_of(self.name)(self.name, args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{self.name} is not a pickle's to change")


class Made:
    """Stands in for what a call of ``name`` gives; for a dtype of numpy it knows which."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: np.dtype | None = None):
        self.name, self.dtype = name, dtype

    def __setstate__(self, state: Any) -> None:
        if self.dtype is not None:
            self.dtype = _with_state(self.dtype, state)
        elif self.name.endswith("._reconstruct"):
            _check_array(state)
        elif self.name == "argparse.Namespace":
            demand(isinstance(state, dict), "a namespace of something else than names")
            demand(not any(map(_is_special, state)), "special attributes of a namespace")
        else:
            check_attributes(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        demand(self.name in _DICTS, f"items for a {self.name}")

    def append(self, item: Any) -> None:
        demand(self.name == "builtins.list", f"items for a {self.name}")

    def add(self, item: Any) -> None:
        demand(self.name == "builtins.set", f"items for a {self.name}")


class Unknown(Made):
    """Stands in for what is refused by its name: goes along with anything, so that all are told."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    add = append


def demand(holds: bool, what_else: str) -> None:
    if not holds:
        raise pickle.UnpicklingError(f"it holds {what_else}")


def check_key(key: Any, depth: int = 2) -> None:
    """Whether the hash of ``key`` takes no longer than its text: tuples in tuples may not."""
    if isinstance(key, tuple | frozenset):
        demand(depth > 0, "keys that are nested too deeply")
        for item in key:
            check_key(item, depth - 1)


def check_attributes(state: Any) -> None:
    """Attributes of an ordered dict or a tensor must leave its methods alone."""
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        for name in part if isinstance(part, dict) else ():
            known = name in _METHODS or _is_special(name)
            demand(not known, f"an attribute in place of the method {name}")


def _is_special(name: Any) -> bool:
    return not isinstance(name, str) or name.startswith("__")


def _with_state(dtype: np.dtype, state: Any) -> np.dtype:
    """``dtype`` in the byte order of a pickled state, which may say nothing else."""
    honest = dtype.__reduce__()[2]
    told_truly = isinstance(state, tuple) and state[2:] == honest[2:] and state[1] in tuple("|<>=")
    demand(told_truly and type(state[0]) is int, "a number type of numpy that lies")
    return dtype.newbyteorder(state[1])


def _count(shape: Any) -> int:
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    demand(whole and len(shape) <= 32, "an array without a shape")
    return math.prod(shape)


def _check_data(dtype: Any, shape: Any, data: Any) -> None:
    demand(isinstance(dtype, Made) and dtype.dtype is not None, "an array without a type")
    assert dtype.dtype is not None
    of_objects = dtype.dtype.hasobject
    size = 1 if of_objects else dtype.dtype.itemsize
    demand(
        isinstance(data, list if of_objects else str | bytes | bytearray)
        and len(data) == _count(shape) * size,
        "an array whose shape is not that of its data",
    )


def _check_array(state: Any) -> None:
    demand(isinstance(state, tuple) and len(state) == 5, "an array without data")
    _, shape, dtype, _, data = state
    _check_data(dtype, shape, data)


def _dtype(name: str, args: tuple[Any, ...]) -> Made:
    plain = args and isinstance(args[0], str) and _DTYPE.fullmatch(args[0])
    demand(bool(plain) and all(type(a) in (int, bool) for a in args[1:3]), "arrays of structures")
    return Made(name, np.dtype(args[0]))


def _reconstruct(name: str, args: tuple[Any, ...]) -> Made:
    demand(len(args) == 3 and _count(args[1]) == 0 and args[2] in (b"b", "b"), "an unusual array")
    return Made(name)


def _scalar(name: str, args: tuple[Any, ...]) -> Made:
    demand(len(args) == 2 and not isinstance(args[1], list), "a number without data")
    _check_data(args[0], (), args[1])
    return Made(name)


def _from_buffer(name: str, args: tuple[Any, ...]) -> Made:
    demand(len(args) == 4 and not isinstance(args[0], list), "an array without data")
    _check_data(args[1], args[2], args[0])
    return Made(name)


def _of_scalars(name: str, args: tuple[Any, ...]) -> Made:
    demand(all(isinstance(argument, _SCALARS) for argument in args), f"an unusual {name}")
    return Made(name)


def _of_bytes(name: str, args: tuple[Any, ...]) -> Made:
    demand(all(isinstance(argument, str | bytes) for argument in args), f"an unusual {name}")
    return Made(name)


def _of_items(name: str, args: tuple[Any, ...]) -> Any:
    known = (list, tuple, set, frozenset, dict, str)
    demand(not args or isinstance(args[0], known), f"an unusual {name}")
    for item in args[0] if args else ():
        pair = isinstance(item, list) and len(item) == 2  # Python 2's OrderedDict has these
        check_key(item[0] if pair else item, depth=3)
    if args and name in _HASHED:  # as a key it is looked into like any other
        return _HASHED[name](args[0])
    return Made(name)


def _encoded(name: str, args: tuple[Any, ...]) -> bytes:
    """Bytes as protocol 2 writes them."""
    latin = len(args) == 2 and args[1] in ("latin1", "latin-1")
    demand(latin and isinstance(args[0], str), "text in an unusual encoding")
    return args[0].encode("latin1")


def _of_tensors(name: str, args: tuple[Any, ...]) -> Made:
    demand(all(isinstance(argument, Made | bool) for argument in args), f"an unusual {name}")
    return Made(name)


def _rebuilt(name: str, args: tuple[Any, ...]) -> Made:
    if name.endswith("_with_state"):
        check_attributes(args[-1])
    return Made(name)


def _rebuilt_subclass(name: str, args: tuple[Any, ...]) -> Made:
    demand(len(args) == 4 and isinstance(args[0], Named), "an unusual tensor")
    demand(isinstance(args[2], tuple), "an unusual tensor")
    args[0](*args[2])
    check_attributes(args[3])
    return Made(name)


def _plain(name: str, args: tuple[Any, ...]) -> Made:
    return Made(name)


def _unknown(name: str, args: tuple[Any, ...]) -> Unknown:
    return Unknown(name)


def _refused(name: str, args: tuple[Any, ...]) -> Made:
    raise pickle.UnpicklingError(f"it asks for a {name} by its size alone")


_CALLS: dict[str, Callable[[str, tuple[Any, ...]], Any]] = {
    **{f"builtins.{name}": _of_scalars for name in ("bool", "complex", "float", "int", "str")},
    **{f"builtins.{name}": _of_items for name in _MADE_OF_ITEMS},
    **{f"collections.{name}": _of_items for name in ("OrderedDict", "Counter")},
    **dict.fromkeys(_REBUILDERS, _rebuilt),
    **{
        f"{core}.{name}": check
        for core in ("numpy.core", "numpy._core")
        for name, check in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    "argparse.Namespace": _plain,
    "builtins.bytearray": _of_bytes,
    "collections.defaultdict": _plain,
    "_codecs.encode": _encoded,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _refused,
    "torch._tensor._rebuild_from_type_v2": _rebuilt_subclass,
    "torch.Size": _of_items,
    "torch.device": _of_scalars,
    **{
        f"{module}.{kind}": _of_bytes
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "PurePosixPath", "WindowsPath")
    },
    "torch.nn.parameter.Parameter": _of_tensors,
    "torch.storage.UntypedStorage": _refused,
    "torch.storage.TypedStorage": _refused,
}


def check_of(name: str) -> Callable[[str, tuple[Any, ...]], Any]:
    """How a call of ``name`` is checked; one that nobody knows is refused by its name later."""
    if name.startswith(("numpy.dtypes.", "torch._utils.")) and name not in _CALLS:
        return _refused
    if _TENSOR_CLASS.fullmatch(name):
        return _of_tensors
    return _CALLS.get(name, _unknown)

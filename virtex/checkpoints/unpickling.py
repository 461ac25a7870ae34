"""What a pickle may ask for; ``vetting`` sees to what it then asks of that."""

from __future__ import annotations

import argparse
import codecs
import collections
import pathlib
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

_PLAIN = (bool, bytearray, complex, dict, float, frozenset, int, list, set, str, tuple)
# What torch's own weights-only unpickler knows: tensors, storages, dtypes, OrderedDict.
_KNOWN_TO_TORCH = re.compile(
    r"torch\.\w+|torch\.(?:_utils|_tensor|storage|serialization|cuda|sparse|nn\.parameter)\.\w+"
    r"|collections\.(?:OrderedDict|Counter)|_codecs\.encode"
)


def array_globals() -> dict[str, Any]:
    """numpy's functions that rebuild arrays, under the names numpy 1 and numpy 2 write."""
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


def plain_globals() -> dict[str, Any]:
    """Containers that hold things and do nothing."""
    named: dict[str, Any] = {f"builtins.{kind.__name__}": kind for kind in _PLAIN}
    named |= {"collections.OrderedDict": collections.OrderedDict}
    return named | {"collections.defaultdict": _dict_without_default}


def _dict_without_default(factory: Any = None) -> dict:
    """Stands in for ``defaultdict``, whose items torch's weights-only unpickler will not set."""
    return {}


def harmless_globals() -> Sequence[tuple[Callable, str]]:
    """What a torch checkpoint may hold beside tensors, for ``torch.serialization.safe_globals``.

    numpy arrays and scalars, plain containers, the ``argparse.Namespace`` of a training script,
    and paths (those of Windows as their pure kind).
    """
    dtypes = {
        f"numpy.dtypes.{name}": kind
        for name, kind in vars(np.dtypes).items()
        if isinstance(kind, type) and name != "ObjectDType"
    }
    paths: dict[str, Any] = {
        f"{module}.{kind}": getattr(pathlib, kind.replace("WindowsPath", "PureWindowsPath"))
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "PurePosixPath", "WindowsPath")
    }
    named = array_globals() | plain_globals() | dtypes | paths
    named["argparse.Namespace"] = argparse.Namespace
    return [(thing, name) for name, thing in named.items()]


def is_known_to_torch(name: str) -> bool:
    """Whether a torch checkpoint may ask for ``module.name`` here."""
    known = {harmless for _, harmless in harmless_globals()}
    return name in known or _KNOWN_TO_TORCH.fullmatch(name) is not None


def is_known_to_arrays(name: str) -> bool:
    """Whether a numpy pickle may ask for ``module.name`` here."""
    return name in ArrayUnpickler.allowed


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses whatever else is asked for.

    Raises:
        pickle.UnpicklingError: on a name that is not allowed, before anything of it is run.
    """

    allowed: ClassVar[dict[str, Any]] = (
        array_globals() | plain_globals() | {"_codecs.encode": codecs.encode}
    )

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.allowed:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        return self.allowed[f"{module}.{name}"]

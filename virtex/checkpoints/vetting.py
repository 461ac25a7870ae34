"""A pickle gone through with stand-ins before anything is made of it.

Refusing names is not enough: a pickle of harmless names can still ask for a terabyte, give an
array more shape than data, or replace a method of what it builds. So every pickle of a file that
is not trusted is first run by ``Vetting``, which imports nothing and keeps stand-ins in place of
whatever the pickle would call.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

from virtex.checkpoints.stand_ins import Made, Named, check_key, demand

_SPENT_AT_LEAST = 256 << 20  # bytes that a pickle of any size may take for its objects
_SPENT_PER_BYTE = 8  # and a large one for each of its own bytes

# What a storage's elements take; those that are not here take one byte at least.
_ITEM_SIZES = {
    f"torch.{kind}Storage": size
    for size, kinds in {
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int", "QInt32"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for kind in kinds
}


class _Bounded:
    """A file that is never asked for more bytes than it has."""

    def __init__(self, file: IO[bytes], size: int):
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, n: int) -> bytes:
        demand(n <= self.size, f"an object of {n} bytes, more than the whole file")
        return self.file.read(n)


_InPython: Any = pickle._Unpickler  # that in C has no method for each instruction


class Vetting(_InPython):
    """Goes through one pickle of a file; ``load`` raises where it is not what it seems.

    Args:
        file: at the pickle's first byte.
        size: bytes of the file.
        records: of a torch zip file, storage key -> bytes of its data.
        names: gathers ``module.name`` of all that the pickle would import, also before it raises.

    Raises:
        Exception: of any kind, as from every unpickler.
    """

    def __init__(
        self,
        file: IO[bytes],
        size: int,
        names: set[str],
        records: Mapping[str, int] | None = None,
    ):
        super().__init__(_Bounded(file, size), encoding="latin1")
        self.size, self.names, self.records = size, names, records
        self.left = _SPENT_AT_LEAST + _SPENT_PER_BYTE * size

    def find_class(self, module: str, name: str) -> Named:
        known = module.replace("__builtin__", "builtins")  # Python 2's name
        self.names.add(f"{known}.{name}")
        return Named(f"{known}.{name}", self.spend)

    def spend(self, *values: Any) -> None:
        """Copies of ``values`` are made: a few are no harm, a million of one large one are."""
        for value in values:
            if isinstance(value, tuple):
                self.left -= 8 * len(value)
                self.spend(*(item for item in value if not isinstance(item, tuple)))
            elif isinstance(value, str | bytes | bytearray):
                self.left -= len(value)
            elif isinstance(value, list | dict | set | frozenset):
                self.left -= 64 * len(value)
        demand(self.left > 0, "copies of its objects without end")

    def persistent_load(self, pid: Any) -> Any:
        """A torch storage: (``"storage"``, type, key, location, number of elements, …)."""
        if isinstance(pid, int):
            return Made("storage")
        if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1:
            return pid[1]  # its class
        demand(isinstance(pid, tuple) and len(pid) >= 5, "a storage that is not described")
        kind, key, elements = pid[1], pid[2], pid[4]
        known = isinstance(kind, Named) and isinstance(key, str) and type(elements) is int
        demand(known and elements >= 0, "a storage that is not described")
        there = self.size if self.records is None else self.records.get(key, 0)
        asked = elements * _ITEM_SIZES.get(kind.name, 1)
        demand(asked <= there, f"a storage of {asked} bytes, of which {there} are in the file")
        return Made("storage")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"it asks for extension {code} of a registry")

    def load(self) -> Any:
        value = super().load()
        # C's unpickler keeps a list as long as the highest number
        demand(max(self.memo, default=0) <= self.size, "numbers of objects that are not there")
        return value

    def load_newobj(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        demand(isinstance(kind, Named) and isinstance(args, tuple), "an object of no class")
        self.append(kind(*args))

    def load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        demand(isinstance(instance, Made | Named), "a state for what has none")
        self.spend(state)
        instance.__setstate__(state)

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            check_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            check_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        for item in self.stack:
            check_key(item)
        super().load_additems()

    def load_frozenset(self) -> None:
        for item in self.stack:
            check_key(item)
        super().load_frozenset()


def _dispatch() -> dict[int, Callable]:
    """Opcode -> method, those of ``Vetting`` before pickle's own."""
    own = {name: method for name, method in vars(Vetting).items() if name.startswith("load_")}
    theirs = _InPython.dispatch
    return {opcode: own.get(method.__name__, method) for opcode, method in theirs.items()}


Vetting.dispatch = _dispatch()

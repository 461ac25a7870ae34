"""A checkpoint read as one row of the format table: its tensors under torchvision's names."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from virtex.checkpoints.architecture import ArchitectureError, expected_shapes, read_arch
from virtex.checkpoints.backbone import Arch, CheckpointError
from virtex.checkpoints.formats import Format
from virtex.checkpoints.naming import NAMINGS, fill_affine_statistics
from virtex.quoting import quoted

# What DistributedDataParallel, torch.compile and FSDP put before every name.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
DEEPEST = 5  # mappings in mappings that are looked into
MOST_ENTRIES = 200_000  # of all of them, those that stand in several places counted in each
LONGEST_NAME = 300  # characters of a tensor's name; VISSL's and FSDP's longest have about 100


@dataclass(frozen=True)
class Reading:
    """A checkpoint read as one format.

    Attributes:
        format: the row.
        container: dotted path of the state_dict, "" for the root.
        tensors: torchvision name -> tensor or array as the file has it, heads left out.
        unused: name of a group of tensors left out -> how many.
        arch: the architecture, ``None`` where ``refusal`` says why there is none.
        refusal: why the network cannot be loaded, or "".
    """

    format: Format
    container: str
    tensors: dict[str, Any]
    unused: dict[str, int]
    arch: Arch | None
    refusal: str = ""

    def same_outcome(self, other: Reading) -> bool:
        """Whether both give the same tensors, names, input and stride."""
        return (
            self.format.input == other.format.input
            and self.format.stride_in_1x1 == other.format.stride_in_1x1
            and self.tensors.keys() == other.tensors.keys()
            and all(
                self.tensors[name] is other.tensors[name] or _is_filled(name, self.format)
                for name in self.tensors
            )
        )


def read_as(row: Format, content: Any, flat: bool, chosen: bool) -> Reading | None:
    """``content`` read as one row; ``None`` if it does not fit.

    A row chosen by name needs none of its marks.
    """
    nested = not flat and isinstance(content, Mapping)
    if not chosen and nested and any(entry in content for entry in row.absent_entries):
        return None
    refused = None
    for container in ("",) if flat else row.containers:
        tensors = tensors_at(content, container)
        wrapper, tensors = unwrap(tensors)
        if not chosen and not has_marks(row, tensors):
            continue
        for prefix, dialect in itertools.product(row.strip, row.naming):
            reading = _read_names(row, container, tensors, wrapper, prefix, dialect)
            if reading is not None and not reading.refusal:
                unused = reading.unused | _other_state_dicts(content, container)
                return replace(reading, unused=unused)
            refused = refused or reading
    return refused


def has_marks(row: Format, tensors: Mapping[str, Any]) -> bool:
    """Whether one of the row's marks is among the keys, if it has any, and nothing ``absent``."""
    marked = not row.marks or any(key.startswith(row.marks) for key in tensors)
    return marked and not (row.absent and any(key.startswith(row.absent) for key in tensors))


def _read_names(
    row: Format, container: str, tensors: dict[str, Any], wrapper: str, prefix: str, dialect: str
) -> Reading | None:
    try:
        names, keys = translate(row, tensors, prefix, dialect)
        arch = read_arch(names, row.stride_in_1x1)
    except ArchitectureError as error:
        return Reading(row, container, {}, {}, None, str(error))
    if arch is None or (row.only_if is not None and not row.only_if(arch)):
        return None
    expected = expected_shapes(arch)
    kept = {}
    for name, value in names.items():
        counted = name.removesuffix("num_batches_tracked") + "running_var"
        if name in expected or (name.endswith(".num_batches_tracked") and counted in expected):
            kept[name] = value
    used = {keys[name] for name in kept if name in keys}
    return Reading(row, container, kept, _unused_groups(tensors, used, wrapper), arch)


def translate(
    row: Format, tensors: Mapping[str, Any], prefix: str, dialect: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors below ``prefix`` by torchvision name, and the key each of them had.

    Raises:
        ArchitectureError: two keys get one name.
    """
    below = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and not (row.leave_out and key.startswith(row.leave_out))
    }
    inner, below = unwrap(below)
    names: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in below.items():
        name = NAMINGS[dialect](key)
        if name is None:
            continue
        if name in names:
            raise ArchitectureError(f"two of its tensors stand for {name}, one of them {key}")
        names[name], keys[name] = value, prefix + inner + key
    if dialect == "caffe2":
        names |= fill_affine_statistics(names)
    return names, keys


def unwrap(tensors: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Strip what wrappers put before every name; returns (what was stripped, the rest).

    A name without a dot (``n_averaged`` of an averaged model, ``queue``) is no module's tensor
    and has no prefix to lose.
    """
    stripped = ""
    tensors = dict(tensors)
    while True:
        dotted = [key for key in tensors if "." in key]
        wrapper = next((w for w in WRAPPERS if dotted and all(k.startswith(w) for k in dotted)), "")
        if not wrapper:
            return stripped, tensors
        stripped += wrapper
        tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}


def with_state_dicts(content: Any, depth: int = DEEPEST, seen: dict | None = None) -> Any:
    """``content`` as plain dicts, whole modules of a trusted pickle as their state_dict.

    Mappings may hold each other, and themselves.

    Raises:
        CheckpointError: the name of a tensor cannot be shown.
    """
    seen = {} if seen is None else seen
    if not isinstance(content, Mapping | nn.Module) or not depth:
        return content
    if id(content) in seen:
        return seen[id(content)][1]
    plain: dict[str, Any] = {}
    seen[id(content)] = content, plain  # kept, or its id may be another's
    tensors = content.state_dict() if isinstance(content, nn.Module) else content
    for key, value in tensors.items():
        if is_array(value) and not _can_be_shown(key):
            raise CheckpointError(
                f"the file has a tensor with the name '{quoted(str(key)[:80])}', of "
                f"{len(str(key))} characters: names of tensors are short and printable"
            )
        if not isinstance(value, Mapping | nn.Module) or _can_be_shown(key):
            plain[key] = with_state_dicts(value, depth - 1, seen)
    return plain


def is_array(value: Any) -> bool:
    """Whether a state_dict may hold it: a tensor with a shape (a nested one has none), an array."""
    if isinstance(value, Tensor):
        return not value.is_nested
    return isinstance(value, np.ndarray | np.generic)


def _can_be_shown(key: Any) -> bool:
    return not isinstance(key, str) or (len(key) <= LONGEST_NAME and key.isprintable())


def tensors_at(content: Any, container: str) -> dict[str, Any]:
    """The tensors directly under a dotted path ("": the root); empty if there are none."""
    for key in container.split(".") if container else ():
        content = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping):
        return {}
    return {
        key: value for key, value in content.items() if isinstance(key, str) and is_array(value)
    }


def state_dicts(content: Any) -> Iterator[tuple[str, dict]]:
    """Every mapping of names to tensors in ``content``: (dotted path, tensors).

    Raises:
        CheckpointError: there are more mappings in mappings than any training writes.
    """
    pending, gone_through = [("", content, DEEPEST)], 0
    while pending:
        path, mapping, depth = pending.pop()
        tensors = tensors_at(mapping, "")
        if tensors:
            yield path, tensors
        gone_through += len(mapping) if isinstance(mapping, Mapping) else 0
        if gone_through > MOST_ENTRIES:
            raise CheckpointError(
                f"the file holds more than {MOST_ENTRIES} entries in its mappings"
            )
        inner = [
            (f"{path}.{key}" if path else key, value, depth - 1)
            for key, value in (mapping.items() if isinstance(mapping, Mapping) and depth else ())
            if isinstance(key, str) and isinstance(value, Mapping)
        ]
        pending += reversed(inner)


def _other_state_dicts(content: Any, container: str) -> dict[str, int]:
    """State_dicts beside the one in use (a momentum copy, say), by path; not optimizer states."""
    return {
        path: len(tensors)
        for path, tensors in state_dicts(content)
        if path
        and path != container
        and not container.startswith(path + ".")
        and any(name.endswith(".weight") for name in tensors)
    }


def _unused_groups(keys: Iterable[str], used: set[str], wrapper: str) -> dict[str, int]:
    """How many keys are not used, by the first part of their name that no used key has."""
    shared = {
        ".".join(parts[:n])
        for parts in (key.split(".") for key in used)
        for n in range(1, len(parts))
    }
    groups: Counter[str] = Counter()
    for key in keys:
        if key in used:
            continue
        parts = key.split(".")
        starts = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        group = next((start for start in starts if start not in shared), key)
        groups[wrapper + ("*_momentum" if group.endswith("_momentum") else group)] += 1
    return dict(groups)


def _is_filled(name: str, row: Format) -> bool:
    return "caffe2" in row.naming and name.endswith((".running_mean", ".running_var"))

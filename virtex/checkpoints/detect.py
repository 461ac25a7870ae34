"""Detect the format of a checkpoint, or explain why none matches.

Detection uses containers and keys, never the file's name. All rows of the format table are tried.
Rows that yield the same tensors in the same way are equivalent; if several others match, the
checkpoint is ambiguous and needs ``--format``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from virtex.backbones.registry import (
    BATCH_COUNTER,
    Arch,
    Derived,
    UnsupportedArchitectureError,
    detect_arch,
    expected_shapes,
    get_dialects,
    get_families,
)
from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.formats import FORMATS, Format, get_format
from virtex.checkpoints.refused import refuse_content
from virtex.errors import UserError
from virtex.text import escape

# Prefixes added by DistributedDataParallel, torch.compile and FSDP.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
MAX_DEPTH = 5  # of nested mappings
MAX_ENTRIES = 50_000  # of all mappings together; ResNet-152 has 932 tensors
MAX_NAME_LENGTH = 300  # characters; VISSL's and FSDP's longest names have about 100


@dataclass(frozen=True)
class ParsedCheckpoint:
    """A checkpoint read as one format.

    Attributes:
        format: the row of the format table.
        container: dotted path of the state_dict, "" for the root.
        tensors: canonical name -> tensor or array as in the file, or ``Derived``; heads excluded.
        unused: name of a group of unused tensors -> count.
        arch: the architecture; ``None`` where ``unsupported`` is set.
        unsupported: why the network is not supported, or "".
    """

    format: Format
    container: str
    tensors: dict[str, Any]
    unused: dict[str, int]
    arch: Arch | None
    unsupported: str = ""

    def is_equivalent(self, other: ParsedCheckpoint) -> bool:
        """Return whether both have the same tensors, names, input and architecture."""
        return (
            self.format.input == other.format.input
            and self.arch == other.arch
            and self.tensors.keys() == other.tensors.keys()
            and all(
                value is other.tensors[name]
                or (isinstance(value, Derived) and value.is_same(other.tensors[name]))
                for name, value in self.tensors.items()
            )
        )


@dataclass(frozen=True)
class StateDicts:
    """All mappings of names to tensors in a file.

    Attributes:
        by_path: dotted path ("" for the root) -> name -> tensor or array.
        root_entries: keys of the file's root.
        flat: whether the file cannot nest (safetensors), so that every row matches at the root.
        names: what the file or its config states as its network.
    """

    by_path: dict[str, dict[str, Any]]
    root_entries: frozenset[Any]
    flat: bool
    names: tuple[str, ...] = ()


def detect_format(
    content: Any, name: str = "auto", flat: bool = False, names: tuple[str, ...] = ()
) -> ParsedCheckpoint:
    """Parse a checkpoint as the one format that matches.

    Args:
        content: the content of the file (``containers.open_checkpoint``).
        name: a format's name, or ``auto``.
        flat, names: see ``StateDicts``.

    Raises:
        CheckpointError: the file contains no tensors, or an adapter or quantized weights; no format
            matches (the message describes the closest one), or several match with different results
            (the message names them).
        UnsupportedArchitectureError: no family can build the network.
    """
    found = replace(collect_state_dicts(content, flat), names=names)
    if not found.by_path:
        raise CheckpointError(
            "expected a state_dict (a mapping of names to tensors), found "
            f"{_describe(content)}; specify the file with the weights",
            code="checkpoint.no_tensors",
        )
    refuse_content(found.by_path)
    rows = list(FORMATS.values()) if name == "auto" else [get_format(name)]
    parsed = [
        candidate
        for row in rows
        if name != "auto" or not row.explicit_only
        for candidate in [parse_as(row, found, explicit=name != "auto")]
        if candidate is not None
    ]
    matching = [candidate for candidate in parsed if not candidate.unsupported] or parsed
    if not matching:
        raise _no_format_error(found, name)
    best = matching[0]
    if best.unsupported:
        raise UnsupportedArchitectureError(f"read as format {best.format.name}: {best.unsupported}")
    others = [other for other in matching[1:] if not best.is_equivalent(other)]
    if others:
        choices = {choice.format.name: choice for choice in [best, *others]}
        listed = "; ".join(
            f"--format {choice} reads {len(c.tensors)} tensors from {c.container or 'the root'!r}"
            for choice, c in choices.items()
        )
        raise CheckpointError(
            f"formats {' and '.join(choices)} match but read different weights; choose one: "
            f"{listed}",
            code="checkpoint.ambiguous_format",
        )
    return best


def parse_as(row: Format, found: StateDicts, explicit: bool) -> ParsedCheckpoint | None:
    """Parse a checkpoint as one row; return ``None`` if it does not match.

    A row given explicitly does not need its required prefixes.
    """
    if not explicit and not found.flat and found.root_entries & {*row.forbidden_entries}:
        return None
    unsupported = None
    for container in ("",) if found.flat else row.containers:
        wrapper, tensors = strip_wrappers(found.by_path.get(container, {}))
        if not explicit and not _has_required_prefixes(row, tensors):
            continue
        for prefix, dialect in itertools.product(row.strip, row.dialects):
            parsed = _parse_names(row, container, tensors, wrapper, prefix, dialect, found.names)
            if parsed is not None and not parsed.unsupported:
                unused = parsed.unused | _other_state_dicts(found, container)
                return replace(parsed, unused=unused)
            unsupported = unsupported or parsed
    return unsupported


def _has_required_prefixes(row: Format, tensors: Mapping[str, Any]) -> bool:
    required, forbidden = row.required_prefixes, row.forbidden_prefixes
    if required and not any(key.startswith(required) for key in tensors):
        return False
    return not (forbidden and any(key.startswith(forbidden) for key in tensors))


def _parse_names(
    row: Format,
    container: str,
    tensors: dict[str, Any],
    wrapper: str,
    prefix: str,
    dialect: str,
    stated: tuple[str, ...],
) -> ParsedCheckpoint | None:
    try:
        translated = translate(row, tensors, prefix, dialect)
        parts = {part for value in translated.derived.values() for part in value.parts}
        kept = {name: value for name, value in translated.tensors.items() if name not in parts}
        names = kept | translated.derived
        shown = get_dialects()[dialect].fields(translated.tensors)
        arch = detect_arch(names, {**row.arch_fields, **shown}, row.applies_to, stated)
    except UnsupportedArchitectureError as error:
        return ParsedCheckpoint(row, container, {}, {}, None, str(error))
    if arch is None or (row.only_if is not None and not row.only_if(arch)):
        return None
    expected = expected_shapes(arch)
    kept = {
        name: value
        for name, value in names.items()
        if name in expected or name.replace(BATCH_COUNTER, "running_var") in expected
    }
    parts = {part for value in kept.values() if isinstance(value, Derived) for part in value.parts}
    used = {translated.keys[name] for name in parts.union(kept) if name in translated.keys}
    unused = _unused_groups(tensors, used, wrapper)
    return ParsedCheckpoint(row, container, kept, unused, arch)


@dataclass
class Translated:
    """Tensors by canonical name, the keys they had in the file, and those derived from others."""

    tensors: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    derived: dict[str, Derived] = field(default_factory=dict)


def translate(row: Format, tensors: Mapping[str, Any], prefix: str, dialect: str) -> Translated:
    """Translate the names of the tensors under ``prefix``.

    Raises:
        UnsupportedArchitectureError: two keys translate to the same name.
    """
    ignored = row.ignore_prefixes
    inner, below = strip_wrappers(
        {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix) and not (ignored and key.startswith(ignored))
        }
    )
    translated = Translated()
    for key, value in below.items():
        name = get_dialects()[dialect].translate(key)
        if name is None:
            continue
        if name in translated.tensors:
            raise UnsupportedArchitectureError(f"several tensors map to {name}, one is {key}")
        translated.tensors[name], translated.keys[name] = value, prefix + inner + key
    translated.derived = get_dialects()[dialect].derive(translated.tensors)
    return translated


def strip_wrappers(tensors: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Strip the prefixes that wrappers add to every name; return (the prefix, the rest).

    A name without a dot (``n_averaged`` of an averaged model, ``queue``) is not a module's tensor
    and has no prefix.
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


def collect_state_dicts(content: Any, flat: bool = False) -> StateDicts:
    """Find all mappings of names to tensors, and the state_dicts of unpickled modules.

    Raises:
        CheckpointError: a tensor's name is not printable, or there are too many entries.
    """
    by_path: dict[str, dict[str, Any]] = {}
    pending, visited = [("", content, MAX_DEPTH)], 0
    while pending:
        path, mapping, depth = pending.pop()
        if isinstance(mapping, nn.Module):
            mapping = mapping.state_dict()
        if not isinstance(mapping, Mapping):
            continue
        visited += len(mapping)
        if visited > MAX_ENTRIES:
            raise CheckpointError(
                f"its mappings contain more than {MAX_ENTRIES} entries; save the state_dict alone",
                code="checkpoint.unreadable",
            )
        tensors, inner = {}, []
        for key, value in mapping.items():
            if not isinstance(key, str):
                continue
            if is_array(value):
                tensors[_printable(key)] = value
            elif depth and isinstance(value, Mapping | nn.Module) and _is_printable(key):
                inner.append((f"{path}.{key}" if path else key, value, depth - 1))
        if tensors:
            by_path[path] = tensors
        pending += reversed(inner)
    entries = frozenset(content) if isinstance(content, Mapping) else frozenset()
    return StateDicts(by_path, entries, flat)


def is_array(value: Any) -> bool:
    """Return whether it can be an item of a state_dict: an array, or a tensor with a shape."""
    if isinstance(value, Tensor):
        return not value.is_nested
    return isinstance(value, np.ndarray | np.generic)


def _is_printable(name: str) -> bool:
    return len(name) <= MAX_NAME_LENGTH and name.isprintable()


def _printable(name: str) -> str:
    if not _is_printable(name):
        raise CheckpointError(
            f"tensor names should be printable and at most {MAX_NAME_LENGTH} characters, found "
            f"'{escape(name[:80])}' of {len(name)} characters; rename it",
            code="checkpoint.unreadable",
        )
    return name


def _other_state_dicts(found: StateDicts, container: str) -> dict[str, int]:
    """Count tensors of other networks in the file (a momentum copy), not of optimizer states."""
    return {
        path: len(tensors)
        for path, tensors in found.by_path.items()
        if path
        and path != container
        and not container.startswith(path + ".")
        and any(name.endswith(".weight") for name in tensors)
    }


def _unused_groups(keys: Iterable[str], used: set[str], wrapper: str) -> dict[str, int]:
    """Count unused keys by the first part of their name that no used key has."""
    # the parts of Flax's names are separated by slashes
    keys, used = [key.replace("/", ".") for key in keys], {key.replace("/", ".") for key in used}
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


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        keys = ", ".join(
            f"'{escape(key)}'" if isinstance(key, str) else f"of type {type(key).__name__}"
            for key in list(content)[:6]
        )
        return f"a mapping with the keys {keys}" if keys else "an empty mapping"
    return f"an object of type {type(content).__name__}"


def _no_format_error(found: StateDicts, name: str) -> UserError:
    """Explain why no row matches: unsupported network, only copies, or the closest format."""
    shapes = {
        f"{path}.{key}": tuple(np.shape(value))
        for path, tensors in found.by_path.items()
        for key, value in tensors.items()
    }
    prefixes = _find_anchor_keys(found)
    # prefer the explanation of a family whose anchor key was found
    for family in prefixes or get_families():
        if reason := get_families()[family].explain_unsupported(shapes):
            return UnsupportedArchitectureError(reason)
    path, tensors = max(found.by_path.items(), key=lambda item: len(item[1]))
    keys = f"keys in {path or 'the root'!r}: {', '.join(list(tensors)[:4])}, …"
    closest = _closest(found, name)
    if name != "auto":
        fitting = [
            choice
            for row in FORMATS.values()
            if not row.explicit_only
            and (parsed := parse_as(row, found, explicit=False))
            and not parsed.unsupported
            for choice in (row.name, *row.alternatives)
        ]
        if fitting:
            closest = f"found one that fits {', '.join(fitting)}; choose one or omit --format"
        return CheckpointError(
            f"expected a checkpoint of format {escape(name)}, but {closest}; {keys}",
            code="checkpoint.unknown_format",
        )
    copies = [
        f"--format {row.name}"
        for row in FORMATS.values()
        if row.explicit_only
        and not ("" in row.strip and "" in row.containers)  # the row may match any network
        and (parsed := parse_as(row, found, explicit=True))
        and not parsed.unsupported
    ]
    if copies:
        return CheckpointError(
            f"the file contains several networks, none of which is the main one; choose "
            f"{' or '.join(copies)}; {keys}",
            code="checkpoint.ambiguous_format",
        )
    prefix = next(iter(prefixes.values()), "")
    hint = f"; --format prefix:{prefix} reads the network under that prefix" if prefix else ""
    return CheckpointError(
        f"the format was not detected: {closest}; {keys}{hint}; --format timm:NAME reads a network "
        "of timm",
        code="checkpoint.unknown_format",
    )


def _find_anchor_keys(found: StateDicts) -> dict[str, str]:
    """Return family -> prefix of its canonical names, for families with names in the file."""
    prefixes: dict[str, str] = {}
    for container in Format("", "").containers:
        for key in strip_wrappers(found.by_path.get(container, {}))[1]:
            for family in get_families().values():
                if key.endswith(f".{family.anchor_key}"):
                    prefixes.setdefault(family.name, key.removesuffix(family.anchor_key))
    return prefixes


def _closest(found: StateDicts, name: str) -> str:
    """Describe the row and family that match the most tensors, and the missing ones."""
    best, most = "no tensor has a known name", 0
    for path, tensors in found.by_path.items():
        tensors = strip_wrappers(tensors)[1]
        for row in FORMATS.values() if name == "auto" else [get_format(name)]:
            if name == "auto" and not _has_required_prefixes(row, tensors):
                continue
            for prefix, dialect in itertools.product(row.strip, row.dialects):
                try:
                    names = translate(row, tensors, prefix, dialect).tensors
                except UnsupportedArchitectureError:
                    continue
                for family in row.get_families():
                    count = len(names.keys() & expected_shapes(family.default_arch).keys())
                    if count > most:
                        most = count
                        best = _compare(row, path, names, prefix, family.default_arch)
    return best


def _compare(row: Format, path: str, names: dict[str, Any], prefix: str, default: Arch) -> str:
    try:
        arch = detect_arch(names) or default
    except UnsupportedArchitectureError:
        arch = default
    expected = expected_shapes(arch)
    missing = [prefix + name for name in expected if name not in names]
    text = (
        f"the closest format is {row.name}, with {len(expected) - len(missing)} of "
        f"{len(expected)} tensors of a {arch.name} in {path or 'the root'!r}"
    )
    if missing:
        text += f", without {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}"
    if path not in row.containers:
        text += f" (expected in {' or '.join(repr(c or 'the root') for c in row.containers)})"
    return text

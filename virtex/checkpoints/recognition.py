"""Which row of the format table a checkpoint is, or why it is none.

Looks at containers and keys, never at a file's name. All rows are tried; rows that read the
same tensors in the same way are one answer, rows that do not are a question to the user.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from virtex.checkpoints.architecture import (
    ArchitectureError,
    expected_shapes,
    read_arch,
    refusal_reason,
)
from virtex.checkpoints.backbone import Arch, CheckpointError
from virtex.checkpoints.formats import FORMATS, Format, get_format
from virtex.checkpoints.reading import (
    Reading,
    has_marks,
    read_as,
    state_dicts,
    translate,
    unwrap,
    with_state_dicts,
)
from virtex.quoting import quoted

_RESNET_50 = Arch("resnet", 50, "bottleneck")
_USUAL_CONTAINERS = Format("", "").containers


def recognize(content: Any, name: str = "auto", flat: bool = False) -> Reading:
    """The one reading of a checkpoint.

    Args:
        content: what the file holds (``opening.open_checkpoint``).
        name: a format's name, or ``auto``.
        flat: whether the file cannot nest (safetensors): every row then matches at the root.

    Raises:
        CheckpointError: no format fits (with the nearest), or several with different outcomes
            (with their names); it holds no tensors; it is a network that is refused.
    """
    content = with_state_dicts(content)
    if not any(tensors for _, tensors in state_dicts(content)):
        raise CheckpointError(
            f"the file holds no state_dict (a mapping of names to tensors) but {_describe(content)}"
        )
    rows = list(FORMATS.values()) if name == "auto" else [get_format(name)]
    readings = [
        reading
        for row in rows
        if name != "auto" or not row.explicit_only
        for reading in [read_as(row, content, flat, chosen=name != "auto")]
        if reading is not None
    ]
    fitting = [reading for reading in readings if not reading.refusal] or readings
    if not fitting:
        raise CheckpointError(_why_none(content, name, flat))
    best = fitting[0]
    if best.refusal:
        raise ArchitectureError(f"read as format {best.format.name}: {best.refusal}")
    others = [reading for reading in fitting[1:] if not best.same_outcome(reading)]
    if others:
        choices = {reading.format.name: reading for reading in [best, *others]}
        listed = "; ".join(
            f"--format {name} takes {_count(len(r.tensors))} from {r.container or 'the root'!r}"
            for name, r in choices.items()
        )
        raise CheckpointError(
            f"formats {' and '.join(choices)} both fit and read different weights, choose: {listed}"
        )
    return best


def _count(n: int) -> str:
    return f"{n} tensor" if n == 1 else f"{n} tensors"


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        keys = ", ".join(
            f"'{quoted(key)}'" if isinstance(key, str) else f"of type {type(key).__name__}"
            for key in list(content)[:6]
        )
        return f"a mapping with the keys {keys}" if keys else "an empty mapping"
    return f"an object of type {type(content).__name__}"


_NAME = re.compile(
    r"(?:conv1|bn1|layer[1-4]\.\d+\.(?:conv[123]|bn[123]|downsample\.[01]))"
    r"\.(?:weight|bias|running_mean|running_var)"
)


def _why_none(content: Any, name: str, flat: bool) -> str:
    """Why no row fits: the network is refused, a copy is to be chosen, or what is nearest."""
    for path, tensors in state_dicts(content):
        shapes = {f"{path}.{key}": tuple(np.shape(value)) for key, value in tensors.items()}
        reason = refusal_reason(shapes, unmistakable=True)
        if reason is not None:
            return f"this is {reason}; only plain ResNets can be loaded"
    path, tensors = max(state_dicts(content), key=lambda item: len(item[1]))
    keys = f"keys found in {path or 'the root'!r}: {', '.join(list(tensors)[:4])}, …"
    if name != "auto":
        return f"the file is not of format {quoted(name)}: {_nearest(content, name)}; {keys}"
    choosable = [
        f"--format {row.name}"
        for row in FORMATS.values()
        if row.explicit_only and read_as(row, content, flat, chosen=True) is not None
    ]
    if choosable:
        return f"no network in the file is the main one; choose {' or '.join(choosable)}; {keys}"
    prefix = _prefix_of_resnet(content)
    hint = f"; --format prefix:{prefix} reads the ResNet under that prefix" if prefix else ""
    return f"no known format: {_nearest(content, name)}; {keys}{hint}"


def _prefix_of_resnet(content: Any) -> str | None:
    """What stands before torchvision's names in the file, if there is such a thing."""
    mark = "layer1.0.conv1.weight"
    for path, tensors in state_dicts(content):
        for key in unwrap(tensors)[1] if path in _USUAL_CONTAINERS else ():
            if key.endswith("." + mark):
                return key.removesuffix(mark)
    return None


def _nearest(content: Any, name: str) -> str:
    """The row under which most names are a ResNet's, and what it lacks."""
    best: tuple[int, str] = (0, "")
    rows = FORMATS.values() if name == "auto" else [get_format(name)]
    for path, tensors in state_dicts(content):
        tensors = unwrap(tensors)[1]
        for row in rows:
            if name == "auto" and not has_marks(row, tensors):
                continue
            for prefix, dialect in itertools.product(row.strip, row.naming):
                names = translate(row, tensors, prefix, dialect)[0]
                n = sum(_NAME.fullmatch(name) is not None for name in names)
                if n > best[0]:
                    best = n, _nearest_text(row, path, names, prefix, n)
    return best[1] or "not one tensor has a name of a ResNet's that it knows"


def _nearest_text(row: Format, path: str, names: dict[str, Any], prefix: str, n: int) -> str:
    try:
        arch = read_arch(names, row.stride_in_1x1) or _RESNET_50
    except ArchitectureError:
        arch = _RESNET_50
    expected = expected_shapes(arch)
    missing = [name for name in expected if name not in names]
    places = " or ".join(repr(c) if c else "the root" for c in row.containers)
    text = (
        f"the nearest is {row.name}, with {n} of {len(expected)} tensors in {path or 'the root'!r}"
    )
    if missing:
        shown = ", ".join(prefix + name for name in missing[:4])
        text += f", without {shown}{', …' if len(missing) > 4 else ''}"
    return text if path in row.containers else f"{text} (it expects them in {places})"

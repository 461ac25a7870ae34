"""A checkpoint by name -> a ``Backbone``, complete and finite, or an error that shows why not."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virtex.checkpoints.architecture import expected_shapes
from virtex.checkpoints.backbone import (
    Arch,
    Backbone,
    CheckpointError,
    Coverage,
    InputSpec,
    Source,
)
from virtex.checkpoints.coverage import cover, coverage_table, whats_wrong
from virtex.checkpoints.formats import get_format
from virtex.checkpoints.hashing import sha256_of
from virtex.checkpoints.inputs import read_input
from virtex.checkpoints.opening import open_checkpoint
from virtex.checkpoints.reading import Reading
from virtex.checkpoints.recognition import recognize
from virtex.checkpoints.sources import resolve
from virtex.zoo.entries import entry_named

# What a backbone may take in memory: a file of any size, and each byte of a large one.
_MEMORY_AT_LEAST, _MEMORY_PER_BYTE = 600 << 20, 16
_COUNTERS = (torch.int64, torch.int32, torch.int16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Inspection:
    """All that is known of a checkpoint, complete or not.

    Attributes:
        requested, path, size, sha256: what was asked for, and the file (bytes, hex digest).
        format, project: the row of the format table, "" if none was recognized.
        arch, input, coverage: ``None`` if they could not be read.
        notes: what had to be assumed or left out.
        problem: why it cannot be loaded, "" if it can.
        tensors: the backbone's state_dict where it is complete, see ``Backbone``.
    """

    requested: str
    path: str
    size: int
    sha256: str
    format: str = ""
    project: str = ""
    arch: Arch | None = None
    input: InputSpec | None = None
    coverage: Coverage | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""
    tensors: dict[str, Tensor] | None = None

    @property
    def complete(self) -> bool:
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """JSON types only, no tensors."""
        arch = self.arch and {"name": self.arch.name, **asdict(self.arch)}
        return {
            "complete": self.complete,
            "problem": self.problem,
            "requested": self.requested,
            "path": self.path,
            "size": self.size,
            "sha256": self.sha256,
            "format": self.format,
            "project": self.project,
            "arch": arch,
            "input": self.input and asdict(self.input),
            "coverage": self.coverage and self.coverage.as_dict(),
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """A page for people: the file, what it is, the stages, what was left out."""
        lines = [
            f"checkpoint    {self.requested}",
            f"file          {self.path} ({self.size / 1e6:.1f} MB)",
            f"sha256        {self.sha256}",
            f"format        {self.format or 'not recognized'}"
            + (f" ({self.project})" if self.project else ""),
        ]
        if self.arch is not None:
            stride = "1x1" if self.arch.stride_in_1x1 else "3x3"
            lines.append(f"architecture  {self.arch.name}, stride in the {stride} convolutions")
        if self.input is not None:
            lines.append(
                f"input         {self.input.channel_order}, mean {_numbers(self.input.mean)}, "
                f"std {_numbers(self.input.std)}, white is {self.input.scale:g}"
            )
        lines += [f"note          {note}" for note in self.notes]
        if self.coverage is not None:
            lines += ["", coverage_table(self.coverage)]
            if self.coverage.unused:
                lines += ["", "left out (tensors):"]
                lines += [f"  {n:>5}  {name}" for name, n in sorted(self.coverage.unused.items())]
        return "\n".join(lines)


def load_backbone(
    name: str | os.PathLike[str], format: str = "auto", trust_pickle: bool = False
) -> Backbone:
    """The backbone of any checkpoint, complete or not at all.

    Args:
        name: a local path, ``https://…``, ``virtex://NAME``, ``torchvision://resnet50``,
            ``random:resnet50?seed=0``, or what else a handler is registered for.
        format: a row of the format table by name; ``auto``: as the zoo's entry says, else
            recognized.
        trust_pickle: let a pickle run the code it asks for.

    Returns:
        A backbone of finite float32 tensors of their own on the CPU, its
        ``num_batches_tracked`` 0 where the file has none.

    Raises:
        CheckpointError: whatever keeps it from being complete: the text names the tensors and
            shows the stages.
    """
    found = inspect_checkpoint(name, format, trust_pickle)
    if found.problem:
        raise CheckpointError(found.problem)
    # what is without a problem has them all
    assert found.arch and found.input and found.coverage and found.tensors
    source = Source(
        found.requested, found.path, found.sha256, found.format, found.coverage, found.notes
    )
    return Backbone(found.arch, found.tensors, found.input, source)


def inspect_checkpoint(
    name: str | os.PathLike[str], format: str = "auto", trust_pickle: bool = False
) -> Inspection:
    """Everything that can be known of a checkpoint, even where it is not complete.

    Arguments as for ``load_backbone``.

    Raises:
        CheckpointError: there is no such format, or the file cannot be had or opened at all.
    """
    name = os.fspath(name)
    entry = entry_named(name)
    if entry is not None and format == "auto":
        format = entry.format
    if format != "auto":
        get_format(format)  # a mistyped name is told before anything is downloaded
    path = resolve(name)
    content, flat = open_checkpoint(path, trust_pickle)
    found = Inspection(name, path, os.path.getsize(path), sha256_of(path))
    try:
        reading = recognize(content, format, flat)
    except CheckpointError as error:
        return replace(found, problem=f"{path}: {error}")
    row, arch = reading.format, reading.arch
    assert arch is not None  # a reading without one is a refusal, which is an error
    found = replace(found, format=row.name, project=row.project)
    config = Path(path).parent / "config.yaml" if row.reads_config else None
    try:
        spec, stride_in_1x1, notes = read_input((row.input, row.stride_in_1x1), content, config)
    except CheckpointError as error:
        return replace(found, problem=f"{path}: {error}")
    if entry is not None and entry.input not in (None, spec):
        spec, notes = entry.input, [*notes, f"input as {entry.zoo_file.name} says"]
    if entry is not None and entry.arch not in ("", arch.name):
        said = f"{entry.zoo_file} says of {entry.name} that it is a {entry.arch}"
        return replace(found, problem=f"{path} is a {arch.name}, but {said}; fix it there")
    expected = expected_shapes(arch)
    coverage = cover(expected, reading.tensors, reading.unused)
    tensors, problem = _own_tensors(reading, expected, coverage, found.size)
    return replace(
        found,
        arch=replace(arch, stride_in_1x1=stride_in_1x1),
        input=spec,
        coverage=coverage,
        notes=tuple([*([row.note] if row.note else []), *notes, *_conversions(reading)]),
        tensors=tensors,
        problem=problem and f"{path} ({row.name}, {arch.name}): {problem}",
    )


def _own_tensors(
    reading: Reading, expected: dict[str, tuple[int, ...]], coverage: Coverage, size: int
) -> tuple[dict[str, Tensor] | None, str]:
    """float32 tensors independent of the file, and "", or ``None`` and why there are none."""
    if not coverage.complete:
        missing = sum(len(stage.missing) for stage in coverage.stages.values())
        other = sum(len(stage.mismatched) for stage in coverage.stages.values())
        return None, (
            f"the backbone is not complete, of its {len(expected)} tensors {missing} are missing "
            f"and {other} have another shape; get the whole file, or choose another --format\n"
            f"{coverage_table(coverage)}\n{whats_wrong(coverage, expected, reading.tensors)}"
        )
    if 4 * sum(map(math.prod, expected.values())) > _MEMORY_AT_LEAST + _MEMORY_PER_BYTE * size:
        return None, (
            f"its tensors would take far more memory than its {size} bytes can fill: they repeat "
            "one value over and over; no training writes that"
        )
    unfit = [name for name in expected if not _is_floating(reading.tensors[name])]
    if unfit:
        return None, f"no floating-point data in {_some(unfit)}; save plain weights"
    own = {}
    for name in expected:
        try:
            own[name] = _as_float32(reading.tensors[name])
        except (RuntimeError, TypeError) as error:  # a type that torch can hold and not convert
            return None, f"{name} is of a number type that cannot be read: {error}"
        if name.endswith(".running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            own[counter] = torch.tensor(_count(reading.tensors.get(counter)))
    bad = [name for name in expected if not _is_finite(own[name])]
    if bad:
        return None, f"NaN or infinite values in {_some(bad)}: this training has diverged"
    return own, ""


def _is_floating(value: Tensor | np.ndarray) -> bool:
    if isinstance(value, Tensor):
        dense = value.layout == torch.strided and not value.is_meta
        return dense and value.is_floating_point()
    return np.issubdtype(np.asarray(value).dtype, np.floating)


def _as_float32(value: Tensor | np.ndarray) -> Tensor:
    """A copy; what is too large for float32 becomes infinite."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=torch.float32).copy_(value.detach())
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _count(value: Tensor | np.ndarray | None) -> int:
    """Batches a batch norm has seen, 0 where the file does not say it; no forward pass reads it."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_meta and value.dtype in _COUNTERS
        value = value.detach().numpy() if plain and value.numel() == 1 else None
    if value is None or value.size != 1 or value.dtype.kind not in "iuf":
        return 0
    count = float(value.reshape(-1)[0])
    return int(count) if 0 <= count < 2**53 else 0


def _is_finite(tensor: Tensor) -> bool:
    lowest, highest = torch.aminmax(tensor)  # a NaN is both; several times isfinite's speed
    return bool(lowest.isfinite() and highest.isfinite())


def _conversions(reading: Reading) -> list[str]:
    """Notes on tensors that do not come as float32."""
    types = {
        value.dtype.name if isinstance(value, np.ndarray) else str(value.dtype)
        for name, value in reading.tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    other = sorted(name.removeprefix("torch.") for name in types)
    return [] if other == ["float32"] else [f"stored as {', '.join(other)}, loaded as float32"]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more

"""Load a checkpoint as a complete and finite ``Backbone``, or report why this is impossible."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virtex.backbones.registry import (
    BATCH_COUNTER,
    Arch,
    Derived,
    expected_shapes,
    get_family,
)
from virtex.checkpoints.backbone import Backbone, CheckpointError, InputSpec, Source
from virtex.checkpoints.containers import open_checkpoint
from virtex.checkpoints.coverage import (
    Coverage,
    compute_coverage,
    coverage_problems,
    coverage_table,
)
from virtex.checkpoints.detect import ParsedCheckpoint, detect_format
from virtex.checkpoints.formats import get_format
from virtex.checkpoints.inputs import resolve_input
from virtex.checkpoints.sources import resolve_source
from virtex.checkpoints.statements import read_names, read_statements
from virtex.errors import UserError
from virtex.text import redact

# Memory limit of a backbone in bytes: for any file, and per byte of a large file.
_MIN_MEMORY, _MEMORY_PER_BYTE = 600 << 20, 16
_COUNTERS = (torch.int64, torch.int32, torch.int16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Inspection:
    """Everything known about a checkpoint, complete or not.

    Attributes:
        requested, path, size, sha256: the requested name, and the file (bytes, hex digest).
        format, project: the row of the format table, "" if none was detected.
        arch, input, coverage: ``None`` if they could not be determined.
        notes: assumptions and conversions.
        error: why it cannot be loaded; ``None`` if it can.
        tensors: the backbone's state_dict if it is complete, see ``Backbone``.
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
    error: UserError | None = None
    tensors: dict[str, Tensor] | None = None

    @property
    def complete(self) -> bool:
        return self.error is None

    @property
    def problem(self) -> str:
        return str(self.error or "")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types only, without tensors."""
        arch = self.arch and {"name": self.arch.name, **asdict(self.arch)}
        return {
            "complete": self.complete,
            "problem": self.problem,
            "code": self.error.code if self.error else "",
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
        """Return a report to print: the file, its format, coverage and unused tensors."""
        lines = [
            f"checkpoint    {self.requested}",
            f"file          {self.path} ({self.size / 1e6:.1f} MB)",
            f"sha256        {self.sha256}",
            f"format        {self.format or 'not recognized'}"
            + (f" ({self.project})" if self.project else ""),
        ]
        if self.arch is not None:
            values = {n: getattr(self.arch, n) for n in get_family(self.arch).format_fields}
            stated = "".join(f", {n} {v}" for n, v in values.items() if v != self.arch.name)
            lines.append(f"architecture  {self.arch.name}{stated}")
        if self.input is not None:
            lines.append(
                f"input         {self.input.channel_order}, mean {_numbers(self.input.mean)}, "
                f"std {_numbers(self.input.std)}, scale {self.input.scale:g}"
            )
        lines += [f"note          {note}" for note in self.notes]
        if self.coverage is not None:
            lines += ["", coverage_table(self.coverage)]
            if self.coverage.unused:
                lines += ["", "unused tensors:"]
                lines += [f"  {n:>5}  {name}" for name, n in sorted(self.coverage.unused.items())]
        return "\n".join(lines)


def load_backbone(
    name: str | os.PathLike[str], format: str = "auto", trust_pickle: bool = False
) -> Backbone:
    """Load the backbone of any checkpoint, completely or not at all.

    Args:
        name: a local path, ``https://…``, ``virtex://NAME``, ``torchvision://resnet50``,
            ``random:resnet50?seed=0``, or a name of another registered source.
        format: a name of the format table; ``auto`` uses the zoo entry's, else detects it.
        trust_pickle: allow a pickle to run code.

    Returns:
        A backbone of finite float32 tensors on the CPU, independent of the file, with BatchNorm
        counters of 0 where the file has none.

    Raises:
        CheckpointError: it is incomplete; the message names the tensors and shows coverage.
        UnsupportedArchitectureError: no family can build the network.
    """
    found = inspect_checkpoint(name, format, trust_pickle)
    if found.error:
        raise found.error
    assert found.arch and found.input and found.coverage and found.tensors
    source = Source(
        found.requested, found.path, found.sha256, found.format, found.coverage, found.notes
    )
    return Backbone(found.arch, found.tensors, found.input, source)


def inspect_checkpoint(
    name: str | os.PathLike[str], format: str = "auto", trust_pickle: bool = False
) -> Inspection:
    """Collect everything known about a checkpoint, complete or not.

    The arguments are those of ``load_backbone``.

    Raises:
        CheckpointError: the format is unknown, or the file was not found or cannot be opened.
    """
    name = os.fspath(name)
    if format != "auto":
        get_format(format)  # report a mistyped name before anything is downloaded
    source = resolve_source(name)
    path, format = source.path, source.format if format == "auto" else format
    opened = open_checkpoint(path, trust_pickle)
    found = Inspection(redact(name), path, opened.size, opened.sha256)
    try:
        parsed = detect_format(
            opened.content, format, opened.flat, read_names(opened.content, path)
        )
        row = parsed.format
        assert parsed.arch is not None  # otherwise detect_format raises
        found = replace(found, format=row.name, project=row.project)
        stated = read_statements(opened.content, path, row.sidecars)
        spec, arch, notes = resolve_input(row, parsed.arch, stated, format != "auto")
        expected = expected_shapes(arch)
        if source.arch not in ("", arch.name):
            raise CheckpointError(
                f"{source.stated_by} declares a {source.arch}, but the checkpoint contains a "
                f"{arch.name}; correct the declaration",
                code="checkpoint.unexpected_architecture",
            )
    except UserError as error:
        return replace(found, error=_with_path(error, path))
    if source.input not in (None, spec):
        spec = source.input
        notes = [*notes, f"input from {Path(source.stated_by).name}"]
    coverage = compute_coverage(expected, parsed.tensors, parsed.unused, get_family(arch).get_stage)
    found = replace(
        found,
        arch=arch,
        input=spec,
        coverage=coverage,
        notes=(*source.notes, *filter(None, [row.note]), *notes, *_conversions(parsed)),
    )
    try:
        return replace(found, tensors=_load_tensors(parsed, expected, found))
    except UserError as error:
        return replace(found, error=_with_path(error, f"{path} ({row.name}, {arch.name})"))


def _with_path(error: UserError, path: str) -> UserError:
    return type(error)(f"{path}: {error}", code=error.code)


def _load_tensors(
    parsed: ParsedCheckpoint, expected: dict[str, tuple[int, ...]], found: Inspection
) -> dict[str, Tensor]:
    """Return finite float32 tensors independent of the file."""
    assert found.coverage is not None
    if not found.coverage.complete:
        missing = sum(len(stage.missing) for stage in found.coverage.stages.values())
        mismatched = sum(len(stage.mismatched) for stage in found.coverage.stages.values())
        raise CheckpointError(
            f"{missing} of {len(expected)} backbone tensors missing, {mismatched} with a different "
            "shape; get the complete file, or choose another --format\n"
            f"{coverage_table(found.coverage)}\n"
            f"{coverage_problems(found.coverage, expected, parsed.tensors)}",
            code="checkpoint.incomplete",
        )
    if 4 * sum(map(math.prod, expected.values())) > _MIN_MEMORY + _MEMORY_PER_BYTE * found.size:
        raise CheckpointError(
            f"its tensors would need far more memory than the file's {found.size} bytes can fill; "
            "save the weights again as plain tensors",
            code="checkpoint.unreadable",
        )
    not_floating = [
        name
        for name in expected
        if not all(map(_is_floating, _stored_tensors(parsed.tensors[name])))
    ]
    if not_floating:
        raise CheckpointError(
            f"expected floating-point tensors, found others in {_first_names(not_floating)}; save "
            "plain weights",
            code="checkpoint.not_floating_point",
        )
    tensors = {}
    for name in expected:
        try:
            tensors[name] = _load_tensor(parsed.tensors[name])
        except (RuntimeError, TypeError) as error:  # a dtype that torch cannot convert
            raise CheckpointError(
                f"{name} has a dtype that cannot be converted to float32: {error}",
                code="checkpoint.not_floating_point",
            ) from error
        if name.endswith(".running_var"):
            counter = name.removesuffix("running_var") + BATCH_COUNTER
            tensors[counter] = torch.tensor(_batch_count(parsed.tensors.get(counter)))
    bad = [name for name in expected if not _is_finite(tensors[name])]
    if bad:
        raise CheckpointError(
            f"NaN or infinite values in {_first_names(bad)}; use a checkpoint from before the "
            "training diverged",
            code="checkpoint.not_finite",
        )
    return tensors


def _stored_tensors(value: Any) -> list[Any]:
    """Return the tensors of the file from which one of the network is computed, mostly itself."""
    return list(value.parts.values()) if isinstance(value, Derived) else [value]


def _load_tensor(value: Tensor | np.ndarray | Derived) -> Tensor:
    """Return a float32 tensor independent of the file."""
    if isinstance(value, Derived):
        computed = value.compute(*map(_as_float32, value.parts.values()))
        assert computed.shape == value.shape, (computed.shape, value.shape)
        return computed.contiguous()
    return _as_float32(value)


def _is_floating(value: Tensor | np.ndarray) -> bool:
    if isinstance(value, Tensor):
        dense = value.layout == torch.strided and not value.is_meta
        return dense and value.is_floating_point()
    return np.issubdtype(np.asarray(value).dtype, np.floating)


def _as_float32(value: Tensor | np.ndarray) -> Tensor:
    """Return a copy; values too large for float32 become infinite."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=torch.float32).copy_(value.detach())
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _batch_count(value: Tensor | np.ndarray | None) -> int:
    """Return the number of batches a BatchNorm has seen, 0 if unknown; no forward pass reads it."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_meta and value.dtype in _COUNTERS
        value = value.detach().numpy() if plain and value.numel() == 1 else None
    if value is None or value.size != 1 or value.dtype.kind not in "iuf":
        return 0
    count = float(value.reshape(-1)[0])
    return int(count) if 0 <= count < 2**53 else 0


def _is_finite(tensor: Tensor) -> bool:
    lowest, highest = torch.aminmax(tensor)  # NaN if any is; several times faster than isfinite
    return bool(lowest.isfinite() and highest.isfinite())


def _conversions(parsed: ParsedCheckpoint) -> list[str]:
    """Return notes on tensors that are not stored as float32."""
    types = {
        value.dtype.name if isinstance(value, np.ndarray) else str(value.dtype)
        for name, stored in parsed.tensors.items()
        if not name.endswith(f".{BATCH_COUNTER}")
        for value in _stored_tensors(stored)
    }
    other = sorted(name.removeprefix("torch.") for name in types)
    return [] if other == ["float32"] else [f"stored as {', '.join(other)}, loaded as float32"]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more

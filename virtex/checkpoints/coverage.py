"""What of a backbone a file filled, stage by stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from virtex.checkpoints.backbone import STAGES, Coverage, StageCoverage

_LAYER = re.compile(r"layer([1-4])\.")


def stage_of(name: str) -> str:
    """The stage of a tensor by its torchvision name: ``layer1`` is res2; before it is the stem."""
    match = _LAYER.match(name)
    return f"res{int(match[1]) + 1}" if match else "stem"


def cover(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], unused: Mapping[str, int]
) -> Coverage:
    """Compare what a backbone must have with what there is.

    Args:
        expected: name -> shape of every tensor of the backbone.
        found: name -> tensor or array.
        unused: group of tensors left out -> how many.
    """
    stages = {}
    for stage in STAGES:
        names = tuple(name for name in expected if stage_of(name) == stage)
        missing = tuple(name for name in names if name not in found)
        mismatched = tuple(
            name
            for name in names
            if name in found and tuple(found[name].shape) != tuple(expected[name])
        )
        bad = {*missing, *mismatched}
        loaded = tuple(name for name in names if name not in bad)
        stages[stage] = StageCoverage(names, loaded, missing, mismatched)
    return Coverage(stages, dict(unused))


def coverage_table(coverage: Coverage) -> str:
    """The stages as a text table: expected, loaded, missing, of another shape."""
    header = ("stage", "expected", "loaded", "missing", "other shape")
    rows = [
        (name, *(len(part) for part in (s.expected, s.loaded, s.missing, s.mismatched)))
        for name, s in coverage.stages.items()
    ]
    rows.append(
        ("total", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
    )
    lines = ["  ".join(header)]
    for name, *counts in rows:
        cells = [f"{count:>{len(title)}}" for count, title in zip(counts, header[1:], strict=True)]
        lines.append("  ".join([f"{name:<{len(header[0])}}", *cells]))
    return "\n".join(lines)


def whats_wrong(
    coverage: Coverage, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]
) -> str:
    """Missing tensors by name, tensors of another shape with both shapes; forty lines at most."""
    lines = []
    for stage in coverage.stages.values():
        lines += [f"missing: {name}" for name in stage.missing]
        lines += [
            f"other shape: {name} is {tuple(found[name].shape)}, expected {expected[name]}"
            for name in stage.mismatched
        ]
    if len(lines) > 40:
        lines[39:] = [f"and {len(lines) - 39} more"]
    return "\n".join(lines)

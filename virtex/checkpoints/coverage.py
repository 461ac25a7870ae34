"""Coverage: the backbone tensors that a checkpoint provides, by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LINES = 40  # of a list of missing and mismatched tensors


@dataclass(frozen=True)
class StageCoverage:
    """Tensor names of one stage: expected, loaded, missing, and mismatched in shape."""

    expected: tuple[str, ...]
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """The backbone tensors that a file provides, and the file's tensors that are unused.

    Attributes:
        stages: stage (of a ResNet: stem, res2 … res5) -> ``StageCoverage``.
        unused: name of a group of unused tensors (``fc``, ``module.encoder_k``) -> count.
    """

    stages: dict[str, StageCoverage]
    unused: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(not s.missing and not s.mismatched for s in self.stages.values())

    def as_dict(self) -> dict[str, Any]:
        """Return counts for the result record, with names of missing and mismatched tensors."""
        return {
            "complete": self.complete,
            "stages": {
                name: {
                    "expected": len(stage.expected),
                    "loaded": len(stage.loaded),
                    "missing": list(stage.missing),
                    "mismatched": list(stage.mismatched),
                }
                for name, stage in self.stages.items()
            },
            "unused": dict(self.unused),
        }


def compute_coverage(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Any],
    unused: Mapping[str, int],
    group_of: Callable[[str], str],
) -> Coverage:
    """Compare the tensors a backbone must have with those found.

    Args:
        expected: name -> shape of every tensor of the backbone.
        found: name -> tensor or array.
        unused: group of unused tensors -> count.
        group_of: name -> stage.
    """
    groups: dict[str, tuple[list[str], ...]] = {}
    for name, shape in expected.items():
        all_names, loaded, missing, mismatched = groups.setdefault(group_of(name), ([], [], [], []))
        all_names.append(name)
        if name not in found:
            missing.append(name)
        else:
            (loaded if tuple(found[name].shape) == tuple(shape) else mismatched).append(name)
    stages = {group: StageCoverage(*map(tuple, names)) for group, names in groups.items()}
    return Coverage(stages, dict(unused))


def coverage_table(coverage: Coverage) -> str:
    """Return a text table of counts by group."""
    header = ("group", "expected", "loaded", "missing", "mismatched")
    rows = {
        name: [len(part) for part in (s.expected, s.loaded, s.missing, s.mismatched)]
        for name, s in coverage.stages.items()
    }
    rows["total"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    width = max(map(len, [header[0], *rows]))
    lines = ["  ".join([f"{header[0]:<{width}}", *header[1:]])]
    for name, counts in rows.items():
        cells = [f"{count:>{len(title)}}" for count, title in zip(counts, header[1:], strict=True)]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)


def coverage_problems(
    coverage: Coverage, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]
) -> str:
    """Return the missing tensors and both shapes of mismatched ones, at most ``MAX_LINES``."""
    lines = []
    for stage in coverage.stages.values():
        lines += [f"missing: {name}" for name in stage.missing]
        lines += [
            f"mismatched: {name} has shape {tuple(found[name].shape)}, expected {expected[name]}"
            for name in stage.mismatched
        ]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"and {len(lines) - MAX_LINES + 1} more"]
    return "\n".join(lines)

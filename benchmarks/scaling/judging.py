"""How a measured quantity grows with its size, and whether it may."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scaling.measuring import Measured, Subject

ALLOWED = 1.15  # n log n has a slope of 1.1 at these sizes, and nothing is measured exactly
SHORTEST = 0.25  # seconds of the largest, below which what does not grow rules
SMALLEST = 30e6  # bytes, below which memory does not matter


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        seconds, processor, memory: slopes; None where there is too little to tell.
    """

    seconds: float | None
    processor: float | None
    memory: float | None

    @property
    def sound(self) -> bool:
        """Nothing grows faster than it may.

        A busy machine, or files that do not fit its memory, raise the slope of seconds alone; more
        work raises both.
        """
        time = [value for value in (self.seconds, self.processor) if value is not None]
        return min(time, default=0) <= ALLOWED and (self.memory or 0) <= ALLOWED

    def __str__(self) -> str:
        slopes = {"time": self.seconds, "processor": self.processor, "memory": self.memory}
        said = [f"{what} {slope:.2f}" for what, slope in slopes.items() if slope is not None]
        if not said:
            return "too quick to tell"
        grows = "no worse than linear" if self.sound else f"WORSE than linear ({ALLOWED} is)"
        return f"slope of {', of '.join(said)}: {grows}"


def judged(subject: Subject, rows: Sequence[Measured]) -> dict[str, Verdict]:
    """A verdict on each part that was measured at three sizes or more."""
    verdicts = {}
    for name in subject.parts:
        own = upper_half([row for row in rows if row.part == name])
        if len(own) < 3:
            continue
        sizes = [row.size for row in own]
        taken = [row.seconds for row in own], [row.processor for row in own]
        long_enough = min(map(max, taken)) >= SHORTEST
        seconds, processor = (slope(sizes, values) if long_enough else None for values in taken)
        memory = [row.own or 0 for row in own]
        of_memory = slope(sizes, memory) if min(memory) >= SMALLEST else None
        verdicts[name] = Verdict(seconds, processor, of_memory)
    return verdicts


def upper_half(rows: Sequence[Measured]) -> Sequence[Measured]:
    """The larger half of the sizes, three at least."""
    return rows[-max(3, math.ceil(len(rows) / 2)) :]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """By least squares, of log(value) over log(size)."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)


def table_text(
    name: str, subject: Subject, rows: Sequence[Measured], verdicts: dict[str, Verdict]
) -> str:
    """A subject as Markdown: a row a size, three columns a part, a verdict a part below."""
    parts = [part for part in subject.parts if any(row.part == part for row in rows)]
    found = {(row.part, row.size): row for row in rows}
    sizes = sorted({row.size for row in rows})
    lines = [f"## {name}", "", f"{subject.what}", ""]
    lines.append(
        f"| {' | '.join([subject.unit, 'part', 'seconds', 'processor', 'memory', 'resident'])} |"
    )
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: |")
    for part in parts:
        for size in sizes:
            row = found.get((part, size))
            if row is not None:
                memory = f"{in_megabytes(row.own)} | {in_megabytes(row.resident)}"
                time = f"{row.seconds:.3f} | {row.processor:.3f}"
                lines.append(f"| {size} | {part} | {time} | {memory} |")
    lines.append("")
    for part, verdict in verdicts.items():
        reference = "" if subject.parts[part].judged else " (not judged)"
        lines.append(f"- {part}{reference}: {verdict}")
    return "\n".join([*lines, ""])


def in_megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f} MB"

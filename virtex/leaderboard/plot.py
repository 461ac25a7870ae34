"""A chart: a panel a column, a bar a model, best first."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.errors import UserError
from virtex.leaderboard.columns import Column
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Cell, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# suffix -> metadata without which the same table gives the same bytes
FORMATS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
MOST_BARS = 30  # in a panel
MOST_PANELS = 40
LONGEST_NAME = 60  # characters
TITLE_LINE = 34  # characters: what fits over the bars beside the longest names
BREAK = re.compile(r"(?<=[/_])")  # where a word may be broken
WIDTH = 7.6  # inches, of a panel
BAR = 0.28  # inches
MARGIN = 0.15  # inches, around the whole and each panel
MEASURED, BEST, PUBLISHED, EDGE = "#7c9cc4", "#2b5c9e", "#e4e0d8", "#8d877b"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "virtex",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "hatch.linewidth": 0.5,
}


def check_plot_path(path: Path) -> None:
    """Raises UserError: there is no chart of this file's kind."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {path} must end in {', '.join(FORMATS)}")


def plot_bytes(table: Table, suffix: str, title: str = "Leaderboard") -> bytes:
    """The chart of a table as a file's content.

    Args:
        suffix: ``".png"``, ``".svg"`` or ``".pdf"``.

    Raises:
        UserError: there is no number to draw.
    """
    if not table.columns:
        raise UserError("--plot: the metrics that rank are not defined in these results")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = table.columns[:MOST_PANELS]
    across = min(2, len(columns))
    cells = table.by_column()
    panels = [(column, ranked(column, cells[column])) for column in columns]
    depths = [  # bars in each row of panels
        max(3, *(min(len(bars), MOST_BARS) for _, bars in panels[start : start + across]))
        for start in range(0, len(panels), across)
    ]
    heights = [depth * BAR + 0.7 for depth in depths]
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        layout = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        figure = Figure((WIDTH * across, sum(heights) + 0.7), layout=layout)
        axes = figure.subplots(
            math.ceil(len(panels) / across),
            across,
            squeeze=False,
            gridspec_kw={"height_ratios": heights},
        ).flatten()
        for number, (column, bars) in enumerate(panels):
            draw_panel(axes[number], column, bars, depths[number // across])
        for place in axes[len(panels) :]:
            place.set_axis_off()
        if len(table.columns) > MOST_PANELS:
            title += f" (the first {MOST_PANELS} of {len(table.columns)} columns)"
        figure.suptitle(
            printable(title),
            x=MARGIN / (WIDTH * across),
            ha="left",
            weight="bold",
            size=12,
            parse_math=False,
        )
        buffer = io.BytesIO()
        kind = suffix.lower()
        figure.savefig(buffer, format=kind[1:], metadata=FORMATS[kind], dpi=120)
    return buffer.getvalue()


def ranked(column: Column, cells: Iterable[tuple[Row, Cell]]) -> list[tuple[Row, Cell]]:
    """A column's rows with their cells, best first."""
    sign = -1 if column.higher_is_better else 1
    return sorted(cells, key=lambda pair: sign * pair[1].mean)


def draw_panel(axes: Axes, column: Column, bars: list[tuple[Row, Cell]], depth: int) -> None:
    """Bars from the top down, as thick as if there were ``depth`` of them."""
    shown = bars[:MOST_BARS]
    best = next((row for row, _ in shown if row.model), None)
    colors = [BEST if row is best else MEASURED if row.model else PUBLISHED for row, _ in shown]
    axes.barh(
        range(len(shown)),
        [cell.mean for _, cell in shown],
        0.72,
        xerr=[cell.spread or math.nan for _, cell in shown],
        color=colors,
        edgecolor=[EDGE if color == PUBLISHED else color for color in colors],
        hatch=["////" if color == PUBLISHED else "" for color in colors],
        linewidth=0.6,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )
    for place, (_, cell) in enumerate(shown):
        end = max(cell.mean, 0) + (cell.spread or 0)
        text = f"{cell.mean:.2f}" + (f" ± {cell.spread:.2f}" if cell.spread else "")
        axes.annotate(
            text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", size=8
        )
    axes.set_yticks(range(len(shown)), [bar_name(row) for row, _ in shown])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(depth - 0.5, -0.5)
    axes.margins(x=0.25)
    if all(cell.mean >= 0 for _, cell in shown):
        axes.set_xlim(left=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)  # each bar says its number
    title = f"{column.conditions.task} {column.metric}"
    if len(bars) > MOST_BARS:
        title += f" (best {MOST_BARS} of {len(bars)})"
    lines = [*wrapped(printable(title)), *wrapped(printable(column.setting))]
    axes.set_title("\n".join(lines), loc="left", parse_math=False)


def wrapped(text: str) -> list[str]:
    """Lines of whole words; one that is longer than a line ends after "/" or "_", if it can."""
    pieces: list[str] = []
    for word in text.split():
        parts = BREAK.split(word) if len(word) > TITLE_LINE else [word]
        parts[-1] += " "
        pieces += [p[n : n + TITLE_LINE] for p in parts for n in range(0, len(p), TITLE_LINE)]
    lines = [""]
    for piece in pieces:
        if len(lines[-1] + piece.rstrip()) > TITLE_LINE:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines if line.strip()]


def bar_name(row: Row) -> str:
    """The row's name, in the middle shortened, so that both of its ends are seen."""
    name = printable(row.name)
    if len(name) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        name = f"{name[: half - 1]}…{name[-half:]}"
    return f"{name} (published)" if row.model is None else name

"""Draw a chart: one panel per column, one bar per model, best first."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from virtex.errors import UserError
from virtex.leaderboard.records import printable
from virtex.leaderboard.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# suffix -> metadata without which the same table gives the same bytes
FORMATS: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
MAX_BARS = 30  # in a panel
MAX_PANELS = 40
MAX_NAME = 60  # characters
TITLE_LINE = 34  # characters that fit over the bars next to the longest names
WIDTH = 7.6  # inches, of a panel
BAR = 0.28  # inches
MARGIN = 0.15  # inches, around the figure and each panel
MEASURED, BEST, PUBLISHED, EDGE = "#7c9cc4", "#2b5c9e", "#e4e0d8", "#8d877b"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "virtex",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "hatch.linewidth": 0.5,
}


def check_plot_path(path: Path) -> None:
    """Raise UserError unless the path ends in one of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {path} must end in {', '.join(FORMATS)}", "leaderboard.output")


def plot_bytes(table: Table, suffix: str, title: str = "Leaderboard") -> bytes:
    """Return the chart of a table as the content of a file.

    Args:
        suffix: ``".png"``, ``".svg"`` or ``".pdf"``.

    Raises:
        UserError: no primary metric is defined.
    """
    if not table.columns:
        raise UserError(
            "--plot: no primary metric is defined in these results", "leaderboard.no_results"
        )
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [rank(table, number) for number in range(min(len(table.columns), MAX_PANELS))]
    across = min(2, len(panels))
    depths = [  # bars in each row of panels
        max(3, *(min(len(bars), MAX_BARS) for bars in panels[start : start + across]))
        for start in range(0, len(panels), across)
    ]
    heights = [depth * BAR + 0.7 for depth in depths]
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # a name in a script that the font does not have is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        layout = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
        figure = Figure((WIDTH * across, sum(heights) + 0.7), layout=layout)
        axes = figure.subplots(
            len(depths), across, squeeze=False, gridspec_kw={"height_ratios": heights}
        ).flatten()
        for number, bars in enumerate(panels):
            draw_panel(axes[number], table, number, bars, depths[number // across])
        for place in axes[len(panels) :]:
            place.set_axis_off()
        if len(table.columns) > MAX_PANELS:
            title += f" (the first {MAX_PANELS} of {len(table.columns)} columns)"
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


def rank(table: Table, number: int) -> pd.DataFrame:
    """Return the cells of a column, best first."""
    cells = table.cells[table.cells["column"] == number]
    ascending = not table.columns[number].higher_is_better
    return cells.sort_values("mean", ascending=ascending, kind="stable")


def draw_panel(axes: Axes, table: Table, number: int, cells: pd.DataFrame, depth: int) -> None:
    """Draw bars from the top down, with a thickness for ``depth`` of them."""
    column, shown = table.columns[number], cells[:MAX_BARS]
    spread = shown["std"].fillna(0)
    colors = [
        PUBLISHED if cell.n == 0 else BEST if cell.best else MEASURED for cell in shown.itertuples()
    ]
    axes.barh(
        range(len(shown)),
        shown["mean"],
        0.72,
        xerr=spread.mask(spread == 0, math.nan),
        color=colors,
        edgecolor=[EDGE if color == PUBLISHED else color for color in colors],
        hatch=["////" if color == PUBLISHED else "" for color in colors],
        linewidth=0.6,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )
    for place, (mean, std) in enumerate(zip(shown["mean"], spread, strict=True)):
        text = f"{mean:.2f}" + (f" ± {std:.2f}" if std else "")
        end = max(mean, 0) + std, place
        axes.annotate(text, end, (4, 0), textcoords="offset points", va="center", size=8)
    names = [bar_name(table.rows[row]) for row in shown["row"]]
    axes.set_yticks(range(len(shown)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(depth - 0.5, -0.5)
    axes.margins(x=0.25)
    if (shown["mean"] >= 0).all():
        axes.set_xlim(left=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)  # each bar has its number next to it
    title = f"{column.conditions.task} {column.metric}"
    if len(cells) > MAX_BARS:
        title += f" (best {MAX_BARS} of {len(cells)})"
    lines = [
        *textwrap.wrap(printable(title), TITLE_LINE, max_lines=2, placeholder="…"),
        *textwrap.wrap(printable(column.setting), TITLE_LINE, max_lines=4, placeholder="…"),
    ]
    axes.set_title("\n".join(lines), loc="left", parse_math=False)


def bar_name(row: Row) -> str:
    """Return the row's name, shortened in the middle so that both of its ends are visible."""
    name = printable(row.name)
    if len(name) > MAX_NAME:
        half = MAX_NAME // 2
        name = f"{name[: half - 1]}…{name[-half:]}"
    return f"{name} (published)" if row.model is None else name

"""Charts: the format that is asked for, the same bytes each time, readable at any size."""

import re

import pytest

from tests.leaderboard.board_records import record, write
from virtex import leaderboard
from virtex.errors import UserError
from virtex.leaderboard.plot import MOST_BARS, TITLE_LINE, bar_name, wrapped

LR = ("SOLVER.BASE_LR", 0.02, 0.01, "scaled")
STARTS = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.fixture
def table(tmp_path):
    def make(*records, **options):
        return leaderboard.make([write(tmp_path / "results", *records)], **options).table

    return make


@pytest.mark.parametrize("suffix", STARTS)
def test_each_format_is_written_the_same_twice(table, tmp_path, suffix):
    made = table(record("m"), record("m", seed=1, value=80.0), record("n"), published=True)
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        leaderboard.write_plot(made, path, "A title")
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(STARTS[suffix])
    assert first == second


def texts_of(path):
    """What is written in a chart: matplotlib says each text in a comment beside its outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_a_chart_has_a_panel_for_each_column_and_says_the_numbers(table, tmp_path):
    made = table(
        record("m", value=88.0), record("m", value=89.0, seed=1), record("n", "coco", 40.0)
    )
    leaderboard.write_plot(made, tmp_path / "a.svg", "Transfer")
    texts = texts_of(tmp_path / "a.svg")
    assert {"Transfer", "coco bbox/AP", "voc07_svm mAP", "m", "n"} <= set(texts)
    assert {"88.50 ± 0.71", "40.00"} <= set(texts)
    assert not any("AP50" in text for text in texts)


def test_equal_seeds_have_no_error_bar(table, tmp_path):
    charts = []
    for seed in range(2):  # the second time there are two
        path = tmp_path / f"{seed}.svg"
        leaderboard.write_plot(table(record("m", value=88.0, seed=seed)), path)
        charts.append(path.read_text())
    assert "88.00" in texts_of(path)
    assert charts[0] == charts[1]


def test_a_panels_setting_has_lines_of_its_own(table, tmp_path):
    runs = [record("m", "coco", protocol="coco_mask_rcnn_R_50_FPN_1x", deviations=[LR])]
    leaderboard.write_plot(table(*runs), tmp_path / "a.svg")
    texts = texts_of(tmp_path / "a.svg")
    start = texts.index("coco bbox/AP")
    assert texts[start + 1 : start + 3] == [
        "coco_mask_rcnn_R_50_FPN_1x,", "SOLVER.BASE_LR=0.01"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("toy, SOLVER.BASE_LR=0.01", ["toy, SOLVER.BASE_LR=0.01"]),
        ("one_" * 10 + "end/" + "two" * 4, ["one_" * 8, "one_" * 2 + "end/" + "two" * 4]),
        ("x" * 80, ["x" * TITLE_LINE, "x" * TITLE_LINE, "x" * (80 - 2 * TITLE_LINE)]),
    ],
)
def test_a_title_is_broken_at_sensible_places(text, lines):
    assert wrapped(text) == lines


def test_the_title_is_not_at_the_edge(table, tmp_path):
    leaderboard.write_plot(table(record("m")), tmp_path / "a.svg", "Transfer")
    svg = (tmp_path / "a.svg").read_text()
    place = re.search(r"<!-- Transfer -->.*?translate\(([\d.]+) ([\d.]+)\)", svg, re.S)
    left, baseline = map(float, place.groups())  # points
    assert left >= 10
    assert baseline >= 18


def test_published_bars_are_named_so(table, tmp_path):
    leaderboard.write_plot(table(record("m"), published=True), tmp_path / "a.svg")
    texts = texts_of(tmp_path / "a.svg")
    assert any(text.endswith("(published)") for text in texts)
    assert "m" in texts


def test_of_many_models_the_best_are_drawn_and_the_panel_says_so(table, tmp_path):
    runs = [record(f"model {n:03}", value=float(n)) for n in range(MOST_BARS + 10)]
    leaderboard.write_plot(table(*runs), tmp_path / "a.svg")
    texts = texts_of(tmp_path / "a.svg")
    bars = [text for text in texts if text.startswith("model ")]
    assert len(bars) == MOST_BARS
    assert (bars[0], bars[-1]) == ("model 039", "model 010")
    assert f"(best {MOST_BARS} of {MOST_BARS + 10})" in " ".join(texts)


def test_names_are_no_formulas_and_keep_both_ends(table, tmp_path):
    made = table(record("$x^2$ " + "m" * 80 + "_end.pth"), record("$\\bad$"))
    leaderboard.write_plot(made, tmp_path / "a.svg")
    long = next(bar_name(row) for row in made.rows if "end" in row.name)
    assert long.endswith("_end.pth")
    assert len(long) == 60
    assert "$\\bad$" in texts_of(tmp_path / "a.svg")


def test_a_chart_of_many_columns_is_not_beyond_all_size(table, tmp_path):
    runs = [record("m", deviations=[("A", 0, n, "override")], seed=n) for n in range(60)]
    leaderboard.write_plot(table(*runs), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 2e6


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_format_is_refused(table, tmp_path, name):
    with pytest.raises(UserError, match=r"must end in \.png, \.svg, \.pdf"):
        leaderboard.write_plot(table(record()), tmp_path / name)
    assert not (tmp_path / name).exists()

"""Charts: the format that is asked for, the same bytes each time, readable at any size."""

import re

import pytest

from tests.leaderboard.board_records import record, write
from virtex import leaderboard
from virtex.errors import UserError
from virtex.leaderboard.plot import MOST_BARS, bar_name

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
    assert {"Transfer", "coco/bbox/AP", "voc07_svm/mAP", "m", "n"} <= set(texts)
    assert {"88.50 ± 0.71", "40.00"} <= set(texts)
    assert not any("AP50" in text for text in texts)


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
    assert len(long) <= 40
    assert "$\\bad$" in texts_of(tmp_path / "a.svg")


def test_a_chart_of_many_columns_is_not_beyond_all_size(table, tmp_path):
    runs = [record("m", departures=[("A", 0, n, "override")], seed=n) for n in range(60)]
    leaderboard.write_plot(table(*runs), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 2e6


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_format_is_refused(table, tmp_path, name):
    with pytest.raises(UserError, match=r"must end in \.png, \.svg, \.pdf"):
        leaderboard.write_plot(table(record()), tmp_path / name)
    assert not (tmp_path / name).exists()

"""Charts: the requested format, the same bytes each time, readable at any size."""

import re

import pytest

from tests.errors import raises_code
from tests.leaderboard.board_records import LR, record
from virtex import leaderboard
from virtex.leaderboard.plot import MAX_BARS, bar_name

STARTS = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def texts_of(path):
    """Texts of an SVG, which matplotlib repeats in comments."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


@pytest.mark.parametrize("suffix", STARTS)
def test_same_table_gives_the_same_bytes(table, tmp_path, suffix):
    made = table(record("m"), record("m", seed=1, value=80.0), record("n"))
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        leaderboard.write_plot(made, path, "A title")
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(STARTS[suffix])
    assert first == second


def test_chart_has_a_panel_per_column_with_its_numbers(table, tmp_path):
    made = table(
        record("m", value=88.0),
        record("m", value=89.0, seed=1),
        record("n", "coco", 40.0, protocol="coco_mask_rcnn_R_50_FPN_1x", overrides=[LR]),
        *(record("$\\bad$", value=80.0, seed=seed) for seed in range(2)),
        published=True,
    )
    leaderboard.write_plot(made, tmp_path / "a.svg", "Transfer")
    texts = texts_of(tmp_path / "a.svg")
    expected = {
        "Transfer", "voc07_svm mAP", "m", "88.50 ± 0.71", "40.00", "$\\bad$", "80.00"
    }  # fmt: skip
    assert expected <= set(texts)
    assert not any("AP50" in text for text in texts)
    assert any(text.endswith("(published)") for text in texts)
    # a setting has lines of its own
    place = texts.index("SOLVER.BASE_LR=0.01")
    assert texts[place - 2 : place] == ["coco bbox/AP", "coco_mask_rcnn_R_50_FPN_1x,"]


def test_best_of_many_models_are_drawn(table, tmp_path):
    long = "m" * 80 + "_end.pth"
    runs = [record(f"model {n:03}", value=float(n)) for n in range(MAX_BARS + 10)]
    made = table(*runs, record(long, value=0.0))
    leaderboard.write_plot(made, tmp_path / "a.svg")
    texts = texts_of(tmp_path / "a.svg")
    bars = [text for text in texts if text.startswith("model ")]
    assert (len(bars), bars[0], bars[-1]) == (MAX_BARS, "model 039", "model 010")
    assert f"(best {MAX_BARS} of {MAX_BARS + 11})" in " ".join(texts)
    [name] = [bar_name(row) for row in made.rows if row.name == long]
    assert name.endswith("_end.pth") and len(name) == 60


def test_chart_of_many_columns_stays_small(table, tmp_path):
    runs = [record("m", overrides=[("A", 0, n, "override")], seed=n) for n in range(41)]
    leaderboard.write_plot(table(*runs), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 2e6


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_format_is_rejected(table, tmp_path, name):
    with raises_code("leaderboard.output", tmp_path / name):
        leaderboard.write_plot(table(record()), tmp_path / name)
    assert not (tmp_path / name).exists()

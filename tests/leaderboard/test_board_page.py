"""The page as a file: whole in itself, escaped, readable without a script."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

from tests.leaderboard.board_records import COCO, record, sha256_of, write
from virtex import leaderboard, zoo
from virtex.leaderboard.page import MOST_SHOWN, page_text

LR = ("SOLVER.BASE_LR", 0.02, 0.01, "scaled")
VIRTEX = "virtex://task_ablations/bicaptioning_R_50_L1_H2048"
HOSTILE = ["<script>alert(1)</script>", "</script><b>", "<!--", "a & b", '" onclick="x', "\u2028"]


@pytest.fixture
def page(tmp_path):
    def make(*records, show_all=False, **options):
        table = leaderboard.make([write(tmp_path, *records)], **options).table
        return page_text(table, "A & <B>", show_all)

    return make


def data_of(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def cells_of(page, row=0):
    """Texts of a row's cells as they stand in the page, without a script."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    line = re.findall(r"<tr.*?</tr>", body, re.S)[row]
    return [
        html.unescape(re.sub("<.*?>", "", cell))
        for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.S)
    ]


class Names(HTMLParser):
    """Tags, and whatever loads something."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]


def parsed(page):
    names = Names()
    names.feed(page)
    return names


def test_the_page_is_whole_in_itself(page):
    text = page(record("m"), published=True)
    assert parsed(text).loads == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", re.sub(r'id="data">.*?</script>', "", text))
    assert "default-src 'none'" in text


def test_the_numbers_are_there_without_a_script(page):
    runs = [record("m", value=value, seed=seed) for seed, value in enumerate((88.0, 89.0))]
    text = page(*runs, record("n", "coco", 40.0))
    assert cells_of(text, 0) == [f"mresnet50 · {sha256_of('m')[:8]}", "", "88.50 ± 0.71 (2)"]
    assert cells_of(text, 1) == [f"nresnet50 · {sha256_of('n')[:8]}", "40.00", ""]


def test_equal_seeds_are_shown_without_a_spread(page):
    text = page(record("m", value=88.0), record("m", value=88.0, seed=1))
    assert cells_of(text)[1:] == ["88.00 (2)"]


def test_columns_with_something_measured_come_first(page):
    data = data_of(page(record("m", "imagenet_linear"), published=True))
    labels = [column["label"] for column in data["columns"]]
    assert labels[:3] == ["imagenet_linear/top1", "imagenet_linear/top5", "coco/bbox/AP"]
    assert [column["measured"] for column in data["columns"]][:3] == [True, True, False]
    assert list(data["rows"][0]["cells"]) == ["0", "1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_record_says_is_text(page, name):
    plain = parsed(page(record("m", deviations=[LR])))
    hostile = record(
        name, deviations=[(f"{name} ", name, name, name)], protocol=name, version=name, format=name
    )
    hostile["environment"] |= {"torch": name, "device": {name: name}}
    hostile["data"] = {name: {"images": name, "annotations_sha256": name}}
    hostile["task"] = name
    hostile["metrics"] = {name: 1.0}
    hostile["primary_metric"] = name
    text = page(hostile)
    found = parsed(text)
    # the second record adds a row and a cell, no other element
    assert set(found.tags) == set(plain.tags)
    assert found.tags.count("script") == 2
    assert name in [row["name"] for row in data_of(text)["rows"]]
    assert "\u2028" not in text.partition('id="data">')[2].partition("</script>")[0]


def test_the_title_is_escaped(page):
    text = page(record())
    assert text.count("A &amp; &lt;B&gt;") == 3
    assert "<B>" not in text


def test_only_ranking_metrics_are_shown_at_first_and_the_others_are_in_the_data(page):
    text = page(record("m", "coco"))
    assert text.count("<td ") == 1
    assert [column["metric"] for column in data_of(text)["columns"]] == [
        "bbox/AP", "bbox/AP50", "segm/AP"
    ]  # fmt: skip
    assert page(show_all=True).count("<td ") == 3


def test_bars_run_from_the_worst_to_the_best(page):
    text = page(*(record(name, value=value) for name, value in (("a", 80), ("b", 85), ("c", 90))))
    assert re.findall(r"--share: (\d+)%", text) == ["6", "53", "100"]


def test_bars_are_longest_for_the_lowest_where_that_is_better(page):
    runs = [
        record(name, "own", value, higher_is_better=False)
        for name, value in (("a", 1.0), ("b", 9.0))
    ]
    text = page(*runs)
    assert re.findall(r"--share: (\d+)%", text) == ["100", "6"]
    assert re.findall(r'class="best"[^>]*>([\d.]+)', text) == ["1.00"]


def test_the_best_measured_number_is_marked_never_a_published_one(page):
    text = page(record("m", value=1.0), record("n", value=2.0), published=True)
    assert re.findall(r'class="best"[^>]*>([\d.]+)', text) == ["2.00"]


def test_published_rows_are_marked_and_say_their_source(page):
    text = page(record("m"), published=True)
    published = re.findall(r'<tr class="published">.*?</tr>', text, re.S)
    assert len(published) == sum(not row["measured"] for row in data_of(text)["rows"])
    assert all('<span class="chip">published</span>' in row for row in published)
    assert any("kdexd/virtex" in row for row in published)


def known_of(page, metric="mAP"):
    """The last part of the first measured cell of a metric: published value, delta, source."""
    data = data_of(page)
    [index] = [n for n, column in enumerate(data["columns"]) if column["metric"] == metric]
    cell = data["rows"][0]["cells"][str(index)]
    return cell[7] if len(cell) > 7 else None


def test_a_measured_zoo_model_is_compared_with_its_published_value(page):
    entry = zoo.matching(VIRTEX, "")
    [published] = [one for one in entry.results if one.metric == "mAP"]
    text = page(
        record(VIRTEX, value=published.value + 0.25),
        record(VIRTEX, value=published.value + 0.75, seed=1),
    )
    assert known_of(text) == [[f"{published.value:.2f}", "+0.50", published.source]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"deviations": [LR]}, None),
        ({"version": "2"}, "nothing"),
        ({"protocol": "paper-voc11"}, "nothing"),
    ],
)
def test_a_run_that_departs_is_not_compared(page, change, expected):
    known = known_of(page(record(VIRTEX, value=80.0, **change)))
    assert known is None if expected == "nothing" else known[0][1] is None


def test_details_hold_every_run(page):
    runs = [record("m", value=80.0 + seed, seed=seed) for seed in range(3)]
    runs[1]["metrics"]["AP/cat"] = None
    data = data_of(page(*runs, record("m", deviations=[LR])))
    [row] = data["rows"]
    assert [run[:2] for run in row["runs"]["0"]] == [
        [str(seed), "2026-01-02T03:04:05+00:00"] for seed in range(3)
    ]
    assert row["runs"]["0"][0][2].endswith("/000/result.json")
    assert row["cells"]["0"][6] == [80.0, 81.0, 82.0]
    assert row["cells"]["1"][3] == 2
    assert row["cells"]["1"][6][1] is None
    assert data["groups"][1]["deviations"] == [["SOLVER.BASE_LR", "0.02", "0.01", "scaled"]]
    assert row["sha256"] == sha256_of("m")


def test_an_environment_that_runs_share_is_there_once(page):
    runs = [record("m", seed=seed) for seed in range(3)]
    runs[2]["environment"] = {**runs[2]["environment"], "torch": "9.9"}
    environments = data_of(page(*runs))["environments"]
    assert len(environments) == 2
    assert ["detectron2", "distribution source, version 0.6"] in environments[0]


def test_the_page_does_not_grow_with_what_it_does_not_show(page):
    def size(models):
        runs = [
            record(f"model {model}", task, seed=seed)
            for model in range(models)
            for task in ("coco", "voc07_svm", "imagenet_linear")
            for seed in range(2)
        ]
        return len(page(*runs))

    small, large = size(5), size(50)
    assert (large - small) / (45 * 6) < 700  # characters a record


def test_the_published_protocols_names_are_ours():
    from virtex.leaderboard.columns import TASKS

    names = {(one.task, one.protocol) for one in zoo.published_results()}
    assert ("coco", COCO) in names
    assert {task for task, _ in names} <= set(TASKS)


def test_of_very_many_columns_the_first_are_shown_and_the_page_says_so(page):
    rates = [number / 1000 for number in range(1, MOST_SHOWN + 3)]
    runs = [
        record(deviations=[("SVM.COSTS", 1.0, rate, "override")], task="voc07_svm", seed=number)
        for number, rate in enumerate(rates)
    ]

    assert "columns, the others" not in page(runs[0])
    made = page(*runs)

    assert len(cells_of(made)) == 1 + MOST_SHOWN
    assert f"the first {MOST_SHOWN} of {MOST_SHOWN + 2} columns" in made
    columns = data_of(made)["columns"]
    ranking = [column["shown"] for column in columns if column["primary"]]
    assert ranking == [True] * MOST_SHOWN + [False] * 2

"""The HTML page as a file: self-contained, escaped, readable without a script."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

from tests.leaderboard.board_records import LR, record, sha256_of
from virtex import zoo
from virtex.leaderboard.page import MAX_SHOWN, page_text

VIRTEX = "virtex://task_ablations/bicaptioning_R_50_L1_H2048"
HOSTILE = ["</script><b>", "<!--", "a & b", '" onclick="x', "\u2028", "{{ 7 * 7 }}"]


@pytest.fixture
def page(table):
    def make(*records, show_all=False, **options):
        return page_text(table(*records, **options), "A & <B>", show_all)

    return make


def data_of(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def cells_of(page, row=0):
    """Texts of a row's cells as written, without a script."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    line = re.findall(r"<tr.*?</tr>", body, re.S)[row]
    return [
        html.unescape(re.sub("<.*?>", "", cell)).strip()
        for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.S)
    ]


class Parsed(HTMLParser):
    """Tags, and the attributes that load something."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]


def test_page_is_self_contained(page):
    text = page(record("m"), published=True)
    assert Parsed(text).loads == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", re.sub(r'id="data">.*?</script>', "", text))
    assert "default-src 'none'" in text


def test_numbers_are_readable_without_a_script(page):
    runs = [record("m", value=value, seed=seed) for seed, value in enumerate((88.0, 89.0))]
    runs += [record("equal", value=87.0, seed=seed) for seed in range(2)]
    text = page(*runs, record("n", "coco", 40.0))
    assert cells_of(text, 0) == [f"equalresnet50 · {sha256_of('equal')[:8]}", "", "87.00 (2)"]
    assert cells_of(text, 1) == [f"mresnet50 · {sha256_of('m')[:8]}", "", "88.50 ± 0.71 (2)"]
    assert cells_of(text, 2) == [f"nresnet50 · {sha256_of('n')[:8]}", "40.00", ""]


def test_measured_columns_come_first(page):
    data = data_of(page(record("m", "imagenet_linear"), published=True))
    labels = [column["label"] for column in data["columns"] if column["measured"]]
    assert labels == ["imagenet_linear/top1", "imagenet_linear/top5"]
    assert [column["measured"] for column in data["columns"]][:3] == [True, True, False]
    assert list(data["rows"][0]["cells"]) == ["0", "1"]


@pytest.mark.parametrize("name", HOSTILE)
def test_records_are_inserted_as_text(page, name):
    plain = Parsed(page(record("m", overrides=[LR])))
    hostile = record(
        name, overrides=[(f"{name} ", name, name, name)], protocol=name, version=name, format=name
    )
    hostile["environment"] |= {"torch": name, "device": {name: name}}
    hostile["data"] = {name: {"images": name, "annotations_sha256": name}}
    hostile |= {"task": name, "metrics": {name: 1.0}, "primary_metric": name}
    text = page(hostile)
    found = Parsed(text)
    # The second record adds a row and a cell, no other kind of element.
    assert set(found.tags) == set(plain.tags)
    assert found.tags.count("script") == 2
    assert name in [row["name"] for row in data_of(text)["rows"]]
    assert text.count("A &amp; &lt;B&gt;") == 3
    assert "\u2028" not in text.partition('id="data">')[2].partition("</script>")[0]


def test_primary_metrics_are_shown_first(page):
    text = page(record("m", "coco"))
    assert text.count("<td ") == 1
    metrics = [column["metric"] for column in data_of(text)["columns"]]
    assert metrics == ["bbox/AP", "bbox/AP50", "segm/AP"]
    assert page(show_all=True).count("<td ") == 3


@pytest.mark.parametrize(("higher", "shares"), [(True, [6, 53, 100]), (False, [100, 53, 6])])
def test_bars_run_from_worst_to_best(page, higher, shares):
    runs = [
        record(name, "own", value, higher_is_better=higher)
        for name, value in (("a", 80.0), ("b", 85.0), ("c", 90.0))
    ]
    text = page(*runs)
    assert list(map(int, re.findall(r"--share: (\d+)%", text))) == shares
    best = "90.00" if higher else "80.00"
    assert re.findall(r'class="best"[^>]*>([\d.]+)', text) == [best]


def test_published_rows_are_marked_with_their_source(page):
    text = page(record("m", value=1.0), published=True)
    published = re.findall(r'<tr class="published">.*?</tr>', text, re.S)
    assert len(published) == sum(not row["measured"] for row in data_of(text)["rows"])
    assert all('<span class="chip">published</span>' in row for row in published)
    assert any("kdexd/virtex" in row for row in published)
    assert re.findall(r'class="best"[^>]*>([\d.]+)', text) == ["1.00"]  # measured ones only


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "difference"),
        ({"overrides": [LR]}, "value"),
        ({"version": "9"}, "nothing"),
        ({"protocol": "paper-voc11"}, "nothing"),
    ],
)
def test_zoo_model_is_compared_with_its_published_value(page, change, expected):
    [known] = [one for one in zoo.match_entry(VIRTEX, "").results if one.metric == "mAP"]
    data = data_of(page(record(VIRTEX, value=known.value + 0.5, **change)))
    [index] = [n for n, column in enumerate(data["columns"]) if column["metric"] == "mAP"]
    found = data["rows"][0]["cells"][str(index)].get("published")
    delta = "+0.50" if expected == "difference" else None
    assert found == (
        None if expected == "nothing" else [[f"{known.value:.2f}", delta, known.source]]
    )


def test_counts_have_the_right_number(page):
    one, two = record("m"), record("n")
    assert "1 measured model on 1 task" in page(one)
    assert "2 measured models on 1 task" in page(one, two)


def test_details_hold_every_run(page):
    runs = [record("m", value=80.0 + seed, seed=seed) for seed in range(3)]
    runs[1]["metrics"]["AP/cat"] = None
    runs[2]["environment"]["torch"] = "9.9"
    data = data_of(page(*runs, record("m", overrides=[LR])))
    [row] = data["rows"]
    assert [run[:2] for run in row["runs"]["0"]] == [
        [str(seed), "2026-01-02T03:04:05+00:00"] for seed in range(3)
    ]
    assert row["runs"]["0"][0][2].endswith("/000/result.json")
    assert row["cells"]["0"]["values"] == [80.0, 81.0, 82.0]
    assert (row["cells"]["1"]["n"], row["cells"]["1"]["values"][1]) == (2, None)
    assert data["groups"][1]["overrides"] == [["SOLVER.BASE_LR", "0.02", "0.01", "scaled"]]
    assert row["sha256"] == sha256_of("m")
    # one entry for all runs that share it
    assert len(data["environments"]) == 2
    assert ["detectron2", "distribution own, version 0.6"] in data["environments"][0]


def test_page_grows_linearly_and_slowly(page):
    def size(models):
        runs = [
            record(f"model {model}", task, seed=seed)
            for model in range(models)
            for task in ("coco", "voc07_svm", "imagenet_linear")
            for seed in range(2)
        ]
        return len(page(*runs))

    small, large = size(5), size(25)
    assert (large - small) / (20 * 6) < 800  # characters per record


def test_first_of_many_columns_are_shown(page):
    runs = [
        record(overrides=[("SVM.COSTS", 1.0, number, "override")], seed=number)
        for number in range(MAX_SHOWN + 2)
    ]
    assert "columns, the others" not in page(runs[0])
    made = page(*runs[1:], record(seed=1))
    assert len(cells_of(made)) == 1 + MAX_SHOWN
    assert f"the first {MAX_SHOWN} of {MAX_SHOWN + 3} columns" in made

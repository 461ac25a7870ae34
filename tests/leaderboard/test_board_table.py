"""Which numbers are averaged, which share a column, and what rows and columns are called."""

import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.errors import raises_code
from tests.leaderboard.board_records import COCO, LR, PRIMARY, PROTOCOL, record, sha256_of, write
from virtex import zoo
from virtex.leaderboard.table import build_table
from virtex.leaderboard.text import format_spread
from virtex.tasks import TASKS

STEPS = ("SOLVER.MAX_ITER", 180000, 360000, "scaled")
BATCH = ("SOLVER.IMS_PER_BATCH", 16, 8, "device")


def labels(table):
    return [column.label for column in table.primary().columns]


def cells(table, label):
    """Row -> the cell of a column."""
    [position] = [n for n, column in enumerate(table.columns) if column.label == label]
    found = table.cells[table.cells["column"] == position]
    return {table.rows[cell.row]: cell for cell in found.itertuples()}


def cell(table, name, label):
    [found] = [cell for row, cell in cells(table, label).items() if row.name == name]
    return found


def test_seeds_have_a_mean_and_sample_standard_deviation(table):
    values = [88.1, 88.4, 87.2]
    made = table(*(record("m", value=value, seed=seed) for seed, value in enumerate(values)))
    found = cell(made, "m", "voc07_svm/mAP")
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert found.std == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert found.n == 3
    [runs] = made.rows[0].runs.values()
    assert [run.seed for run in runs] == [0, 1, 2]


def test_one_seed_has_no_standard_deviation(table):
    found = cell(table(record("m", value=88.0)), "m", "voc07_svm/mAP")
    assert (found.mean, found.n) == (88.0, 1)
    assert found.std != found.std
    assert format_spread(found.std, found.n) == []


@pytest.mark.parametrize("value", [88.0, 0.1, 83.7])  # 3 * 0.1 / 3 is not 0.1
def test_equal_seeds_have_no_spread(table, value):
    made = table(*(record("m", value=value, seed=seed) for seed in range(3)))
    found = cell(made, "m", "voc07_svm/mAP")
    assert (found.mean, found.std, found.n) == (value, 0.0, 3)
    assert format_spread(found.std, found.n) == ["(3)"]


def test_undefined_metric_is_not_averaged(table):
    runs = [record("m", seed=seed) for seed in range(3)]
    for run, value in zip(runs, (80.0, None, 90.0), strict=True):
        run["metrics"]["AP/cat"] = value
    found = cell(table(*runs), "m", "voc07_svm/AP/cat")
    assert (found.mean, found.n) == (85.0, 2)


def test_metric_that_is_never_defined_has_no_column(table):
    labels = [column.label for column in table(record("m", "coco")).columns]
    assert "coco/segm/APs" not in labels


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"protocol": "paper-voc11"}, "voc07_svm[paper-voc11]/mAP"),
        ({"version": "9"}, "voc07_svm[paper@9]/mAP"),
        ({"overrides": [LR]}, "voc07_svm[SOLVER.BASE_LR=0.01]/mAP"),
        (
            {"overrides": [STEPS, LR]},
            "voc07_svm[SOLVER.BASE_LR=0.01, SOLVER.MAX_ITER=360000]/mAP",
        ),
        (
            {"protocol": "toy", "version": "9", "overrides": [("A", [1], [2, 3], "override")]},
            "voc07_svm[toy@9, A=[2, 3]]/mAP",
        ),
    ],
)
def test_another_protocol_or_override_has_its_own_column(table, change, label):
    made = table(record("m", value=88.0), record("m", value=1.0, seed=1, **change))
    assert labels(made) == ["voc07_svm/mAP", label]
    assert (cell(made, "m", "voc07_svm/mAP").mean, cell(made, "m", label).mean) == (88.0, 1.0)


def test_variant_of_a_protocol_has_the_version_of_its_task(table):
    made = table(
        record("m", protocol="paper-voc11", version=TASKS["voc07_svm"].default_protocol.version)
    )
    assert labels(made) == ["voc07_svm[paper-voc11]/mAP"]


def test_many_overrides_are_abbreviated_with_a_hash(table):
    found = labels(
        table(
            record(overrides=[STEPS, LR, BATCH]),
            record(overrides=[STEPS, LR, (*STEPS[:2], 9, "x")]),
        )
    )
    assert all(label.startswith("voc07_svm[SOLVER.BASE_LR=0.01 +2 more #") for label in found)
    assert len(set(found)) == 2


def test_order_of_overrides_does_not_matter(table):
    made = table(record("m", overrides=[LR, STEPS]), record("m", overrides=[STEPS, LR], seed=1))
    assert cell(made, "m", labels(made)[0]).n == 2


@pytest.mark.parametrize(
    "other",
    [
        ("SOLVER.BASE_LR", 0.02, "0.01", "scaled"),
        ("SOLVER.BASE_LR", 0.02, 0.01, "override"),
        ("SOLVER.BASE_LR", 0.04, 0.01, "scaled"),
    ],
)
def test_overrides_that_read_the_same_get_a_hash(table, other):
    found = labels(table(record(overrides=[LR]), record(overrides=[other], seed=1)))
    assert len(set(found)) == 2
    assert all(label.startswith("voc07_svm[SOLVER.BASE_LR=0.01, #") for label in found)


def test_long_settings_are_cut_and_stay_distinct(table):
    runs = [
        record(overrides=[("STEPS", [], [*range(40), last], "override")], seed=last)
        for last in range(2)
    ]
    found = labels(table(*runs))
    assert len(set(found)) == 2
    assert all(len(label) < 70 for label in found)


@pytest.mark.parametrize(
    ("data", "apart"),
    [
        ({"voc_2007_test": {"images": 9, "annotations_sha256": "4" * 64}}, True),
        ({"voc_2007_test": {"images": 4952, "annotations_sha256": "f" * 64}}, True),
        ({"voc_2007_trainval": {"images": 40, "annotations_sha256": "3" * 64}}, True),
        ({"voc_2007_trainval": {"images": 5011, "annotations_sha256": "f" * 64}}, True),
        ({"voc_2007_test": {"images": 4952, "annotations_sha256": "4" * 64, "files": 3}}, False),
    ],
)
def test_numbers_on_other_data_never_share_a_column(table, data, apart):
    one, other = record("m"), record("m", seed=1)
    other["data"] |= data
    found = labels(table(one, other))
    assert len(found) == 1 + apart
    assert all(label.startswith("voc07_svm[data ") == apart for label in found)


@pytest.mark.parametrize(
    ("task", "name", "apart"),
    [
        ("imagenet_semi_supervised", "imagenet_train", False),  # drawn by the seed
        ("imagenet_semi_supervised", "imagenet_val", True),
        ("imagenet_semi_supervised", "trains_val", True),
        ("imagenet_knn", "imagenet_train", True),
    ],
)
@pytest.mark.parametrize("key", ["annotations_sha256", "files_sha256"])
def test_only_data_drawn_by_the_seed_may_differ(table, task, name, apart, key):
    one, other = record("m"), record("m", seed=1)
    for number, run in enumerate((one, other)):
        run["task"] = task
        run["data"] = {name: {"images": 100, key: str(number) * 64}}
    assert len(labels(table(one, other))) == 1 + apart


def test_column_labels_are_unique(table):
    inner = record(task="a/b")
    outer = record(task="a", metrics={"b/score": 1.0}, primary_metric="b/score")
    assert len(set(labels(table(inner, outer)))) == 2


def test_columns_have_a_fixed_order(table):
    made = table(
        record(task="zebra"),
        record(task="apes"),
        record(task="imagenet_linear", protocol="cached"),
        record(task="imagenet_linear"),
        record(task="voc07_svm", overrides=[LR]),
        record(task="voc07_svm"),
        record(task="coco"),
    )
    assert [column.label for column in made.columns] == [
        "coco/bbox/AP", "coco/bbox/AP50", "coco/segm/AP",
        "voc07_svm/mAP", "voc07_svm/AP/cat", "voc07_svm/AP/dog",
        "voc07_svm[SOLVER.BASE_LR=0.01]/mAP", "voc07_svm[SOLVER.BASE_LR=0.01]/AP/cat",
        "voc07_svm[SOLVER.BASE_LR=0.01]/AP/dog",
        "imagenet_linear/top1", "imagenet_linear/top5",
        "imagenet_linear[cached]/top1", "imagenet_linear[cached]/top5",
        "apes[own]/score", "zebra[own]/score",
    ]  # fmt: skip


def test_known_tasks_come_from_the_registry(table):
    for task, protocol in PROTOCOL.items():
        assert TASKS[task].default_protocol.name == protocol
        assert TASKS[task].primary_metric == PRIMARY[task]


def test_renamed_file_is_one_row_with_its_newest_name(table):
    made = table(
        record("z_old", sha256="a" * 64, created="2026-01-01T00:00:00+00:00"),
        record("a_new", sha256="a" * 64, seed=1, created="2026-02-01T00:00:00+00:00"),
    )
    [row] = made.rows
    assert row.names == ("a_new", "z_old")
    assert cell(made, "a_new", "voc07_svm/mAP").n == 2


def test_files_with_one_name_are_rows_with_a_hash(table):
    made = table(record("m", sha256="a" * 64), record("m", sha256="b" * 64, seed=1), record("n"))
    assert [row.name for row in made.rows] == ["m (aaaaaaaa)", "m (bbbbbbbb)", "n"]


def test_two_formats_of_a_file_are_two_rows(table):
    made = table(record("m"), record("m", format="torchvision"))
    assert [row.name for row in made.rows] == ["m (moco)", "m (torchvision)"]
    other = record("n")
    other["model"]["input"]["channel_order"] = "BGR"
    names = [row.name for row in table(record("n"), other).rows if row.name.startswith("n (input ")]
    assert len(set(names)) == 2


@pytest.mark.parametrize("higher", [True, False])
def test_best_depends_on_the_direction(table, higher):
    made = table(
        record("a", "own", 3.0, higher_is_better=higher),
        record("b", "own", 2.0, higher_is_better=higher),
    )
    assert made.columns[0].higher_is_better == higher
    best = {row.name: cell.best for row, cell in cells(made, "own[own]/score").items()}
    assert best == {"a": higher, "b": not higher}


def test_model_can_be_labeled_by_name_or_hash(table):
    made = table(
        record("random:resnet50?seed=0"),
        record("b.pth"),
        labels=["random:resnet50?seed=0=Random = none", f"{sha256_of('b.pth')[:8]}=B"],
    )
    assert [row.name for row in made.rows] == ["B", "Random = none"]


@pytest.mark.parametrize("text", ["moco.pth", "=x", "moco=x"])
def test_unknown_label_is_an_error(table, text):
    with raises_code("leaderboard.unknown_label", text):
        table(record("moco.pth"), labels=[text])


def test_tasks_can_be_selected(table):
    made = table(record("m", "coco"), record("n"), tasks=["coco"])
    assert [row.name for row in made.rows] == ["m"]
    with raises_code("leaderboard.unknown_task", "lvis", "coco, voc07_svm"):
        table(tasks=["lvis"])


def test_published_numbers_have_their_own_rows(table):
    known = next(
        result for result in zoo.published_results()
        if (result.entry, result.metric) == ("task_ablations/bicaptioning_R_50_L1_H2048", "mAP")
    )  # fmt: skip
    made = table(record(known.model, value=1.0), published=True)
    found = cells(made, "voc07_svm/mAP")
    measured, published = (cell for row, cell in found.items() if row.name == known.model)
    assert (measured.mean, measured.n, measured.best) == (1.0, 1, True)
    assert (published.mean, published.n, published.best) == (known.value, 0, False)
    assert published.source == known.source
    assert sum(made.cells["n"] == 0) == len(zoo.published_results())


def test_overrides_have_no_published_numbers(table):
    made = table(record("m", overrides=[LR]), published=True)
    assert {row.kind for row in cells(made, "voc07_svm[SOLVER.BASE_LR=0.01]/mAP")} == {"measured"}
    assert {row.kind for row in cells(made, "voc07_svm/mAP")} == {"published"}


def test_published_numbers_are_apart_where_data_differ(table):
    other = record("m", seed=1)
    other["data"]["voc_2007_test"]["annotations_sha256"] = "f" * 64
    made = table(record("m"), other, published=True)
    kinds = {
        label: {row.kind for row in cells(made, label)}
        for label in labels(made)
        if label.startswith("voc07_svm")
    }
    assert kinds.pop("voc07_svm[unknown data]/mAP") == {"published"}
    assert list(kinds.values()) == [{"measured"}, {"measured"}]


def test_second_source_gets_a_second_row():
    results = [
        zoo.PublishedResult(
            model="m", task="coco", protocol=COCO, metric="bbox/AP", value=value, source=source
        )
        for value, source in ((40.0, "one"), (41.0, "two"))
    ]
    made = build_table([], results)
    assert [row.source for row in made.rows] == ["one", "two"]
    assert made.cells["mean"].tolist() == [40.0, 41.0]


def test_neither_torch_nor_matplotlib_is_imported(tmp_path):
    folder = write(tmp_path, record())
    code = (
        "import sys; from virtex import leaderboard; "
        f"table = leaderboard.make([{str(folder)!r}], published=True).table; "
        "leaderboard.write_html(table, sys.argv[1]); "
        "print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_only_the_current_version_is_compared_with_published_numbers(table, monkeypatch):
    task = TASKS["voc07_svm"]
    raised = {name: replace(p, version="8") for name, p in task.protocols.items()}
    monkeypatch.setitem(TASKS, "voc07_svm", replace(task, protocols=raised))
    runs = record("m", version="8"), record("m", version="7", seed=1)
    made = table(*runs, published=True)
    assert [x for x in labels(made) if x.startswith("voc07")][:2] == [
        "voc07_svm/mAP",
        "voc07_svm[paper@7]/mAP",
    ]
    assert len(cells(made, "voc07_svm/mAP")) > 1
    assert len(cells(made, "voc07_svm[paper@7]/mAP")) == 1

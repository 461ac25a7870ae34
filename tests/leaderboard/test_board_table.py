"""Which numbers are averaged, which share a column, and what rows and columns are called."""

import statistics
import subprocess
import sys

import pytest

from tests.leaderboard.board_records import COCO, PRIMARY, PROTOCOL, record, sha256_of, write
from virtex import leaderboard, zoo
from virtex.errors import UserError
from virtex.leaderboard.columns import TASKS
from virtex.tasks import TASKS as REGISTRY

LR = ("SOLVER.BASE_LR", 0.02, 0.01, "scaled")
STEPS = ("SOLVER.MAX_ITER", 180000, 360000, "scaled")
BATCH = ("SOLVER.IMS_PER_BATCH", 16, 8, "device")


@pytest.fixture
def table(tmp_path):
    def make(*records, **options):
        return leaderboard.make([write(tmp_path, *records)], **options).table

    return make


def labels(table):
    return [column.label for column in table.primary().columns]


def cell(table, name, label):
    [row] = [row for row in table.rows if row.name == name]
    [found] = [cell for column, cell in row.cells.items() if column.label == label]
    return found


def test_seeds_are_averaged_with_their_sample_standard_deviation(table):
    values = [88.1, 88.4, 87.2]
    made = table(*(record("m", value=value, seed=seed) for seed, value in enumerate(values)))
    found = cell(made, "m", "voc07_svm/mAP")
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert found.std == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert found.n == 3
    assert [run.seed for run in found.runs] == [0, 1, 2]


def test_one_seed_has_no_standard_deviation(table):
    found = cell(table(record("m", value=88.0)), "m", "voc07_svm/mAP")
    assert (found.mean, found.std, found.n) == (88.0, None, 1)


@pytest.mark.parametrize("value", [88.0, 0.1, 83.7])  # 3 * 0.1 / 3 is not 0.1
def test_equal_seeds_have_a_deviation_of_zero_and_no_spread(table, value):
    made = table(*(record("m", value=value, seed=seed) for seed in range(3)))
    found = cell(made, "m", "voc07_svm/mAP")
    assert (found.mean, found.std, found.n, found.spread) == (value, 0.0, 3, None)


def test_the_least_difference_of_seeds_is_a_spread(table):
    made = table(record("m", value=88.0), record("m", value=88.001, seed=1))
    found = cell(made, "m", "voc07_svm/mAP")
    assert found.spread == found.std > 0


def test_an_undefined_metric_is_left_out_of_mean_and_n(table):
    runs = [record("m", seed=seed) for seed in range(3)]
    for run, value in zip(runs, (80.0, None, 90.0), strict=True):
        run["metrics"]["AP/cat"] = value
    found = cell(table(*runs), "m", "voc07_svm/AP/cat")
    assert (found.mean, found.n) == (85.0, 2)


def test_a_metric_that_is_never_defined_has_no_column(table):
    made = table(record("m", "coco"))
    assert "coco/segm/APs" not in [column.label for column in made.columns]


def test_the_mean_does_not_depend_on_the_order_of_files(tmp_path):
    runs = [record("m", value=88 + seed / 7, seed=seed) for seed in range(9)]
    one = leaderboard.make([write(tmp_path / "a", *runs)]).table
    other = leaderboard.make([write(tmp_path / "b", *reversed(runs))]).table
    assert leaderboard.csv_text(one) == leaderboard.csv_text(other)


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"protocol": "paper-voc11"}, "voc07_svm[paper-voc11]/mAP"),
        ({"version": "2"}, "voc07_svm[paper@2]/mAP"),
        ({"deviations": [LR]}, "voc07_svm[SOLVER.BASE_LR=0.01]/mAP"),
        (
            {"deviations": [STEPS, LR]},
            "voc07_svm[SOLVER.BASE_LR=0.01, SOLVER.MAX_ITER=360000]/mAP",
        ),
        (
            {"protocol": "toy", "version": "3", "deviations": [("A", [1], [2, 3], "override")]},
            "voc07_svm[toy@3, A=[2, 3]]/mAP",
        ),
    ],
)
def test_another_protocol_or_departure_has_a_labeled_column_of_its_own(table, change, label):
    made = table(record("m", value=88.0), record("m", value=1.0, seed=1, **change))
    assert labels(made) == ["voc07_svm/mAP", label]
    assert (cell(made, "m", "voc07_svm/mAP").mean, cell(made, "m", label).mean) == (88.0, 1.0)


def test_many_departures_are_the_first_a_number_and_a_hash(table):
    made = table(
        record(deviations=[STEPS, LR, BATCH]), record(deviations=[STEPS, LR, (*STEPS[:2], 9, "x")])
    )
    found = labels(made)
    assert all(label.startswith("voc07_svm[SOLVER.BASE_LR=0.01 +2 more #") for label in found)
    assert len(set(found)) == 2


def test_departures_in_another_order_are_the_same(table):
    made = table(record("m", deviations=[LR, STEPS]), record("m", deviations=[STEPS, LR], seed=1))
    assert cell(made, "m", labels(made)[0]).n == 2


@pytest.mark.parametrize(
    "other",
    [
        ("SOLVER.BASE_LR", 0.02, "0.01", "scaled"),
        ("SOLVER.BASE_LR", 0.02, 0.01, "override"),
        ("SOLVER.BASE_LR", 0.04, 0.01, "scaled"),
    ],
)
def test_departures_that_read_the_same_get_a_hash(table, other):
    made = table(record(deviations=[LR]), record(deviations=[other], seed=1))
    assert len(set(labels(made))) == 2
    assert all(label.startswith("voc07_svm[SOLVER.BASE_LR=0.01, #") for label in labels(made))


def test_long_settings_are_cut_and_still_told_apart(table):
    runs = [
        record(deviations=[("STEPS", [], [*range(40), last], "override")], seed=last)
        for last in range(2)
    ]
    made = table(*runs)
    assert len(set(labels(made))) == 2
    assert all(len(label) < 70 for label in labels(made))


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
def test_numbers_of_other_data_never_share_a_column(table, data, apart):
    one, other = record("m"), record("m", seed=1)
    other["data"] |= data
    found = labels(table(one, other))
    assert len(found) == 1 + apart
    if apart:
        assert all(label.startswith("voc07_svm[data ") for label in found)


@pytest.mark.parametrize(
    ("task", "name", "apart"),
    [
        ("imagenet_semi_supervised", "imagenet_train", False),  # a seed's own draw
        ("imagenet_semi_supervised", "imagenet_val", True),
        ("imagenet_semi_supervised", "trains_val", True),
        ("imagenet_knn", "imagenet_train", True),
    ],
)
@pytest.mark.parametrize("key", ["annotations_sha256", "files_sha256"])
def test_only_what_the_seed_draws_may_differ(table, task, name, apart, key):
    one, other = record("m"), record("m", seed=1)
    for number, run in enumerate((one, other)):
        run["task"] = task
        run["data"] = {name: {"images": 100, key: str(number) * 64}}
    assert len(labels(table(one, other))) == 1 + apart


def test_no_two_columns_have_the_same_label(table):
    inner = record(task="a/b")
    outer = record(task="a", metrics={"b/score": 1.0}, primary_metric="b/score")
    found = labels(table(inner, outer))
    assert len(set(found)) == 2


def test_columns_have_a_fixed_order(table):
    made = table(
        record(task="zebra"),
        record(task="apes"),
        record(task="imagenet_linear", protocol="cached"),
        record(task="imagenet_linear"),
        record(task="voc07_svm", deviations=[LR]),
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


def test_the_default_protocols_are_the_packaged_ones():
    expected = {
        name: (task.default_protocol.name, task.primary_metric)
        for name, task in REGISTRY.items()
        if task.is_evaluation
    }
    assert expected == TASKS
    assert all(PROTOCOL[task] == TASKS[task][0] for task in PROTOCOL)
    assert all(PRIMARY[task] == TASKS[task][1] for task in PRIMARY)


def test_a_file_under_two_names_is_one_row_by_its_newest_name(table):
    made = table(
        record("z_old", sha256="a" * 64, created="2026-01-01T00:00:00+00:00"),
        record("a_new", sha256="a" * 64, seed=1, created="2026-02-01T00:00:00+00:00"),
    )
    [row] = made.rows
    assert row.name == "a_new"
    assert row.names == ("a_new", "z_old")
    assert cell(made, "a_new", "voc07_svm/mAP").n == 2


def test_two_files_of_one_name_are_two_rows_by_hash(table):
    made = table(record("m", sha256="a" * 64), record("m", sha256="b" * 64, seed=1), record("n"))
    assert [row.name for row in made.rows] == ["m (aaaaaaaa)", "m (bbbbbbbb)", "n"]


def test_a_file_read_in_two_formats_is_two_rows(table):
    made = table(record("m"), record("m", format="torchvision"))
    assert [row.name for row in made.rows] == ["m (moco)", "m (torchvision)"]


def test_a_file_read_with_two_inputs_is_two_rows(table):
    other = record("m")
    other["model"]["input"] = {**other["model"]["input"], "channel_order": "BGR"}
    names = [row.name for row in table(record("m"), other).rows]
    assert len(set(names)) == 2
    assert all(name.startswith("m (input ") for name in names)


def test_where_lower_is_better_the_lowest_is_the_best(table):
    made = table(
        record("a", "own", 3.0, higher_is_better=False),
        record("b", "own", 2.0, higher_is_better=False),
    )
    [column] = made.columns
    assert not column.higher_is_better
    assert made.best(column) == 2.0


def test_a_model_can_be_given_a_label_by_name_or_hash(table):
    made = table(
        record("random:resnet50?seed=0"),
        record("b.pth"),
        labels=["random:resnet50?seed=0=Random = none", f"{sha256_of('b.pth')[:8]}=B"],
    )
    assert [row.name for row in made.rows] == ["B", "Random = none"]


@pytest.mark.parametrize("text", ["moco.pth", "=x", "moco=x"])
def test_a_label_of_an_unknown_model_is_an_error(table, text):
    with pytest.raises(UserError, match=r"--label .*there is no model of that name"):
        table(record("moco.pth"), labels=[text])


def test_only_the_tasks_that_are_asked_for(table):
    made = table(record("m", "coco"), record("n"), tasks=["coco"])
    assert [row.name for row in made.rows] == ["m"]
    with pytest.raises(UserError, match="no result of lvis; there are results of coco, voc07_svm"):
        table(tasks=["lvis"])


def test_published_numbers_have_rows_of_their_own_with_their_source(table):
    [known] = [
        result for result in zoo.published_results()
        if (result.entry, result.metric) == ("task_ablations/bicaptioning_R_50_L1_H2048", "mAP")
    ]  # fmt: skip
    made = table(record(known.model, value=1.0), published=True)
    rows = [row for row in made.rows if row.name == known.model]
    assert [row.kind for row in rows] == ["measured", "published"]
    column = next(c for c in made.columns if c.label == "voc07_svm/mAP")
    measured, published = (row.cells[column] for row in rows)
    assert (measured.mean, measured.n, measured.std) == (1.0, 1, None)
    assert (published.mean, published.n, published.runs) == (known.value, 0, ())
    assert published.source == known.source
    assert known.source in rows[1].source
    assert made.best(column) == 1.0


def test_every_published_number_is_shown_once(table):
    made = table(record("m"), published=True)
    shown = [cell for row in made.rows if not row.model for cell in row.cells.values()]
    assert len(shown) == len(zoo.published_results())


def test_published_numbers_do_not_stand_under_runs_that_depart(table):
    made = table(record("m", "coco", deviations=[LR]), published=True)
    [own] = [c for c in made.columns if c.label == "coco[SOLVER.BASE_LR=0.01]/bbox/AP"]
    assert [row.kind for row in made.rows if own in row.cells] == ["measured"]
    assert "coco/bbox/AP" in labels(made)


def test_published_numbers_choose_no_data_of_two(table):
    other = record("m", seed=1)
    other["data"]["voc_2007_test"]["annotations_sha256"] = "f" * 64
    made = table(record("m"), other, published=True)
    kinds = {
        column.label: {row.kind for row in made.rows if column in row.cells}
        for column in made.columns
        if column.conditions.task == "voc07_svm" and column.metric == "mAP"
    }
    assert kinds.pop("voc07_svm[data not told]/mAP") == {"published"}
    assert list(kinds.values()) == [{"measured"}, {"measured"}]


def test_a_second_source_of_the_same_number_gets_a_second_row(table):
    from virtex.leaderboard.table import build_table

    results = [
        zoo.PublishedResult("m", "coco", COCO, "bbox/AP", value, source)
        for value, source in ((40.0, "one"), (41.0, "two"))
    ]
    made = build_table([], results)
    assert [(row.source, [c.mean for c in row.cells.values()]) for row in made.rows] == [
        ("one", [40.0]), ("two", [41.0])
    ]  # fmt: skip


def test_reading_records_imports_no_torch_and_no_matplotlib(tmp_path):
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

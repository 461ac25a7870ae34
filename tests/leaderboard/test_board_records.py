"""Which files are read, which are skipped and why, and which of two records is kept."""

import copy
import csv
import json
import os
import shutil

import pytest

from tests.errors import raises_code
from tests.leaderboard.board_records import record, write
from virtex import leaderboard
from virtex.leaderboard.records import read_records

MISSING = object()


def changed(path, value):
    """Return a record with another value at ``path``, keys with dots between."""
    made = record(overrides=[("A", 1, 2, "override")])
    place = made
    *keys, last = path.split(".")
    for key in keys:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    if value is MISSING:
        del place[last]
    return made


def test_records_are_found_at_any_depth_and_as_files(tmp_path):
    write(tmp_path / "a" / "b", record(seed=0))
    write(tmp_path / "d", record(seed=1))
    (tmp_path / "a" / ".result.json.17").write_text("half")
    found = read_records([tmp_path / "a", tmp_path / "d" / "000" / "result.json"])
    shown = {one.shown: one.seed for one in found.records}
    assert shown == {"a/b/000/result.json": 0, "000/result.json": 1}
    assert not found.skipped


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Invalid JSON"),
        (b'{"schema_version": 1', "Invalid JSON"),
        (b'{"a": "\xff\xfe"}', "Invalid JSON"),
        (b'{"a": "\\ud800"}', "Invalid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "schema_version"),
        (b'{"schema_version": NaN}', "schema_version"),
        (b'{"schema_version": true}', "schema_version"),
        (b'{"schema_version": 0}', "schema_version"),
        (b'{"schema_version": 99, "all": "new"}', "update virtex"),
        (b'{"schema_version": 1}', "task"),
    ],
)
def test_invalid_files_are_skipped_with_the_reason(tmp_path, content, reason):
    write(tmp_path, record(), "")
    path = tmp_path / "001" / "result.json"
    path.write_bytes(content)
    found = read_records([tmp_path])
    assert len(found.records) == 1
    [skipped] = found.skipped
    assert str(skipped).startswith(f"skipped {path}: ")
    assert reason in skipped.reason and "\n" not in str(skipped)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("task", 3),
        ("task", ""),
        ("protocol", []),
        ("protocol.name", None),
        ("protocol.version", 1),
        ("protocol.overrides", {}),
        ("protocol.overrides", MISSING),
        ("protocol.overrides.0.key", 1),
        ("protocol.overrides.0.run", MISSING),
        ("metrics", [1]),
        ("metrics.mAP", "88"),
        ("metrics.mAP", True),
        ("metrics.mAP", 10**4000),
        ("metrics.mAP", 1e300),
        ("primary_metric", "AP"),
        ("primary_metric", ["mAP"]),
        ("higher_is_better", "yes"),
        ("model.name", None),
        ("model.sha256", ""),
        ("model.arch", "resnet50"),
        ("model.arch.name", MISSING),
        ("data.voc_2007_test", 3),
        ("environment", "linux"),
        ("seed", 0.5),
        ("seed", 2**70),
        ("created", 0),
        ("created", "yesterday"),
    ],
)
def test_invalid_field_is_named(tmp_path, path, value):
    found = read_records([write(tmp_path, changed(path, value))])
    assert not found.records
    [skipped] = found.skipped
    assert skipped.reason.startswith(f"{path}: ")


def test_infinite_setting_is_rejected(tmp_path):
    text = json.dumps(record(overrides=[("LR", 1.0, 777.0, "override")])).replace("777.0", "1e999")
    assert len(read_records([write(tmp_path, text)]).skipped) == 1


def test_schema_1_is_read_like_schema_2(tmp_path):
    new = record(overrides=[("LR", 1.0, 2.0, "override")])
    old = copy.deepcopy(new) | {"schema_version": 1, "seed": 1}
    [override] = old["protocol"].pop("overrides")
    override["why"] = override.pop("reason")
    old["protocol"]["departures"] = [override]
    first, second = read_records([write(tmp_path, new, old)]).records
    assert first.conditions == second.conditions
    assert json.loads(first.conditions.overrides)[0]["key"] == "LR"


def test_optional_fields_may_be_missing(tmp_path):
    old = record()
    for key in ("details", "verification", "notes", "environment", "higher_is_better", "data"):
        del old[key]
    del old["model"]["input"]
    [found] = read_records([write(tmp_path, old)]).records
    assert found.higher_is_better
    assert found.conditions.data == "{}"


def test_newest_duplicate_is_kept(tmp_path):
    times = ["2026-01-01T13:30:00+02:00", "2026-01-01T12:00:00+00:00", "2026-01-01T00:00:00Z"]
    write(tmp_path, *(record(value=n, created=time) for n, time in enumerate(times)))
    found = read_records([tmp_path])
    assert [one.metrics["mAP"] for one in found.records] == [1.0]
    folders = [(d.path[-15:-12], d.newer[-15:-12]) for d in found.duplicates]
    assert folders == [("000", "001"), ("002", "001")]


def test_duplicates_of_one_second_keep_the_last_path(tmp_path):
    write(tmp_path, record(value=1.0), record(value=2.0))
    assert [one.metrics["mAP"] for one in read_records([tmp_path]).records] == [2.0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"protocol": "paper-voc11"},
        {"version": "other"},
        {"overrides": [("SVM.FOLDS", 3, 5, "override")]},
        {"sha256": "0" * 64},
        {"format": "torchvision"},
        {"task": "imagenet_linear"},
        {"data": {"voc_2007_test": {"images": 9}}},
    ],
)
def test_runs_that_differ_are_not_duplicates(tmp_path, change):
    found = read_records([write(tmp_path, record(), record(**change))])
    assert len(found.records) == 2
    assert not found.duplicates


def test_file_is_read_once(tmp_path):
    folder = write(tmp_path / "runs", record(), "{")
    (tmp_path / "link").symlink_to(folder)
    (folder / "000" / "up").symlink_to(tmp_path)
    (folder / "self").symlink_to(folder / "self")
    os.link(folder / "000" / "result.json", tmp_path / "result.json")
    found = read_records([tmp_path, folder, f"{folder}/../runs", tmp_path / "link"])
    assert (len(found.records), len(found.skipped), len(found.duplicates)) == (1, 1, 0)


def test_shown_path_does_not_depend_on_the_order(tmp_path):
    folders = [write(tmp_path / "b", record()), tmp_path / "a"]
    shutil.copytree(folders[0], folders[1], copy_function=os.link)
    orders = folders, folders[::-1]
    found = [[one.shown for one in read_records(order).records] for order in orders]
    assert found == [["a/000/result.json"]] * 2


def test_pipes_and_dangling_links_are_skipped(tmp_path):
    write(tmp_path, record())
    for name in ("pipe", "dangling"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "dangling" / "result.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    found = read_records([tmp_path])
    assert len(found.records) == 1
    assert [os.path.basename(os.path.dirname(one.path)) for one in found.skipped] == [
        "dangling", "pipe"
    ]  # fmt: skip


def test_missing_folder_is_named(tmp_path):
    with raises_code("leaderboard.not_found", tmp_path / "nowhere"):
        read_records([tmp_path, tmp_path / "nowhere"])


@pytest.mark.parametrize("contents", [[], ["{", "[]"]])
def test_no_valid_record_is_an_error(tmp_path, contents):
    first = [f"{tmp_path}/000/result.json"] if contents else []
    with raises_code("leaderboard.no_results", tmp_path, *first):
        leaderboard.make([write(tmp_path, *contents)])


def test_folder_whose_name_is_not_text_is_read(tmp_path):
    write(tmp_path, record())
    os.rename(tmp_path / "000", os.fsencode(tmp_path) + b"/caf\xe9")
    [found] = read_records([tmp_path]).records
    assert "caf" in found.shown.encode().decode()


VALUES = [
    None, True, 10**400, 1e999, "", "\ud800", "\0\r\n=<&", [[]], {"": None},
    [{"key": "a", "protocol": [], "run": {}, "reason": "x"}], "x" * 10_000,
]  # fmt: skip


def places(content, above=()):
    """Yield the keys that lead to every part of a record."""
    yield above
    for key in content if isinstance(content, dict) else ():
        yield from places(content[key], (*above, key))


def test_any_value_anywhere_is_read_or_skipped(tmp_path):
    whole = record(overrides=[("A", 1, 2, "override")])
    whole["metrics"] |= {"other": 1.0}
    texts = []
    for place in places(whole):
        for value in VALUES:
            holder = {"top": copy.deepcopy(whole)}
            inner, last = holder, "top"
            for key in place:
                inner, last = inner[last], key
            inner[last] = value
            texts.append(json.dumps(holder["top"]).replace("Infinity", "1e999"))
    board = leaderboard.make([write(tmp_path / "results", *texts, record())], published=True)
    assert board.records + len(board.skipped) + len(board.duplicates) == len(texts) + 1
    assert board.records > 100
    assert len(board.skipped) > 200
    leaderboard.write_csv(board.table, tmp_path / "a.csv")
    leaderboard.write_long_csv(board.table, tmp_path / "long.csv")
    leaderboard.write_markdown(board.table, tmp_path / "a.md")
    leaderboard.write_html(board.table, tmp_path / "a.html")
    leaderboard.write_plot(board.table, tmp_path / "a.png")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert len({len(line) for line in csv.reader(file)}) == 1


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("task", LONG),
        ("protocol.name", LONG),
        ("protocol.version", LONG),
        ("protocol.overrides.0.key", LONG),
        ("protocol.overrides.0.run", {LONG: [LONG]}),
        ("protocol.overrides.0.protocol", [1] * 100_000),
        ("protocol.overrides.0.reason", LONG),
        ("metrics", {"mAP": 1.0, LONG: 1.0}),
        ("model.name", LONG),
        ("model.sha256", LONG),
        ("model.format", LONG),
        ("model.arch.name", LONG),
        ("data", {LONG: {"images": LONG, "annotations_sha256": [LONG]}}),
        ("environment", {"python": LONG, "gpus": [LONG]}),
    ],
)
def test_long_texts_are_bounded(tmp_path, path, value):
    """Each is part of several tables, in which every row repeats or pads it."""
    board = leaderboard.make([write(tmp_path / "runs", changed(path, value), record(seed=1))])
    for name in ("csv", "long_csv", "markdown", "html"):
        getattr(leaderboard, f"write_{name}")(board.table, tmp_path / name)
        written = (tmp_path / name).read_text()
        assert "x" * 1000 not in written and "1,1," * 1000 not in written
        assert len(written) < 60_000


def test_long_values_that_differ_at_the_end_are_different(tmp_path):
    runs = [record(overrides=[("A", "", LONG + end, "override")]) for end in "ab"]
    assert len(leaderboard.make([write(tmp_path, *runs)]).table.rows[0].runs) == 2


def test_secrets_in_older_records_are_not_shown(tmp_path):
    board = leaderboard.make(
        [write(tmp_path, record(name="https://me:hidden@a.org/m.pth?key=hidden"))]
    )
    assert board.table.rows[0].name == "https://…@a.org/m.pth?key=…"

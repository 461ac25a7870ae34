"""Which files become records, which are skipped and why, and which of two is kept."""

import copy
import csv
import json
import os
import shutil

import pytest

from tests.leaderboard.board_records import record, write
from virtex import leaderboard
from virtex.errors import UserError
from virtex.leaderboard.finding import read_records
from virtex.records import SCHEMA_VERSION


def changed(path, value):
    """A record with another value at ``path``, keys with dots between."""
    made = record()
    place = made
    *keys, last = path.split(".")
    for key in keys:
        place = place[key]
    place[last] = value
    return made


def without(path):
    made = changed(path, None)
    place = made
    *keys, last = path.split(".")
    for key in keys:
        place = place[key]
    del place[last]
    return made


def test_records_are_found_at_any_depth_and_as_files(tmp_path):
    write(tmp_path / "a" / "b" / "c", record(seed=0))
    write(tmp_path / "d", record(seed=1))
    found = read_records([tmp_path / "a", tmp_path / "d" / "000" / "result.json"])
    assert sorted(one.seed for one in found.records) == [0, 1]
    assert sorted(one.shown for one in found.records) == [
        "000/result.json", "a/b/c/000/result.json"
    ]  # fmt: skip


def test_other_names_are_no_records(tmp_path):
    write(tmp_path, record())
    (tmp_path / ".result.json.17").write_text("half")
    (tmp_path / "other.json").write_text("{}")
    found = read_records([tmp_path])
    assert len(found.records) == 1
    assert not found.skipped


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (b"", "corrupt", "not JSON"),
        (b'{"schema_version": 1', "corrupt", "not JSON"),
        (b'{"schema_version": NaN}', "corrupt", "NaN is no number"),
        (b'{"a": "\xff\xfe"}', "corrupt", "not UTF-8"),
        (b'{"a": "\\ud800"}', "corrupt", "not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "corrupt", "nested too deeply"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", "corrupt", "not JSON"),
        (b"[]", "foreign", "the file holds no JSON object"),
        (b"3", "foreign", "the file holds no JSON object"),
        (b"{}", "foreign", "it has no schema_version"),
        (b'{"schema_version": "1"}', "foreign", "schema_version is not a whole number"),
        (b'{"schema_version": true}', "foreign", "schema_version is not a whole number"),
        (b'{"schema_version": 0}', "foreign", "no schema_version 0"),
        (b'{"schema_version": 1}', "foreign", "it has no metrics"),
        (b'{"schema_version": 99, "all": "new"}', "future", "99 is newer than"),
    ],
)
def test_what_is_no_record_is_skipped_with_the_reason(tmp_path, content, kind, why):
    write(tmp_path, record(), "")
    path = tmp_path / "001" / "result.json"
    path.write_bytes(content)
    found = read_records([tmp_path])
    assert len(found.records) == 1
    [skipped] = found.skipped
    assert (skipped.path, skipped.kind) == (str(path), kind)
    assert why in skipped.why
    assert str(skipped).startswith(f"skipped {path}: {kind}: ")
    assert "\n" not in str(skipped)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (changed("task", 3), "task is not text"),
        (changed("task", ""), "task is not text"),
        (without("protocol"), "it has no protocol.deviations"),
        (changed("protocol", []), "protocol holds no JSON object"),
        (changed("protocol.name", None), "protocol.name is not text"),
        (changed("protocol.version", 1), "protocol.version is not text"),
        (changed("protocol.deviations", {}), "protocol.deviations is not a list"),
        (changed("protocol.deviations", [1]), "protocol.deviations[0] has no key"),
        (changed("protocol.deviations", [{"key": "A"}]), "protocol.deviations[0] has no key"),
        (
            changed("protocol.deviations", [{"key": 1, "protocol": 1, "run": 2, "why": "x"}]),
            "protocol.deviations[0].key is not text",
        ),
        (changed("metrics", [1]), "metrics is not an object"),
        (changed("metrics.mAP", "88"), "metrics.mAP is not a number"),
        (changed("metrics.mAP", True), "metrics.mAP is not a number"),
        (changed("metrics.mAP", 10**4000), "metrics.mAP is beyond all measure"),
        (changed("metrics.mAP", 1e300), "metrics.mAP is beyond all measure"),
        (changed("primary_metric", "AP"), "metrics has no 'AP'"),
        (changed("primary_metric", ["mAP"]), "primary_metric is not text"),
        (changed("higher_is_better", "yes"), "higher_is_better is not true or false"),
        (changed("model", "moco"), "model is not an object"),
        (changed("model.name", None), "model.name is not text"),
        (changed("model.sha256", ""), "model.sha256 is not text"),
        (changed("model.format", 1), "model.format is not text"),
        (changed("model.arch", "resnet50"), "model.arch holds no JSON object"),
        (changed("data", [1]), "data is not an object"),
        (changed("data.voc_2007_test", 3), "data.voc_2007_test holds no JSON object"),
        (changed("environment", "linux"), "environment is not an object"),
        (changed("seed", 0.5), "seed is not a whole number"),
        (changed("seed", 2**70), "seed has more than 64 bits"),
        (changed("created", 0), "created is not text"),
        (changed("created", "yesterday"), "which is no time"),
    ],
)
def test_a_part_of_another_type_makes_a_record_foreign(tmp_path, content, why):
    found = read_records([write(tmp_path, content)])
    assert not found.records
    [skipped] = found.skipped
    assert skipped.kind == "foreign"
    assert why in skipped.why


def test_an_infinite_setting_is_refused(tmp_path):
    text = json.dumps(record(deviations=[("LR", 1.0, 777.0, "override")])).replace("777.0", "1e999")
    [skipped] = read_records([write(tmp_path, text)]).skipped
    assert "beyond all measure" in skipped.why


def test_records_from_before_a_part_was_added_are_read(tmp_path):
    old = record()
    for key in ("details", "verification", "notes", "environment", "higher_is_better", "data"):
        del old[key]
    del old["model"]["input"]
    [found] = read_records([write(tmp_path, old)]).records
    assert found.higher_is_better
    assert found.conditions.data == "{}"


def test_this_versions_records_are_read(tmp_path):
    assert record()["schema_version"] == SCHEMA_VERSION
    assert len(read_records([write(tmp_path, record())]).records) == 1


def test_of_duplicates_the_newest_is_kept(tmp_path):
    early, late = "2026-01-01T12:00:00+00:00", "2026-01-01T13:30:00+02:00"  # late is 11:30 UTC
    write(tmp_path, record(value=1.0, created=late), record(value=2.0, created=early))
    found = read_records([tmp_path])
    assert [one.metrics["mAP"] for one in found.records] == [2.0]
    [duplicate] = found.duplicates
    assert duplicate.path == str(tmp_path / "000" / "result.json")
    assert duplicate.newer == str(tmp_path / "001" / "result.json")
    assert str(duplicate).startswith(f"duplicate {duplicate.path}: the same model, task, protocol")


def test_of_three_duplicates_both_old_ones_name_the_newest(tmp_path):
    times = [f"2026-01-0{day}T00:00:00+00:00" for day in (2, 3, 1)]
    write(tmp_path, *(record(created=time) for time in times))
    duplicates = read_records([tmp_path]).duplicates
    assert [d.path[-15:-12] for d in duplicates] == ["000", "002"]
    assert {d.newer[-15:-12] for d in duplicates} == {"001"}


def test_of_duplicates_of_the_same_second_the_last_by_path_is_kept(tmp_path):
    write(tmp_path, record(value=1.0), record(value=2.0))
    assert [one.metrics["mAP"] for one in read_records([tmp_path]).records] == [2.0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"protocol": "paper-voc11"},
        {"version": "2"},
        {"deviations": [("SVM.FOLDS", 3, 5, "override")]},
        {"sha256": "0" * 64},
        {"format": "torchvision"},
        {"task": "imagenet_linear"},
        {"data": {"voc_2007_test": {"images": 9}}},
    ],
)
def test_what_differs_in_anything_is_no_duplicate(tmp_path, change):
    found = read_records([write(tmp_path, record(), record(**change))])
    assert len(found.records) == 2
    assert not found.duplicates


def test_the_same_file_twice_is_one_record_without_a_word(tmp_path):
    folder = write(tmp_path / "runs", record())
    (tmp_path / "link").symlink_to(folder)
    os.link(folder / "000" / "result.json", tmp_path / "result.json")
    found = read_records([tmp_path, folder, f"{folder}/../runs", tmp_path / "link"])
    assert len(found.records) == 1
    assert not found.skipped
    assert not found.duplicates


def test_which_name_of_a_file_is_shown_does_not_depend_on_the_order(tmp_path):
    folders = [write(tmp_path / "b", record()), tmp_path / "a"]
    shutil.copytree(folders[0], folders[1], copy_function=os.link)
    orders = folders, folders[::-1]
    found = [[one.shown for one in read_records(order).records] for order in orders]
    assert found == [["a/000/result.json"]] * 2


def test_a_broken_file_in_two_overlapping_folders_is_told_once(tmp_path):
    folder = write(tmp_path / "runs", record(), "{")
    assert len(read_records([tmp_path, folder]).skipped) == 1


def test_links_in_a_circle_end(tmp_path):
    folder = write(tmp_path, record())
    (folder / "000" / "up").symlink_to(tmp_path)
    (folder / "self").symlink_to(folder / "self")
    assert len(read_records([tmp_path]).records) == 1


def test_what_is_not_a_file_is_skipped_and_not_waited_for(tmp_path):
    write(tmp_path, record())
    for name in ("pipe", "dangling"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "dangling" / "result.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    found = read_records([tmp_path])
    assert len(found.records) == 1
    assert [skipped.why for skipped in found.skipped] == [
        "it cannot be read (No such file or directory)", "it is not a file"
    ]  # fmt: skip


def test_a_file_far_too_large_for_a_record_is_not_read(tmp_path):
    path = write(tmp_path, "{}") / "000" / "result.json"
    os.truncate(path, 10**11)  # a hole: no byte of it is on the disk
    [skipped] = read_records([tmp_path]).skipped
    assert skipped.why == "100000000000 bytes are too many for a record"


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_records([tmp_path, tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("place", "count"), [("", "2 files"), ("000/result.json", "1 file")], ids=["folder", "file"]
)
def test_no_usable_record_is_an_error_that_says_why_and_what_to_do(tmp_path, place, count):
    there = write(tmp_path, "{", "[]") / place
    with pytest.raises(UserError) as refused:
        leaderboard.make([there])
    said = str(refused.value)
    first = f"{tmp_path}/000/result.json: corrupt: it is not JSON"
    assert said.startswith(
        f"there is no usable result in {there} ({count} skipped; the first, {first} ("
    )
    assert said.endswith("); name a folder with result.json files of these tools")


def test_an_empty_folder_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as refused:
        leaderboard.make([tmp_path])
    assert str(refused.value) == (
        f"there is no usable result in {tmp_path}; "
        "name a folder with result.json files of these tools"
    )


def test_a_folder_whose_name_is_no_text_is_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    write(tmp_path, record())
    os.rename(tmp_path / "000", folder)
    [found] = read_records([tmp_path]).records
    found.shown.encode()
    assert "caf" in found.shown


VALUES = [
    None, True, -1, 10**400, 1e308, 1e999, "", "\ud800", "\0\r\n=<&", [], [[]], {}, {"": None},
    {"a": {"b": [1e999]}}, [{"key": "a", "protocol": [], "run": {}, "why": "x"}], "x" * 10_000,
]  # fmt: skip


def places(content, above=()):
    """The keys that lead to every part of a record."""
    yield above
    for key in content if isinstance(content, dict) else ():
        yield from places(content[key], (*above, key))


def test_whatever_stands_anywhere_in_a_record_nothing_breaks(tmp_path):
    whole = record(deviations=[("A", 1, 2, "override")])
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
    assert len(board.skipped) > 300
    leaderboard.write_csv(board.table, tmp_path / "a.csv")
    leaderboard.write_long_csv(board.table, tmp_path / "long.csv")
    leaderboard.write_markdown(board.table, tmp_path / "a.md")
    leaderboard.write_html(board.table, tmp_path / "a.html")
    leaderboard.write_plot(board.table, tmp_path / "a.png")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        lengths = {len(line) for line in csv.reader(file)}
    assert len(lengths) == 1

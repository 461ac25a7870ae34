"""CSV and Markdown, byte for byte and read back."""

import csv
import io

import pytest

from tests.leaderboard.board_records import LR, record, sha256_of, write
from virtex import leaderboard, zoo
from virtex.leaderboard.columns import current_version


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_wide_csv(table):
    runs = [
        record("b.pth", value=value, seed=seed, metrics={"mAP": value})
        for seed, value in enumerate((88.0, 89.0))
    ]
    runs.append(record("a.pth", "imagenet_linear", 51.23456, metrics={"top1": 51.23456}))
    assert leaderboard.csv_text(table(*runs)) == (
        "model,kind,arch,sha256,source,voc07_svm/mAP,voc07_svm/mAP_std,voc07_svm/mAP_n,"
        "imagenet_linear/top1,imagenet_linear/top1_std,imagenet_linear/top1_n\n"
        f"a.pth,measured,resnet50,{sha256_of('a.pth')},,,,,51.2346,,1\n"
        f"b.pth,measured,resnet50,{sha256_of('b.pth')},,88.5000,0.7071,2,,,\n"
    )


def test_long_csv(table):
    rows = read(
        leaderboard.long_csv_text(
            table(
                record("m", value=88.0, seed=7, overrides=[LR]),
                record("m", value=89.0, seed=3, overrides=[LR], created="2026-09-09T00:00:00Z"),
                record("m", "imagenet_linear"),
            )
        )
    )
    assert [(row["task"], row["metric"], row["primary"]) for row in rows] == [
        ("voc07_svm", "mAP", "yes"), ("voc07_svm", "AP/cat", ""), ("voc07_svm", "AP/dog", ""),
        ("imagenet_linear", "top1", "yes"), ("imagenet_linear", "top5", ""),
    ]  # fmt: skip
    assert rows[0] == {
        "model": "m",
        "kind": "measured",
        "arch": "resnet50",
        "sha256": sha256_of("m"),
        "task": "voc07_svm",
        "protocol": "paper",
        "version": current_version("voc07_svm", "paper"),
        "overrides": '[{"key":"SOLVER.BASE_LR","protocol":0.02,"reason":"scaled","run":0.01}]',
        "data": '{"voc_2007_test":{"annotations_sha256":"' + "4" * 64 + '","images":4952},'
        '"voc_2007_trainval":{"annotations_sha256":"' + "3" * 64 + '","images":5011}}',
        "metric": "mAP",
        "primary": "yes",
        "mean": "88.5000",
        "std": "0.7071",
        "n": "2",
        "seeds": "3 7",
        "created": "2026-09-09T00:00:00Z",
        "source": "",
    }


def test_published_rows_are_marked_and_come_last(table):
    made = table(record("zz"), published=True)
    rows = read(leaderboard.csv_text(made))
    assert [row["kind"] for row in rows] == ["measured"] + ["published"] * (len(rows) - 1)
    assert all(row["source"] and not row["sha256"] for row in rows[1:])
    assert [row["model"] for row in rows[1:]] == sorted(row["model"] for row in rows[1:])
    long = [row for row in read(leaderboard.long_csv_text(made)) if row["kind"] == "published"]
    assert len(long) == len(zoo.published_results())
    assert {(row["std"], row["n"], row["seeds"]) for row in long} == {("", "", "")}
    lines = leaderboard.markdown_text(made.primary()).splitlines()
    published = [line for line in lines if " (published) " in line]
    assert len(published) == len(lines) - 3
    assert not any("**" in line for line in published)
    assert all(".md" in line or ".rst" in line for line in published)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "＝1"]  # noqa: RUF001


@pytest.mark.parametrize("name", FORMULAS)
def test_name_cannot_become_a_formula(table, name):
    made = table(record(name))
    for text in (leaderboard.csv_text(made), leaderboard.long_csv_text(made)):
        assert {row["model"] for row in read(text)} == {"'" + name.replace("\r", " ")}


def test_header_cannot_become_a_formula(table):
    made = table(record("m", "=task", -2.5, protocol="=p", format="+f"))
    [row] = read(leaderboard.csv_text(made))
    assert list(row)[5:] == [f"'=task[=p]/score{end}" for end in ("", "_std", "_n")]
    assert row["'=task[=p]/score"] == "-2.5000"
    [row] = read(leaderboard.long_csv_text(made))
    assert (row["task"], row["protocol"]) == ("'=task", "'=p")


@pytest.mark.parametrize("name", ['a,"b"', "a\nb", "a;b", "é 模型", "a\0b", "a\rb"])
def test_any_name_stays_in_its_cell(table, name):
    rows = read(leaderboard.csv_text(table(record(name), record("0"))))
    assert [row["model"] for row in rows] == ["0", name.replace("\0", " ").replace("\r", " ")]
    assert all(None not in row and None not in row.values() for row in rows)


def test_bytes_do_not_depend_on_paths_or_order(tmp_path):
    runs = [record(f"m{n % 3}", value=80 + n / 7, seed=n) for n in range(9)]
    runs += [record("m0", "coco", overrides=[LR]), record("m1", "coco", seed=2)]
    one = leaderboard.make([write(tmp_path / "a", *runs)], published=True).table
    other = leaderboard.make([write(tmp_path / "b" / "c", *reversed(runs))], published=True).table
    for form in (leaderboard.csv_text, leaderboard.long_csv_text, leaderboard.markdown_text):
        assert form(one) == form(other)


def test_markdown_table(table):
    runs = [record("b.pth", value=value, seed=seed) for seed, value in enumerate((88.0, 89.0))]
    runs += [record("equal", value=87.0, seed=seed) for seed in range(2)]
    made = table(*runs, record("a_model.pth", "coco", 40.0))
    lines = leaderboard.markdown_text(made.primary()).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["model", "coco/bbox/AP", "voc07_svm/mAP"],
        [":------------", "---------------:", "---------------------:"],
        ["a_model.pth", "**40.00**", ""],
        ["b.pth", "", "**88.50** ± 0.71 (2)"],
        ["equal", "", "87.00 (2)"],
    ]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a|b", r"a\|b"),
        ("<b>x</b>", r"\<b\>x\</b\>"),
        ("_a_ b_c", r"\_a\_ b_c"),
        ("*a*", r"\*a\*"),
        ("[a](http://b)", r"[a\](http://b)"),
        ("a\nb", "a b"),
        ("`a`", r"\`a\`"),
        ("\x1b[31mred", "�[31mred"),
    ],
)
def test_name_is_not_formatted_by_markdown(table, name, written):
    line = leaderboard.markdown_text(table(record(name)).primary()).splitlines()[2]
    assert line.startswith(f"| {written} ")

"""``benchmarks/scale.py`` runs on tiny sizes of all that it measures, and tells what grows."""

import re
import subprocess
import sys

import pytest

from benchmarks.scaling import SUBJECTS
from benchmarks.scaling.judging import judged
from benchmarks.scaling.measuring import SCRIPT, Measured, Part, Subject


def scale(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def rows_of(text):
    """(size, part) of each row of each table, by subject."""
    tables = re.split(r"^## (\S+)$", text, flags=re.MULTILINE)
    return {
        name: re.findall(r"^\| (\d+) \| (.+?) \| \d+\.\d+ ", table, flags=re.MULTILINE)
        for name, table in zip(tables[1::2], tables[2::2], strict=True)
    }


def test_quick_measures_every_part_of_every_subject_at_its_tiny_sizes(tmp_path):
    done = scale("--quick", "--folder", tmp_path, "--output", tmp_path / "scale.md")

    assert done.returncode == 0, done.stderr
    expected = {
        name: [(str(size), part) for part in subject.parts for size in subject.quick]
        for name, subject in SUBJECTS.items()
    }
    assert rows_of(done.stdout) == expected
    assert rows_of((tmp_path / "scale.md").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["scale.md"]


def test_each_measurement_has_a_process_of_its_own_that_tells_its_memory(tmp_path):
    done = scale("feature-cache", "--sizes", 10, 20, 40, "--folder", tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\| \d+ MB \| \d+ MB \|", done.stdout)) == 12
    assert "- find: too quick to tell" in done.stdout


def test_an_unknown_subject_is_told_with_those_that_there_are():
    done = scale("leaderbord")

    assert done.returncode == 2
    assert "there is no subject leaderbord; there are" in done.stderr


@pytest.mark.parametrize(
    ("power", "of_memory", "sound"), [(1, 1, True), (1.1, 1, True), (1.3, 1, False), (1, 2, False)]
)
def test_what_grows_faster_than_its_size_is_not_sound(power, of_memory, sound):
    rows = [
        Measured("work", n, 1e-3 * n**power, 1e-3 * n**power, int(1e5 * n**of_memory))
        for n in (500, 1000, 2000, 4000)
    ]

    assert judged(subject_of("work"), rows)["work"].sound is sound


def test_a_slope_that_only_a_busy_machine_explains_is_sound():
    rows = [Measured("work", n, 1e-6 * n**2, 1e-3 * n) for n in (1000, 2000, 4000)]

    assert judged(subject_of("work"), rows)["work"].sound


def subject_of(part):
    return Subject("", "rows", (), (), lambda *_: None, {part: Part(lambda *_: print)})

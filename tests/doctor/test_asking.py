"""Python code in a process of its own: whatever becomes of it is told."""

import time

from virtex.doctor.asking import ask


def test_what_code_tells_comes_back_whatever_else_it_prints():
    answer = ask("print('hello'); tell(a=1); tell(b=[2])", 60)
    assert (answer.facts, answer.error) == ({"a": 1, "b": [2]}, "")


def test_an_exception_is_told_without_its_stack_and_after_what_was_told_before():
    answer = ask("tell(a=1)\ndef f(): raise ValueError('two\\nlines')\nf()", 60)
    assert (answer.facts, answer.error) == ({"a": 1}, "ValueError: two lines")


def test_an_end_without_a_word_is_told():
    assert ask("import sys; sys.exit(3)", 60).error == "it failed and said nothing"


def test_a_crash_is_told():
    assert ask("import os; os.abort()", 60).error == "it was killed by SIGABRT"


def test_what_hangs_is_killed_with_all_that_it_has_started(tmp_path):
    left = tmp_path / "left"
    code = (
        "import subprocess, time\n"
        f"subprocess.Popen(['sh', '-c', 'sleep 3; touch {left}'])\n"
        "time.sleep(1000)"
    )
    assert ask(code, 1).error == "it did not end in 1 seconds"
    time.sleep(4)
    assert not left.exists()

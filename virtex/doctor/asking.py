"""Python code in a process of its own: what breaks, crashes or hangs there breaks nothing here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any

MARK = "virtex-doctor: "  # before what is told; a library may print whatever it likes
TELL = f"""\
import json
def tell(**facts):
    print({MARK!r} + json.dumps(facts), flush=True)
"""
ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")
LONGEST = 400  # characters of an error that are told
GRACE = 5  # seconds in which a killed process should be gone


@dataclass(frozen=True)
class Answer:
    """What the code told, and what went wrong in it ("" if nothing did)."""

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def ask(code: str, seconds: float) -> Answer:
    """Run Python code, which calls ``tell(name=value, …)`` with what it finds.

    Args:
        seconds: after which it is taken to hang, and killed.
    """
    with temporary() as output, temporary() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", TELL + code],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,  # so that what it has started can be killed with it
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(process)
            return Answer(told_in(output), f"it did not answer in {seconds:g} seconds")
        if status < 0:
            return Answer(told_in(output), f"it was killed by {signal.Signals(-status).name}")
        return Answer(told_in(output), last_error(errors) if status else "")


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return  # it waits for a disk that does not answer; nothing can end that


def temporary() -> IO[str]:
    # a file, for a pipe stays open as long as anything that the process has started
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def told_in(output: IO[str]) -> dict[str, Any]:
    output.seek(0)
    facts: dict[str, Any] = {}
    for line in output:
        if line.startswith(MARK):
            facts |= json.loads(line.removeprefix(MARK))
    return facts


def last_error(errors: IO[str]) -> str:
    """The last exception of what was said, without its stack, in one line."""
    errors.seek(0)
    lines = [line.rstrip() for line in errors if line.strip()]
    starts = [number for number, line in enumerate(lines) if ERROR.match(line)]
    said = " ".join(line.strip() for line in lines[starts[-1] if starts else -1 :])
    return said[:LONGEST] or "it failed and said nothing"

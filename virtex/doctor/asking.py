"""Python code in a process of its own: what breaks, crashes or hangs there breaks nothing here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import IO, Any

from virtex.engine.subprocesses import how_it_ended, read, temporary

MARK = "virtex-doctor: "  # before what is told; a library may print whatever it likes
TELL = f"""\
import json
def tell(**facts):
    print({MARK!r} + json.dumps(facts), flush=True)
"""
ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")
LONGEST = 400  # characters of an error that are told
LONGER = "if the machine is but slow or busy: python -m virtex.doctor --seconds 1000; else "
GRACE = 5  # seconds in which a killed process should be gone


@dataclass(frozen=True)
class Answer:
    """What the code told, and what went wrong in it ("" if nothing did).

    Attributes:
        hung: it was killed, for it took too long.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    hung: bool = False

    def remedy(self, remedy: str) -> str:
        """That of the error, unless nothing is broken and the time was too short."""
        return LONGER * self.hung + remedy


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
        error = f"it {how_it_ended(process, seconds)}"
        hung = process.returncode is None
        if hung:
            kill(process)
        elif process.returncode >= 0:
            error = last_error(errors) if process.returncode else ""
        return Answer(told_in(output), error, hung)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return  # it waits for a disk that does not answer; nothing can end that


def told_in(output: IO[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for line in read(output).splitlines():
        if line.startswith(MARK):
            facts |= json.loads(line.removeprefix(MARK))
    return facts


def last_error(errors: IO[str]) -> str:
    """The last exception of what was said, without its stack, in one line."""
    lines = [line.rstrip() for line in read(errors).splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if ERROR.match(line)]
    said = " ".join(line.strip() for line in lines[starts[-1] if starts else -1 :])
    return said[:LONGEST] or "it failed and said nothing"

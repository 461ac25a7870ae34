"""Run external programs that may crash or hang."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from typing import IO, Any


def open_temporary() -> IO[str]:
    """Open a temporary text file for the standard streams of a program.

    Unlike a pipe it never blocks the program, nor does its end depend on the program's children.
    """
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", newline="")


def read_all(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def wait_and_describe(process: subprocess.Popen[Any], seconds: float) -> str:
    """Wait for a process and describe how it ended.

    After ``seconds`` it is left running, with return code None.
    """
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"did not end in {seconds:g} seconds"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"

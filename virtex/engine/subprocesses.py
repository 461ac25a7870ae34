"""Programs that may die or hang: what they say goes into files, and how they ended into words."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from typing import IO, Any


def temporary() -> IO[str]:
    """A file for what a program reads or says.

    No full pipe stops it then, and the end of what it says does not wait for what it has started.
    """
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", newline="")


def read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def how_it_ended(process: subprocess.Popen[Any], seconds: float) -> str:
    """Wait for a process. One that goes on is left to the caller; its return code is None."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"did not end in {seconds:g} seconds"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"

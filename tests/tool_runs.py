"""Tools run in this process, which starts faster than a new one."""

import contextlib
import io
import subprocess
from pathlib import Path

from virtex.cli import run_tool


def run(tool, *argv: str | Path) -> tuple[int, str, str]:
    """Run a tool's module; exit status, stdout and stderr, which are encoded as a terminal's are.

    A traceback is an exception that escapes from here.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_tool(tool.main, tool.build_parser(), list(map(str, argv)))
        except SystemExit as left:
            status = left.code
        out.flush(), err.flush()
    return status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def completed(tool, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Return the same as of a finished process."""
    return subprocess.CompletedProcess(argv, *run(tool, *argv))

"""Java programs as processes: one that dies, hangs or talks nonsense is a UserError quoting it.

None is left running, and none is waited for without an end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO

from virtex.engine.subprocesses import open_temporary, read_all, wait_and_describe
from virtex.errors import UserError

# Programs read and write text and numbers as the machine's language and encoding have it (where
# that is German, METEOR takes 0,5 for a half) unless they are told.
OPTIONS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
VERSION_SECONDS = 60
GRACE = 5  # seconds that a program may take to end once it has closed its output
QUOTED_LINES, QUOTED = 4, 500  # of what it said; characters


def find_java() -> str | None:
    """Path of the ``java`` of JAVA_HOME, else of PATH; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=os.path.join(home, "bin")) if home else None
    found = found or shutil.which("java")
    return os.path.abspath(found) if found else None


def java_version(java: str) -> str:
    """As it tells itself: "1.8.0_412", "17.0.15".

    Raises:
        UserError: it cannot be run, or tells none.
    """
    _, told = run(java, [java, "-version"], VERSION_SECONDS)
    version = re.search(r'version "(\d[^"]*)"', told)
    if not version:
        raise failure(java, "tells no version", told)
    return version[1]


def run(name: str, command: Sequence[str], seconds: float, text: str = "") -> tuple[str, str]:
    """Run a program to its end. It reads and writes files, so that no full pipe can stop it.

    Args:
        name: of the program, for errors.
        seconds: after which it is taken to hang.
        text: its standard input.

    Returns:
        Its standard output and standard error.

    Raises:
        UserError: it does not start, or fails, or does not end.
    """
    with open_temporary() as given, open_temporary() as output, open_temporary() as errors:
        given.write(text)
        given.seek(0)
        with started(name, command, given, output, errors) as process:
            ended = wait_and_describe(process, seconds)
        if process.returncode:
            raise failure(name, ended, read_all(errors) or read_all(output))
        return read_all(output), read_all(errors)


class UnaskedAnswer(Exception):
    """A program has said this, or nothing, in place of what it was asked for."""


@contextmanager
def conversation(
    name: str, command: Sequence[str], seconds: float
) -> Iterator[Callable[[str, int, int], list[str]]]:
    """A program that answers lines. Yields ``ask``, but for its first argument.

    Args:
        name, seconds: as ``run``.

    Raises:
        UserError: it does not start, or dies, or says something else, or does not end.
    """
    pipe = subprocess.PIPE
    with open_temporary() as errors, started(name, command, pipe, pipe, errors) as process:
        assert process.stdin and process.stdout  # pipes
        hung = threading.Timer(seconds, process.kill)  # which ends the wait for an answer
        hung.start()
        try:
            yield partial(ask, process)
            close(process.stdin)
            more = process.stdout.readline().strip()
            if more or process.wait():
                raise UnaskedAnswer(more)
        except UnaskedAnswer as answer:
            close(process.stdin)
            ended = wait_and_describe(process, GRACE)
            if hung.finished.is_set():
                ended = f"did not end in {seconds} seconds"
            said = f"said {str(answer)[:QUOTED]!r}, which it was not asked for, and "
            raise failure(name, said * bool(str(answer)) + ended, read_all(errors)) from None
        finally:
            hung.cancel()


def ask(process: subprocess.Popen[str], line: str, answers: int, numbers: int) -> list[str]:
    """Give a program a line, and take the lines it answers.

    Args:
        numbers: how many each answer holds.

    Raises:
        UnaskedAnswer: it holds something else, or there is none.
    """
    assert process.stdin and process.stdout  # pipes
    with suppress(BrokenPipeError):  # what it has said last is still to be read
        process.stdin.write(line + "\n")
        process.stdin.flush()
    found = []
    for _ in range(answers):
        found.append(process.stdout.readline().strip())
        if not are_numbers(found[-1], numbers):
            raise UnaskedAnswer(found[-1])
    return found


def are_numbers(text: str, expected: int) -> bool:
    try:
        return len([float(word) for word in text.split()]) == expected
    except ValueError:
        return False


@contextmanager
def started(
    name: str,
    command: Sequence[str],
    stdin: IO[str] | int,
    stdout: IO[str] | int,
    stderr: IO[str],
) -> Iterator[subprocess.Popen[str]]:
    """A program, which is no longer there afterwards.

    Raises:
        UserError: it does not start.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            cwd=tempfile.gettempdir(),  # where Java leaves a file when it crashes
        )
    except OSError as error:
        raise failure(name, "cannot be started", str(error)) from error
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            close(pipe)


def close(pipe: IO[str]) -> None:
    with suppress(BrokenPipeError):  # there is nobody who could read what is left
        pipe.close()


def failure(name: str, how: str, said: str) -> UserError:
    """What to raise: it quotes the end of what a program has said, less the stack of Java."""
    lines = [line.strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "... "))]
    quoted = f" ({' | '.join(lines[-QUOTED_LINES:])[-QUOTED:]})" if lines else ""
    return UserError(f"{name} {how}{quoted}; fix it and give --resume, or --resume --scorer python")

"""Runs tools on a small disk of its own: ``unshare -m python -m tests.faults.disk_server``.

The disk is a tmpfs that only this process and its children see. What the tools need is imported
once; each run is a fork of this process, which ends as a command of its own would. Requests come
as JSON, one a line, and so do the answers; see ``requests_of``.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tests.faults.started_tools import HEAVY, prints_to, tool_of
from virtex.cli import run_tool

PAGE = os.sysconf("SC_PAGE_SIZE")  # what a tmpfs hands out
FILLER = ".somebody_elses"
WRITING = os.O_WRONLY | os.O_RDWR
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.truncate")


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an answer stands alone on its line
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        place = Path(asked["place"])
        if asked["do"] == "run":
            child = os.fork()
            if child == 0:
                end_like_python(as_command, place, asked)
            answer = waited_for(child, asked["limit"])
        else:
            answer = {"failed": DISK[asked["do"]](place, asked)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


# The disk -----------------------------------------------------------------------------------------


def options(asked: dict) -> str:
    """Of a tmpfs; one of no page or no file would have no limit."""
    files = asked.get("files") or 10**6
    return f"size={max(asked['pages'], 1) * PAGE},nr_inodes={files}"


def mount(place: Path, asked: dict) -> str:
    place.mkdir(exist_ok=True)
    failed = command("mount", "-t", "tmpfs", "-o", options(asked), "virtex", str(place))
    if not failed and asked["pages"] == 0:
        fill(place, 0)
    return failed


def enlarge(place: Path, asked: dict) -> str:
    failed = command("mount", "-o", f"remount,rw,{options(asked)}", str(place))
    (place / FILLER).unlink(missing_ok=True)
    return failed


def lock(place: Path, asked: dict) -> str:
    return command("mount", "-o", "remount,ro", str(place))


def unmount(place: Path, asked: dict) -> str:
    return command("umount", str(place))


DISK = {"mount": mount, "enlarge": enlarge, "lock": lock, "unmount": unmount}


def command(*words: str) -> str:
    """What it complained of; "" if it did not."""
    done = subprocess.run(words, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"


def used(place: Path) -> int:
    """Pages."""
    found = os.statvfs(place)
    return found.f_blocks - found.f_bfree


def fill(place: Path, spare: int) -> None:
    """Take all pages but ``spare``, as another program may at any moment."""
    found = os.statvfs(place)
    if found.f_bfree > spare:
        file = os.open(place / FILLER, os.O_WRONLY | os.O_CREAT)
        os.posix_fallocate(file, os.fstat(file).st_size, (found.f_bfree - spare) * PAGE)
        os.close(file)


# A run --------------------------------------------------------------------------------------------


def end_like_python(run: Callable, *given: object) -> NoReturn:
    """In the child, but for what belongs to its parent, of which there is much to be deleted."""
    try:
        run(*given)
    except SystemExit as left:
        status = left.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    gc.collect()  # what is deleted may write, and complain
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def as_command(place: Path, asked: dict) -> None:
    """What the tool's own process would do; it leaves by SystemExit."""
    prints_to(asked["stdout"], asked["stderr"])
    os.environ |= asked["environment"]
    tempfile.tempdir = None  # not that of this process's parent
    tool = tool_of(asked["module"])
    if asked.get("longest"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["longest"], asked["longest"]))
    watch(place, asked)
    run_tool(tool.main, tool.build_parser(), asked["argv"])


def watch(place: Path, asked: dict) -> None:
    """Note how full the disk is at each change of it; fill it at the one that was asked for."""
    notes = os.open(asked["notes"], os.O_WRONLY | os.O_CREAT)
    count, busy = 0, False

    def hook(event: str, args: tuple) -> None:
        nonlocal count, busy
        if busy or event not in CHANGES or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(args[0])
        reads = event == "open" and not (args[2] or 0) & WRITING
        if reads or not path.startswith(f"{place}/"):
            return
        busy = True
        os.write(notes, f"{json.dumps([used(place), event, os.path.basename(path)])}\n".encode())
        if event == "open":
            count += 1
            if count == asked.get("fill_at"):
                fill(place, asked["spare"])
        busy = False

    sys.addaudithook(hook)


def waited_for(child: int, limit: float) -> dict:
    """Its exit status, negative for a signal; None: it hung."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {"status": code, "seconds": round(time.monotonic() - start, 3)}
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return {"status": None, "seconds": limit}


if __name__ == "__main__":
    sys.exit(main())

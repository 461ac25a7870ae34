"""inspect_checkpoint run in this process on a file of unknown origin, and what must hold."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.data_runs import MOST_MEMORY, peak, run
from virtex.checkpoints import containers, loading  # noqa: F401  # imports write compiled files
from virtex.eval_tools import inspect_checkpoint

STARTS = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"),
    *("pty.spawn", "socket.connect", "socket.bind", "ctypes.dlopen", "webbrowser.open"),
    *("shutil.rmtree", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link", "os.chmod"),
)
_happened: list[list[str]] = []


def _note(event: str, arguments: tuple) -> None:
    if not _happened:
        return
    if event == "subprocess.Popen" and str(containers._UNPICKLER) in arguments[1]:
        return  # the process that reads pickles, with limits and without packages
    if event in STARTS or (event == "exec" and "attack" in str(arguments)):
        _happened[-1].append(f"{event} {arguments!r}"[:300])
    elif event == "open":
        path, mode, flags = arguments
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else False
        writes = writes or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(path) != os.devnull:
            _happened[-1].append(f"open {path!r} {mode!r}")


sys.addaudithook(_note)


@contextlib.contextmanager
def nothing_happens() -> Iterator[None]:
    """Assert that no process, socket or file is created, and that little memory is taken."""
    _happened.append([])
    before = peak()
    try:
        yield
    finally:
        happened = _happened.pop()
    assert not happened
    assert peak() - before < MOST_MEMORY


def inspected(path: Path, data: bytes, *flags: str) -> tuple[int, str]:
    """Exit status and the sentence of inspect_checkpoint on ``data`` in ``path``.

    The file is still what it was, and nothing was done beside reading it.
    """
    path.write_bytes(data)
    beside = sorted(os.listdir(path.parent))
    with nothing_happens():
        status, out, err = run(inspect_checkpoint, path, *flags)
    assert path.read_bytes() == data
    assert sorted(os.listdir(path.parent)) == beside
    require_sentence(status, err, path)
    printable = all(c.isprintable() or c == "\n" for c in out + err)
    assert printable, (out, err)
    return status, err


def require_sentence(status: int, err: str, path: Path) -> None:
    assert status in (0, 2), (status, err)
    assert "Traceback" not in err
    if status == 2:
        said = err[err.index(": error: ") :]
        assert str(path) in said, said
        assert len(said) < 20_000
        table = "[checkpoint.incomplete]" in said
        assert table or said.count("\n") <= 1, said

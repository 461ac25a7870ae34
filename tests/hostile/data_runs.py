"""Tools run in this process on files that lie, and what must hold whatever they say."""

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.tool_runs import run

__all__ = ["run"]

MOST_MEMORY = 1_500_000  # KiB that a case may add to what this process has ever needed
_watched: list[tuple[str, list[str]]] = []


def require_plain(status: int, err: str, *named: str | Path) -> None:
    """Done, or refused in a sentence that names what is to be fixed."""
    assert status in (0, 2), (status, err)
    assert "Traceback" not in err
    if status == 2:
        said = err[err.index(": error: ") :]
        assert any(str(name) in said for name in named), said
        assert len(said) < 20_000


def peak() -> int:
    """KiB that this process has needed at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def guarded(forbidden: Path) -> Iterator[None]:
    """Nothing at or below ``forbidden`` is opened or listed; memory stays within bounds."""
    touched: list[str] = []
    _watched.append((os.path.abspath(forbidden), touched))
    before = peak()
    try:
        yield
    finally:
        _watched.pop()
    assert not touched
    assert peak() - before < MOST_MEMORY


def _look(event: str, arguments: tuple) -> None:
    if not _watched or event not in ("open", "os.listdir", "os.scandir"):
        return
    path = arguments[0]
    if isinstance(path, str | bytes) or hasattr(path, "__fspath__"):
        path = os.path.abspath(os.fsdecode(path))
        for forbidden, touched in _watched:
            if path == forbidden or path.startswith(f"{forbidden}/"):
                touched.append(path)


sys.addaudithook(_look)


def outcome(read: Callable[[], object], *named: str | Path) -> bool:
    """Whether ``read()`` works; else it raises a UserError that names one of ``named``."""
    from virtex.errors import UserError

    try:
        read()
    except UserError as error:
        assert any(str(name) in str(error) for name in named), str(error)
        return False
    return True

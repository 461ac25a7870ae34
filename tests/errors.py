"""Assertions about user-facing errors: the code and what is named, not the wording."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from virtex.errors import UserError


@contextmanager
def raises_code(code: str, *named: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a ``UserError`` with ``code`` whose message contains each of ``named``."""
    with pytest.raises(UserError) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value} [{caught.value.code}]"
    for name in named:
        assert str(name) in str(caught.value)


def assert_invalid_input(
    process: subprocess.CompletedProcess[str], code: str, *named: object
) -> None:
    """Expect exit status 2 and one error with ``code`` on stderr, without a traceback."""
    assert process.returncode == 2, process.stderr
    assert f"[{code}]" in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
    for name in named:
        assert str(name) in process.stderr

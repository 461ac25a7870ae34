"""Select parameters of tests for ``make test`` and for ``make test-all``."""

from typing import Any

import pytest


def whole_only(*values: Any) -> list[Any]:
    """Parameters that run with ``--whole`` only."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.whole)
        for value in values
    ]

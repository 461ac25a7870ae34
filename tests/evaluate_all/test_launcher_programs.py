"""What a launcher needs is told before a run is planned."""

import sys

import pytest

from virtex.errors import UserError
from virtex.evaluate_all.submitting import require


def test_without_submitit_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)  # which imports take for an absent one
    with pytest.raises(UserError) as caught:
        require("submitit-local")
    assert str(caught.value) == "--launcher submitit-local needs submitit: pip install submitit"

"""CONTRIBUTING.md names what there is; that its blocks run is tests/documentation's."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = re.compile(r"`((?:virtex|tests|docs)/[\w./]+)`")


def test_every_file_and_folder_it_names_is_there():
    named = PATH.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []

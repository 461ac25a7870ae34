"""Real processes that stand in for Java, and folders that stand in for pycocoevalcap."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from virtex.captioning import java

needs_java = pytest.mark.skipif(
    java.java_missing() is not None, reason="Java or pycocoevalcap is not there"
)

# answers what is asked for: -version, --list-modules, METEOR's lines, and else what it is told
FRAME = """#!{python}
import json, os, signal, sys, time
arguments = sys.argv[1:]
if arguments == ["-version"]:
    print('openjdk version "{version}" 2021-10-19', file=sys.stderr)
elif arguments == ["--list-modules"]:
    print("java.base@{version}\\n{compiler}@{version}")
else:
    {body}
"""


def put_java(folder, monkeypatch, body, version="17.0.1", compiler="jdk.compiler"):
    """A ``java`` first on PATH that runs lines of Python.

    Args:
        compiler: a module that it has.
    """
    binaries = Path(folder) / "stand-in" / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    lines = "\n    ".join(body.strip().splitlines())
    text = FRAME.format(python=sys.executable, version=version, compiler=compiler, body=lines)
    (binaries / "java").write_text(text)
    (binaries / "java").chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    return binaries / "java"


def put_pycocoevalcap(folder, monkeypatch, *jars):
    """A pycocoevalcap that is found first, of empty jars."""
    root = Path(folder) / "site-packages" / "pycocoevalcap"
    for jar in (java.TOKENIZER, java.METEOR, java.SPICE, *jars):
        (root / jar).parent.mkdir(parents=True, exist_ok=True)
        (root / jar).touch()
    find_first(root.parent, monkeypatch)
    return root


def find_first(folder, monkeypatch):
    """Let imports look here before anywhere else.

    pytest's own way of it asks pkg_resources, which where Detectron2 is used may be a stand-in.
    """
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()


def hide_pycocoevalcap(monkeypatch):
    """As if it were not installed."""
    own = Path(java.__file__).parents[2]
    monkeypatch.setattr(sys, "path", [str(own)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)

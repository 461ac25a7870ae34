"""Stubs of Java, as real processes, and of pycocoevalcap, as folders."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from virtex.captioning import java

needs_java = pytest.mark.skipif(
    java.missing_java() is not None, reason="needs Java and pycocoevalcap"
)

# answers -version and --list-modules, and otherwise runs the body
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


def install_java(folder, monkeypatch, body, version="17.0.1", compiler="jdk.compiler"):
    """Put a ``java`` first on PATH that runs lines of Python.

    Args:
        compiler: a module it lists.
    """
    binaries = Path(folder) / "stub" / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    lines = "\n    ".join(body.strip().splitlines())
    text = FRAME.format(python=sys.executable, version=version, compiler=compiler, body=lines)
    (binaries / "java").write_text(text)
    (binaries / "java").chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    return binaries / "java"


def install_pycocoevalcap(folder, monkeypatch, *jars):
    """Put a pycocoevalcap with empty jars first on the import path."""
    root = Path(folder) / "site-packages" / "pycocoevalcap"
    for jar in (java.TOKENIZER_JAR, java.METEOR_JAR, java.SPICE_JAR, *jars):
        (root / jar).parent.mkdir(parents=True, exist_ok=True)
        (root / jar).touch()
    prepend_path(root.parent, monkeypatch)
    return root


def prepend_path(folder, monkeypatch):
    """Prepend a folder to the import path.

    ``monkeypatch.syspath_prepend`` imports pkg_resources, which may be a stub for Detectron2.
    """
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()


def hide_pycocoevalcap(monkeypatch):
    """Make pycocoevalcap impossible to import."""
    own = Path(java.__file__).parents[2]
    monkeypatch.setattr(sys, "path", [str(own)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)

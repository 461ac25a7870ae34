"""Checks of what scores captions beside Python: Java, its programs and SPICE's models."""

from __future__ import annotations

import re
from collections.abc import Iterator

from virtex.captioning import java_process
from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, Finding
from virtex.errors import UserError

WITHOUT = "captions are scored without METEOR, SPICE and COCO's own tokenizer"
JAVA_SECONDS = 60

PROGRAMS = """
from importlib.metadata import version
from virtex.captioning import java
tell(there=java.package_folder() is not None)
tell(version=version("pycocoevalcap"))
tell(models=java.spice_models_missing(), get=java.GET_SPICE_MODELS)
"""


def java(seconds: float) -> Iterator[Finding]:
    path = java_process.find_java()
    if path is None:
        remedy = "install a Java runtime (Debian: apt-get install default-jre-headless)"
        yield Finding("Java", NOTE, f"there is none: {WITHOUT}", remedy)
        return
    try:
        _, told = java_process.run(path, [path, "-version"], min(seconds, JAVA_SECONDS))
    except UserError as error:
        reason = str(error).partition("; fix it")[0]  # and give --resume: there is no run here
        remedy = "install another Java runtime, or set JAVA_HOME to one"
        yield Finding("Java", NOTE, f"does not work ({reason}): {WITHOUT}", remedy)
        return
    version = re.search(r'version "([^"]*)"', told)
    yield Finding("Java", OK, f"{version[1] if version else 'of unknown version'} at {path}")


def caption_programs(seconds: float) -> Iterator[Finding]:
    answer = ask(PROGRAMS, seconds)
    if not answer.facts.get("there") or answer.error:
        why = answer.error or "pycocoevalcap is not installed"
        yield Finding("pycocoevalcap", NOTE, f"{why}: {WITHOUT}", "pip install pycocoevalcap")
        return
    yield Finding("pycocoevalcap", OK, f"{answer.facts['version']}; METEOR and COCO's tokenizer")
    if models := answer.facts["models"]:
        said = f"left out: {' and '.join(models)} are a download of their own"
        yield Finding("SPICE", NOTE, said, answer.facts["get"])
    else:
        yield Finding("SPICE", OK, "its models are there")

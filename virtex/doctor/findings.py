"""What a check finds, and how it is told: without names of users and machines."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

OK, NOTE, PROBLEM = "ok", "note", "problem"
ANYBODY = (None, "", "root", "localhost")  # names that tell nothing
AT_ONCE = 4  # checks; each mostly waits for a process


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        state: OK; NOTE: works, but not all of it or not well; PROBLEM: keeps the main job, training
            and scoring a detector, from running.
        found: what was found.
        remedy: what to do, mostly a command; "" where nothing is to be done.
    """

    check: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Limits:
    """What the checks may do.

    Attributes:
        seconds: that a check waits for a process.
        network: whether servers are asked.
    """

    seconds: float = 120
    network: bool = False


Check = Callable[[Limits], Iterable[Finding]]


def run_checks(checks: Sequence[Check], limits: Limits) -> list[Finding]:
    """What all checks find, in their order. A check that fails itself is a finding."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda check: run_check(check, limits), checks)
        return [anonymous(finding) for findings in found for finding in findings]


def run_check(check: Check, limits: Limits) -> list[Finding]:
    try:
        return list(check(limits))
    except Exception as error:
        said = f"could not be checked ({type(error).__name__}: {error})"
        name = getattr(check, "name", "") or check.__name__.replace("_", " ")
        return [Finding(name, NOTE, said)]


def as_text(findings: Sequence[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.check:{width}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':8} {'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    problems = sum(finding.state == PROBLEM for finding in findings)
    return {"problems": problems, "findings": [asdict(finding) for finding in findings]}


def anonymous(finding: Finding) -> Finding:
    """The same without names of the user and of the machine; the home folder becomes ~."""
    return Finding(
        finding.check,
        finding.state,
        without_names(finding.found),
        without_names(finding.remedy),
    )


def without_names(text: str) -> str:
    home = os.path.expanduser("~")
    for folder in {home, os.path.realpath(home)} - {"/", "~"}:
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "~", text)
    users = {Path(home).name, os.environ.get("USER"), os.environ.get("LOGNAME")}
    names = {name: "USER" for name in users} | {socket.gethostname(): "HOST"}
    for name, instead in names.items():
        if name not in ANYBODY:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", instead, text)
    return text

"""What a check finds, and how it is told: without names of users and machines."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from virtex.errors import UserError

OK, NOTE, PROBLEM = "ok", "note", "problem"
ANYBODY = (None, "", "root", "localhost")  # names that tell nothing
SECONDS = 120.0  # that a check waits for a process, unless told
MISTAKE = "report it as a mistake of the doctor's, with all that it prints"
AT_ONCE = 4  # checks; each mostly waits for a process


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        state: OK; NOTE: works, but not all of it or not well; PROBLEM: keeps the main job, training
            and scoring a detector, from running.
        found: what was found.
        remedy: what to do, mostly a command; "" where it is OK.
    """

    check: str
    state: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state != OK and not self.remedy:
            raise ValueError(f"no remedy is told for {self.check}: {self.found}")


Check = Callable[[float], Iterable[Finding]]  # of the seconds that it waits for a process


def run_checks(checks: Sequence[Check], seconds: float = SECONDS) -> list[Finding]:
    """What all checks find, in their order. A check that fails itself is a finding."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda check: run_check(check, seconds), checks)
        return [anonymous(finding) for findings in found for finding in findings]


def run_check(check: Check, seconds: float) -> list[Finding]:
    try:
        return list(check(seconds))
    except Exception as error:
        said = f"could not be checked ({type(error).__name__}: {error})"
        name = getattr(check, "name", "") or check.__name__.replace("_", " ")
        return [Finding(name, NOTE, said, MISTAKE)]


def report(findings: Sequence[Finding], in_json: bool = False) -> None:
    """Print findings.

    Raises:
        UserError: one of them is a PROBLEM.
    """
    print(json.dumps(as_json(findings), indent=2) if in_json else as_text(findings))
    problems = [finding.check for finding in findings if finding.state == PROBLEM]
    if problems:
        raise UserError(f"the main job cannot run: fix {', '.join(problems)}")


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
    """The same without names of the user and of the machine; the home folder becomes ~.

    A remedy is to be copied: a user may be called as a module is, and so only ~ is safe there.
    """
    return replace(
        finding,
        found=without_names(without_home(finding.found)),
        remedy=without_home(finding.remedy),
    )


def without_home(text: str) -> str:
    home = os.path.expanduser("~")
    for folder in {home, os.path.realpath(home)} - {"/", "~"}:
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "~", text)
    return text


def without_names(text: str) -> str:
    """The user is left out as a folder of a path alone, the machine wherever it is a word."""
    users = {Path(os.path.expanduser("~")).name, os.environ.get("USER"), os.environ.get("LOGNAME")}
    for user in filter(None, users.difference(ANYBODY)):
        text = re.sub(rf"(?<=/){re.escape(user)}(?![\w.-])", "USER", text)
    host = socket.gethostname()
    if host not in ANYBODY:
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(host)}(?![A-Za-z0-9])", "HOST", text)
    return text

"""What is found out about the data of tasks, as text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virtex.data.layouts import TOY_HINT
from virtex.data.listing import shown

FIRST = 5  # names of missing images that are told in text


@dataclass(frozen=True)
class PathReport:
    """One path that a task needs.

    Attributes:
        path: joined with the data root as it was given.
        missing: why it cannot be used at all; "" if it can.
        problem: what else is wrong with it; "" if nothing.
        counts, published: what is counted -> how much there is here, and of the published data.
        lacking: what it names that is not on disk, relative to the data root.
        undecodable: its images that cannot be decoded -> why; only of a deep check.
    """

    path: str
    missing: str = ""
    problem: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    lacking: Sequence[str] = ()
    undecodable: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "missing" if self.missing else "broken" if self.whats_wrong() else "ok"

    @property
    def smaller(self) -> bool:
        """Whether it is a toy or a subset."""
        return any(n < self.published.get(what, n) for what, n in self.counts.items())

    def whats_wrong(self) -> str:
        said = [said for said in (self.missing, self.problem) if said]
        if self.lacking:
            first, more = ", ".join(self.lacking[:FIRST]), len(self.lacking) - FIRST
            first += f" and {more} more, which --json lists" * (more > 0)
            said.append(f"{len(self.lacking)} that it names are not on disk ({first})")
        if self.undecodable:
            said.append(f"{len(self.undecodable)} images cannot be decoded")
        return ", ".join(said)

    def said(self) -> str:
        """All that is known of it in a line."""
        counts = [f"{n} {what}{self._published(what, n)}" for what, n in self.counts.items()]
        return ", ".join([*counts, *filter(None, [self.whats_wrong()])])

    def _published(self, what: str, count: int) -> str:
        published = self.published.get(what, count)
        return f" (published: {published})" if published != count else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "state": self.state,
            "problem": self.missing or self.problem,
            "counts": dict(self.counts),
            "published": dict(self.published),
            "not_on_disk": list(self.lacking),
            "undecodable": dict(self.undecodable),
        }


@dataclass(frozen=True)
class TaskReport:
    """The data of the tasks that need the same.

    Attributes:
        tasks: their names.
        unreadable: what the tasks' own reader refuses; "" if nothing, or if it was not asked.
        notes: what a user should know, though the data are complete without.
        source: where the published data come from.
    """

    tasks: Sequence[str]
    paths: Sequence[PathReport]
    unreadable: str
    notes: Sequence[str]
    source: str

    @property
    def complete(self) -> bool:
        return not self.unreadable and all(path.state == "ok" for path in self.paths)

    @property
    def smaller(self) -> bool:
        return any(path.smaller for path in self.paths)

    def summary(self) -> str:
        """One sentence."""
        names = ", ".join(self.tasks)
        if self.complete:
            return f"{names}: complete" + ", a toy or a subset of the published data" * self.smaller
        missing = [path.path for path in self.paths if path.state == "missing"]
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [
            f"{path.path}: {path.whats_wrong()}" for path in self.paths if path.state == "broken"
        ]
        return f"{names}: {'; '.join([*said, *filter(None, [self.unreadable])])}"

    def as_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "toy_or_subset": self.smaller,
            "summary": self.summary(),
            "paths": [path.as_json() for path in self.paths],
            "unreadable": self.unreadable,
            "notes": list(self.notes),
            "source": self.source,
        }

    def as_text(self) -> str:
        width = max(len(path.path) for path in self.paths)
        lines = [self.summary() if self.complete else f"{', '.join(self.tasks)}: not complete"]
        for path in self.paths:
            lines.append(f"  {path.state:8} {path.path:{width}}  {path.said()}".rstrip())
            lines += [f"           {why}" for why in path.undecodable.values()]
        if self.unreadable:
            lines.append(f"  broken   {self.unreadable}")
        lines += [f"  note     {note}" for note in self.notes]
        if any(path.state == "missing" for path in self.paths):
            lines.append(f"  to get it: {self.source}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """All that was asked.

    Attributes:
        data_root: as it was given.
        found: of the data root, what it holds.
        read: what was read to find this out.
    """

    data_root: str
    found: str
    read: str
    tasks: Sequence[TaskReport]

    @property
    def incomplete(self) -> list[TaskReport]:
        return [task for task in self.tasks if not task.complete]

    def as_json(self) -> dict[str, Any]:
        return {
            "data_root": self.data_root,
            "data_root_found": self.found,
            "read": self.read,
            "complete": not self.incomplete,
            "tasks": {name: task.as_json() for task in self.tasks for name in task.tasks},
        }

    def as_text(self) -> str:
        lines = [f"The data root {self.data_root} {self.found}.", f"Read: {self.read}.", ""]
        for task in self.tasks:
            lines += [task.as_text(), ""]
        if any(path.state == "missing" for task in self.tasks for path in task.paths):
            lines.append(f"To try without: {TOY_HINT}")
        return shown("\n".join(lines).rstrip())

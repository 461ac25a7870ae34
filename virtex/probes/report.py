"""What an evaluator tells beside its metrics, for the record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from virtex.checkpoints.backbone import Backbone
from virtex.records import Deviation


class Images(Protocol):
    """Pictures that an evaluation looks at."""

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """``images``, their number, and hashes: for the record."""
        ...


@dataclass
class Report:
    """Filled while an evaluator runs, its deviations when it is made.

    See ``virtex.records.Result`` for each part.

    Attributes:
        found: deviations that nobody could know before it ran.
    """

    timing: dict[str, float] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    found: list[Deviation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Evaluator(Protocol):
    """Judges a backbone on one task.

    Attributes:
        report: what it tells beside the metrics, once it has run.
    """

    report: Report

    @property
    def images(self) -> Mapping[str, Images]:
        """Data set -> its images, read and checked when the evaluator is made."""
        ...

    def check(self, backbone: Backbone) -> None:
        """What can be known before a file is written.

        Raises:
            UserError: the features would not fit the cache.
        """
        ...

    def __call__(self, backbone: Backbone) -> dict[str, float] | None:
        """Metrics in percent, in every process; NaN where one is not defined.

        None where there is nothing to compare with, and so no result to record.

        Raises:
            UserError: something the user must fix.
        """
        ...

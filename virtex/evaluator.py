"""The evaluator interface: backbone in, metrics and a report for the record out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from virtex.checkpoints.backbone import Backbone
from virtex.records import Deviation


class Images(Protocol):
    """The images of one split."""

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """Return the number of ``images`` and hashes, for the record."""
        ...


@dataclass
class Report:
    """The report of an evaluator besides its metrics; see ``virtex.records.Result``.

    Attributes:
        preprocessing: what is done to the images besides the DATA section of the settings.
        deviations: known once the evaluator is built.
        late_deviations: known only after it has run.
    """

    timing: dict[str, float] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    late_deviations: list[Deviation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Evaluator(Protocol):
    """Evaluates a backbone on one task.

    Attributes:
        report: complete once it has run.
    """

    report: Report

    @property
    def images(self) -> Mapping[str, Images]:
        """Return dataset -> images, read and checked when the evaluator is built."""
        ...

    def check(self, backbone: Backbone) -> None:
        """Check requirements before anything is written.

        Raises:
            UserError: the features do not fit the cache, the model cannot be loaded, …
        """
        ...

    def __call__(self, backbone: Backbone) -> dict[str, float] | None:
        """Return metrics in percent, in every process; NaN where one is not defined.

        ``None`` if there is no ground truth, and hence no result to record.

        Raises:
            UserError: invalid input.
        """
        ...

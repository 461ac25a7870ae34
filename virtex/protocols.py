"""What a protocol is: the settings of a task, the size of its data, the metric that ranks.

Two numbers are comparable only under the same protocol without deviations.
"""

from dataclasses import dataclass, field
from pathlib import Path

from virtex.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a task is trained and scored.

    Attributes:
        task: ``coco``, ``voc07_svm``, …, or the name of a custom dataset.
        name: the name in the record.
        version: raised when the meaning of its numbers changes.
        config: the YAML file with the settings.
        images: dataset -> number of images of the published data; any other number is a deviation.
        primary_metric: the metric that ranks.
    """

    task: str
    name: str
    version: str
    config: Path
    images: dict[str, int] = field(default_factory=dict)
    primary_metric: str = "bbox/AP"


def choose_protocol(protocols: dict[str, Protocol], task: str, name: str | None) -> Protocol:
    """Return a task's protocol by its short name, or its default, the first, for ``None``.

    Args:
        protocols: short name -> protocol of ``task``.

    Raises:
        UserError: the task has no protocol of that name.
    """
    if name is None:
        return next(iter(protocols.values()))
    if name not in protocols:
        raise UserError(
            f"task {task} has no protocol {name!r}; choose one of {', '.join(protocols)}",
            "protocol.unknown",
        )
    return protocols[name]

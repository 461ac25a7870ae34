"""What a protocol is: a task, the file of its settings, the size of its data, its metric.

A number is comparable to another only under the same protocol without deviations.
"""

from dataclasses import dataclass, field
from pathlib import Path

from virtex.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a task is trained and scored.

    Attributes:
        task: ``coco``, ``voc07_svm``, …, or the data set's name for data of one's own.
        name: what the record calls it.
        version: raised when the meaning of its numbers changes.
        config: the YAML file.
        images: data set -> number of images of the real data; another number is a deviation.
        primary_metric: the metric that ranks.
    """

    task: str
    name: str
    version: str
    config: Path
    images: dict[str, int] = field(default_factory=dict)
    primary_metric: str = "bbox/AP"


def choose_protocol(named: dict[str, Protocol], task: str, name: str | None) -> Protocol:
    """A task's protocol by its short name; the first, its default, for None.

    Args:
        named: the protocols of ``task`` by short name.

    Raises:
        UserError: the task has no protocol of that name.
    """
    if name is None:
        return next(iter(named.values()))
    if name not in named:
        raise UserError(f"task {task} has no protocol {name!r}; it has {', '.join(named)}")
    return named[name]

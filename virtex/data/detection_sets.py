"""The datasets of ``detectron2_transfer``; the tasks register them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from virtex.data.layouts import Layout


@dataclass(frozen=True)
class DetectionSet:
    """One split on disk.

    Attributes:
        name: in ``DATASETS.TRAIN`` and ``DATASETS.TEST``; Detectron2's name if it has the dataset.
        kind: how it is read: a key of ``virtex.detectron.datasets.READERS``. The reader states
            in the metadata how it is scored: a key of ``virtex.detectron.evaluation.EVALUATORS``.
        annotations: file or folder of annotations, relative to the data root.
        images: folder that file names are relative to, relative to the data root.
        task, layout, primary_metric: of the task that registered it; custom datasets have no task.
    """

    name: str
    kind: str
    annotations: str
    images: str
    task: str = ""
    layout: Layout | None = None
    primary_metric: str = "bbox/AP"

    @property
    def is_custom(self) -> bool:
        """Whether it is a custom dataset, whose paths are absolute."""
        return not self.task


DETECTION_SETS: dict[str, DetectionSet] = {}


def register_sets(
    task: str, layout: Layout, sets: Iterable[DetectionSet], primary_metric: str = "bbox/AP"
) -> None:
    """Add the sets of a task to ``DETECTION_SETS``.

    Raises:
        ValueError: a dataset of that name is already registered.
    """
    for entry in sets:
        if entry.name in DETECTION_SETS:
            raise ValueError(f"a dataset named {entry.name!r} is already registered")
        DETECTION_SETS[entry.name] = replace(
            entry, task=task, layout=layout, primary_metric=primary_metric
        )

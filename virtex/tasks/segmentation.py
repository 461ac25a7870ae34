"""Shared by the tasks of semantic segmentation: registration with two protocols each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import Layout
from virtex.tasks.detection import register_detection
from virtex.tasks.registry import Task


def read_data(sets: Sequence[DetectionSet], data_root: Path) -> None:
    """Read and check the label maps of all sets."""
    from virtex.data.segmentation import describe_labels, require_pairs

    for entry in sets:
        describe_labels(require_pairs(entry, data_root), entry.kind)


def register_segmentation(
    name: str,
    title: str,
    layout: Layout,
    images: Mapping[str, int],
    sets: Sequence[DetectionSet],
) -> Task:
    """Register a task with the protocols ``linear`` and ``fpn``, see ``register_detection``."""
    return register_detection(
        name,
        title,
        layout=layout,
        images=images,
        configs={
            "linear": f"{name}_linear",
            "fpn": f"{name}_semantic_FPN",
            "toy": f"toy/{name}_fpn",
            "toy-linear": f"toy/{name}_linear",
        },
        sets=sets,
        read_data=partial(read_data, sets),
        primary_metric="sem_seg/mIoU",
        version="1",
        is_default=False,
    )

"""VirTex pretraining from COCO's captions, or from its object labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import COCO_CAPTION_PRETRAINING, COCO_MULTILABEL_PRETRAINING
from virtex.tasks.registry import Task, register_task

if TYPE_CHECKING:
    from virtex.runner import Job


def plan(args: argparse.Namespace) -> Sequence[Job]:
    """Plan ``virtex.pretrain`` for its parsed arguments; its config selects the task."""
    from virtex.pretraining.run import PretrainingJob

    return [PretrainingJob(args)]


def read_caption_data(data_root: Path) -> None:
    """Read and check the captions of both splits."""
    from virtex.data.captions import read_captions

    for split in ("train", "val"):
        read_captions(data_root / "coco", split)


def read_label_data(data_root: Path) -> None:
    """Read and check the object labels of both splits."""
    from virtex.data.captions import read_labels

    for split in ("train", "val"):
        read_labels(data_root / "coco", split)


PRETRAINING = register_task(
    Task(
        name="pretraining",
        title="pretraining from captions",
        layout=COCO_CAPTION_PRETRAINING,
        read_data=read_caption_data,
        protocols={},
        plan=plan,
        command="pretrain",
        is_evaluation=False,
    )
)
MULTILABEL_PRETRAINING = register_task(
    Task(
        name="multilabel_pretraining",
        title="pretraining from object labels",
        layout=COCO_MULTILABEL_PRETRAINING,
        read_data=read_label_data,
        protocols={},
        plan=plan,
        command="pretrain",
        is_evaluation=False,
    )
)

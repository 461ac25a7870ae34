"""Cityscapes semantic segmentation (19 classes): linear, or Semantic FPN."""

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import CITYSCAPES_SEGMENTATION
from virtex.tasks.segmentation import register_segmentation

CITYSCAPES_SEG = register_segmentation(
    "cityscapes_seg",
    "Cityscapes semantic segmentation",
    layout=CITYSCAPES_SEGMENTATION,
    images={"cityscapes_fine_sem_seg_train": 2975, "cityscapes_fine_sem_seg_val": 500},
    sets=[
        DetectionSet(
            f"cityscapes_fine_sem_seg_{split}",
            "cityscapes_seg",
            f"cityscapes/gtFine/{split}",
            f"cityscapes/leftImg8bit/{split}",
        )
        for split in ("train", "val")
    ],
)

"""Cityscapes instance segmentation: Mask R-CNN R50-FPN, as in MoCo (arXiv 1911.05722)."""

from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import CITYSCAPES as LAYOUT
from virtex.tasks.detection import register_detection


def read_data(data_root: Path) -> None:
    """Read and check the annotations of both splits: polygons, and the instance ids of val."""
    from virtex.data.cityscapes import read_split

    for split, is_scored in (("train", False), ("val", True)):
        root = data_root / "cityscapes"
        read_split(root / "leftImg8bit" / split, root / "gtFine" / split, is_scored)


CITYSCAPES = register_detection(
    "cityscapes",
    "Cityscapes instance segmentation",
    layout=LAYOUT,
    images={"cityscapes_fine_instance_seg_train": 2975, "cityscapes_fine_instance_seg_val": 500},
    configs={"24k": "cityscapes_mask_rcnn_R_50_FPN_24k", "toy": "toy/cityscapes"},
    sets=[
        DetectionSet(
            f"cityscapes_fine_instance_seg_{split}",
            "cityscapes_instance",
            f"cityscapes/gtFine/{split}",
            f"cityscapes/leftImg8bit/{split}",
        )
        for split in ("train", "val")
    ],
    read_data=read_data,
    primary_metric="segm/AP",
    version="1",
    is_default=False,
)

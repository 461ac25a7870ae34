"""COCO person keypoints: Keypoint R-CNN R50-FPN, a transfer task of MoCo (arXiv 1911.05722)."""

from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import COCO_KEYPOINT_DETECTION
from virtex.tasks.detection import register_detection


def read_data(data_root: Path) -> None:
    """Read and check the annotations of both splits."""
    from virtex.data.annotations import (
        COCO_KEYPOINTS,
        check_coco_json,
        check_keypoints,
        read_json,
    )

    for split in ("train", "val"):
        path = data_root / f"coco/annotations/person_keypoints_{split}2017.json"
        content = read_json(path, "COCO person keypoints")
        check_coco_json(content, path)
        check_keypoints(content, path, COCO_KEYPOINTS)


COCO_PERSON_KEYPOINTS = register_detection(
    "coco_keypoints",
    "COCO person keypoints",
    layout=COCO_KEYPOINT_DETECTION,
    images={"keypoints_coco_2017_train": 118287, "keypoints_coco_2017_val": 5000},
    configs={
        "2x": "coco_keypoint_rcnn_R_50_FPN_2x",
        "1x": "coco_keypoint_rcnn_R_50_FPN_1x",
        "toy": "toy/coco_keypoints",
    },
    sets=[
        DetectionSet(
            f"keypoints_coco_2017_{split}",
            "coco_keypoints",
            f"coco/annotations/person_keypoints_{split}2017.json",
            f"coco/{split}2017",
        )
        for split in ("train", "val")
    ],
    read_data=read_data,
    primary_metric="keypoints/AP",
    version="1",
    is_default=False,
)

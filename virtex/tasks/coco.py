"""COCO instance segmentation: Mask R-CNN, as in VirTex (arXiv 2006.06666, appendix A) and MoCo.

The protocols ``vitdet…`` are those of ViTDet (arXiv 2203.16527) for each size of a ViT.
"""

from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import COCO_DETECTION
from virtex.tasks.detection import register_detection


def read_data(data_root: Path) -> None:
    """Read and check the annotations of both splits."""
    from virtex.data.annotations import check_coco_json, read_json

    for split in ("train", "val"):
        path = data_root / f"coco/annotations/instances_{split}2017.json"
        check_coco_json(read_json(path, "COCO instances"), path)


COCO = register_detection(
    "coco",
    "COCO instance segmentation",
    layout=COCO_DETECTION,
    images={"coco_2017_train": 118287, "coco_2017_val": 5000},
    configs={
        "2x": "coco_mask_rcnn_R_50_FPN_2x",
        "1x": "coco_mask_rcnn_R_50_FPN_1x",
        "4conv-1x": "coco_mask_rcnn_R_50_FPN_4conv1fc_1x",
        "4conv-2x": "coco_mask_rcnn_R_50_FPN_4conv1fc_2x",
        "adamw-1x": "coco_mask_rcnn_FPN_adamw_1x",
        "adamw-3x": "coco_mask_rcnn_FPN_adamw_3x",
        "adamw-3x-convnext": "coco_mask_rcnn_FPN_adamw_3x_convnext",
        "frozen": "coco_mask_rcnn_R_50_FPN_1x_frozen",
        "scratch": "coco_mask_rcnn_R_50_FPN_scratch",
        "vitdet": "coco_mask_rcnn_vitdet_b_100ep",
        "vitdet-l": "coco_mask_rcnn_vitdet_l_100ep",
        "vitdet-h": "coco_mask_rcnn_vitdet_h_75ep",
        "toy": "toy/coco",
        "toy-4conv": "toy/coco_4conv",
        "toy-vitdet": "toy/coco_vitdet",
        "toy-adamw": "toy/coco_adamw",
        "toy-frozen": "toy/coco_frozen",
    },
    sets=[
        DetectionSet(
            f"coco_2017_{split}",
            "coco",
            f"coco/annotations/instances_{split}2017.json",
            f"coco/{split}2017",
        )
        for split in ("train", "val")
    ],
    read_data=read_data,
    vit_protocols=("vitdet", "vitdet-l", "vitdet-h", "toy-vitdet"),
)

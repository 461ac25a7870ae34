"""LVIS v1 instance segmentation: Mask R-CNN, as in VirTex (arXiv 2006.06666, appendix A).

The protocols ``vitdet…`` are those of ViTDet (arXiv 2203.16527) for each size of a ViT.
"""

from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import LVIS_DETECTION
from virtex.tasks.detection import register_detection


def read_data(data_root: Path) -> None:
    """Read and check the annotations of both splits."""
    from virtex.data.annotations import check_lvis_json, read_json

    for split in ("train", "val"):
        path = data_root / f"lvis/lvis_v1_{split}.json"
        check_lvis_json(read_json(path, "LVIS v1 annotations"), path)


LVIS = register_detection(
    "lvis",
    "LVIS v1 instance segmentation",
    layout=LVIS_DETECTION,
    images={"lvis_v1_train": 100170, "lvis_v1_val": 19809},
    configs={
        "2x": "lvis_mask_rcnn_R_50_FPN_2x",
        "imagenet-init": "lvis_mask_rcnn_R_50_FPN_2x_imagenet_init",
        "vitdet": "lvis_mask_rcnn_vitdet_b_100ep",
        "vitdet-l": "lvis_mask_rcnn_vitdet_l_100ep",
        "vitdet-h": "lvis_mask_rcnn_vitdet_h_100ep",
        "toy": "toy/lvis",
        "toy-vitdet": "toy/lvis_vitdet",
    },
    sets=[
        DetectionSet(f"lvis_v1_{split}", "lvis", f"lvis/lvis_v1_{split}.json", "coco")
        for split in ("train", "val")
    ],
    read_data=read_data,
    vit_protocols=("vitdet", "vitdet-l", "vitdet-h", "toy-vitdet"),
)

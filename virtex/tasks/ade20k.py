"""ADE20K semantic segmentation (SceneParsing, 150 classes): linear, or Semantic FPN."""

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import ADE20K as LAYOUT
from virtex.tasks.segmentation import register_segmentation

ADE20K = register_segmentation(
    "ade20k",
    "ADE20K semantic segmentation",
    layout=LAYOUT,
    images={"ade20k_sem_seg_train": 20210, "ade20k_sem_seg_val": 2000},
    sets=[
        DetectionSet(
            f"ade20k_sem_seg_{split}",
            "ade20k",
            f"ADEChallengeData2016/annotations/{folder}",
            f"ADEChallengeData2016/images/{folder}",
        )
        for split, folder in (("train", "training"), ("val", "validation"))
    ],
)

"""PASCAL VOC detection: Faster R-CNN R50-C4, as in MoCo and VirTex (arXiv 2006.06666)."""

from virtex.data.layouts import VOC_DETECTION
from virtex.tasks.detection import register_detection

VOC = register_detection(
    "voc",
    "PASCAL VOC detection",
    layout=VOC_DETECTION,
    images={"voc_2007_trainval": 5011, "voc_2012_trainval": 11540, "voc_2007_test": 4952},
    configs={"24k": "voc_faster_rcnn_R_50_C4_24k", "toy": "toy/voc"},
)

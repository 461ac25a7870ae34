"""PASCAL VOC detection: Faster R-CNN, with C4 as in MoCo and VirTex, or a feature pyramid."""

from pathlib import Path

from virtex.data.detection_sets import DetectionSet
from virtex.data.layouts import VOC_DETECTION
from virtex.errors import UserError
from virtex.tasks.detection import register_detection


def read_data(data_root: Path) -> None:
    """Read and check the annotations of all splits, as Detectron2 reads them.

    Raises:
        UserError: an annotation is invalid, or Detectron2 cannot be imported.
    """
    try:
        from virtex.detectron.datasets import read_voc
    except Exception as error:  # a broken installation raises ImportError, OSError, …
        raise UserError(
            f"VOC's annotations cannot be read because Detectron2 cannot be imported ({error}); "
            "install it: python -m virtex.detectron.install",
            "environment.detectron2",
        ) from error

    read_voc(data_root)


VOC = register_detection(
    "voc",
    "PASCAL VOC detection",
    layout=VOC_DETECTION,
    images={"voc_2007_trainval": 5011, "voc_2012_trainval": 11540, "voc_2007_test": 4952},
    configs={
        "24k": "voc_faster_rcnn_R_50_C4_24k",
        "fpn-24k": "voc_faster_rcnn_R_50_FPN_24k",
        "frozen": "voc_faster_rcnn_R_50_FPN_24k_frozen",
        "toy": "toy/voc",
        "toy-fpn": "toy/voc_fpn",
        "toy-frozen": "toy/voc_frozen",
    },
    sets=[
        DetectionSet(
            f"voc_{year}_{split}", "voc", f"VOC{year}/ImageSets/Main/{split}.txt", f"VOC{year}"
        )
        for year, split in ((2007, "trainval"), (2012, "trainval"), (2007, "test"))
    ],
    read_data=read_data,
    c4_protocols=("24k", "toy"),
)

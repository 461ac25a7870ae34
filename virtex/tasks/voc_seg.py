"""PASCAL VOC 2012 semantic segmentation (20 classes and background): linear, or Semantic FPN."""

from virtex.data.detection_sets import DetectionSet, register_sets
from virtex.data.layouts import VOC_SEGMENTATION, VOC_SEGMENTATION_AUG
from virtex.tasks.segmentation import register_segmentation


def voc_set(split: str, file: str) -> DetectionSet:
    listed = f"VOC2012/ImageSets/Segmentation/{file}.txt"
    return DetectionSet(f"voc_2012_sem_seg_{split}", "voc_seg", listed, "VOC2012")


VOC_SEG = register_segmentation(
    "voc_seg",
    "PASCAL VOC semantic segmentation",
    layout=VOC_SEGMENTATION,
    images={"voc_2012_sem_seg_train": 1464, "voc_2012_sem_seg_val": 1449},
    sets=[voc_set("train", "train"), voc_set("val", "val")],
)
# VOC's train and SBD's label maps, for DATASETS.TRAIN
register_sets("voc_seg", VOC_SEGMENTATION_AUG, [voc_set("train_aug", "trainaug")], "sem_seg/mIoU")

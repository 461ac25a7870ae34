"""The augmentations that ``INPUT.AUGMENTATION`` names, and the dataset mapper.

``"default"`` is what Detectron2 builds from ``INPUT``: random crop, shortest edge, flip. The others
are in ``AUGMENTATIONS``. All draw from numpy's global generator, which the training stream seeds
for every sample.
"""

from collections.abc import Callable

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from fvcore.transforms.transform import CropTransform


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the augmentations of LSJ (arXiv 2012.07177), as in Detectron2's ``projects/ViTDet``.

    The image is flipped, resized to fit into a square of ``INPUT.LSJ.SIZE`` pixels times a random
    scale, and cropped to ``SIZE`` x ``SIZE`` pixels where it is larger.
    """
    size = cfg.INPUT.LSJ.SIZE
    return [
        *random_flip(cfg),
        T.ResizeScale(cfg.INPUT.LSJ.MIN_SCALE, cfg.INPUT.LSJ.MAX_SCALE, size, size),
        CropToSize(size, size),
    ]


def multi_scale_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the augmentations of DETR (arXiv 2005.12872), as in Swin's and ConvNeXt's detectors.

    The image is flipped; with probability 1/2 resized to a short side of 400, 500 or 600 pixels and
    cropped to sides of 384 to 600; and resized to one of ``INPUT.MIN_SIZE_TRAIN``.
    """
    longest = cfg.INPUT.MAX_SIZE_TRAIN
    crop = [
        T.ResizeShortestEdge([400, 500, 600], longest, "choice"),
        T.RandomCrop("absolute_range", (384, 600)),
    ]
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    return [
        *random_flip(cfg),
        T.RandomApply(T.AugmentationList(crop), 0.5),
        T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, longest, sampling),
    ]


def random_flip(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the flip of ``INPUT.RANDOM_FLIP``, if any."""
    kind = cfg.INPUT.RANDOM_FLIP
    if kind == "none":
        return []
    return [T.RandomFlip(horizontal=kind == "horizontal", vertical=kind == "vertical")]


# Name in INPUT.AUGMENTATION -> its augmentations. Boxes are recomputed from the masks, if there
# are any, because a crop may cut objects.
AUGMENTATIONS: dict[str, Callable[[CfgNode], list[T.Augmentation]]] = {
    "lsj": large_scale_jitter,
    "detr": multi_scale_crop,
}


def build_instance_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper:
    """Build Detectron2's mapper from a dataset dict to a sample of a detector."""
    if not is_train and cfg.MODEL.KEYPOINT_ON:
        # Detectron2 would look up the training sets, which are not registered for prediction
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False
    if not is_train or cfg.INPUT.AUGMENTATION == "default":
        return DatasetMapper(cfg, is_train)
    flip = create_keypoint_hflip_indices(cfg.DATASETS.TRAIN) if cfg.MODEL.KEYPOINT_ON else None
    return DatasetMapper(
        is_train=True,
        augmentations=AUGMENTATIONS[cfg.INPUT.AUGMENTATION](cfg),
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        use_keypoint=cfg.MODEL.KEYPOINT_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        keypoint_hflip_indices=flip,
        recompute_boxes=cfg.MODEL.MASK_ON,
    )


class CropToSize(T.Augmentation):
    """A random crop of at most ``height`` x ``width`` pixels; smaller images are not padded.

    The same as ``FixedSizeCrop`` of Detectron2 0.6 with ``pad=False``, which v0.5 does not have.
    """

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def get_transform(self, image: np.ndarray) -> CropTransform:
        size = image.shape[:2]
        free = np.maximum(np.subtract(size, (self.height, self.width)), 0)
        # one number for both axes, as in Detectron2
        top, left = np.round(free * np.random.uniform(0.0, 1.0)).astype(int)
        return CropTransform(left, top, self.width, self.height, size[1], size[0])

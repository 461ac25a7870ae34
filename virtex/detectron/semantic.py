"""Semantic segmentation: datasets, augmentation and metrics."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from virtex.data.cityscapes import CLASSES as CITYSCAPES_CLASSES
from virtex.data.detection_sets import DetectionSet
from virtex.data.segmentation import IGNORED, describe_labels, read_labels, require_pairs
from virtex.data.voc import VOC_CLASSES
from virtex.detectron.readers import LoadedSet
from virtex.errors import UserError

Metrics = dict[str, float]
ARCHITECTURE = "SemanticSegmentor"  # MODEL.META_ARCHITECTURE
EVALUATOR_TYPE = "sem_seg"  # Detectron2's, in the metadata of such sets
# Kind of a set -> its classes, by index
CLASSES: dict[str, Sequence[str]] = {
    "ade20k": ADE20K_SEM_SEG_CATEGORIES,
    "cityscapes_seg": list(CITYSCAPES_CLASSES.values()),
    "voc_seg": ("background", *VOC_CLASSES),
}


def is_semantic(cfg: CfgNode) -> bool:
    return cfg.MODEL.META_ARCHITECTURE == ARCHITECTURE


# Datasets ----


def read_semantic_set(entry: DetectionSet, data_root: Path, scored: bool) -> LoadedSet:
    """Read and check all label maps of a set; each process reads a share of them.

    Raises:
        UserError: an image or a label map is missing, or a label map is invalid.
    """
    pairs = require_pairs(entry, data_root)
    found: list[tuple[int, int, str]] | UserError
    try:
        found = describe_labels(pairs[comm.get_rank() :: comm.get_world_size()], entry.kind)
    except UserError as error:  # raised below in all processes, which wait for this one
        found = error
    shares = comm.all_gather(found)
    for share in shares:
        if isinstance(share, UserError):
            raise share
    digest, samples = hashlib.sha256(), []
    for index, (image, labels) in enumerate(pairs):
        height, width, sha256 = shares[index % len(shares)][index // len(shares)]
        digest.update(f"{Path(image).stem}\0{height}\0{width}\0{sha256}\0".encode())
        samples.append(
            {
                "file_name": image,
                "sem_seg_file_name": labels,
                "labels": entry.kind,
                "image_id": Path(image).stem,
                "height": height,
                "width": width,
            }
        )
    metadata = {
        "stuff_classes": list(CLASSES[entry.kind]),
        "ignore_label": IGNORED,
        "evaluator_type": EVALUATOR_TYPE,
    }
    return LoadedSet(samples, digest.hexdigest(), metadata)


# Augmentation ----


class SemanticMapper:
    """Reads and augments an image and its label map, in place of Detectron2's ``DatasetMapper``.

    In training, images are resized, cropped, color-augmented and flipped, in the order of
    Detectron2's projects PointRend and DeepLab. ``DatasetMapper`` would crop before resizing.
    """

    def __init__(self, cfg: CfgNode, is_train: bool):
        self.format, self.is_train = cfg.INPUT.FORMAT, is_train
        resize, *flip = detection_utils.build_augmentation(cfg, is_train)
        augmentations, crop = [resize], cfg.INPUT.CROP
        if is_train and crop.ENABLED:
            augmentations.append(
                T.RandomCrop_CategoryAreaConstraint(
                    crop.TYPE,
                    crop.SIZE,
                    crop.SINGLE_CATEGORY_MAX_AREA,
                    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
                )
            )
        if is_train and cfg.INPUT.COLOR_AUG_SSD:
            augmentations.append(ColorAugmentation(self.format))
        self.augmentations = T.AugmentationList([*augmentations, *flip])

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with ``image`` (3, height, width) uint8, in training also ``sem_seg``.

        ``sem_seg`` contains class indices or ``IGNORED``, (height, width) int64.
        """
        # read_image is replaced by virtex.detectron.loading
        image = detection_utils.read_image(sample["file_name"], self.format)
        detection_utils.check_image_size(sample, image)
        labels = None
        if self.is_train:
            labels = read_labels(sample["sem_seg_file_name"], sample["labels"])
        augmented = T.AugInput(image, sem_seg=labels)
        self.augmentations(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        mapped = {**sample, "image": torch.as_tensor(pixels)}
        if labels is not None:
            mapped["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        return mapped


class ColorAugmentation(T.Augmentation):
    """Color augmentation of SSD: brightness, contrast, saturation, hue, each with probability 0.5.

    The distribution is that of ``ColorAugSSDTransform`` in Detectron2's project PointRend, and of
    ``PhotoMetricDistortion`` in mmsegmentation.
    """

    def __init__(self, image_format: str):
        """
        Args:
            image_format: ``"RGB"`` or ``"BGR"``.
        """
        super().__init__()
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> T.Transform:
        draws = [
            draw if np.random.randint(2) else neutral
            for draw, neutral in (
                (np.random.uniform(-32, 32), 0.0),
                (np.random.uniform(0.5, 1.5), 1.0),
                (np.random.uniform(0.5, 1.5), 1.0),
                (np.random.randint(-18, 19), 0),
            )
        ]
        contrast_first = bool(np.random.randint(2))
        return T.ColorTransform(
            partial(
                change_colors,
                image_format=self.image_format,
                draws=draws,
                contrast_first=contrast_first,
            )
        )


def change_colors(
    image: np.ndarray, image_format: str, draws: Sequence[float], contrast_first: bool
) -> np.ndarray:
    """Change the colors of an image (height, width, 3) uint8.

    Args:
        image_format: ``"RGB"`` or ``"BGR"``.
        draws: brightness offset, contrast and saturation factors, and hue offset (OpenCV's hue has
            180 units).
        contrast_first: change the contrast before saturation and hue, instead of after them.
    """
    brightness, contrast, saturation, hue = draws
    if brightness:
        image = scale(image, 1, brightness)
    if contrast_first:
        image = scale(image, contrast, 0)
    if saturation != 1:
        hsv = cv2.cvtColor(image, getattr(cv2, f"COLOR_{image_format}2HSV"))
        hsv[:, :, 1] = scale(hsv[:, :, 1], saturation, 0)
        image = cv2.cvtColor(hsv, getattr(cv2, f"COLOR_HSV2{image_format}"))
    if hue:
        hsv = cv2.cvtColor(image, getattr(cv2, f"COLOR_{image_format}2HSV"))
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + int(hue)) % 180
        image = cv2.cvtColor(hsv, getattr(cv2, f"COLOR_HSV2{image_format}"))
    return image if contrast_first else scale(image, contrast, 0)


def scale(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Return ``values * factor + offset`` as uint8, truncated as in the sources."""
    if (factor, offset) == (1, 0):
        return values
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


# Metrics ----


class SemanticEvaluator(DatasetEvaluator):
    """Counts pixels by predicted and true class; see ``compute_semantic_metrics``.

    Attributes:
        per_class: set by ``evaluate`` in the main process.
    """

    per_class: list[dict[str, Any]]

    def __init__(self, dataset_name: str):
        """
        Args:
            dataset_name: a test set, which has been read.
        """
        self.classes = MetadataCatalog.get(dataset_name).stuff_classes
        self.reset()

    def reset(self) -> None:
        self.counts = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of images.

        Args:
            inputs: the samples.
            outputs: ``{"sem_seg": logits (classes, height, width)}`` for each sample, in the size
                of its label map.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()
            labels = read_labels(sample["sem_seg_file_name"], sample["labels"])
            known = labels != IGNORED
            places = len(self.classes) * predicted[known] + labels[known]
            found = np.bincount(places, minlength=self.counts.size)
            self.counts += found.reshape(self.counts.shape)

    def evaluate(self) -> Metrics | None:
        """Return the metrics in the main process, None in the others."""
        gathered = comm.gather(self.counts)
        if not comm.is_main_process():
            return None
        metrics, rows = compute_semantic_metrics(np.sum(gathered, axis=0))
        self.per_class = [
            {"class": name, **row} for name, row in zip(self.classes, rows, strict=True)
        ]
        return metrics


def compute_semantic_metrics(counts: np.ndarray) -> tuple[Metrics, list[dict[str, Any]]]:
    """Compute metrics in percent, as Detectron2 0.6's ``SemSegEvaluator``.

    Means are over the classes that occur in the ground truth; in v0.5, mIoU also counts classes
    that are only predicted.

    Args:
        counts: number of pixels (predicted classes, true classes), without ignored ones; not all 0.

    Returns:
        mIoU, frequency-weighted IoU, mean class accuracy and pixel accuracy; and for each class the
        number of true pixels, IoU and accuracy (None without pixels).
    """
    present = counts.sum(axis=0) > 0
    hits, predicted, true = (
        pixels[present].astype(float)
        for pixels in (counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))
    )
    iou, accuracy = 100 * hits / (true + predicted - hits), 100 * hits / true
    metrics = {
        "sem_seg/mIoU": iou.mean(),
        "sem_seg/fwIoU": (iou * true).sum() / true.sum(),
        "sem_seg/mACC": accuracy.mean(),
        "sem_seg/pACC": 100 * hits.sum() / true.sum(),
    }
    rows: list[dict[str, Any]] = [
        {"pixels": int(pixels), "sem_seg/IoU": None, "sem_seg/ACC": None}
        for pixels in counts.sum(axis=0)
    ]
    for index, i, a in zip(np.flatnonzero(present), iou, accuracy, strict=True):
        rows[index] |= {"sem_seg/IoU": float(i), "sem_seg/ACC": float(a)}
    return {name: float(value) for name, value in metrics.items()}, rows

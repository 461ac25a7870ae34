"""Figures of predictions beside the ground truth."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from torch import nn

from virtex.data.segmentation import IGNORED, read_labels
from virtex.detectron.loading import build_mapper, read_image
from virtex.detectron.semantic import is_semantic
from virtex.files import replace_file

MIN_SCORE = 0.5
SHORT_SIDE = 400  # pixels; smaller images are enlarged to make labels legible
PALETTE = colormap(rgb=True, maximum=1)  # (n, 3); class i has color i % n in both panels


def write_gallery(
    cfg: CfgNode, model: nn.Module, dataset: str, samples: list[dict[str, Any]], folder: Path,
    count: int = 8,
) -> None:  # fmt: skip
    """Write ``count`` figures, evenly spaced over the test images that have objects.

    Left: predictions with a score of at least ``MIN_SCORE`` (the best five if there are none), or
    the predicted class of every pixel. Right: the ground truth.

    Args:
        dataset: the registered test set.
        samples: its Detectron2 dicts.
        folder: created if missing; receives one JPEG per image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = [sample for sample in samples if sample.get("annotations")] or samples
    chosen = np.linspace(0, len(filled) - 1, min(count, len(filled))).round().astype(int)
    mapper, metadata = build_mapper(cfg, False), MetadataCatalog.get(dataset)
    with inference_context(model), torch.no_grad():
        shown = [filled[index] for index in chosen]
        names = figure_names([sample["file_name"] for sample in shown])
        for name, sample in zip(names, shown, strict=True):
            output = model([mapper(sample)])[0]
            if is_semantic(cfg):
                predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()
                figure = draw_label_maps(sample, predicted, metadata.stuff_classes)
            else:
                figure = draw_comparison(sample, output["instances"].to("cpu"), metadata)
            write_jpeg(folder / name, figure)


def figure_names(images: Iterable[str]) -> list[str]:
    """Return a different name for each image, that of the file where possible.

    Long names are cut: file systems allow 255 bytes, and temporary files have a longer name.
    """
    names: dict[str, None] = {}
    for image in images:
        stem = os.fsencode(Path(image).stem)[:200].decode(errors="ignore")
        name, number = f"{stem}.jpg", 1
        while name in names:
            number += 1
            name = f"{stem}_{number}.jpg"
        names[name] = None
    return list(names)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write a (height, width, 3) uint8 RGB image atomically."""
    # cv2.imwrite does not raise on a full disk
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1])
    replace_file(path, lambda file: file.write(encoded.tobytes()))


def draw_comparison(sample: dict[str, Any], instances: Any, metadata: Any) -> np.ndarray:
    """Draw predictions and ground truth side by side: (height, width, 3) uint8 RGB.

    Args:
        metadata: of the dataset: classes, and names and connections of keypoints.
    """
    classes = metadata.thing_classes
    image = read_image(sample["file_name"], "RGB")
    best = instances[instances.scores >= MIN_SCORE]
    if len(best) == 0:
        best = instances[:5]
    predicted = draw_predictions(image, best, classes, metadata)
    objects = sample["annotations"]
    masked = bool(objects) and all("segmentation" in o for o in objects)
    has_keypoints = bool(objects) and all("keypoints" in o for o in objects)
    truth = draw_instances(
        image,
        metadata,
        boxes=[BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects],
        masks=[o["segmentation"] for o in objects] if masked else None,
        keypoints=np.reshape([o["keypoints"] for o in objects], (len(objects), -1, 3))
        if has_keypoints
        else None,
        class_ids=[o["category_id"] for o in objects],
        labels=[classes[o["category_id"]] + " (crowd)" * o.get("iscrowd", 0) for o in objects],
    )
    return side_by_side(
        add_title(predicted, f"predicted ({len(best)})"),
        add_title(truth, f"ground truth ({len(objects)})"),
    )


def draw_label_maps(
    sample: dict[str, Any], predicted: np.ndarray, classes: list[str]
) -> np.ndarray:
    """Draw the predicted and the true class of every pixel side by side, above a legend.

    Pixels that the ground truth ignores are gray in both panels.

    Args:
        predicted: (height, width) class indices.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    image = read_image(sample["file_name"], "RGB")
    truth = read_labels(sample["sem_seg_file_name"], sample["labels"])
    panels = [
        add_title(color_labels(image, labels, truth == IGNORED), title)
        for title, labels in (("predicted", predicted), ("ground truth", truth))
    ]
    figure = side_by_side(*panels)
    present = np.union1d(predicted, truth)
    legend = draw_legend(present[present < IGNORED], classes, figure.shape[1])
    return np.concatenate([figure, legend])


def draw_label_map(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draw the predicted class of every pixel above a legend; see ``draw_label_maps``."""
    figure = color_labels(image, labels, np.zeros(labels.shape, bool))
    return np.concatenate([figure, draw_legend(np.unique(labels), classes, figure.shape[1])])


def color_labels(image: np.ndarray, labels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Overlay an image with the colors of its classes, enlarged if it is small.

    Args:
        image: (height, width, 3) uint8 RGB.
        labels: (height, width) class indices.
        ignored: (height, width) bool; these pixels are gray.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    scale = max(1.0, SHORT_SIDE / min(image.shape[:2]))
    size = round(scale * image.shape[1]), round(scale * image.shape[0])
    colors = (255 * PALETTE[labels % len(PALETTE)]).astype(np.uint8)
    colors[ignored] = 128
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    colors = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    return cv2.addWeighted(image, 0.4, colors, 0.6, 0)


def draw_legend(indices: np.ndarray, classes: Sequence[str], width: int) -> np.ndarray:
    """Draw the colors and names of classes in lines: (height, width, 3) uint8 RGB."""
    places, x, y = [], 6, 0
    for index in indices:
        text = cv2.getTextSize(classes[index], cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]
        if x + text + 40 > width and x > 6:
            x, y = 6, y + 22
        places.append((index, x, y))
        x += text + 40
    legend = np.full((y + 26, width, 3), 255, np.uint8)
    for index, x, y in places:
        color = tuple(float(value) for value in 255 * PALETTE[index % len(PALETTE)])
        cv2.rectangle(legend, (x, y + 6), (x + 14, y + 20), color, cv2.FILLED)
        add_text(legend, classes[index], (x + 20, y + 18), 0.5)
    return legend


def draw_predictions(
    image: np.ndarray, instances: Any, classes: Sequence[str], metadata: Any = None
) -> np.ndarray:
    """Draw detections with class and score on a (height, width, 3) uint8 RGB image.

    Args:
        instances: Detectron2's ``Instances``, on the CPU.
        metadata: of the dataset: names and connections of keypoints.
    """
    return draw_instances(
        image,
        metadata,
        boxes=instances.pred_boxes.tensor.numpy(),
        masks=list(instances.pred_masks.numpy()) if instances.has("pred_masks") else None,
        keypoints=instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None,
        class_ids=instances.pred_classes.tolist(),
        labels=[
            f"{classes[index]} {score:.0%}"
            for index, score in zip(instances.pred_classes, instances.scores.tolist(), strict=True)
        ],
    )


def draw_instances(
    image: np.ndarray,
    metadata: Any,
    boxes: Any,
    masks: Any,
    keypoints: Any,
    class_ids: list[int],
    labels: list[str],
) -> np.ndarray:
    """Draw boxes (x0, y0, x1, y1), masks, keypoints and labels on a (height, width, 3) image.

    Keypoints are (n, keypoints, 3): x, y, and score or visibility; those with 0 are not drawn.
    """
    visualizer = Visualizer(image, metadata, max(1.0, SHORT_SIDE / min(image.shape[:2])))
    if labels:
        visualizer.overlay_instances(
            boxes=np.asarray(boxes),
            masks=masks,
            keypoints=keypoints,
            labels=labels,
            assigned_colors=[PALETTE[index % len(PALETTE)] for index in class_ids],
            alpha=0.4,
        )
    return visualizer.output.get_image()


def add_title(panel: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((28, panel.shape[1], 3), 255, np.uint8)
    add_text(bar, title, (6, 20), 0.6)
    return np.concatenate([bar, panel], axis=0)


def add_text(image: np.ndarray, text: str, place: tuple[int, int], size: float) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((left.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)

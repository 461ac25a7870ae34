"""A small gallery: what the detector finds, beside the ground truth."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from torch import nn

from virtex.files import replace_file

MIN_SCORE = 0.5
SHORT_SIDE = 400  # pixels; smaller pictures are enlarged so that labels can be read
PALETTE = colormap(rgb=True, maximum=1)  # a class has one color on both sides


def write_gallery(
    cfg: CfgNode, model: nn.Module, name: str, samples: list[dict[str, Any]], folder: Path,
    count: int = 8,
) -> list[Path]:  # fmt: skip
    """Write ``count`` pictures, evenly spread over the test set, with objects in them.

    Left: predictions with a score of at least ``MIN_SCORE`` (the best five where none has).
    Right: the ground truth.

    Args:
        name: the registered test set.
        samples: its Detectron2 dicts.
        folder: is made; gets one JPEG an image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = [sample for sample in samples if sample["annotations"]] or samples
    chosen = np.linspace(0, len(filled) - 1, min(count, len(filled))).round().astype(int)
    mapper = DatasetMapper(cfg, False)
    classes = MetadataCatalog.get(name).thing_classes
    paths = []
    with inference_context(model), torch.no_grad():
        for index in chosen:
            sample = filled[index]
            instances = model([mapper(sample)])[0]["instances"].to("cpu")
            path = folder / f"{Path(sample['file_name']).stem}.jpg"
            write_jpeg(path, side_by_side(sample, instances, classes))
            paths.append(path)
    return paths


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """A (height, width, 3) uint8 RGB picture as a file that is whole or not there."""
    # cv2.imwrite only warns of a disk that is full
    _, encoded = cv2.imencode(".jpg", picture[:, :, ::-1])
    replace_file(path, lambda file: file.write(encoded.tobytes()))


def side_by_side(sample: dict[str, Any], instances: Any, classes: list[str]) -> np.ndarray:
    """(height, width, 3) uint8 RGB: predictions, a white gap, ground truth; titles above."""
    image = read_image(sample["file_name"], "RGB")
    shown = instances[instances.scores >= MIN_SCORE]
    if len(shown) == 0:
        shown = instances[:5]
    predicted = panel(
        image,
        boxes=shown.pred_boxes.tensor.numpy(),
        masks=list(shown.pred_masks.numpy()) if shown.has("pred_masks") else None,
        kinds=shown.pred_classes.tolist(),
        labels=[
            f"{classes[kind]} {score:.0%}"
            for kind, score in zip(shown.pred_classes, shown.scores.tolist(), strict=True)
        ],
    )
    objects = sample["annotations"]
    masked = bool(objects) and all("segmentation" in o for o in objects)
    truth = panel(
        image,
        boxes=[BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects],
        masks=[o["segmentation"] for o in objects] if masked else None,
        kinds=[o["category_id"] for o in objects],
        labels=[classes[o["category_id"]] + " (crowd)" * o.get("iscrowd", 0) for o in objects],
    )
    panels = [
        titled(predicted, f"predicted ({len(shown)})"),
        titled(truth, f"ground truth ({len(objects)})"),
    ]
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def panel(image: np.ndarray, boxes: Any, masks: Any, kinds: list[int], labels: list[str]) -> Any:
    """The image (height, width, 3) with boxes (x0, y0, x1, y1), masks and labels drawn on it."""
    visualizer = Visualizer(image, scale=max(1.0, SHORT_SIDE / min(image.shape[:2])))
    if labels:
        visualizer.overlay_instances(
            boxes=np.asarray(boxes),
            masks=masks,
            labels=labels,
            assigned_colors=[PALETTE[kind % len(PALETTE)] for kind in kinds],
            alpha=0.4,
        )
    return visualizer.output.get_image()


def titled(panel: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((28, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel], axis=0)

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
from detectron2.utils.visualizer import ColorMode, Visualizer
from torch import nn

MIN_SCORE = 0.5
SHORT_SIDE = 400  # pixels; smaller pictures are enlarged so that labels can be read


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
    metadata = MetadataCatalog.get(name)
    paths = []
    with inference_context(model), torch.no_grad():
        for index in chosen:
            sample = filled[index]
            instances = model([mapper(sample)])[0]["instances"].to("cpu")
            picture = side_by_side(read_image(sample["file_name"], "RGB"), sample, instances,
                                   metadata)  # fmt: skip
            path = folder / f"{Path(sample['file_name']).stem}.jpg"
            cv2.imwrite(str(path), picture[:, :, ::-1])
            paths.append(path)
    return paths


def side_by_side(image: np.ndarray, sample: dict, instances: Any, metadata: Any) -> np.ndarray:
    """(height, width, 3) uint8 RGB: predictions, a white gap, ground truth; a caption bar above."""
    shown = instances[instances.scores >= MIN_SCORE]
    if len(shown) == 0:
        shown = instances[:5]
    scale = max(1.0, SHORT_SIDE / min(image.shape[:2]))
    draw = [
        Visualizer(image, metadata, scale, ColorMode.IMAGE).draw_instance_predictions(shown),
        Visualizer(image, metadata, scale, ColorMode.IMAGE).draw_dataset_dict(sample),
    ]
    left, right = (panel.get_image() for panel in draw)
    titles = (f"predicted ({len(shown)})", f"ground truth ({len(sample['annotations'])})")
    panels = [titled(panel, title) for panel, title in zip((left, right), titles, strict=True)]
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def titled(panel: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((28, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel], axis=0)

"""Toy label maps for semantic segmentation: VOC's SegmentationClass, ADE20K's SceneParsing."""

import io
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from PIL import Image

from virtex.data.segmentation import IGNORED
from virtex.data.toy.drawing import Drawing, draw
from virtex.data.toy.plan import Plan, jpeg_bytes, png_bytes, write_file
from virtex.data.toy.world import BACKGROUNDS, SHAPES, ToyObject, image_rng, sample_scene

# Values in ADE20K's label maps: its first 15 classes, wall to car; 0 would be other objects
ADE20K_VALUES = {name: value for value, name in enumerate([*BACKGROUNDS, *SHAPES], start=1)}
# VOC's palette, (256, 3): the bits of an index, spread over the channels
BITS = (np.arange(256)[:, None, None] >> np.arange(24).reshape(8, 3)) & 1
PALETTE = (BITS << np.arange(7, -1, -1)[:, None]).sum(axis=1).astype(np.uint8)


def label_map(drawing: Drawing, background: int, value: Callable[[ToyObject], int]) -> np.ndarray:
    """Return the label map (height, width) uint8 of a drawing.

    Args:
        background: value of the background.
        value: object -> value of its visible pixels.
    """
    objects = drawing.scene.crowd + drawing.scene.objects
    return np.array([background, *map(value, objects)], np.uint8)[drawing.owner]


def voc_label_map(drawing: Drawing, value: Callable[[ToyObject], int]) -> bytes:
    """Return a palette PNG in which the borders of objects are ignored, as in VOC."""
    labels, window = label_map(drawing, 0, value), np.ones((3, 3), np.uint8)
    labels[cv2.morphologyEx(drawing.owner, cv2.MORPH_GRADIENT, window) > 0] = IGNORED
    image, buffer = Image.fromarray(labels, "P"), io.BytesIO()
    image.putpalette(PALETTE.tobytes())
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_ade20k(plan: Plan) -> None:
    """Write training and validation images, half as many as in other datasets."""
    for split, images in (("training", plan.train_images), ("validation", plan.val_images)):
        plan.map(partial(_write_image, plan, split), range(-(-images // 2)))


def _write_image(plan: Plan, split: str, index: int) -> None:
    rng = image_rng(plan.seed, f"ade20k/{split}", index)
    drawing = draw(sample_scene(rng, {"shape": list(SHAPES)[index % len(SHAPES)]}), rng)
    background = ADE20K_VALUES[drawing.scene.background]
    labels = label_map(drawing, background, lambda obj: ADE20K_VALUES[obj.shape])
    root = plan.out / "ADEChallengeData2016"
    name = f"ADE_{'train' if split == 'training' else 'val'}_{index + 1:08d}"
    write_file(root / "images" / split / f"{name}.jpg", jpeg_bytes(drawing.image))
    write_file(root / "annotations" / split / f"{name}.png", png_bytes(labels))

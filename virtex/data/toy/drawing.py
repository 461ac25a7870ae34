"""Render a toy scene together with exact masks of the visible part of every object.

Objects are painted from back to front on a canvas of ``OVERSAMPLING`` times the size, which is
then averaged down for smooth edges. The index of the topmost object is painted alongside, so that
masks are exact to a third of a pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from virtex.data.toy.world import BACKGROUNDS, COLORS, Scene, ToyObject

OVERSAMPLING = 3
MIN_PIECE = 12.0  # square pixels; smaller visible pieces of an object are not annotated
MIN_VISIBLE = 0.2  # fraction of an object; with less in view it is not annotated


@dataclass(frozen=True)
class Instance:
    """The visible part of an object.

    ``polygons`` are in COCO's format, flat lists x0, y0, x1, y1, … in pixels; ``bbox`` is their
    extent as (x, y, width, height), ``area`` the number of pixels of their mask, ``visible`` the
    visible fraction of the object (0 to 1), and ``truncated`` whether it crosses the border of
    the image.
    """

    obj: ToyObject
    polygons: list[list[float]]
    bbox: tuple[float, float, float, float]
    area: float
    visible: float
    truncated: bool


@dataclass(frozen=True)
class Drawing:
    """A rendered scene: ``image`` (height, width, 3) RGB uint8, and the visible objects.

    ``owner`` (height, width) uint8 is the topmost object at the center of each pixel: its position
    in ``scene.crowd + scene.objects``, from 1; 0 is the background.
    """

    scene: Scene
    image: np.ndarray
    instances: tuple[Instance, ...]
    crowd: tuple[Instance, ...]
    owner: np.ndarray


def draw(scene: Scene, rng: np.random.Generator, background: np.ndarray | None = None) -> Drawing:
    """Render ``scene`` with noise from ``rng``.

    Args:
        background: (height, width, 3) float32 RGB; default: smooth noise.
    """
    canvas_size = (scene.width * OVERSAMPLING, scene.height * OVERSAMPLING)
    background = smooth_noise(scene, rng) if background is None else background
    canvas = cv2.resize(background, canvas_size, interpolation=cv2.INTER_LINEAR)
    owner = np.zeros(canvas.shape[:2], np.uint8)
    objects = scene.crowd + scene.objects
    for label, obj in enumerate(objects, start=1):
        _paint(canvas, owner, obj, label)
    size = (scene.width, scene.height)
    image: np.ndarray = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    image += rng.normal(0, 4, image.shape[:2])[:, :, None].astype(np.float32)
    found = [_instance(obj, owner == label, scene) for label, obj in enumerate(objects, start=1)]
    split = len(scene.crowd)
    return Drawing(
        scene,
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        tuple(instance for instance in found[split:] if instance),
        tuple(instance for instance in found[:split] if instance),
        owner[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING].copy(),
    )


def visible_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return COCO polygons of ``mask`` (bool, at canvas size), one for each large enough piece.

    COCO's polygons have no holes: a hole is joined to its outline by a seam without width. Parts
    thinner than a pixel are left out, so that a box does not exceed its mask.
    """
    pixel = np.ones((OVERSAMPLING, OVERSAMPLING), np.uint8)
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, pixel)
    contours, tree = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for index, contour in enumerate(contours):
        is_hole = tree[0][index][3] >= 0
        if is_hole or cv2.contourArea(contour) < MIN_PIECE * OVERSAMPLING**2:
            continue
        outline = _simplify(contour)
        for hole, links in zip(contours, tree[0], strict=True):
            if links[3] == index and cv2.contourArea(hole) >= MIN_PIECE:
                outline = _join(outline, _simplify(hole))
        polygons.append(np.round((outline + 0.5) / OVERSAMPLING, 2).ravel().tolist())
    return polygons


def _simplify(contour: np.ndarray) -> np.ndarray:
    return cv2.approxPolyDP(contour, 0.9, closed=True)[:, 0, :].astype(np.float64)


def _join(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return one closed outline that runs to the nearest point of the hole, around it and back."""
    distance = np.linalg.norm(outline[:, None] - hole[None], axis=2)
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    around = np.roll(hole, -j, axis=0)
    return np.concatenate([outline[: i + 1], around, around[:1], outline[i:]])


def _instance(obj: ToyObject, mask: np.ndarray, scene: Scene) -> Instance | None:
    """Return the visible part of ``obj``, or None if too little is visible."""
    outlines = obj.outlines()
    areas = [cv2.contourArea(outline.astype(np.float32)) for outline in outlines]
    visible = mask.sum() / OVERSAMPLING**2 / (areas[0] - sum(areas[1:]))
    polygons = visible_polygons(mask) if visible >= MIN_VISIBLE else []
    if not polygons:
        return None
    rles = coco_mask.frPyObjects(polygons, scene.height, scene.width)
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, high = points.min(axis=0), points.max(axis=0)
    border = np.array([scene.width, scene.height])
    return Instance(
        obj,
        polygons,
        tuple(np.round([*low, *(high - low)], 2).tolist()),
        float(coco_mask.area(coco_mask.merge(rles))),
        min(float(visible), 1.0),
        bool((outlines[0] < 0).any() or (outlines[0] > border).any()),
    )


def smooth_noise(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise around the color of the background, (height, width, 3) float32."""
    size = (scene.width, scene.height)
    ground = np.empty((scene.height, scene.width, 3), np.float32)
    ground[:] = BACKGROUNDS[scene.background]
    ground += rng.uniform(-14, 14)
    for cells, strength in ((4, 13), (14, 5)):
        clouds = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        clouds = 0.6 * clouds.mean(axis=2, keepdims=True) + 0.4 * clouds
        ground += cv2.resize(clouds, size, interpolation=cv2.INTER_CUBIC)
    return ground


def _paint(canvas: np.ndarray, owner: np.ndarray, obj: ToyObject, label: int) -> None:
    """Paint a soft shadow and the object on ``canvas``, and ``label`` on ``owner``."""
    outlines = [outline * OVERSAMPLING for outline in obj.outlines()]
    pad = 4 * OVERSAMPLING
    left, top = np.maximum(np.floor(outlines[0].min(axis=0)).astype(int) - pad, 0)
    right, bottom = np.ceil(outlines[0].max(axis=0)).astype(int) + pad
    patch = canvas[top:bottom, left:right]
    mask = np.zeros(patch.shape[:2], np.uint8)
    # shift=4: sixteenths of a canvas point
    corners = [np.rint((outline - [left, top]) * 16).astype(np.int32) for outline in outlines]
    cv2.fillPoly(mask, corners, 1, shift=4)
    patch *= 1 - 0.3 * _shadow(mask)[:, :, None]
    inside = mask > 0
    patch[inside] = _colors(obj, mask, (left, top))[inside]
    owner[top:bottom, left:right][inside] = label


def _shadow(mask: np.ndarray) -> np.ndarray:
    """Return ``mask`` moved down and blurred, float32 in [0, 1]."""
    offset = np.array([[1, 0, 0], [0, 1, 2 * OVERSAMPLING]], np.float32)
    moved = cv2.warpAffine(mask.astype(np.float32), offset, mask.shape[::-1])
    return cv2.blur(cv2.blur(moved, (7, 7)), (7, 7))


def _colors(obj: ToyObject, mask: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Return the colors of the object on its patch, (height, width, 3) float32."""
    height, width = mask.shape
    x = (np.arange(width, dtype=np.float32) + corner[0]) / OVERSAMPLING - obj.x
    y = (np.arange(height, dtype=np.float32) + corner[1])[:, None] / OVERSAMPLING - obj.y
    cos, sin = np.float32(np.cos(obj.angle)), np.float32(np.sin(obj.angle))
    second = _pattern(obj, cos * x + sin * y, cos * y - sin * x)[:, :, None]
    base = np.array(COLORS[obj.color], np.float32)
    other = base * 0.5 if base.max() > 100 else base + 95
    colors = np.where(second, other, base)
    colors = colors * (1.06 - 0.12 * y[:, :, None] / obj.radius)
    inner = cv2.erode(mask, np.ones((OVERSAMPLING, OVERSAMPLING), np.uint8))
    colors[inner == 0] *= 0.6
    return colors.astype(np.float32)


def _pattern(obj: ToyObject, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return where the texture has its second color; ``u``, ``v`` are pixels along the axes."""
    period = np.clip(0.5 * obj.radius, 6.5, 14)
    if obj.texture == "striped":
        return (u + v) % period < period / 2
    if obj.texture == "checkered":
        return (u % period < period / 2) ^ (v % period < period / 2)
    if obj.texture == "dotted":
        du, dv = (u % period) / period - 0.5, (v % period) / period - 0.5
        return du**2 + dv**2 < 0.28**2
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)

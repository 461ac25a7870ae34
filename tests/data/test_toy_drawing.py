"""Masks and boxes of drawn scenes are those of the pixels."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from virtex.data.toy.drawing import OVERSAMPLING, Drawing, Instance, draw, visible_polygons
from virtex.data.toy.world import (
    COLORS,
    SHAPES,
    Scene,
    ToyObject,
    picture_rng,
    sample_scene,
    sample_single,
)


def thing(shape: str, x: float, y: float, radius: float, **words: str) -> ToyObject:
    words = {"color": "red", "texture": "plain", "size": "medium", **words}
    return ToyObject(shape, **words, x=x, y=y, radius=radius, angle=0.1, stretch=1.0)


def drawn(*objects: ToyObject) -> Drawing:
    return draw(Scene(160, 128, "grey", objects), picture_rng(0, "test", 0))


def mask_of(instance: Instance, height: int = 128, width: int = 160) -> np.ndarray:
    rles = coco_mask.frPyObjects(instance.polygons, height, width)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_of_a_shape_covers_the_pixels_of_its_color(shape):
    drawing = drawn(thing(shape, 80, 64, 40))
    difference = drawing.image.astype(float) - COLORS["red"]
    painted = np.linalg.norm(difference, axis=2) < 110
    mask = mask_of(drawing.instances[0])
    assert (mask & painted).sum() / (mask | painted).sum() > 0.93


def test_the_hole_of_a_ring_is_not_in_its_mask():
    mask = mask_of(drawn(thing("ring", 80, 64, 40)).instances[0])
    assert not mask[64, 80]
    assert mask[64, 80 - 30]


def test_a_hidden_part_belongs_to_the_object_in_front_only():
    behind, front = drawn(thing("circle", 70, 64, 30), thing("square", 100, 64, 30)).instances
    assert (mask_of(behind) & mask_of(front)).sum() < 12
    assert behind.visible < 0.95
    assert front.visible > 0.95


def test_a_box_is_the_extent_of_the_visible_part():
    behind, front = drawn(thing("square", 60, 64, 30), thing("square", 100, 64, 40)).instances
    x, _, width, _ = behind.bbox
    assert x + width < 70 < 60 + 30
    assert front.bbox[0] < 70


def test_an_object_with_next_to_nothing_in_view_is_not_annotated():
    drawing = drawn(thing("circle", 80, 64, 15), thing("square", 80, 66, 40))
    assert [instance.thing.shape for instance in drawing.instances] == ["square"]


def test_a_sliver_of_an_object_is_not_in_its_mask():
    mask = np.zeros((60, 60), bool)
    mask[5:50, 5:30] = True
    mask[5:50, 40] = True
    polygons = visible_polygons(mask)
    assert len(polygons) == 1
    assert max(polygons[0][::2]) < 35 / OVERSAMPLING


def test_an_object_over_the_border_is_truncated_and_its_box_stays_inside():
    instance = drawn(thing("circle", 10, 64, 20)).instances[0]
    assert instance.truncated
    assert instance.bbox[0] >= 0


def test_an_object_inside_is_not_truncated():
    assert not drawn(thing("circle", 80, 64, 20)).instances[0].truncated


@pytest.mark.parametrize("texture", ["striped", "dotted", "checkered"])
def test_a_texture_is_visible_even_on_a_small_object(texture):
    plain = drawn(thing("circle", 80, 64, 12)).image[56:72, 72:88].astype(float)
    textured = drawn(thing("circle", 80, 64, 12, texture=texture)).image[56:72, 72:88]
    assert textured.astype(float).std(axis=(0, 1)).max() > 3 * plain.std(axis=(0, 1)).max()


def test_a_scene_holds_one_to_four_objects():
    scenes = [sample_scene(picture_rng(0, "count", index), {}) for index in range(100)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}


def test_the_wanted_object_is_in_front_and_whole():
    wanted = {"shape": "moon", "color": "white", "texture": "dotted"}
    for index in range(30):
        rng = picture_rng(0, "wanted", index)
        front = draw(sample_scene(rng, wanted), rng).instances[-1]
        assert {key: getattr(front.thing, key) for key in wanted} == wanted
        assert not front.truncated


def test_a_single_object_lies_near_the_middle():
    for index in range(20):
        scene = sample_single(picture_rng(0, "single", index), {})
        (only,) = scene.objects
        assert abs(only.x / scene.width - 0.5) < 0.15
        assert abs(only.y / scene.height - 0.5) < 0.15


def test_pictures_are_landscape_portrait_and_square():
    scenes = [sample_scene(picture_rng(0, "aspect", index), {}) for index in range(60)]
    assert {np.sign(scene.width - scene.height) for scene in scenes} == {-1, 0, 1}


def test_a_crowd_never_takes_the_place_of_the_wanted_object():
    for index in range(3000):
        rng = picture_rng(0, "crowd", index)
        scene = sample_scene(rng, {"shape": "star"}, crowd_chance=1.0)
        assert scene.objects[-1].shape == "star"

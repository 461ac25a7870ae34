"""Toy images of persons in the layout of COCO's person_keypoints files.

A person is a silhouette in a random pose that faces the viewer, so that its left arm is on the
right side of the image. The images are in COCO's folders, but not listed in the instances files.
"""

from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count

import cv2
import numpy as np

from virtex.data.toy.coco import (
    CocoImage,
    coco_image,
    crowd_annotation,
    object_annotation,
)
from virtex.data.toy.drawing import draw
from virtex.data.toy.plan import LICENSES, Plan, info_block, jpeg_bytes, write_file, write_json
from virtex.data.toy.world import (
    BACKGROUNDS,
    CROWD_RADIUS,
    IMAGE_SIZES,
    Scene,
    ToyObject,
    image_rng,
    pose,
    sample_attributes,
)

SIDES = ("left", "right")
JOINTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
NAMES = ("nose", *(f"{side}_{joint}" for joint in JOINTS for side in SIDES))  # COCO's order
# COCO's skeleton: pairs of positions in NAMES, from 1.
SKELETON = [
    *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]),
    *([8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
]
CATEGORY = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": list(NAMES),
    "skeleton": SKELETON,
}
FIRST_ID = 500_001  # of images; higher than the ids of other toy images
WITHOUT_PERSON = 8  # one in this many images has no person
CROWD_CHANCE = 0.1
SMALL_CHANCE = 0.15
# Radius, half of a person's height, as a fraction of the shorter side of the image.
RADII, SMALL_RADII = (0.24, 0.42), (0.08, 0.12)
MIN_RADIUS = 20  # pixels; as in COCO, keypoints of small persons are not labeled

# Lengths are in units of the radius, the origin is the middle of the person, y points down.
HEAD, HEAD_RADIUS = (0.0, -0.78), 0.2
TRUNK = {"eye": (0.08, -0.82), "ear": (0.19, -0.78), "shoulder": (0.25, -0.47), "hip": (0.14, 0.12)}
LIMBS = {  # root -> joint, end, lengths of both parts, half of the thickness
    "shoulder": ("elbow", "wrist", 0.33, 0.31, 0.065),
    "hip": ("knee", "ankle", 0.40, 0.40, 0.08),
}
ANGLES = {"shoulder": (0.15, 2.6), "hip": (0.0, 0.45)}  # outward from straight down, radians
BENDS = {"shoulder": (-0.2, 1.0), "hip": (-0.25, 0.1)}  # of the second part against the first
GRID = 100  # points of the mask that outlines are traced on, per unit


@dataclass(frozen=True)
class Person(ToyObject):
    """A person to draw.

    Attributes:
        joints: x, y of the keypoints in units of the radius, in the order of NAMES.
    """

    joints: tuple[tuple[float, float], ...] = field(default=(), kw_only=True)

    def outlines(self) -> list[np.ndarray]:
        return [self.place(silhouette(self.joints))]

    def keypoints(self) -> np.ndarray:
        """Return the keypoints in pixels, (17, 2)."""
        return self.place(np.array(self.joints))


def sample_joints(rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Sample a pose, see ``Person.joints``."""
    points = {"nose": (0.0, -0.75)}
    for side, sign in (("left", 1), ("right", -1)):
        for joint, (x, y) in TRUNK.items():
            points[f"{side}_{joint}"] = (sign * x, y)
        for root, (middle, end, first, second, _) in LIMBS.items():
            x, y = TRUNK[root]
            angle = rng.uniform(*ANGLES[root])
            for joint, length in ((middle, first), (end, second)):
                x, y = x + length * np.sin(angle), y + length * np.cos(angle)
                points[f"{side}_{joint}"] = (float(sign * x), float(y))
                angle += rng.uniform(*BENDS[root])
    return tuple(points[name] for name in NAMES)


@lru_cache(maxsize=1024)
def silhouette(joints: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return the outline of a person, (points, 2), in units of its radius."""
    points = dict(zip(NAMES, joints, strict=True))
    mask = np.zeros((3 * GRID, 3 * GRID), np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return round((x + 1.5) * GRID), round((y + 1.5) * GRID)

    def connect(first: str, second: str, radius: float) -> None:
        ends = at(*points[first]), at(*points[second])
        cv2.line(mask, *ends, 1, round(2 * radius * GRID))  # with round ends

    cv2.circle(mask, at(*HEAD), round(HEAD_RADIUS * GRID), 1, -1)
    cv2.line(mask, at(*HEAD), at(0, 0), 1, round(0.14 * GRID))
    corners = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
    cv2.fillPoly(mask, [np.array([at(*points[name]) for name in corners], np.int32)], 1)
    for first, second in zip(corners, corners[1:] + corners[:1], strict=True):
        connect(first, second, 0.08)
    for side in SIDES:
        for root, (middle, end, _, _, radius) in LIMBS.items():
            connect(f"{side}_{root}", f"{side}_{middle}", radius)
            connect(f"{side}_{middle}", f"{side}_{end}", radius)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = cv2.approxPolyDP(max(contours, key=cv2.contourArea), 0.8, closed=True)
    return outline[:, 0, :] / GRID - 1.5


def sample_people(rng: np.random.Generator, has_person: bool) -> Scene:
    """Sample up to three persons and up to two other objects, which may occlude them."""
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    side = min(width, height)
    crowd = sample_crowd(rng, width, height) if rng.random() < CROWD_CHANCE else ()
    objects: list[ToyObject] = []
    for number in range(rng.integers(1, 4) if has_person else 0):
        radii = SMALL_RADII if number and rng.random() < SMALL_CHANCE else RADII
        radius = side * rng.uniform(*radii)
        x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * height
        others = [other for other in objects if isinstance(other, Person)]
        if all(np.hypot(x - other.x, y - other.y) > 0.5 * radius for other in others):
            objects.append(sample_person(rng, x, y, radius))
    for _ in range(rng.integers(0, 3)):
        attributes = sample_attributes(rng, {"size": "small"})
        x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
        thing = pose(rng, attributes, x, y, side * rng.uniform(0.09, 0.15))
        objects.insert(int(rng.integers(0, len(objects) + 1)), thing)
    return Scene(width, height, str(rng.choice(list(BACKGROUNDS))), tuple(objects), crowd)


def sample_person(rng: np.random.Generator, x: float, y: float, radius: float) -> Person:
    attributes = sample_attributes(rng, {}) | {"shape": "person"}
    return Person(
        **attributes,
        x=x,
        y=y,
        radius=radius,
        angle=rng.uniform(-0.2, 0.2),
        stretch=rng.uniform(0.94, 1.1),
        joints=sample_joints(rng),
    )


def sample_crowd(rng: np.random.Generator, width: int, height: int) -> tuple[Person, ...]:
    """Sample 7 to 12 tiny persons close together."""
    x = rng.uniform(CROWD_RADIUS, width - CROWD_RADIUS)
    y = rng.uniform(CROWD_RADIUS, height - CROWD_RADIUS)
    offsets = rng.uniform(-CROWD_RADIUS, CROWD_RADIUS, (rng.integers(7, 13), 2))
    return tuple(sample_person(rng, x + u, y + v, rng.uniform(8, 11)) for u, v in offsets)


# Files ----


def write_person_keypoints(plan: Plan) -> None:
    """Write images of persons, half as many as in other datasets, and person_keypoints files."""
    ids = count(1)
    for split, number in (("train", plan.train_images), ("val", plan.val_images)):
        found = plan.map(partial(_write_image, plan, split), range(half(number)))
        annotations = [fields for image in found for fields in _annotations(image)]
        content = {
            "info": info_block("COCO 2017 person keypoints", 2017),
            "licenses": LICENSES,
            "images": [coco_image(image, split) for image in found],
            "annotations": [{**fields, "id": next(ids)} for fields in annotations],
            "categories": [CATEGORY],
        }
        write_json(
            plan.out / "coco" / "annotations" / f"person_keypoints_{split}2017.json", content
        )


def half(number: int) -> int:
    return (number + 1) // 2


def _write_image(plan: Plan, split: str, index: int) -> CocoImage:
    rng = image_rng(plan.seed, f"coco_keypoints/{split}", index)
    has_person = index % WITHOUT_PERSON != WITHOUT_PERSON - 1
    drawing = draw(sample_people(rng, has_person), rng)
    number = FIRST_ID + 2 * index + (split == "val")
    name = f"{number:012d}.jpg"
    write_file(plan.out / "coco" / f"{split}2017" / name, jpeg_bytes(drawing.image))
    return CocoImage(number, name, drawing.scene, drawing.instances, drawing.crowd, [])


def _annotations(image: CocoImage) -> list[dict]:
    found = [
        {**object_annotation(instance), **label_keypoints(instance.obj, image.scene)}
        for instance in image.instances
        if isinstance(instance.obj, Person)
    ]
    if image.crowd:
        found.append({**crowd_annotation(image), **NO_KEYPOINTS})
    return [{**fields, "image_id": image.id, "category_id": CATEGORY["id"]} for fields in found]


NO_KEYPOINTS = {"keypoints": [0] * (3 * len(NAMES)), "num_keypoints": 0}


def label_keypoints(person: Person, scene: Scene) -> dict:
    """Return keypoints and num_keypoints of an annotation, in COCO's format.

    Visibility is 2, or 1 for keypoints behind another object. Keypoints outside of the image and
    those of small persons are not labeled: 0, 0, 0.
    """
    if person.radius < MIN_RADIUS:
        return NO_KEYPOINTS
    in_front = scene.objects[scene.objects.index(person) + 1 :]
    keypoints: list[int] = []
    for x, y in person.keypoints().tolist():
        if not (0 <= x < scene.width and 0 <= y < scene.height):
            keypoints += [0, 0, 0]
            continue
        is_hidden = any(is_inside(other, x, y) for other in in_front)
        keypoints += [int(x), int(y), 1 if is_hidden else 2]  # indices of pixels
    labeled = sum(visibility > 0 for visibility in keypoints[2::3])
    return {"keypoints": keypoints, "num_keypoints": labeled}


def is_inside(obj: ToyObject, x: float, y: float) -> bool:
    """Return whether an object covers a point; a ring does not cover its hole."""
    outlines = [outline.astype(np.float32) for outline in obj.outlines()]
    inside = [cv2.pointPolygonTest(outline, (x, y), False) >= 0 for outline in outlines]
    return inside[0] and not any(inside[1:])

"""Toy images in the layout of Cityscapes: shapes on drawn streets.

A street has the classes of Cityscapes: bands of sky, buildings, plants and ground, poles with
signs, and the shapes of the toy world as persons and vehicles. Some images have what a reader must
handle: groups, ignored regions and objects, license plates (whose label id is negative), deleted
objects.

Polygons have integer corners and overlap, from back to front, as in the real annotations; the
images of ids are rendered from them as by cityscapesscripts.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from virtex.data.cityscapes import (
    GROUP,
    HAS_INSTANCES,
    IMAGE_SUFFIX,
    INSTANCE_IDS,
    LABEL_IDS,
    LABEL_IDS_FILE,
    POLYGONS,
    THINGS,
    TRAIN_IDS,
    TRAIN_IDS_FILE,
    label_id,
)
from virtex.data.toy.drawing import draw, smooth_noise
from virtex.data.toy.plan import Plan, png_bytes, write_file, write_json
from virtex.data.toy.world import (
    CROWD_RADIUS,
    SIZES,
    Scene,
    ToyObject,
    free_spot,
    image_rng,
    pose,
    sample_attributes,
    sample_crowd,
)

WIDTH, HEIGHT = 192, 96  # pixels; as in Cityscapes, one size of 2:1
CITIES = {"train": ("aachen", "bremen", "ulm"), "val": ("frankfurt", "munster")}
LABEL_OF = {
    **{"triangle": "person", "heart": "rider", "square": "car", "hexagon": "truck"},
    **{"diamond": "bus", "cross": "train", "circle": "motorcycle", "star": "bicycle"},
    **{"moon": "caravan"},  # ignored; polygons of Cityscapes have no holes, so there is no ring
}
SHAPE_OF = {label: shape for shape, label in LABEL_OF.items()}
# RGB of the classes without instances, and of regions that are ignored
COLORS = {
    **{"road": (104, 100, 108), "sidewalk": (196, 158, 184), "building": (150, 106, 90)},
    **{"wall": (120, 122, 158), "fence": (188, 150, 116), "pole": (72, 72, 78)},
    **{"traffic light": (236, 150, 40), "traffic sign": (232, 222, 70)},
    **{"vegetation": (96, 136, 72), "terrain": (160, 182, 112), "sky": (146, 178, 222)},
    **{"dynamic": (116, 84, 40), "ego vehicle": (30, 30, 34), "out of roi": (0, 0, 0)},
}
GROUP_CHANCE, DYNAMIC_CHANCE, DELETED_CHANCE, PLATE_CHANCE = 0.2, 0.2, 0.1, 0.5
OBJECT_WEIGHTS = (0.25, 0.35, 0.25, 0.15)  # of 1 to 4 objects

Points = list[list[int]]
Objects = list[dict[str, Any]]  # label and polygon, from back to front


def write_cityscapes(plan: Plan) -> None:
    """Write train and val of Cityscapes; any eight consecutive images contain all thing classes."""
    for split, count in (("train", plan.train_images), ("val", plan.val_images)):
        plan.map(partial(_write_frame, plan, split), range(count))


def _write_frame(plan: Plan, split: str, index: int) -> None:
    rng = image_rng(plan.seed, f"cityscapes/{split}", index)
    things = list(THINGS.values())
    image, objects = _street(rng, SHAPE_OF[things[index % len(things)]])
    cities = CITIES[split]
    city = cities[index % len(cities)]
    name = f"{city}_{index // len(cities):06d}_000019"
    root = plan.out / "cityscapes"
    write_file(root / "leftImg8bit" / split / city / f"{name}{IMAGE_SUFFIX}", png_bytes(image))
    prefix = root / "gtFine" / split / city / f"{name}_gtFine_"
    content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    write_json(prefix.with_name(prefix.name + POLYGONS), content)
    ids = draw_ids(objects)
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    for suffix, pixels in (
        (INSTANCE_IDS, ids),
        (LABEL_IDS_FILE, labels),
        (TRAIN_IDS_FILE, TRAIN_IDS[labels]),
    ):
        write_file(prefix.with_name(prefix.name + suffix), png_bytes(pixels))


def draw_ids(objects: Objects) -> np.ndarray:
    """Render the polygons as the pixels of ``instanceIds``: (height, width) uint16."""
    image = Image.new("I", (WIDTH, HEIGHT), LABEL_IDS["unlabeled"])
    pen, counts = ImageDraw.Draw(image), dict.fromkeys(HAS_INSTANCES, 0)
    for found in objects:
        number = label_id(found["label"])
        assert number is not None  # of every object that is drawn here
        if number < 0 or "deleted" in found:
            continue
        value = number
        if number in HAS_INSTANCES and not found["label"].endswith(GROUP):
            value = 1000 * number + counts[number]
            counts[number] += 1
        pen.polygon([tuple(point) for point in found["polygon"]], fill=value)
    return np.asarray(image).astype(np.uint16)


def _street(rng: np.random.Generator, shape: str) -> tuple[np.ndarray, Objects]:
    """Return an image (height, width, 3) and its objects; one of them has the given shape."""
    scene = _sample_scene(rng, shape)
    back = _scenery(rng)
    ground = np.empty((HEIGHT, WIDTH, 3), np.float32)
    for found in back:
        cv2.fillPoly(ground, [np.array(found["polygon"])], COLORS[found["label"]])
    noise = smooth_noise(scene, rng)
    drawing = draw(scene, rng, ground + noise - noise.mean(axis=(0, 1)))
    front = _ignored(rng)
    image = drawing.image.copy()
    for found in front:
        cv2.fillPoly(image, [np.array(found["polygon"])], COLORS[found["label"]])
    return image, [*back, *_annotate(rng, scene), *front]


def _sample_scene(rng: np.random.Generator, shape: str) -> Scene:
    crowd: tuple[ToyObject, ...] = ()
    taken: list[tuple[float, float, float]] = []
    if rng.random() < GROUP_CHANCE:
        kind = str(rng.choice([SHAPE_OF[label] for label in THINGS.values()]))
        crowd = sample_crowd(rng, WIDTH, HEIGHT, {"shape": kind})
        taken.append((crowd[0].x, crowd[0].y, CROWD_RADIUS))
    objects: list[ToyObject] = []
    for number in range(rng.choice(len(OBJECT_WEIGHTS), p=OBJECT_WEIGHTS) + 1):
        kind = shape if number == 0 else str(rng.choice(list(LABEL_OF)))
        attributes = sample_attributes(rng, {"shape": kind})
        radius = HEIGHT * rng.uniform(*SIZES[attributes["size"]])
        spot = free_spot(rng, WIDTH, HEIGHT, radius, taken, inside=number == 0)
        if spot is None and number == 0:
            return _sample_scene(rng, shape)
        if spot is not None:
            taken.append((*spot, radius))
            objects.append(pose(rng, attributes, *spot, radius))
    return Scene(WIDTH, HEIGHT, "grey", tuple(reversed(objects)), crowd)


def _scenery(rng: np.random.Generator) -> Objects:
    """Return the surroundings: bands from top to bottom, and poles with a light or a sign."""
    horizon, curb = rng.integers(30, 44), rng.integers(56, 70)
    middle, end = rng.integers(60, 130), rng.integers(8, 14)
    first, second = rng.permutation(["building", "vegetation"])
    left, right = rng.choice(["wall", "fence", "terrain"], 2, replace=False)
    foot = horizon - rng.integers(8, 16)
    found = [
        _box("sky", 0, 0, WIDTH - 1, horizon),
        _box(first, 0, end, middle, curb),
        _box(second, middle, foot, WIDTH - 1, curb),
        _box(left, 0, horizon + 8, middle // 2, curb),
        _box(right, WIDTH - middle // 2, horizon + 10, WIDTH - 1, curb),
        _box("sidewalk", 0, curb, WIDTH - 1, curb + 10),
        _box("road", 0, curb + 10, WIDTH - 1, HEIGHT - 1),
    ]
    for x in rng.integers(12, WIDTH - 12, 2):
        head = "traffic light" if rng.random() < 0.5 else "traffic sign"
        top = rng.integers(12, 24)
        found.append(_box("pole", x - 1, top, x + 1, curb + 6))
        found.append(_box(head, x - 4, top - 4, x + 4, top + (10 if "light" in head else 4)))
    return found


def _ignored(rng: np.random.Generator) -> Objects:
    """Return the regions in front of everything that are ignored."""
    hood = [[20, HEIGHT - 1], [60, HEIGHT - 7], [132, HEIGHT - 7], [172, HEIGHT - 1]]
    found: Objects = [{"label": "ego vehicle", "polygon": hood}]
    if rng.random() < DYNAMIC_CHANCE:
        x, y = rng.integers(10, WIDTH - 30), rng.integers(HEIGHT // 2, HEIGHT - 20)
        found.append(_box("dynamic", x, y, x + 16, y + 10))
    return [*found, *(_box("out of roi", x, 0, x + 2, HEIGHT - 1) for x in (0, WIDTH - 3))]


def _annotate(rng: np.random.Generator, scene: Scene) -> Objects:
    """Return the objects of a scene from back to front, a crowd as one group."""
    found: Objects = []
    if scene.crowd:
        outlines = np.concatenate([obj.outlines()[0] for obj in scene.crowd])
        hull = cv2.convexHull(outlines.astype(np.float32))[:, 0]
        label = LABEL_OF[scene.crowd[0].shape] + GROUP
        found.append({"label": label, "polygon": _points(hull)})
    for obj in scene.objects:
        outline = _points(obj.outlines()[0])
        found.append({"label": LABEL_OF[obj.shape], "polygon": outline})
        if LABEL_OF[obj.shape] == "car" and rng.random() < PLATE_CHANCE:
            x, y = np.mean(outline, axis=0).astype(int)
            found.append(_box("license plate", x - 4, y - 1, x + 4, y + 1))
    if rng.random() < DELETED_CHANCE:
        found.append({**_box("car", 8, 8, 40, 30), "deleted": 1})
    return found


def _box(label: str, left: Any, top: Any, right: Any, bottom: Any) -> dict[str, Any]:
    """Return a rectangle; its borders are integers of Python or numpy."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return {"label": str(label), "polygon": [[int(x), int(y)] for x, y in corners]}


def _points(outline: np.ndarray) -> Points:
    """Return the pixels of the corners, clipped to the image, without consecutive duplicates."""
    corners = np.floor(outline).astype(int).clip(0, [WIDTH - 1, HEIGHT - 1])
    changes = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    return corners[changes].tolist()

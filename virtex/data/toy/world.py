"""The toy world: objects, their attributes, and how scenes are sampled.

A scene is a handful of objects on a soft background. An object is a shape with a color, a
texture and a size, so that its name, its mask and every caption about it are known exactly.
Scenes are rendered in ``drawing`` and written in ``coco``, ``voc`` and ``classification``.

Lengths are in pixels, x to the right, y down, angles in radians.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def _regular(corners: int, radius: float = 1.0, start: float = -np.pi / 2) -> np.ndarray:
    """Return the corners of a regular polygon, (corners, 2); the first one is at the top."""
    angles = start + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    return _regular(10) * np.where(np.arange(10) % 2 == 0, 1.15, 0.5)[:, None]


def _cross() -> np.ndarray:
    arm, end = 0.31, 0.98
    quarter = np.array([[-arm, -end], [arm, -end], [arm, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 16


def _moon() -> np.ndarray:
    """Return a crescent open to the right: a disc minus a smaller disc through its tips."""
    tip, center = 0.9, 0.55
    outer = np.linspace(tip, 2 * np.pi - tip, 40)
    reach = np.hypot(np.cos(tip) - center, np.sin(tip))
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - center)
    inner = np.linspace(2 * np.pi - inner_tip, inner_tip, 32)[1:-1]
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([center + reach * np.cos(inner), reach * np.sin(inner)], axis=1),
        ]
    )


# Outlines in units of the object's radius; a second outline is a hole.
SHAPES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_regular(60),),
    "square": (_regular(4, 1.2, -np.pi / 4),),
    "triangle": (_regular(3, 1.2),),
    "star": (_star(),),
    "cross": (_cross(),),
    "ring": (_regular(60), _regular(60, 0.52)),
    "diamond": (_regular(4, 1.15) * [0.62, 1.0],),
    "hexagon": (_regular(6, 1.05),),
    "heart": (_heart(),),
    "moon": (_moon(),),
}
SHAPE_FAMILY: dict[str, str] = {
    "circle": "rounded",
    "ring": "rounded",
    "heart": "rounded",
    "moon": "rounded",
    "square": "angular",
    "triangle": "angular",
    "diamond": "angular",
    "hexagon": "angular",
    "star": "pointed",
    "cross": "pointed",
}
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 52, 48),
    "orange": (238, 140, 40),
    "yellow": (240, 212, 62),
    "green": (62, 148, 72),
    "blue": (50, 98, 196),
    "purple": (138, 72, 168),
    "white": (244, 243, 238),
    "black": (38, 38, 44),
}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (152, 152, 154),
    "sandy": (196, 174, 136),
    "misty": (140, 164, 184),
    "mossy": (148, 164, 124),
    "rosy": (192, 152, 152),
}
# Radius as a fraction of the shorter side of the image.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.13, 0.16),
    "medium": (0.20, 0.25),
    "large": (0.30, 0.40),
}
IMAGE_SIZES = (
    (160, 128), (176, 128), (192, 144), (192, 160), (144, 144),
    (128, 128), (128, 160), (128, 176), (144, 192), (160, 192),
)  # fmt: skip

# Every shape has common and rare colors, which gives LVIS its long tail.
COLOR_WEIGHTS = (0.34, 0.22, 0.15, 0.10, 0.07, 0.05, 0.04, 0.03)
TEXTURE_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
COUNT_WEIGHTS = (0.35, 0.35, 0.20, 0.10)  # of 1 to 4 objects
CROWD_RADIUS = 22  # of the whole crowd, in pixels


@dataclass(frozen=True)
class ToyObject:
    """An object to draw: its attributes and its pose."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    stretch: float  # width over height, before rotation; negative: mirrored

    def outlines(self) -> list[np.ndarray]:
        """Return closed outlines in pixels, each (points, 2); the second one is a hole."""
        return [self.place(outline) for outline in SHAPES[self.shape]]

    def place(self, points: np.ndarray) -> np.ndarray:
        """Convert points from units of the radius to pixels, (points, 2)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        scale = self.radius * np.array([self.stretch, 1 / abs(self.stretch)])
        return points * scale @ turn + [self.x, self.y]


@dataclass(frozen=True)
class Scene:
    """An image to draw: size in pixels, objects from back to front.

    ``crowd`` is a group of tiny objects of one kind behind all others; it is usually empty.
    """

    width: int
    height: int
    background: str
    objects: tuple[ToyObject, ...]
    crowd: tuple[ToyObject, ...] = ()


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator of one image, which depends on no other image."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def sample_scene(
    rng: np.random.Generator, required: Mapping[str, str], crowd_chance: float = 0.0
) -> Scene:
    """Sample one to four objects that overlap slightly at most.

    ``required`` fixes attributes of one object, such as ``{"shape": "star"}``; it is in front of
    all others and inside the image.
    """
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    background = str(rng.choice(list(BACKGROUNDS)))
    taken: list[tuple[float, float, float]] = []
    crowd: tuple[ToyObject, ...] = ()
    if rng.random() < crowd_chance:
        crowd = sample_crowd(rng, width, height)
        taken.append((crowd[0].x, crowd[0].y, CROWD_RADIUS))
    objects: list[ToyObject] = []
    for number in range(rng.choice(len(COUNT_WEIGHTS), p=COUNT_WEIGHTS) + 1):
        attributes = sample_attributes(rng, {} if number else required)
        radius = min(width, height) * rng.uniform(*SIZES[attributes["size"]])
        spot = free_spot(rng, width, height, radius, taken, inside=number == 0)
        if spot is None and number == 0:  # the crowd leaves no room for the required object
            return sample_scene(rng, required, crowd_chance)
        if spot is None:
            continue
        taken.append((*spot, radius))
        objects.append(pose(rng, attributes, *spot, radius))
    return Scene(width, height, background, tuple(reversed(objects)), crowd)


def sample_single(rng: np.random.Generator, required: Mapping[str, str]) -> Scene:
    """Sample one large object close to the center of the image."""
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    attributes = sample_attributes(rng, {**required, "size": "large"})
    side = min(width, height)
    x = width / 2 + side * rng.uniform(-0.1, 0.1)
    y = height / 2 + side * rng.uniform(-0.1, 0.1)
    subject = pose(rng, attributes, x, y, side * rng.uniform(0.24, 0.38))
    return Scene(width, height, str(rng.choice(list(BACKGROUNDS))), (subject,))


def sample_attributes(rng: np.random.Generator, required: Mapping[str, str]) -> dict[str, str]:
    """Sample shape, color, texture and size of one object, except those in ``required``."""
    shapes = list(SHAPES)
    shape = required.get("shape") or shapes[rng.integers(len(shapes))]
    common_first = np.roll(list(COLORS), 3 * shapes.index(shape))
    drawn = {
        "shape": shape,
        "color": str(rng.choice(common_first, p=COLOR_WEIGHTS)),
        "texture": str(rng.choice(TEXTURES, p=TEXTURE_WEIGHTS)),
        "size": str(rng.choice(list(SIZES))),
    }
    return {**drawn, **required}


def pose(
    rng: np.random.Generator, attributes: dict[str, str], x: float, y: float, radius: float
) -> ToyObject:
    """Return an object with these attributes, slightly rotated and stretched, randomly mirrored."""
    angle = rng.uniform(-0.3, 0.3)
    stretch = rng.uniform(0.94, 1.06) * rng.choice([-1, 1])
    return ToyObject(**attributes, x=x, y=y, radius=radius, angle=angle, stretch=stretch)


def free_spot(
    rng: np.random.Generator,
    width: int,
    height: int,
    radius: float,
    taken: list[tuple[float, float, float]],
    inside: bool,
) -> tuple[float, float] | None:
    """Return a center that leaves most of every object visible, or None after 40 attempts.

    Unless the object must be ``inside`` the image, one attempt in seven may cross the border by
    0.6 radii.
    """
    for _ in range(40):
        margin = radius * (0.4 if rng.random() < 0.15 and not inside else 1.2)
        x = rng.uniform(margin, width - margin)
        y = rng.uniform(margin, height - margin)
        if all(np.hypot(x - u, y - v) > 0.74 * (radius + other) for u, v, other in taken):
            return x, y
    return None


def sample_crowd(
    rng: np.random.Generator, width: int, height: int, required: Mapping[str, str] | None = None
) -> tuple[ToyObject, ...]:
    """Sample 7 to 12 tiny objects of one kind, close together, the first in the middle."""
    attributes = {**sample_attributes(rng, required or {}), "texture": "plain", "size": "small"}
    x = rng.uniform(CROWD_RADIUS, width - CROWD_RADIUS)
    y = rng.uniform(CROWD_RADIUS, height - CROWD_RADIUS)
    spots = [(x, y)]
    for _ in range(200):
        reach, angle = CROWD_RADIUS * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        spot = (x + reach * np.cos(angle), y + reach * np.sin(angle))
        if all(np.hypot(spot[0] - u, spot[1] - v) > 11 for u, v in spots):
            spots.append(spot)
    count = int(rng.integers(7, 13))
    return tuple(pose(rng, attributes, *spot, rng.uniform(4.5, 6.0)) for spot in spots[:count])

"""The toy world: what its objects are called, look like, and how scenes of them are made up.

A scene is a handful of objects on a soft background. An object is a shape with a color, a
texture and a size, so that its name, its mask and every caption about it are known exactly.
Nothing is drawn here (``drawing``) and nothing is written (``coco``, ``voc``, ``classification``).

Lengths are in pixels, x to the right, y down, angles in radians.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


def _regular(corners: int, radius: float = 1.0, start: float = -np.pi / 2) -> np.ndarray:
    """Corners of a regular polygon, (corners, 2); the first one points up."""
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
    """A crescent open to the right: a disc less a smaller disc that passes through its tips."""
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
# Radius as a share of the picture's shorter side.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.13, 0.16),
    "medium": (0.20, 0.25),
    "large": (0.30, 0.40),
}
PICTURE_SIZES = (
    (160, 128), (176, 128), (192, 144), (192, 160), (144, 144),
    (128, 128), (128, 160), (128, 176), (144, 192), (160, 192),
)  # fmt: skip

# Every shape has its usual and its unusual colors: that makes the long tail of LVIS.
COLOR_WEIGHTS = (0.34, 0.22, 0.15, 0.10, 0.07, 0.05, 0.04, 0.03)
TEXTURE_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
COUNT_WEIGHTS = (0.35, 0.35, 0.20, 0.10)  # of 1 to 4 objects
CROWD_RADIUS = 22  # of the whole group, in pixels


@dataclass(frozen=True)
class ToyObject:
    """One thing to draw: its words, and where and how it lies."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    stretch: float  # width over height, before turning; negative = mirrored

    def outlines(self) -> list[np.ndarray]:
        """Closed outlines in pixels, each (points, 2); the second one is a hole."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        scale = self.radius * np.array([self.stretch, 1 / abs(self.stretch)])
        return [outline * scale @ turn + [self.x, self.y] for outline in SHAPES[self.shape]]


@dataclass(frozen=True)
class Scene:
    """A picture to draw: size in pixels, objects from back to front.

    ``crowd`` is a group of tiny objects of one kind, behind everything else; mostly empty.
    """

    width: int
    height: int
    background: str
    objects: tuple[ToyObject, ...]
    crowd: tuple[ToyObject, ...] = ()


def picture_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The generator of one picture: no picture depends on another one."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def sample_scene(
    rng: np.random.Generator, wanted: Mapping[str, str], crowd_chance: float = 0.0
) -> Scene:
    """One to four objects, slightly overlapping at most.

    ``wanted`` fixes words of one object, such as ``{"shape": "star"}``; it lies in front of all
    others and inside the picture.
    """
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    background = str(rng.choice(list(BACKGROUNDS)))
    taken: list[tuple[float, float, float]] = []
    crowd: tuple[ToyObject, ...] = ()
    if rng.random() < crowd_chance:
        crowd = _sample_crowd(rng, width, height)
        taken.append((crowd[0].x, crowd[0].y, CROWD_RADIUS))
    objects: list[ToyObject] = []
    for number in range(rng.choice(len(COUNT_WEIGHTS), p=COUNT_WEIGHTS) + 1):
        words = sample_words(rng, {} if number else wanted)
        radius = min(width, height) * rng.uniform(*SIZES[words["size"]])
        spot = _free_spot(rng, width, height, radius, taken, inside=number == 0)
        if spot is None and number == 0:  # the crowd leaves no room for the wanted object
            return sample_scene(rng, wanted, crowd_chance)
        if spot is None:
            continue
        taken.append((*spot, radius))
        objects.append(_lay_down(rng, words, *spot, radius))
    return Scene(width, height, background, tuple(reversed(objects)), crowd)


def sample_single(rng: np.random.Generator, wanted: Mapping[str, str]) -> Scene:
    """One object that fills the middle of the picture, a little off center."""
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    words = sample_words(rng, {**wanted, "size": "large"})
    side = min(width, height)
    x = width / 2 + side * rng.uniform(-0.1, 0.1)
    y = height / 2 + side * rng.uniform(-0.1, 0.1)
    subject = _lay_down(rng, words, x, y, side * rng.uniform(0.24, 0.38))
    return Scene(width, height, str(rng.choice(list(BACKGROUNDS))), (subject,))


def sample_words(rng: np.random.Generator, wanted: Mapping[str, str]) -> dict[str, str]:
    """Shape, color, texture and size of one object; those in ``wanted`` are kept."""
    shapes = list(SHAPES)
    shape = wanted.get("shape") or shapes[rng.integers(len(shapes))]
    usual_first = np.roll(list(COLORS), 3 * shapes.index(shape))
    drawn = {
        "shape": shape,
        "color": str(rng.choice(usual_first, p=COLOR_WEIGHTS)),
        "texture": str(rng.choice(TEXTURES, p=TEXTURE_WEIGHTS)),
        "size": str(rng.choice(list(SIZES))),
    }
    return {**drawn, **wanted}


def _lay_down(
    rng: np.random.Generator, words: dict[str, str], x: float, y: float, radius: float
) -> ToyObject:
    angle = rng.uniform(-0.3, 0.3)
    stretch = rng.uniform(0.94, 1.06) * rng.choice([-1, 1])
    return ToyObject(**words, x=x, y=y, radius=radius, angle=angle, stretch=stretch)


def _free_spot(
    rng: np.random.Generator,
    width: int,
    height: int,
    radius: float,
    taken: list[tuple[float, float, float]],
    inside: bool,
) -> tuple[float, float] | None:
    """A center that leaves most of every object visible, or None after 40 attempts.

    Unless it has to lie ``inside``, an attempt in seven may pass the border by 0.6 radii.
    """
    for _ in range(40):
        margin = radius * (0.4 if rng.random() < 0.15 and not inside else 1.2)
        x = rng.uniform(margin, width - margin)
        y = rng.uniform(margin, height - margin)
        if all(np.hypot(x - u, y - v) > 0.74 * (radius + other) for u, v, other in taken):
            return x, y
    return None


def _sample_crowd(rng: np.random.Generator, width: int, height: int) -> tuple[ToyObject, ...]:
    """Seven to twelve tiny objects of one kind, close together, the first in the middle."""
    words = {**sample_words(rng, {}), "texture": "plain", "size": "small"}
    x = rng.uniform(CROWD_RADIUS, width - CROWD_RADIUS)
    y = rng.uniform(CROWD_RADIUS, height - CROWD_RADIUS)
    spots = [(x, y)]
    for _ in range(200):
        reach, angle = CROWD_RADIUS * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        spot = (x + reach * np.cos(angle), y + reach * np.sin(angle))
        if all(np.hypot(spot[0] - u, spot[1] - v) > 11 for u, v in spots):
            spots.append(spot)
    count = int(rng.integers(7, 13))
    return tuple(_lay_down(rng, words, *spot, rng.uniform(4.5, 6.0)) for spot in spots[:count])

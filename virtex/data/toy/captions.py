"""Five true captions of a toy image, each from another template.

They mention color, texture, size, background, number and position of objects. Left, right, above
and below are computed from the visible boxes and used only where they are clear. "left" and
"right" occur in no other sense, so that mirroring an image only requires swapping the two words.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np

from virtex.data.toy.drawing import Drawing, Instance
from virtex.data.toy.world import ToyObject

CAPTIONS = 5
MIN_OFFSET = 8.0  # pixels between the centers of objects whose relation is clear
NUMBERS = ("no", "one", "two", "three", "four")
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "lower down than"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def captions(drawing: Drawing, rng: np.random.Generator) -> list[str]:
    """Return five different sentences, each with a capital letter and a period.

    If two objects have a clear spatial relation, at least two of the sentences mention one.
    """
    relations: list[Any] = list(_RELATION_SENTENCES)
    others: list[Any] = list(_OTHER_SENTENCES)
    rng.shuffle(relations)
    rng.shuffle(others)
    texts: list[str] = []
    for sentences, limit in ((relations, 2), (others, CAPTIONS)):
        for sentence in sentences:
            text = sentence(drawing, rng) if len(texts) < limit else None
            if text:
                texts.append(f"{text[0].upper()}{text[1:]}.")
    return [texts[index] for index in rng.permutation(len(texts))]


def relation(first: Instance, second: Instance) -> str | None:
    """Return the position of ``first`` relative to ``second``, a key of ``RELATIONS``, or None."""
    (x, y), (u, v) = _center(first), _center(second)
    if max(abs(x - u), abs(y - v)) < MIN_OFFSET:
        return None
    if abs(x - u) >= abs(y - v):
        return "left" if x < u else "right"
    return "above" if y < v else "below"


def _center(instance: Instance) -> tuple[float, float]:
    x, y, width, height = instance.bbox
    return x + width / 2, y + height / 2


def _name(obj: ToyObject, rng: np.random.Generator) -> str:
    """Return a noun phrase with all attributes of an object, some left out at random."""
    words = [] if obj.size == "medium" or rng.random() < 0.15 else [obj.size]
    if rng.random() < (0.3 if obj.texture == "plain" else 0.85):
        words.append(obj.texture)
    return _article(" ".join([*words, obj.color, obj.shape]))


def _short_name(obj: ToyObject) -> str:
    return _article(f"{obj.color} {obj.shape}")


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _any(drawing: Drawing, rng: np.random.Generator) -> ToyObject:
    return drawing.instances[rng.integers(len(drawing.instances))].obj


def _ground(drawing: Drawing) -> str:
    return f"on a {drawing.scene.background} background"


def _crowd(drawing: Drawing) -> list[str]:
    if not drawing.crowd:
        return []
    obj = drawing.crowd[0].obj
    return [f"a crowd of tiny {obj.color} {_plural(obj.shape)}"]


def _enumerate(parts: list[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _pair(drawing: Drawing, rng: np.random.Generator) -> tuple[ToyObject, str, ToyObject] | None:
    """Return two objects and their relation, or None if no two have a clear one."""
    pairs = [
        (first.obj, place, second.obj)
        for first, second in permutations(drawing.instances, 2)
        if (place := relation(first, second))
    ]
    return pairs[rng.integers(len(pairs))] if pairs else None


def _words(place: str, rng: np.random.Generator) -> str:
    return RELATIONS[place][rng.integers(2)]


def _lies(drawing: Drawing, rng: np.random.Generator) -> str | None:
    pair = _pair(drawing, rng)
    if pair is None:
        return None
    first, place, second = pair
    return f"{_name(first, rng)} {_words(place, rng)} {_name(second, rng)}"


def _sits(drawing: Drawing, rng: np.random.Generator) -> str | None:
    pair = _pair(drawing, rng)
    if pair is None:
        return None
    first, place, second = pair
    return f"there is {_name(first, rng)}, it sits {_words(place, rng)} {_name(second, rng)}"


def _with(drawing: Drawing, rng: np.random.Generator) -> str | None:
    """Describe the position of the second object relative to the first."""
    pair = _pair(drawing, rng)
    if pair is None:
        return None
    first, place, second = pair
    return f"{_name(first, rng)} with {_name(second, rng)} {RELATIONS[OPPOSITE[place]][0]} it"


def _between(drawing: Drawing, rng: np.random.Generator) -> str | None:
    """Describe an object that has one on its left and one on its right."""
    row = sorted(drawing.instances, key=lambda instance: _center(instance)[0])
    if len(row) < 3:
        return None
    left, middle, right = row[0], row[len(row) // 2], row[-1]
    if relation(middle, left) != "right" or relation(middle, right) != "left":
        return None
    return (
        f"{_name(middle.obj, rng)} with {_short_name(left.obj)} on its left "
        f"and {_short_name(right.obj)} on its right"
    )


def _listed(drawing: Drawing, rng: np.random.Generator) -> str:
    objects = [instance.obj for instance in drawing.instances]
    if len(objects) == 1:
        names = [_name(objects[0], rng)]
    else:
        kinds = [(obj.color, obj.shape) for obj in objects]
        names = []
        for color, shape in dict.fromkeys(kinds):
            number = kinds.count((color, shape))
            single = _article(f"{color} {shape}")
            names.append(single if number == 1 else f"{NUMBERS[number]} {color} {_plural(shape)}")
    ending = "" if drawing.crowd else f" {_ground(drawing)}"  # keeps the caption below 30 tokens
    return _enumerate(names + _crowd(drawing)) + ending


def _pictured(drawing: Drawing, rng: np.random.Generator) -> str:
    return f"a picture of {_name(_any(drawing, rng), rng)} {_ground(drawing)}"


def _counted(drawing: Drawing, rng: np.random.Generator) -> str:
    number = len(drawing.instances)
    shapes = f"{NUMBERS[number]} {'shape' if number == 1 else 'shapes'}"
    one = _name(_any(drawing, rng), rng)
    everything = _enumerate([shapes, *_crowd(drawing)])
    return f"{everything}, {'it is' if number == 1 else 'one of them'} {one}"


def _grounded(drawing: Drawing, rng: np.random.Generator) -> str:
    return f"{_ground(drawing)} lies {_name(_any(drawing, rng), rng)}"


def _colored(drawing: Drawing, rng: np.random.Generator) -> str:
    """Describe one object, color and texture after the shape."""
    obj = _any(drawing, rng)
    size = "" if obj.size == "medium" else f"{obj.size} "
    return f"{_article(size + obj.shape)} that is {obj.texture} and {obj.color}"


def _largest(drawing: Drawing, rng: np.random.Generator) -> str | None:
    ranked = sorted(drawing.instances, key=lambda instance: -instance.area)
    if len(ranked) < 2 or ranked[0].area < 1.3 * ranked[1].area:
        return None
    return f"the largest shape here is {_name(ranked[0].obj, rng)}"


def _placed(drawing: Drawing, rng: np.random.Generator) -> str | None:
    """Describe one object and the side of the image it is close to, if any."""
    instance = drawing.instances[rng.integers(len(drawing.instances))]
    x, y = _center(instance)
    across, down = x / drawing.scene.width, y / drawing.scene.height
    sides = {
        "on the left side": across < 0.35,
        "on the right side": across > 0.65,
        "at the top": down < 0.35,
        "at the bottom": down > 0.65,
        "in the middle": 0.4 < across < 0.6 and 0.4 < down < 0.6,
    }
    matching = [side for side, holds in sides.items() if holds]
    if not matching:
        return None
    side = matching[rng.integers(len(matching))]
    return f"{_name(instance.obj, rng)} {side} of the picture"


Sentence = Callable[[Drawing, np.random.Generator], str | None]
_RELATION_SENTENCES: tuple[Sentence, ...] = (_lies, _sits, _with, _between)
_OTHER_SENTENCES: tuple[Sentence, ...] = (
    _listed, _pictured, _counted, _grounded, _colored, _largest, _placed,
)  # fmt: skip

"""Five truthful sentences about a toy picture, each worded in another way.

Color, texture, size, background, number and place of the objects are all put into words.
Left, right, above and below are taken from the visible boxes and said only where they are
plain to see. "left" and "right" never occur in another sense, so that a flipped picture needs
nothing but those two words swapped.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np

from virtex.data.toy.drawing import Drawing, Instance
from virtex.data.toy.world import ToyObject

CAPTIONS = 5
CLEARLY = 8.0  # pixels between two centers before one counts as left of, or above, the other
NUMBERS = ("no", "one", "two", "three", "four")
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "lower down than"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def captions(drawing: Drawing, rng: np.random.Generator) -> list[str]:
    """Five different sentences, capital first and full stop last.

    Where two objects stand in a clear relation, at least two of the sentences say so.
    """
    relations: list[Any] = list(_RELATION_SENTENCES)
    others: list[Any] = list(_OTHER_SENTENCES)
    rng.shuffle(relations)
    rng.shuffle(others)
    said: list[str] = []
    for sentences, wanted in ((relations, 2), (others, CAPTIONS)):
        for sentence in sentences:
            text = sentence(drawing, rng) if len(said) < wanted else None
            if text:
                said.append(f"{text[0].upper()}{text[1:]}.")
    return [said[index] for index in rng.permutation(len(said))]


def relation(first: Instance, second: Instance) -> str | None:
    """How ``first`` lies to ``second``: a key of ``RELATIONS``, or None if that is not clear."""
    (x, y), (u, v) = _center(first), _center(second)
    if max(abs(x - u), abs(y - v)) < CLEARLY:
        return None
    if abs(x - u) >= abs(y - v):
        return "left" if x < u else "right"
    return "above" if y < v else "below"


def _center(instance: Instance) -> tuple[float, float]:
    x, y, width, height = instance.bbox
    return x + width / 2, y + height / 2


def _name(thing: ToyObject, rng: np.random.Generator) -> str:
    """All there is to say of an object, an adjective left out now and then."""
    words = [] if thing.size == "medium" or rng.random() < 0.15 else [thing.size]
    if rng.random() < (0.3 if thing.texture == "plain" else 0.85):
        words.append(thing.texture)
    return _article(" ".join([*words, thing.color, thing.shape]))


def _short_name(thing: ToyObject) -> str:
    return _article(f"{thing.color} {thing.shape}")


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _any(drawing: Drawing, rng: np.random.Generator) -> ToyObject:
    return drawing.instances[rng.integers(len(drawing.instances))].thing


def _ground(drawing: Drawing) -> str:
    return f"on a {drawing.scene.background} background"


def _crowd(drawing: Drawing) -> list[str]:
    if not drawing.crowd:
        return []
    thing = drawing.crowd[0].thing
    return [f"a crowd of tiny {thing.color} {_plural(thing.shape)}"]


def _enumerate(parts: list[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _pair(drawing: Drawing, rng: np.random.Generator) -> tuple[ToyObject, str, ToyObject] | None:
    """Two objects and how the first lies to the second; None where no two lie clearly."""
    pairs = [
        (first.thing, place, second.thing)
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
    """The other way round: the second object is placed by the first one."""
    pair = _pair(drawing, rng)
    if pair is None:
        return None
    first, place, second = pair
    return f"{_name(first, rng)} with {_name(second, rng)} {RELATIONS[OPPOSITE[place]][0]} it"


def _between(drawing: Drawing, rng: np.random.Generator) -> str | None:
    """Three objects, the middle one lying between the other two from left to right."""
    row = sorted(drawing.instances, key=lambda instance: _center(instance)[0])
    if len(row) < 3:
        return None
    left, middle, right = row[0], row[len(row) // 2], row[-1]
    if relation(middle, left) != "right" or relation(middle, right) != "left":
        return None
    return (
        f"{_name(middle.thing, rng)} with {_short_name(left.thing)} on its left "
        f"and {_short_name(right.thing)} on its right"
    )


def _listed(drawing: Drawing, rng: np.random.Generator) -> str:
    things = [instance.thing for instance in drawing.instances]
    if len(things) == 1:
        names = [_name(things[0], rng)]
    else:
        kinds = [(thing.color, thing.shape) for thing in things]
        names = []
        for color, shape in dict.fromkeys(kinds):
            number = kinds.count((color, shape))
            one = _article(f"{color} {shape}")
            names.append(one if number == 1 else f"{NUMBERS[number]} {color} {_plural(shape)}")
    ending = "" if drawing.crowd else f" {_ground(drawing)}"  # keeps it below 30 tokens
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
    """One object, its color and texture told after its shape."""
    thing = _any(drawing, rng)
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{_article(size + thing.shape)} that is {thing.texture} and {thing.color}"


def _largest(drawing: Drawing, rng: np.random.Generator) -> str | None:
    ranked = sorted(drawing.instances, key=lambda instance: -instance.area)
    if len(ranked) < 2 or ranked[0].area < 1.3 * ranked[1].area:
        return None
    return f"the largest shape here is {_name(ranked[0].thing, rng)}"


def _placed(drawing: Drawing, rng: np.random.Generator) -> str | None:
    """One object and the side of the picture it is on, if it is near one."""
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
    true = [side for side, holds in sides.items() if holds]
    if not true:
        return None
    side = true[rng.integers(len(true))]
    return f"{_name(instance.thing, rng)} {side} of the picture"


Sentence = Callable[[Drawing, np.random.Generator], str | None]
_RELATION_SENTENCES: tuple[Sentence, ...] = (_lies, _sits, _with, _between)
_OTHER_SENTENCES: tuple[Sentence, ...] = (
    _listed, _pictured, _counted, _grounded, _colored, _largest, _placed,
)  # fmt: skip

"""Captions of toy images are true: each is parsed and compared with the boxes."""

import re
from itertools import permutations

import pytest

from virtex.data.toy.captions import NUMBERS, RELATIONS, captions
from virtex.data.toy.drawing import Drawing, Instance, draw
from virtex.data.toy.world import COLORS, SHAPES, SIZES, TEXTURES, image_rng, sample_scene

NAME = (
    rf"an? (?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(TEXTURES)}) )?"
    rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})"
)
PLACES = {words: place for place, several in RELATIONS.items() for words in several}
PLACE = "|".join(PLACES)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Drawing, str]]:
    """Return 200 drawings, five times each: with one of its captions in lower case."""
    pairs = []
    for index in range(200):
        rng = image_rng(0, "captions", index)
        drawing = draw(sample_scene(rng, {}, crowd_chance=0.15), rng)
        texts = captions(drawing, rng)
        assert len(set(texts)) == 5
        assert all(text[0].isupper() and text.endswith(".") for text in texts)
        pairs += [(drawing, text.lower()) for text in texts]
    return pairs


def is_a(instance: Instance, name: str) -> bool:
    obj = instance.obj
    words = set(name.split()) - {"a", "an"}
    return words <= {obj.size, obj.texture, obj.color, obj.shape}


def center(instance: Instance) -> tuple[float, float]:
    x, y, width, height = instance.bbox
    return x + width / 2, y + height / 2


def is_at(first: Instance, place: str, second: Instance) -> bool:
    (x, y), (u, v) = center(first), center(second)
    return {"left": x < u - 5, "right": x > u + 5, "above": y < v - 5, "below": y > v + 5}[place]


def has_pair(drawing: Drawing, first: str, place: str, second: str) -> bool:
    return any(
        is_a(one, first) and is_a(other, second) and is_at(one, place, other)
        for one, other in permutations(drawing.instances, 2)
    )


def is_listed(drawing: Drawing, *names: str) -> bool:
    return all(any(is_a(instance, name) for instance in drawing.instances) for name in names)


def is_on_side(drawing: Drawing, name: str, side: str) -> bool:
    axis = side in ("top", "bottom")
    extent = (drawing.scene.width, drawing.scene.height)[axis]
    places = [center(one)[axis] / extent for one in drawing.instances if is_a(one, name)]
    return any(p < 0.4 if side in ("left", "top") else p > 0.6 for p in places)


CLAIMS = {
    rf"({NAME})(?:, it sits)? ({PLACE}) ({NAME})": lambda d, a, place, b: has_pair(
        d, a, PLACES[place], b
    ),
    rf"({NAME}) with ({NAME}) ({PLACE}) it": lambda d, a, b, place: has_pair(
        d, b, PLACES[place], a
    ),
    rf"({NAME}) with ({NAME}) on its left and ({NAME}) on its right": lambda d, a, b, c: (
        has_pair(d, b, "left", a) and has_pair(d, c, "right", a)
    ),
    r"on a (\w+) background": lambda d, name: name == d.scene.background,
    rf"^({'|'.join(NUMBERS)}) shapes?\b": lambda d, n: NUMBERS.index(n) == len(d.instances),
    rf"largest shape here is ({NAME})": lambda d, name: is_a(
        max(d.instances, key=lambda instance: instance.area), name
    ),
    r"(an? [\w ]+) that is (\w+) and (\w+)": lambda d, *words: is_listed(d, " ".join(words)),
    rf"({NAME}) (?:on|at) the (left|right|top|bottom)(?: side)? of the picture": is_on_side,
    r"a crowd of tiny (\w+) (\w+)": lambda d, color, shape: (
        color == d.crowd[0].obj.color and shape.startswith(d.crowd[0].obj.shape)
    ),
    rf"({NAME})": is_listed,
}


@pytest.mark.parametrize("pattern", CLAIMS)
def test_claim_is_true(pairs, pattern):
    hits = [(drawing, match) for drawing, text in pairs for match in re.finditer(pattern, text)]
    assert hits
    for drawing, match in hits:
        assert CLAIMS[pattern](drawing, *match.groups()), match.string


@pytest.mark.parametrize("place", RELATIONS)
def test_every_relation_occurs(pairs, place):
    pattern = "|".join(rf"{words} (an? |it)" for words in RELATIONS[place])
    assert sum(bool(re.search(pattern, text)) for _, text in pairs) >= 3


def test_two_captions_mention_a_relation(pairs):
    for at in range(0, len(pairs), 5):
        if len(pairs[at][0].instances) > 1:
            texts = [text for _, text in pairs[at : at + 5]]
            assert sum(bool(re.search(f"{PLACE}|on its left", text)) for text in texts) >= 2


def test_lists_are_complete(pairs):
    for drawing, text in pairs:
        if text.count(" and ") and re.match(rf"(?:{NAME}|two|three), .* and ", text):
            for instance in drawing.instances:
                assert f"{instance.obj.color} {instance.obj.shape}" in text


def test_captions_fit_into_30_tokens(pairs):
    assert max(len(re.findall(r"\w+|[.,]", text)) for _, text in pairs) <= 28

"""Every caption of a toy picture is true; each is read back and held against the boxes."""

import re
from itertools import permutations

import pytest

from virtex.data.toy.captions import NUMBERS, RELATIONS, captions
from virtex.data.toy.drawing import Drawing, Instance, draw
from virtex.data.toy.world import COLORS, SHAPES, SIZES, TEXTURES, picture_rng, sample_scene

NAME = (
    rf"an? (?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(TEXTURES)}) )?"
    rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})"
)
PLACE = {words: place for place, several in RELATIONS.items() for words in several}


@pytest.fixture(scope="module")
def told() -> list[tuple[Drawing, str]]:
    """300 drawings, each five times: with one of its captions, in lower case."""
    pairs = []
    for index in range(300):
        rng = picture_rng(0, "captions", index)
        drawing = draw(sample_scene(rng, {}, crowd_chance=0.15), rng)
        pairs += [(drawing, text.lower()) for text in captions(drawing, rng)]
    return pairs


def fits(instance: Instance, name: str) -> bool:
    thing = instance.thing
    words = set(name.split()) - {"a", "an"}
    return words <= {thing.size, thing.texture, thing.color, thing.shape}


def center(instance: Instance) -> tuple[float, float]:
    x, y, width, height = instance.bbox
    return x + width / 2, y + height / 2


def lies(first: Instance, place: str, second: Instance) -> bool:
    (x, y), (u, v) = center(first), center(second)
    return {"left": x < u - 5, "right": x > u + 5, "above": y < v - 5, "below": y > v + 5}[place]


def some_pair_lies(drawing: Drawing, first: str, place: str, second: str) -> bool:
    return any(
        fits(one, first) and fits(other, second) and lies(one, place, other)
        for one, other in permutations(drawing.instances, 2)
    )


def found(told: list[tuple[Drawing, str]], pattern: str) -> list[tuple[Drawing, re.Match]]:
    """Drawings whose caption has the pattern; never none, or the test would prove nothing."""
    hits = [(drawing, match) for drawing, text in told if (match := re.search(pattern, text))]
    assert len(hits) >= 3
    return hits


def test_five_captions_that_differ(told):
    for at in range(0, len(told), 5):
        assert len({text for _, text in told[at : at + 5]}) == 5


def test_every_named_object_is_in_the_picture(told):
    for drawing, text in told:
        for name in re.findall(NAME, text):
            assert any(fits(instance, name) for instance in drawing.instances), text


def test_left_right_above_and_below_are_true(told):
    words = "|".join(PLACE)
    for drawing, match in found(told, rf"({NAME})(?:, it sits)? ({words}) ({NAME})"):
        first, place, second = match.groups()
        assert some_pair_lies(drawing, first, PLACE[place], second), match.string


def test_with_another_object_beside_it_is_true(told):
    words = "|".join(PLACE)
    for drawing, match in found(told, rf"({NAME}) with ({NAME}) ({words}) it"):
        first, second, place = match.groups()
        assert some_pair_lies(drawing, second, PLACE[place], first), match.string


def test_between_two_others_is_true(told):
    pattern = rf"({NAME}) with ({NAME}) on its left and ({NAME}) on its right"
    for drawing, match in found(told, pattern):
        middle, left, right = match.groups()
        assert some_pair_lies(drawing, left, "left", middle), match.string
        assert some_pair_lies(drawing, right, "right", middle), match.string


@pytest.mark.parametrize("place", RELATIONS)
def test_every_relation_is_said(told, place):
    found(told, "|".join(rf"{words} (an? |it)" for words in RELATIONS[place]))


def test_two_objects_far_apart_are_told_in_relation(told):
    words = "|".join([*PLACE, "on its left"])
    for at in range(0, len(told), 5):
        if len(told[at][0].instances) > 1:
            assert sum(bool(re.search(words, text)) for _, text in told[at : at + 5]) >= 2


def test_the_background_is_told_truly(told):
    for drawing, match in found(told, r"on a (\w+) background"):
        assert match[1] == drawing.scene.background


def test_the_number_of_shapes_is_true(told):
    for drawing, match in found(told, rf"^({'|'.join(NUMBERS)}) shapes?\b"):
        assert NUMBERS.index(match[1]) == len(drawing.instances)


def test_the_largest_is_the_largest(told):
    for drawing, match in found(told, rf"largest shape here is ({NAME})"):
        assert fits(max(drawing.instances, key=lambda instance: instance.area), match[1])


def test_color_and_texture_told_after_the_shape_are_true(told):
    for drawing, match in found(told, r"(an? [\w ]+) that is (\w+) and (\w+)"):
        assert any(fits(instance, " ".join(match.groups())) for instance in drawing.instances)


@pytest.mark.parametrize(
    ("side", "axis", "low", "high"),
    [("left", 0, 0, 0.4), ("right", 0, 0.6, 1), ("top", 1, 0, 0.4), ("bottom", 1, 0.6, 1)],
)
def test_the_side_of_the_picture_is_true(told, side, axis, low, high):
    for drawing, match in found(told, rf"({NAME}) (?:on|at) the {side}(?: side)? of the picture"):
        extent = (drawing.scene.width, drawing.scene.height)[axis]
        places = [center(one)[axis] / extent for one in drawing.instances if fits(one, match[1])]
        assert any(low <= place <= high for place in places)


def test_a_crowd_is_told_where_there_is_one(told):
    for drawing, match in found(told, r"a crowd of tiny (\w+) (\w+)"):
        thing = drawing.crowd[0].thing
        assert match[1] == thing.color
        assert match[2].startswith(thing.shape)


def test_a_list_names_every_object(told):
    for drawing, text in told:
        if text.count(" and ") and re.match(rf"(?:{NAME}|two|three), .* and ", text):
            for instance in drawing.instances:
                thing = instance.thing
                assert re.search(rf"{thing.color} {thing.shape}", text), text


def test_captions_fit_into_thirty_tokens(told):
    assert max(len(re.findall(r"\w+|[.,]", text)) for _, text in told) <= 28


def test_captions_begin_with_a_capital_and_end_with_a_full_stop():
    rng = picture_rng(0, "capital", 0)
    drawing = draw(sample_scene(rng, {}), rng)
    assert all(text[0].isupper() and text.endswith(".") for text in captions(drawing, rng))

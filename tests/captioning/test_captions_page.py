"""The page of captions as a file: whole in itself, escaped, ranked, readable without a script."""

import base64
import hashlib
import io
import json
import re
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from tests.captioning.drawn_pictures import HOSTILE, NAN, SMALL, image, picture
from virtex.captioning.page import thumbnail, write_page
from virtex.data.toy.drawing import draw
from virtex.data.toy.world import Scene

METRICS = {"CIDEr-D": 98.1, "SPICE": 19.766}


class Page(HTMLParser):
    """Tags, attributes and texts: of every element, the text between its start and the next tag."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.inside = text, [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.elements[-1][2] += text

    def find(self, tag=None, name=None):
        """(attributes, text) of elements of a tag and class."""
        return [
            (attributes, text)
            for each, attributes, text in self.elements
            if tag in (None, each) and name in (None, attributes.get("class"))
        ]

    def texts(self, tag=None, name=None):
        return [text for _, text in self.find(tag, name)]

    @property
    def data(self):
        [text] = [text for attributes, text in self.find("script") if attributes.get("id")]
        return json.loads(text)


@pytest.fixture
def page(tmp_path):
    def make(*pictures, metrics=METRICS, about=(), **options):
        path = tmp_path / "captions.html"
        write_page(path, iter(pictures), metrics, about, **options)
        return Page(path.read_text(encoding="utf-8"))

    return make


def scored(name, score, **others):
    return picture(name, scores={"CIDEr-D": score, "SPICE": 20.0}, references=["a cat"], **others)


def names(page):
    return page.texts("bdi")


# ---- thumbnails


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (320, 240)),
        ((480, 640), (240, 320)),
        ((320, 100), (320, 100)),
        ((64, 48), (64, 48)),
        ((2000, 1), (320, 1)),
    ],
)
def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged(size, expected):
    width, height = size
    content, told = thumbnail(image(width=width, height=height))
    small = Image.open(io.BytesIO(content))
    assert small.format == "JPEG"
    assert small.size == told == expected


def test_the_longest_side_of_a_thumbnail_can_be_chosen():
    assert thumbnail(image(width=640, height=480), longest=100)[1] == (100, 75)


@pytest.mark.parametrize("color", [(200, 40, 40), (40, 200, 40), (40, 40, 200)])
def test_a_thumbnail_keeps_colors(color):
    content, _ = thumbnail(image(color, 640, 480))
    pixels = np.asarray(Image.open(io.BytesIO(content)), dtype=int)
    assert np.abs(pixels - color).max() < 12


def test_the_left_of_a_picture_is_the_left_of_its_thumbnail():
    drawn = torch.zeros(3, 40, 80, dtype=torch.uint8)
    drawn[:, :10, :20] = 255
    pixels = np.asarray(Image.open(io.BytesIO(thumbnail(drawn)[0])))
    assert pixels[2, 2].min() > 200
    assert pixels[-3, -3].max() < 50


def test_thumbnails_are_small_files():
    drawing = draw(Scene(640, 480, "grey", (), ()), np.random.default_rng(0))
    content, _ = thumbnail(torch.from_numpy(drawing.image).permute(2, 0, 1))
    assert 500 < len(content) < 15_000


# ---- what a card says


def test_a_card_holds_picture_caption_score_references_and_name(page):
    found = page(
        picture("x.jpg", "a dog runs", ["one dog", "two dogs"], {"CIDEr-D": 98.104, "SPICE": 20.0})
    )
    [(shown, _)] = found.find("img")
    assert base64.b64decode(shown["src"].removeprefix("data:image/jpeg;base64,")) == SMALL[0]
    assert (shown["width"], shown["height"]) == ("64", "48")
    assert shown["alt"] == "a dog runs"
    assert (shown["loading"], shown["decoding"]) == ("lazy", "async")
    assert found.texts("p", "caption") == ["a dog runs"]
    assert found.texts("b") == ["98.10"]
    assert found.texts("li")[1:] == ["one dog", "two dogs"]
    assert names(found) == ["x.jpg"]


def test_cards_show_the_first_metric_alone(page):
    found = page(scored("a.jpg", 90.0), metrics={"SPICE": 1.0, "CIDEr-D": 2.0})
    assert re.findall(r'<p class="score".*?</p>', found.text) == [
        '<p class="score" style="--score: 20.0;"><span>SPICE</span> <b>20.00</b></p>'
    ]


def test_a_score_that_is_not_defined_is_a_dash_without_a_bar(page):
    found = page(scored("a.jpg", NAN))
    assert found.texts("b") == ["\N{EN DASH}"]
    assert "style" not in found.find("p", "score")[0][0]


def test_a_picture_that_was_not_scored_shows_no_score(page):
    found = page(scored("a.jpg", 1.0), picture("b.jpg"))
    assert len(found.find("p", "score")) == 1


def test_more_than_three_references_are_folded_and_none_is_lost(page):
    three, four = (
        page(picture(references=[f"said {n}" for n in range(count)])) for count in (3, 4)
    )
    assert not three.find("details")
    assert four.texts("summary") == ["2 more references"]
    assert four.texts("li")[1:] == [f"said {n}" for n in range(4)]


def test_bars_run_from_the_lowest_to_the_highest_score(page):
    found = page(*(scored(f"{n}.jpg", score) for n, score in enumerate((80.0, 20.0, NAN))))
    [(cards, _)] = found.find("ul", "cards")
    assert cards["style"] == "--worst: 20.0; --best: 80.0;"


def test_bars_of_equal_scores_are_full(page):
    found = page(scored("a.jpg", 20.0), scored("b.jpg", 20.0))
    assert found.find("ul", "cards")[0][0]["style"] == "--worst: 19.0; --best: 20.0;"


# ---- order


def test_the_best_by_the_first_metric_comes_first_and_what_has_no_score_last(page):
    scores = {"c.jpg": 5.0, "a.jpg": NAN, "b.jpg": 90.0, "d.jpg": 40.0, "e.jpg": -1.0}
    found = page(*(scored(name, score) for name, score in scores.items()), picture("0.jpg"))
    assert names(found) == ["b.jpg", "d.jpg", "c.jpg", "e.jpg", "0.jpg", "a.jpg"]


def test_equal_scores_are_in_the_order_of_names(page):
    assert names(page(*(scored(name, 1.0) for name in "cab"))) == ["a", "b", "c"]


def test_without_metrics_names_give_the_order_and_numbers_in_them_count(page):
    given = ["10.jpg", "9.jpg", "B2.jpg", "a10.jpg", "a9.jpg", "0" * 5000 + "7"]
    found = page(*map(picture, given), metrics={})
    assert names(found) == ["0" * 5000 + "7", "9.jpg", "10.jpg", "a9.jpg", "a10.jpg", "B2.jpg"]


def test_every_picture_keeps_its_own_card(page):
    given = [scored(f"{n}.jpg", n * 37 % 100, caption=f"caption {n}") for n in range(100)]
    found = page(*given)
    told = dict(zip(names(found), found.texts("p", "caption"), strict=True))
    assert told == {one.name: one.caption for one in given}
    assert [row[1] for row in found.data["cards"]] == sorted(range(100), reverse=True)


def test_the_script_is_told_scores_and_the_order_of_names(page):
    given = [
        scored("b.jpg", 1 / 3),
        picture("a.jpg", scores={"CIDEr-D": 2.0, "SPICE": NAN}),
        picture("c.jpg", scores={"CIDEr-D": float("inf")}),
    ]
    assert page(*given).data == {
        "metrics": ["CIDEr-D", "SPICE"],
        "cards": [[0, 2.0, None], [1, 0.3333, 20.0], [2, None, None]],
    }


# ---- around the cards


def test_the_scores_of_the_set_are_at_the_top(page):
    found = page(scored("a.jpg", 1.0), metrics={**METRICS, "METEOR": NAN})
    assert found.texts("dt")[:3] == ["CIDEr-D", "SPICE", "METEOR"]
    assert found.texts("dd")[:3] == ["98.10", "19.77", "\N{EN DASH}"]


def test_the_head_counts_pictures_and_references(page):
    many = page(picture(references=["x", "y"]), picture(references=["z"]))
    assert many.texts("p", "counts") == ["2 pictures, 3 references"]
    assert page(picture()).texts("p", "counts") == ["1 picture"]


def test_about_and_skipped_pictures_are_listed(page):
    found = page(picture(), metrics={}, about=[("Scorer", "own")], skipped=[("x.jpg", "cut short")])
    assert found.texts("summary") == ["About these captions", "Could not be read: 1"]
    assert found.texts("dt")[:2] == ["Scorer", "x.jpg"]
    assert found.texts("dd")[:2] == ["own", "cut short"]


def test_pictures_that_are_skipped_while_the_others_are_taken_are_listed(tmp_path):
    skipped = []

    def pictures():
        yield picture("a.jpg")
        skipped.append(("b.jpg", "cut short"))

    write_page(tmp_path / "page.html", pictures(), {}, (), skipped)
    assert "Could not be read: 1" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_not_there_leaves_no_empty_block(page):
    found = page(picture(), metrics={})
    assert not found.find("details")
    for name in ("score", "references", "figures", "pairs"):
        assert not found.find(name=name)
    assert "hidden" in found.find("footer")[0][0]
    assert "hidden" not in page(picture()).find("footer")[0][0]


def test_a_page_without_pictures_says_so(page):
    found = page()
    assert "There are no pictures." in found.texts("p")
    assert not found.find("img")


# ---- a file that stands for itself


def test_the_page_is_whole_in_itself(page):
    found = page(scored("a.jpg", 1.0))
    loads = [
        attributes[name]
        for _, attributes, _ in found.elements
        for name in ("src", "href", "srcset", "action", "data", "poster")
        if name in attributes
    ]
    assert len(loads) == 2  # the picture, and that there is no icon
    assert all(load.startswith("data:") for load in loads)
    assert not re.search(r"url\(|@import|https?://", found.text)


def test_nothing_may_run_but_the_script_of_the_page(page):
    found = page(picture())
    [policy] = [each["content"] for each, _ in found.find("meta") if "http-equiv" in each]
    [script] = [text for attributes, text in found.find("script") if not attributes]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{allowed}';" in policy
    assert "img-src data:;" in policy


def test_no_id_is_given_twice(page):
    found = page(
        *(scored(f"{n}.jpg", 1.0) for n in range(5)), about=[("a", "b")], skipped=[("c", "d")]
    )
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_picture_says_is_text(page, text):
    def tags(of, score):
        pictures = [picture(of, of, [of] * 5, {of: score})]
        made = page(*pictures, metrics={of: 1.0}, about=[(of, of)], skipped=[(of, of)], title=of)
        return made, [tag for tag, *_ in made.elements]

    _, expected = tags("plain", 1.0)
    found, given = tags(text, 1.0)
    assert given == expected
    assert found.texts("p", "caption") == names(found) == found.texts("h1") == [text]
    assert [each["alt"] for each, _ in found.find("img")] == [text]
    assert found.texts("li")[1:] == [text] * 5
    assert found.texts("dt")[:3] == [text] * 3
    assert found.data["metrics"] == [text]
    assert "\u2028" not in found.text.partition('id="data">')[2].partition("</script>")[0]


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(page):
    assert names(page(picture("caf\udce9.jpg"))) == ["caf?.jpg"]  # as os.fsdecode gives it


def test_pictures_are_taken_one_at_a_time_and_not_kept(tmp_path):
    alive = []

    def pictures():
        for n in range(20):
            made = picture(f"{n}.jpg")
            alive.append(weakref.ref(made))
            yield made
            del made
            assert sum(one() is not None for one in alive) <= 1

    write_page(tmp_path / "page.html", pictures(), {}, ())
    assert len(alive) == 20


@pytest.mark.parametrize("before", [None, b"earlier"])
def test_what_breaks_off_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "page.html"
    if before:
        path.write_bytes(before)

    def pictures():
        yield picture()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_page(path, pictures(), {}, ())
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before] * bool(before)


def test_a_page_takes_the_place_of_an_earlier_one_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "page.html"
    for name in ("old.jpg", "new.jpg"):
        write_page(path, [picture(name)], {}, ())
    assert list(tmp_path.iterdir()) == [path]
    assert names(Page(path.read_text(encoding="utf-8"))) == ["new.jpg"]


def test_a_folder_that_is_not_there_is_told_before_a_picture_is_taken(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "no" / "page.html", iter(int, 1), {}, ())

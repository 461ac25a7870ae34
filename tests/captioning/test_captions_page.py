"""The page of captions as a file: self-contained, escaped, ranked, readable without a script."""

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

from tests.captioning.captioned_images import HOSTILE, NAN, SMALL, captioned, image
from virtex.captioning.page import thumbnail, write_page

METRICS = {"CIDEr-D": 98.1, "SPICE": 19.766}


class Page(HTMLParser):
    """Tags, attributes and, of every element, the text between its start and the next tag."""

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
    def names(self):
        return self.texts("bdi")

    @property
    def data(self):
        [text] = [text for attributes, text in self.find("script") if attributes.get("id")]
        return json.loads(text)


@pytest.fixture
def page(tmp_path):
    def make(*images, metrics=METRICS, about=(), **options):
        path = tmp_path / "captions.html"
        write_page(path, iter(images), metrics, about, **options)
        return Page(path.read_text(encoding="utf-8"))

    return make


def scored(name, score, **others):
    return captioned(name, scores={"CIDEr-D": score, "SPICE": 20.0}, references=["a cat"], **others)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (320, 240)),
        ((480, 640), (240, 320)),
        ((64, 48), (64, 48)),
        ((2000, 1), (320, 1)),
    ],
)
def test_thumbnail_keeps_shape_and_color(size, expected):
    width, height = size
    content, reported = thumbnail(image((200, 40, 40), width, height))
    small = Image.open(io.BytesIO(content))
    assert small.format == "JPEG"
    assert small.size == reported == expected
    assert np.abs(np.asarray(small, dtype=int) - (200, 40, 40)).max() < 12
    assert len(content) < 15_000


def test_thumbnail_is_not_flipped():
    drawn = torch.zeros(3, 40, 80, dtype=torch.uint8)
    drawn[:, :10, :20] = 255
    pixels = np.asarray(Image.open(io.BytesIO(thumbnail(drawn)[0])))
    assert pixels[2, 2].min() > 200
    assert pixels[-3, -3].max() < 50


def test_card_shows_image_caption_score_references_and_name(page):
    scores = {"CIDEr-D": 98.104, "SPICE": 20.0}
    found = page(captioned("x.jpg", "a dog runs", ["one dog", "two dogs"], scores))
    [(shown, _)] = found.find("img")
    assert base64.b64decode(shown["src"].removeprefix("data:image/jpeg;base64,")) == SMALL[0]
    assert (shown["width"], shown["height"], shown["alt"]) == ("64", "48", "a dog runs")
    assert found.texts("p", "caption") == ["a dog runs"]
    assert re.findall(r'<p class="score".*?</p>', found.text) == [
        '<p class="score" style="--score: 98.104;"><span>CIDEr-D</span> <b>98.10</b></p>'
    ]
    assert found.texts("li")[1:] == ["one dog", "two dogs"]
    assert found.names == ["x.jpg"]


def test_undefined_score_is_a_dash_without_a_bar(page):
    found = page(scored("a.jpg", NAN), captioned("not_scored.jpg"))
    assert found.texts("b") == ["\N{EN DASH}"]
    [(attributes, _)] = found.find("p", "score")
    assert "style" not in attributes


def test_more_than_three_references_are_folded(page):
    three, four = (
        page(captioned(references=[f"text {n}" for n in range(count)])) for count in (3, 4)
    )
    assert not three.find("details")
    assert four.texts("summary") == ["2 more references"]
    assert four.texts("li")[1:] == [f"text {n}" for n in range(4)]


@pytest.mark.parametrize(
    ("scores", "style"),
    [
        ((80.0, 20.0, NAN), "--worst: 20.0; --best: 80.0;"),
        ((20.0, 20.0), "--worst: 19.0; --best: 20.0;"),
        ((NAN,), None),
    ],
)
def test_bars_run_from_the_lowest_to_the_highest_score(page, scores, style):
    found = page(*(scored(f"{n}.jpg", score) for n, score in enumerate(scores)))
    [(attributes, _)] = found.find("ul", "cards")
    assert attributes.get("style") == style


def test_best_image_comes_first(page):
    scores = {"c": 5.0, "a": NAN, "b": 90.0, "d": 40.0, "e": -1.0, "f": 40.0}
    given = [scored(name, score, caption=f"of {name}") for name, score in scores.items()]
    found = page(*given, captioned("0", "of 0"))
    assert found.names == ["b", "d", "f", "c", "e", "0", "a"]
    assert found.texts("p", "caption") == [f"of {name}" for name in found.names]


def test_without_metrics_names_sort_as_people_count(page):
    given = ["10.jpg", "9.jpg", "B2.jpg", "a10.jpg", "a9.jpg", "0" * 5000 + "7"]
    found = page(*map(captioned, given), metrics={})
    assert found.names == ["0" * 5000 + "7", "9.jpg", "10.jpg", "a9.jpg", "a10.jpg", "B2.jpg"]


def test_script_gets_scores_and_the_order_of_names(page):
    given = [
        scored("b.jpg", 1 / 3),
        captioned("a.jpg", scores={"CIDEr-D": 2.0, "SPICE": NAN}),
        captioned("c.jpg", scores={"CIDEr-D": float("inf")}),
    ]
    assert page(*given).data == {
        "metrics": ["CIDEr-D", "SPICE"],
        "cards": [[0, 2.0, None], [1, 0.3333, 20.0], [2, None, None]],
    }


def test_head_has_scores_counts_and_skipped_images(tmp_path):
    skipped, path = [], tmp_path / "page.html"

    def images():
        yield captioned(references=["x", "y"])
        skipped.append(("b.jpg", "truncated"))
        yield captioned(references=["z"])

    write_page(path, images(), {**METRICS, "METEOR": NAN}, [("Scorer", "own")], skipped)
    found = Page(path.read_text(encoding="utf-8"))
    assert found.texts("p", "counts") == ["2 images, 3 references"]
    assert found.texts("dt")[:5] == ["CIDEr-D", "SPICE", "METEOR", "Scorer", "b.jpg"]
    assert found.texts("dd")[:5] == ["98.10", "19.77", "\N{EN DASH}", "own", "truncated"]
    assert found.texts("summary") == ["About these captions", "Could not be read: 1"]


def test_empty_blocks_are_left_out(page):
    found = page(captioned(), metrics={})
    assert found.texts("p", "counts") == ["1 image"]
    assert not found.find("details")
    for name in ("score", "references", "figures", "pairs"):
        assert not found.find(name=name)
    assert "hidden" in found.find("footer")[0][0]
    assert "hidden" not in page(captioned()).find("footer")[0][0]
    assert "There are no images." in page().texts("p")


def test_page_is_self_contained(page):
    found = page(
        *(scored(f"{n}.jpg", 1.0) for n in range(5)), about=[("a", "b")], skipped=[("c", "d")]
    )
    loads = [
        attributes[name]
        for _, attributes, _ in found.elements
        for name in ("src", "href", "srcset", "action", "data", "poster")
        if name in attributes
    ]
    assert len(loads) == 6  # the images, and an empty icon
    assert all(load.startswith("data:") for load in loads)
    assert not re.search(r"url\(|@import|https?://", found.text)
    [policy] = [each["content"] for each, _ in found.find("meta") if "http-equiv" in each]
    [script] = [text for attributes, text in found.find("script") if not attributes]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{allowed}';" in policy
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10


@pytest.mark.parametrize("text", HOSTILE)
def test_captions_are_inserted_as_text(page, text):
    def tags(of, score):
        images = [captioned(of, of, [of] * 5, {of: score})]
        made = page(*images, metrics={of: 1.0}, about=[(of, of)], skipped=[(of, of)], title=of)
        return made, [tag for tag, *_ in made.elements]

    _, expected = tags("plain", 1.0)
    found, given = tags(text, 1.0)
    assert given == expected
    assert found.texts("p", "caption") == found.names == found.texts("h1") == [text]
    assert [each["alt"] for each, _ in found.find("img")] == [text]
    assert found.texts("li")[1:] == [text] * 5
    assert found.texts("dt")[:3] == [text] * 3
    assert found.data["metrics"] == [text]
    assert "\u2028" not in found.text.partition('id="data">')[2].partition("</script>")[0]


def test_name_that_is_not_text_is_shown(page):
    assert page(captioned("caf\udce9.jpg")).names == ["caf?.jpg"]  # as os.fsdecode gives it


def test_images_are_not_kept_in_memory(tmp_path):
    alive = []

    def images():
        for n in range(20):
            made = captioned(f"{n}.jpg")
            alive.append(weakref.ref(made))
            yield made
            del made
            assert sum(one() is not None for one in alive) <= 1

    write_page(tmp_path / "page.html", images(), {}, ())
    assert len(alive) == 20


def test_page_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"

    def images():
        yield captioned()
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_page(path, images(), {}, ())
    assert not list(tmp_path.iterdir())
    write_page(path, [captioned("old.jpg")], {}, ())
    with pytest.raises(RuntimeError, match="interrupted"):
        write_page(path, images(), {}, ())
    assert list(tmp_path.iterdir()) == [path]
    assert Page(path.read_text(encoding="utf-8")).names == ["old.jpg"]


def test_missing_folder_is_an_error_before_any_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "no" / "page.html", iter(int, 1), {}, ())

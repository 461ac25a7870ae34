"""The page of captions in a real Chromium, where one is installed."""

import pytest

from tests.browser import PHONE, brightness, needs_chromium, quiet_pages
from tests.captioning.captioned_images import HOSTILE, NAN, captioned, image
from virtex.captioning.page import thumbnail, write_page

# the leaderboard's page runs in Chromium in `make test`, too
pytestmark = [needs_chromium, pytest.mark.whole]

METRICS = {"CIDEr-D": 98.1, "BLEU-4": 32.0, "SPICE": 19.8}
# name: caption, scores
SCORED = {
    "10.jpg": ("a dog runs on grass", (120.0, 10.0, 5.0)),
    "9.jpg": ("two brown dogs", (80.5, 40.0, NAN)),
    "x.jpg": ("a red bus in the street today", (0.25, 25.0, 30.0)),
    "b.jpg": ("a bus", (44.0, 31.0, 12.0)),
}


def scored_images():
    for number, (name, (caption, scores)) in enumerate(SCORED.items()):
        references = [f"{word} sentence about {name}" for word in ("one", "two", "three", "four")]
        drawn = thumbnail(image((60 * number, 120, 90), *((400, 300), (150, 300))[number % 2]))
        values = dict(zip(METRICS, scores, strict=True))
        yield captioned(name, caption, references, values, drawn)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages with scores and without, one whose texts try to break it, and one of 3000 images."""
    folder = tmp_path_factory.mktemp("captions")
    scores = {"CIDEr-D": 1.0}
    pages = {
        "scored": (scored_images(), METRICS),
        "unscored": ((captioned(name, caption) for name, (caption, _) in SCORED.items()), {}),
        "hostile": ((captioned(text, text, [text] * 4, scores) for text in HOSTILE), scores),
        "large": (
            (
                captioned(f"{n}.jpg", f"caption {n}", list("abcd"), {"CIDEr-D": n * 7919 % 3000})
                for n in range(3000)
            ),
            scores,
        ),
        "one": ([captioned()], {}),
    }
    for name, (images, metrics) in pages.items():
        write_page(
            folder / f"{name}.html",
            images,
            metrics,
            [("Scorer", "own"), ("W" * 100, "w" * 400)],
            [("broken.jpg", "cut short")],
            "Captions of toys",
        )
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def open_page(browser, files):
    with quiet_pages(browser, files, "scored") as open_page:
        yield open_page


def names(page):
    """File names of the cards that are shown, from the first."""
    # not inner texts: of what is not on the screen yet there are none
    return page.locator(".card:visible .name").all_text_contents()


def scores(page):
    return page.locator(".card:visible .score").all_text_contents()


def pressed(page):
    return page.locator('.switch [aria-pressed="true"]').all_inner_texts()


# ---- sorting


@pytest.mark.parametrize(
    ("metric", "best_first", "worst_first"),
    [
        ("CIDEr-D", ["10", "9", "b", "x"], ["x", "b", "9", "10"]),
        ("BLEU-4", ["9", "b", "x", "10"], ["10", "x", "b", "9"]),
        ("SPICE", ["x", "b", "10", "9"], ["10", "b", "x", "9"]),  # 9.jpg has none: last
    ],
)
def test_every_metric_sorts_both_ways(open_page, metric, best_first, worst_first):
    page = open_page()
    page.locator("#sort").select_option(metric)
    assert names(page) == [f"{name}.jpg" for name in best_first]
    assert pressed(page) == ["Best first"]
    page.get_by_role("button", name="Worst first").click()
    assert names(page) == [f"{name}.jpg" for name in worst_first]
    assert pressed(page) == ["Worst first"]
    page.get_by_role("button", name="Best first").click()
    assert names(page) == [f"{name}.jpg" for name in best_first]


def test_script_keeps_the_written_order(open_page):
    written, page = open_page(java_script_enabled=False), open_page()
    assert names(page) == names(written)
    assert scores(page) == scores(written)
    assert page.locator("#sort").input_value() == "CIDEr-D"
    assert pressed(page) == ["Best first"]
    assert page.evaluate("location.hash") == ""


def test_cards_show_the_metric_that_sorts(open_page):
    page = open_page()
    page.locator("#sort").select_option("SPICE")
    assert scores(page) == ["SPICE 30.00", "SPICE 12.00", "SPICE 5.00", "SPICE \N{EN DASH}"]
    page.locator("#sort").select_option("file name")
    assert scores(page)[0] == "CIDEr-D 80.50"


def bars(page):
    """Lengths of the cards' bars in percent, as drawn; None where there is none."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".cards .score")].map((score) => {
          const size = getComputedStyle(score).backgroundSize;
          return size.includes("%") ? Math.round(parseFloat(size)) : null;
        })"""
    )


def test_bars_are_proportional_to_scores(open_page):
    page = open_page()
    assert bars(page) == [100, 69, 40, 6]
    page.locator("#sort").select_option("SPICE")
    assert bars(page) == [100, 32, 6, None]


def test_names_and_lengths_sort(open_page):
    page = open_page()
    page.locator("#sort").select_option("file name")
    assert names(page) == ["9.jpg", "10.jpg", "b.jpg", "x.jpg"]
    assert page.locator(".switch button").all_inner_texts() == ["A to Z", "Z to A"]
    page.get_by_role("button", name="Z to A").click()
    assert names(page) == ["x.jpg", "b.jpg", "10.jpg", "9.jpg"]
    page.locator("#sort").select_option("caption length")
    assert names(page) == ["x.jpg", "10.jpg", "9.jpg", "b.jpg"]


def test_keyboard_sorts(open_page):
    page = open_page()
    page.locator("#filter").focus()
    page.keyboard.press("Tab")
    page.keyboard.type("SP")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert names(page) == ["10.jpg", "b.jpg", "x.jpg", "9.jpg"]
    assert pressed(page) == ["Worst first"]


def test_thousands_of_cards_sort_and_filter(open_page):
    page = open_page("large")
    page.locator("#ascending").click()
    assert page.locator(".score").first.text_content() == "CIDEr-D 0.00"  # at first the best was
    page.locator("#filter").fill("caption 19")
    found = sum("19" in f"caption {n} {n}.jpg" for n in range(3000))
    assert page.locator("#status").inner_text() == f"{found} of 3000 images"


# ---- filtering


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("BUS", ["b.jpg", "x.jpg"]),
        ("  street bus ", ["x.jpg"]),
        ("9.JPG", ["9.jpg"]),
        ("three x.jpg", ["x.jpg"]),  # of a reference
        ("more", []),  # what only the page says
        ("cider-d", []),
    ],
)
def test_filter_keeps_images_with_every_word(open_page, words, expected):
    page = open_page()
    page.locator("#filter").fill(words)
    assert names(page) == expected
    assert page.locator("#status").inner_text() == f"{len(expected)} of 4 images"
    page.locator("#filter").fill("")
    assert page.locator("#status").inner_text() == "4 images"


def test_without_a_match_all_images_are_offered(open_page):
    page = open_page()
    assert page.locator("#none").is_hidden()
    page.locator("#filter").fill("no such thing")
    assert page.locator("#none").inner_text().startswith("No image matches.")
    page.locator("#reset").click()
    assert page.locator("#none").is_hidden()
    assert len(names(page)) == 4
    assert page.evaluate("location.hash") == ""


def test_match_in_folded_references_is_visible(open_page):
    page = open_page()
    last = page.locator(".card", has_text="10.jpg").locator("details li").last
    assert last.is_hidden()
    page.locator("#filter").fill("four 10.jpg")
    assert last.inner_text() == "four sentence about 10.jpg"
    assert last.is_visible()
    page.locator("#filter").fill("dog")
    assert last.is_hidden()


def test_all_references_can_be_shown(open_page):
    page = open_page()
    hidden = page.locator(".card .references li:visible").count()
    page.locator("#references").check()
    assert (hidden, page.locator(".card .references li:visible").count()) == (8, 16)
    page.locator("#references").uncheck()
    assert page.locator(".card .references li:visible").count() == 8


# ---- the view in the address


def test_view_is_restored_from_the_address(open_page):
    page = open_page()
    page.locator("#sort").select_option("BLEU-4")
    page.get_by_role("button", name="Worst first").click()
    page.locator("#filter").fill("bus")
    page.locator("#references").check()
    hash = page.evaluate("location.hash")
    assert hash == "#sort=BLEU-4&order=ascending&filter=bus&references=all"
    again = open_page(hash=hash)
    assert names(again) == names(page) == ["x.jpg", "b.jpg"]
    assert again.locator("#sort").input_value() == "BLEU-4"
    assert pressed(again) == ["Worst first"]
    assert again.locator("#filter").input_value() == "bus"
    assert again.locator("#references").is_checked()


@pytest.mark.parametrize("hash", ["#sort=no+such&order=toString", "#sort=__proto__", "#%FF%&x"])
def test_invalid_address_shows_the_default_view(open_page, hash):
    page = open_page(hash=hash)
    assert names(page) == ["10.jpg", "9.jpg", "b.jpg", "x.jpg"]
    assert pressed(page) == ["Best first"]


# ---- one image, enlarged


def test_click_enlarges_an_image(open_page):
    page = open_page()
    small = page.locator(".card img").nth(1)
    small.click()
    large = page.locator("#large")
    assert large.locator(".caption").inner_text() == "two brown dogs"
    assert large.locator(".score").all_inner_texts() == [
        "CIDEr-D\n80.50", "BLEU-4\n40.00", "SPICE\n\N{EN DASH}"
    ]  # fmt: skip
    assert large.locator("li").count() == 4
    assert large.locator(".name").inner_text() == "9.jpg"
    assert large.locator("img").get_attribute("src") == small.get_attribute("src")
    assert large.locator("img").bounding_box()["height"] > small.bounding_box()["height"]


@pytest.mark.parametrize("way", ["Escape", "button", "beside"])
def test_enlarged_image_closes(open_page, way):
    page = open_page()
    page.locator(".card .image").nth(1).click()
    assert page.locator("#large").is_visible()
    if way == "Escape":
        page.keyboard.press("Escape")
    elif way == "button":
        page.get_by_role("button", name="Close").click()
    else:
        page.mouse.click(10, 450)
    assert page.locator("#large").is_hidden()
    page.locator(".card", has_text="9.jpg").locator(".image:focus").wait_for()


def test_keyboard_steps_through_visible_images(open_page):
    page = open_page()
    page.locator("#filter").fill("sentence")
    page.locator("#sort").select_option("file name")
    page.locator(".card .image").first.focus()
    page.keyboard.press("Enter")
    large = page.locator("#large")
    seen = []
    for key in ("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(
            large.locator("nav span").inner_text() + " " + large.locator(".name").inner_text()
        )
    assert seen == [
        "1 of 4 9.jpg", "2 of 4 10.jpg", "3 of 4 b.jpg", "4 of 4 x.jpg", "4 of 4 x.jpg",
        "3 of 4 b.jpg",
    ]  # fmt: skip
    page.keyboard.press("Escape")
    page.locator(".card", has_text="b.jpg").locator(".image:focus").wait_for()


# ---- without scores, without a script


def test_without_scores_only_names_sort(open_page):
    page = open_page("unscored")
    assert names(page) == ["9.jpg", "10.jpg", "b.jpg", "x.jpg"]
    assert page.locator("#sort").is_hidden()
    assert page.locator("#references").is_hidden()
    page.get_by_role("button", name="Z to A").click()
    assert names(page) == ["x.jpg", "b.jpg", "10.jpg", "9.jpg"]
    for place in (".score", ".figures", ".references", "footer"):
        assert page.locator(f"{place}:visible").count() == 0
    page.locator(".card .image").first.click()
    assert page.locator("#large .caption").inner_text() == "a red bus in the street today"
    assert page.locator("#large").locator(".score, .references").count() == 0


def test_cards_are_readable_without_a_script(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#tools").is_hidden()
    assert page.locator("#large").is_hidden()
    assert page.locator(".card:visible .caption").all_inner_texts() == [
        SCORED[name][0] for name in ("10.jpg", "9.jpg", "b.jpg", "x.jpg")
    ]
    assert page.locator(".card img:visible").count() == 4
    page.locator(".card summary").first.click()
    assert page.locator(".card").first.locator("li:visible").count() == 4


# ---- looks


def test_hostile_texts_are_shown_unchanged(open_page):
    page = open_page("hostile")
    found = page.evaluate("[...document.querySelectorAll('.cards .name')].map(e => e.textContent)")
    assert sorted(found) == sorted(HOSTILE)
    assert page.locator(".card").count() == len(HOSTILE)
    page.locator(".card .image").first.click()
    for _ in HOSTILE[1:]:
        page.keyboard.press("ArrowRight")
    assert page.locator("#large :is(script, b:not(.score b))").count() == 0


@pytest.mark.parametrize("name", ["scored", "unscored", "hostile"])
@pytest.mark.parametrize("width", [390, 800, 1400])
def test_nothing_is_wider_than_the_screen(open_page, name, width):
    page = open_page(name, viewport={"width": width, "height": 844})
    for summary in page.locator("header summary").all():
        summary.click()
    page.locator(".card .image").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('body *')]"
        ".map((e) => e.getBoundingClientRect().right))"
    )
    assert widest <= width


def test_phone_shows_one_column(open_page):
    page = open_page(**PHONE)
    lefts = {round(one.bounding_box()["x"]) for one in page.locator(".card").all()}
    assert len(lefts) == 1
    page.locator(".card .image").first.tap()
    box = page.locator("#large").bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    page.get_by_role("button", name="Close").tap()
    assert page.locator("#large").is_hidden()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_page_follows_the_color_scheme(open_page, scheme, dark):
    page = open_page(color_scheme=scheme)
    page.locator(".image").first.click()
    for place in ("body", ".card", "#filter", "#sort", "#tools", "#large"):
        back = brightness(page, place, "backgroundColor")
        text = brightness(page, place, "color")
        assert (back < 0.25) == dark
        assert abs(back - text) > 0.5

"""The page in a real Chromium, where one is installed."""

import pytest

from tests.browser import PHONE, brightness, needs_chromium, quiet_pages
from tests.leaderboard.board_records import LR, record, sha256_of, write
from virtex import leaderboard, zoo
from virtex.leaderboard.columns import current_version
from virtex.leaderboard.page import page_text

VERSION = current_version("voc07_svm", "paper")

pytestmark = needs_chromium

VIRTEX = "virtex://task_ablations/bicaptioning_R_50_L1_H2048"
SCRIPT = "<script>alert(1)</script>"
SVM = "voc07_svm/mAP"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages of the same table: primary metrics, every column."""
    folder = tmp_path_factory.mktemp("page")
    runs = [record("alpha", value=value, seed=seed) for seed, value in enumerate((81.0, 83.0))]
    runs += [record("equal", value=70.0, seed=seed) for seed in range(2)]
    runs += [
        record("beta.pth", value=90.0),
        record("beta.pth", "coco", 41.0),
        record(SCRIPT, value=85.0, overrides=[("<b>KEY</b>", 1, 2, "override")]),
        record("gamma", "coco", 39.0, overrides=[LR]),
        record("gamma", "imagenet_linear", 60.0),
        record(VIRTEX, value=88.9),
    ]
    table = leaderboard.make([write(folder / "results", *runs)], published=True).table
    paths = {"page": folder / "page.html", "all": folder / "all.html"}
    leaderboard.write_html(table, paths["page"], "Transfer")
    paths["all"].write_text(page_text(table, "Transfer", show_all=True), encoding="utf-8")
    return paths


@pytest.fixture
def open_page(browser, files):
    with quiet_pages(browser, files, "page") as open_page:
        yield open_page


def head(page, label):
    return page.locator(f'thead th[title="{label}"]')


def rows(page):
    return page.locator("#table tbody tr:visible")


def shown_columns(page):
    return page.evaluate("[...document.querySelectorAll('thead th[title]')].map((e) => e.title)")


def column(page, label):
    """First lines of a column's visible cells, from the top; "" is the column of models."""
    return page.evaluate(
        """label => {
          const heads = [...document.querySelectorAll("#table thead th")];
          const place = heads.findIndex((th) => th.title === label);
          return [...document.querySelectorAll("#table tbody tr:not([hidden])")]
            .map((row) => row.cells[place].innerText.split("\\n")[0]);
        }""",
        label,
    )


def numbers(page, label):
    return [float(text.split()[0]) if text else None for text in column(page, label)]


def cell(page, row, label):
    return page.locator("#table tbody tr", has_text=row).first.locator(f'td[data-label="{label}"]')


def assert_sorted(page, label, ascending=False, least=2):
    found = numbers(page, label)
    defined = [value for value in found if value is not None]
    assert len(defined) >= least
    # missing numbers come last
    assert found == sorted(defined, reverse=not ascending) + [None] * (len(found) - len(defined))
    order = "ascending" if ascending else "descending"
    assert head(page, label).get_attribute("aria-sort") == order
    assert page.locator("th[aria-sort]").count() == 1


def test_columns_sort_by_click_and_keyboard(open_page):
    page = open_page()
    assert_sorted(page, "coco/bbox/AP", least=1)  # by default the first measured column
    assert page.evaluate("location.hash") == ""
    head(page, SVM).locator("button").click()
    assert_sorted(page, SVM)
    head(page, SVM).locator("button").focus()
    page.keyboard.press("Enter")
    assert_sorted(page, SVM, ascending=True)
    page.locator("#task").select_option("coco")
    assert_sorted(page, "coco/bbox/AP", least=1)
    page.locator("#task").select_option("")
    assert_sorted(page, SVM, ascending=True)


def test_models_sort_by_name(open_page):
    written = column(open_page(java_script_enabled=False), "")
    page = open_page()
    assert column(page, "") != written
    page.locator("thead th").first.locator("button").click()
    assert column(page, "") == written
    page.locator("thead th").first.locator("button").click()
    assert column(page, "") == written[::-1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("BETA", ["beta.pth"]),
        (f"pth {sha256_of('beta.pth')[:8]}", ["beta.pth"]),
        (sha256_of("gamma"), ["gamma"]),
        (sha256_of("gamma")[1:9], []),
        ("r50 moco beta", ["beta.pth"]),  # its format
        ("InfoMin 200ep ResNet50", ["InfoMin 200ep published"]),
    ],
)
def test_filter_keeps_rows_with_every_word(open_page, words, found):
    page = open_page()
    total = rows(page).count()
    page.locator("#filter").fill(words)
    assert column(page, "") == found
    assert page.locator("#status").inner_text() == f"{len(found)} of {total} rows"


def test_without_a_match_all_rows_are_offered(open_page):
    page = open_page()
    every = shown_columns(page), rows(page).count()
    page.locator("#task").select_option("voc07_svm")
    page.locator("#filter").fill("nothing like it")
    assert page.locator("#table").is_hidden()
    page.locator("#reset").click()
    assert page.locator("#none").is_hidden()
    assert (shown_columns(page), rows(page).count()) == every
    assert page.evaluate("location.hash") == ""


def test_columns_without_a_visible_number_are_hidden(open_page):
    page = open_page()
    every = shown_columns(page)
    assert "voc/bbox/AP" in every
    page.locator("#published").uncheck()
    assert page.locator("tr.published:visible").count() == 0
    assert "voc/bbox/AP" not in shown_columns(page)
    page.locator("#filter").fill("beta")
    assert shown_columns(page) == ["coco/bbox/AP", SVM]
    page.locator("#filter").fill("")
    page.locator("#task").select_option("coco")
    assert sorted(column(page, "")) == ["beta.pth", "gamma"]
    page.locator("#task").select_option("")
    page.locator("#published").check()
    assert shown_columns(page) == every


def test_script_makes_cells_like_the_template(open_page):
    written = open_page("all")
    chosen = open_page()
    chosen.locator("#menu summary").click()
    chosen.get_by_role("button", name="All", exact=True).click()
    look = """() => [...document.querySelectorAll("#table tr")].map((row) =>
      [...row.cells].map((cell) => [
        cell.tagName, cell.className, cell.textContent, cell.title, cell.dataset.c,
        cell.dataset.label, cell.tabIndex, cell.style.cssText, cell.children.length,
      ]))"""
    assert chosen.evaluate(look) == written.evaluate(look)
    assert len(written.evaluate(look)[0]) > 12
    box = chosen.locator("#choices label", has_text="AP/cat").first.locator("input")
    box.uncheck()
    assert head(chosen, "voc07_svm/AP/cat").count() == 0
    box.check()
    assert head(chosen, "voc07_svm/AP/cat").count() == 1


def test_click_shows_details_until_the_next(open_page):
    page = open_page()
    cell(page, "alpha", SVM).click()
    details = page.locator("#details")
    text = details.inner_text()
    for part in (
        "alpha", SVM, "82.00 ± 1.41 (2 seeds)", f"paper, version {VERSION}", "none", "81", "83",
        "voc_2007_test: 4952 images", sha256_of("alpha"), "moco", "hotcoco",
        "distribution own, version 0.6", "results/000/result.json", "results/001/result.json",
    ):  # fmt: skip
        assert part in text
    details.locator("h2").click()
    assert details.is_visible()
    page.mouse.click(5, 5)
    assert details.is_hidden()
    cell(page, "equal", SVM).focus()
    page.keyboard.press("Enter")
    assert "70.00 (2 seeds, all equal)" in details.inner_text()
    page.keyboard.press("Escape")
    assert details.is_hidden()


def test_details_show_overrides_as_text(open_page):
    page = open_page()
    page.locator("#table tbody tr", has_text=SCRIPT).locator("td[style]").click()
    table = page.locator("#details table").first
    assert table.locator("tr").all_inner_texts() == [
        "setting\tprotocol\tthis run\treason", "<b>KEY</b>\t1\t2\toverride"
    ]  # fmt: skip
    assert page.locator("#details b").count() == 0


def test_details_name_published_values_and_sources(open_page):
    [known] = [one for one in zoo.match_entry(VIRTEX, "").results if one.metric == "mAP"]
    page = open_page()
    page.locator("#table tbody tr:not(.published)", has_text=VIRTEX).locator("td[style]").click()
    text = page.locator("#details").inner_text()
    assert f"{known.value:.2f}; measured here: {88.9 - known.value:+.2f}" in text
    assert known.source in text
    page.keyboard.press("Escape")
    page.locator("tr.published td[style]").first.click()
    text = page.locator("#details").inner_text()
    assert "not measured here" in text.lower()
    assert "README.md" in text or ".rst" in text


def test_details_stay_inside_the_window(open_page):
    page = open_page(viewport={"width": 900, "height": 500})
    for place in (0, -1):
        target = page.locator("#table td[style]").nth(place)
        target.scroll_into_view_if_needed()
        target.click()
        box = page.locator("#details").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 900
        assert box["y"] >= 0 and box["y"] + box["height"] <= 500
        page.keyboard.press("Escape")


def test_view_is_restored_from_the_address(open_page):
    page = open_page()
    head(page, SVM).locator("button").click()
    page.locator("#filter").fill("a")
    page.locator("#published").uncheck()
    page.locator("#menu summary").click()
    page.locator("#choices label", has_text="AP/cat").first.locator("input").check()
    hash = page.evaluate("location.hash")
    assert "sort=voc07_svm" in hash
    again = open_page(hash=hash)
    assert again.locator("#filter").input_value() == "a"
    assert not again.locator("#published").is_checked()
    for label in ("", SVM, "voc07_svm/AP/cat"):
        assert column(again, label) == column(page, label)
    assert_sorted(again, SVM)


@pytest.mark.parametrize("hash", ["#sort=no/such&columns=%7B", "#columns=[1&task=x", "#%FF%"])
def test_invalid_address_shows_the_default_view(open_page, hash):
    page = open_page(hash=hash)
    assert rows(page).count() > 20
    assert head(page, SVM).count() == 1


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_page_follows_the_color_scheme(open_page, scheme, dark):
    page = open_page(color_scheme=scheme)
    page.locator("#table td[style]").first.click()
    for place in ("body", "#details", "#filter", "thead th", "tbody tr:not(.published) th"):
        back = brightness(page, place, "backgroundColor")
        assert (back < 0.25) == dark
        assert abs(back - brightness(page, place, "color")) > 0.5


def test_phone_shows_cards(open_page):
    page = open_page(**PHONE)
    assert page.locator("thead").is_hidden()
    card = page.locator("#table tbody tr", has_text="beta.pth").first
    assert card.locator("td:visible").count() == 2
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('body *')]"
        ".map((e) => e.getBoundingClientRect().right))"
    )
    assert widest <= 390
    page.locator("#sort").select_option(SVM)
    assert rows(page).first.locator("th").inner_text().startswith("beta.pth")
    page.locator("#direction").tap()
    assert rows(page).first.locator("th").inner_text().startswith("equal")
    cell(page, "beta.pth", SVM).tap()
    details = page.locator("#details")
    assert details.locator("h2").inner_text() == "beta.pth"
    box = details.bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    details.locator(".close").tap()
    assert details.is_hidden()


def test_table_is_readable_without_a_script(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#tools").is_hidden()
    assert page.get_by_role("cell", name="82.00 ± 1.41 (2)").is_visible()

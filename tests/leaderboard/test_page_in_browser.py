"""The page in a real Chromium, where one is installed."""

import pytest

from tests.browser import PHONE, brightness, needs_chromium, quiet_pages
from tests.leaderboard.board_records import record, sha256_of, write
from virtex import leaderboard, zoo
from virtex.leaderboard.page import page_text

pytestmark = needs_chromium

LR = ("SOLVER.BASE_LR", 0.02, 0.01, "scaled")
VIRTEX = "virtex://task_ablations/bicaptioning_R_50_L1_H2048"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page of four models with published rows, and the same with every column shown."""
    folder = tmp_path_factory.mktemp("page")
    runs = [record("alpha", value=value, seed=seed) for seed, value in enumerate((81.0, 83.0))]
    runs += [
        record("beta.pth", value=90.0),
        record("beta.pth", "coco", 41.0),
        record(SCRIPT, value=85.0, deviations=[("<b>KEY</b>", 1, 2, "override")]),
        record("gamma", "coco", 39.0, deviations=[LR]),
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


def column(page, label):
    """The visible texts of a column, from the top."""
    place = page.evaluate(
        "label => [...document.querySelectorAll('#table thead th')]"
        ".findIndex((th) => th.title === label)",
        label,
    )
    texts = [row.locator("th, td").nth(place).inner_text() for row in rows(page).all()]
    return [text.split("\n")[0] for text in texts]


def numbers(page, label):
    return [float(text.split()[0]) if text else None for text in column(page, label)]


def cell(page, row, label):
    index = head(page, label).get_attribute("data-c")
    return page.locator("#table tbody tr", has_text=row).first.locator(f'td[data-c="{index}"]')


def test_a_click_sorts_the_best_first_and_another_the_other_way_missing_always_last(open_page):
    page = open_page()
    label = "voc07_svm/mAP"
    head(page, label).locator("button").click()
    found = numbers(page, label)
    there = [value for value in found if value is not None]
    assert None in found
    assert found == sorted(there, reverse=True) + [None] * (len(found) - len(there))
    assert head(page, label).get_attribute("aria-sort") == "descending"
    head(page, label).locator("button").click()
    found = numbers(page, label)
    assert found == sorted(there) + [None] * (len(found) - len(there))
    assert head(page, label).get_attribute("aria-sort") == "ascending"
    assert page.locator("th[aria-sort]").count() == 1


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts(open_page, key):
    page = open_page()
    head(page, "voc07_svm/mAP").locator("button").focus()
    page.keyboard.press(key)
    found = [value for value in numbers(page, "voc07_svm/mAP") if value is not None]
    assert found == sorted(found, reverse=True)
    assert len(found) > 3


def test_models_sort_by_name(open_page):
    written = column(open_page(java_script_enabled=False), "")
    page = open_page()
    assert column(page, "") != written
    page.locator("thead th").first.locator("button").click()
    assert column(page, "") == written
    page.locator("thead th").first.locator("button").click()
    assert column(page, "") == written[::-1]


@pytest.mark.parametrize("hash", ["", "#published=no"])
def test_at_first_sight_the_first_measured_column_ranks(open_page, hash):
    page = open_page(hash=hash)
    label = page.locator("thead th[title]").first.get_attribute("title")
    found = numbers(page, label)
    there = [value for value in found if value is not None]
    assert len(there) > (1 if not hash else 0)
    assert found == sorted(there, reverse=True) + [None] * (len(found) - len(there))
    assert head(page, label).get_attribute("aria-sort") == "descending"
    assert page.locator("th[aria-sort]").count() == 1
    assert page.evaluate("location.hash") == hash
    head(page, label).locator("button").click()
    assert head(page, label).get_attribute("aria-sort") == "ascending"


def test_where_the_column_of_the_order_is_not_shown_another_ranks(open_page):
    page = open_page()
    head(page, "coco/bbox/AP").locator("button").click()
    page.locator("#task").select_option("voc07_svm")
    assert head(page, "voc07_svm/mAP").get_attribute("aria-sort") == "descending"
    page.locator("#task").select_option("")
    assert head(page, "coco/bbox/AP").get_attribute("aria-sort") == "ascending"


def shown_columns(page):
    heads = page.locator("#table thead th[title]").all()
    return [one.get_attribute("title") for one in heads]


def test_a_column_without_a_number_goes_and_comes_back_with_the_rows(open_page):
    page = open_page()
    every = shown_columns(page)
    published = {"voc/bbox/AP", "coco[coco_mask_rcnn_R_50_FPN_1x]/bbox/AP"}
    assert published < set(every)
    page.locator("#published").uncheck()
    assert shown_columns(page) == [label for label in every if label not in published]
    page.locator("#filter").fill("beta")
    assert shown_columns(page) == ["coco/bbox/AP", "voc07_svm/mAP"]
    page.locator("#filter").fill("")
    page.locator("#published").check()
    assert shown_columns(page) == every


@pytest.mark.parametrize("label", ["voc/bbox/AP", "voc07_svm/AP/cat"])
def test_a_column_that_was_chosen_stays_without_a_number(open_page, label):
    page = open_page()
    page.locator("#menu summary").click()
    index = page.evaluate(
        "label => JSON.parse(document.getElementById('data').textContent)"
        ".columns.findIndex((column) => column.label === label)",
        label,
    )
    box = page.locator(f'#choices input[value="{index}"]')
    if box.is_checked():  # at first it is there without having been chosen
        box.uncheck()
    box.check()
    page.locator("#filter").fill("gamma")
    page.locator("#published").uncheck()
    assert label in shown_columns(page)
    assert "voc07_svm/mAP" not in shown_columns(page)
    again = open_page(hash=page.evaluate("location.hash"))
    assert shown_columns(again) == shown_columns(page)


def test_without_a_match_the_page_says_so_and_offers_all_rows(open_page):
    page = open_page()
    every = shown_columns(page), rows(page).count()
    assert page.locator("#none").is_hidden()
    page.locator("#task").select_option("voc07_svm")
    page.locator("#filter").fill("nothing like it")
    assert page.locator("#table").is_hidden()
    assert page.locator("#none").inner_text().startswith("No row matches.")
    page.locator("#reset").click()
    assert page.locator("#none").is_hidden()
    assert (page.locator("#filter").input_value(), page.locator("#task").input_value()) == ("", "")
    assert (shown_columns(page), rows(page).count()) == every
    assert page.evaluate("location.hash") == ""


def test_the_filter_keeps_rows_with_every_word(open_page):
    page = open_page()
    page.locator("#filter").fill("BETA")
    assert column(page, "") == ["beta.pth"]
    assert page.locator("#status").inner_text().startswith("1 of ")
    page.locator("#filter").fill(f"pth {sha256_of('beta.pth')[:8]}")
    assert column(page, "") == ["beta.pth"]
    page.locator("#filter").fill("nothing like it")
    assert rows(page).count() == 0
    page.locator("#filter").fill("")
    assert rows(page).count() > 20


@pytest.mark.parametrize("words", ["r50 moco", "MoCo  ResNet50"])
def test_the_filter_knows_the_architecture_of_published_rows(open_page, words):
    page = open_page()
    page.locator("#filter").fill(words)
    found = column(page, "")
    assert "MoCo v2 200ep published" in found
    assert all("moco" in name.lower() for name in found if name.endswith("published"))
    assert "beta.pth" in found  # read as moco


def test_the_filter_knows_other_names_format_and_the_whole_hash(browser, tmp_path):
    runs = [
        record("new name", created="2026-05-05T00:00:00+00:00", sha256="ab" * 32),
        record("old_name", seed=1, sha256="ab" * 32),
        record("other", sha256="cd" * 32, format="torchvision"),
    ]
    board = leaderboard.make([write(tmp_path / "r", *runs)])
    leaderboard.write_html(board.table, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    for words, found in (
        ("OLD_name", ["new name"]),
        ("r50 old new", ["new name"]),
        ("torchvision", ["other"]),
        ("cd" * 32, ["other"]),
        ("moco " + "ab" * 20, ["new name"]),
        ("ba" * 20, []),
    ):
        page.locator("#filter").fill(words)
        assert column(page, "") == found, words
    page.close()


def test_published_rows_can_be_hidden(open_page):
    page = open_page()
    assert page.locator("tr.published:visible").count() > 20
    page.locator("#published").uncheck()
    assert page.locator("tr.published:visible").count() == 0
    assert sorted(column(page, "")) == sorted([SCRIPT, "alpha", "beta.pth", "gamma", VIRTEX])


def test_a_task_leaves_its_columns_and_the_models_that_have_it(open_page):
    page = open_page()
    page.locator("#published").uncheck()
    page.locator("#task").select_option("coco")
    assert all(
        text.startswith("coco") for text in page.locator("thead th[title] b").all_inner_texts()
    )
    assert sorted(column(page, "")) == ["beta.pth", "gamma"]
    page.locator("#task").select_option("")
    assert rows(page).count() == 5


def test_further_columns_are_shown_as_they_would_have_been_written(open_page):
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


def test_one_column_is_shown_and_hidden_by_its_box(open_page):
    page = open_page()
    page.locator("#menu summary").click()
    box = page.locator("#choices label", has_text="AP/cat").first.locator("input")
    box.check()
    assert head(page, "voc07_svm/AP/cat").count() == 1
    page.keyboard.press("Escape")
    head(page, "voc07_svm/AP/cat").locator("button").click()
    box_again = page.locator("#choices label", has_text="AP/cat").first.locator("input")
    page.locator("#menu summary").click()
    box_again.uncheck()
    assert head(page, "voc07_svm/AP/cat").count() == 0


def test_pointing_at_a_cell_shows_its_details_and_leaving_hides_them(open_page):
    page = open_page()
    cell(page, "alpha", "voc07_svm/mAP").hover()
    details = page.locator("#details")
    details.wait_for()
    text = details.inner_text()
    for part in (
        "alpha", "voc07_svm/mAP", "82.00 ± 1.41 (2 seeds)", "paper, version 1", "none",
        "81", "83", "voc_2007_test: 4952 images", sha256_of("alpha"), "moco", "hotcoco",
        "distribution source, version 0.6", "results/000/result.json", "results/001/result.json",
    ):  # fmt: skip
        assert part in text
    page.mouse.move(5, 5)
    details.wait_for(state="hidden")


def test_details_show_departures_as_text(open_page):
    page = open_page()
    page.locator("#table tbody tr", has_text=SCRIPT).locator("td[style]").click()
    table = page.locator("#details table").first
    assert table.locator("tr").all_inner_texts() == [
        "setting\tprotocol\tthis run\twhy", "<b>KEY</b>\t1\t2\toverride"
    ]  # fmt: skip
    assert page.locator("#details b").count() == 0


def test_details_say_how_far_a_model_is_from_its_published_value(open_page):
    [known] = [one for one in zoo.matching(VIRTEX, "").results if one.metric == "mAP"]
    page = open_page()
    page.locator("#published").uncheck()
    cell(page, VIRTEX, "voc07_svm/mAP").click()
    text = page.locator("#details").inner_text()
    assert f"{known.value:.2f}; measured here: {88.9 - known.value:+.2f}" in text
    assert known.source in text


def test_a_published_cell_says_where_its_number_is_from(open_page):
    page = open_page()
    page.locator("tr.published td[style]").first.click()
    text = page.locator("#details").inner_text()
    assert "Published, not measured here." in text
    assert "README.md" in text or ".rst" in text


def test_focus_shows_details_arrows_move_and_escape_closes(open_page):
    page = open_page()
    page.locator("thead button").last.focus()
    page.keyboard.press("Tab")  # of the first row
    page.keyboard.press("Tab")
    details = page.locator("#details")
    details.wait_for()
    first = details.locator("h2").inner_text()
    page.keyboard.press("ArrowDown")
    details.wait_for()
    assert details.locator("h2").inner_text() != first
    page.keyboard.press("Escape")
    details.wait_for(state="hidden")


def test_a_click_keeps_details_until_another_elsewhere(open_page):
    page = open_page()
    cell(page, "alpha", "voc07_svm/mAP").click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    assert page.locator("#details").is_visible()
    page.locator("#details h2").click()
    assert page.locator("#details").is_visible()
    page.locator("h1").click()
    assert page.locator("#details").is_hidden()


def test_details_that_are_clicked_into_stay_for_their_text_to_be_copied(open_page):
    page = open_page()
    cell(page, "alpha", "voc07_svm/mAP").hover()
    page.locator("#details").wait_for()
    page.locator("#details code").click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    assert page.locator("#details").is_visible()


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


def test_the_view_is_in_the_address_and_comes_back_from_it(open_page):
    page = open_page()
    head(page, "voc07_svm/mAP").locator("button").click()
    page.locator("#filter").fill("a")
    page.locator("#published").uncheck()
    page.locator("#menu summary").click()
    page.locator("#choices label", has_text="AP/cat").first.locator("input").check()
    hash = page.evaluate("location.hash")
    assert "sort=voc07_svm" in hash
    again = open_page(hash=hash)
    assert again.locator("#filter").input_value() == "a"
    assert not again.locator("#published").is_checked()
    for look in ("", "voc07_svm/mAP", "voc07_svm/AP/cat"):
        assert column(again, look) == column(page, look)
    assert head(again, "voc07_svm/mAP").get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("hash", ["#sort=no/such&columns=%7B", "#columns=[1&task=x", "#%FF%"])
def test_a_broken_address_shows_the_usual_page(open_page, hash):
    page = open_page(hash=hash)
    assert rows(page).count() > 20
    assert head(page, "voc07_svm/mAP").count() == 1


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_color_scheme(open_page, scheme, dark):
    page = open_page(color_scheme=scheme)
    page.locator("#table td[style]").first.click()
    for place in ("body", "#details", "#filter", "thead th", "tbody tr:not(.published) th"):
        back = brightness(page, place, "backgroundColor")
        text = brightness(page, place, "color")
        assert (back < 0.25) == dark
        assert abs(back - text) > 0.5


def test_on_a_phone_a_row_is_a_card_and_nothing_is_wider_than_the_screen(open_page):
    page = open_page(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("thead").is_hidden()
    card = page.locator("#table tbody tr", has_text="beta.pth").first
    assert card.locator("td:visible").count() == 2
    label = card.locator("td:visible").first.evaluate(
        "e => getComputedStyle(e, '::before').content"
    )
    assert label == '"coco/bbox/AP"'
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('body *')]"
        ".map((e) => e.getBoundingClientRect().right))"
    )
    assert widest <= 390


def test_a_phone_sorts_by_a_list_and_taps_for_details(open_page):
    page = open_page(**PHONE)
    page.locator("#sort").select_option("voc07_svm/mAP")
    first = rows(page).first.locator("th").inner_text()
    assert first.startswith("beta.pth")
    page.locator("#direction").tap()
    assert rows(page).first.locator("th").inner_text().startswith("alpha")
    target = cell_on_phone(page, "beta.pth", "voc07_svm/mAP")
    target.tap()
    details = page.locator("#details")
    assert details.locator("h2").inner_text() == "beta.pth"
    box = details.bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    details.locator(".close").tap()
    assert details.is_hidden()


def cell_on_phone(page, row, label):
    place = page.locator("#table tbody tr", has_text=row).first
    return place.locator(f'td[data-label="{label}"]')


def test_the_tables_are_readable_without_a_script(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#tools").is_hidden()
    assert page.get_by_role("cell", name="82.00 ± 1.41 (2)").is_visible()


@pytest.mark.parametrize("width", [700, 1400])
def test_the_rules_are_as_wide_as_a_narrow_table(browser, tmp_path, width):
    board = leaderboard.make([write(tmp_path / "r", record("m"))])
    leaderboard.write_html(board.table, tmp_path / "page.html")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    widths = [page.locator(place).bounding_box()["width"] for place in ("#scroll", "#table")]
    page.close()
    assert widths[0] == pytest.approx(widths[1], abs=1)


def test_equal_seeds_are_shown_without_a_spread(browser, tmp_path):
    runs = [record("m", value=88.0, seed=seed) for seed in range(3)]
    board = leaderboard.make([write(tmp_path / "r", *runs)])
    leaderboard.write_html(board.table, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("#menu summary").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.keyboard.press("Escape")
    texts = page.locator("#table tbody td").all_inner_texts()
    page.locator("#table tbody td").first.click()
    details = page.locator("#details").inner_text()
    page.close()
    assert texts == ["88.00 (3)", "90.00 (3)", "89.00 (3)"]
    assert "88.00 (3 seeds, each the same)" in details


def test_thousands_of_rows_sort_in_less_than_a_second(browser, tmp_path):
    runs = [record(f"model {n}", value=(n * 7919) % 1000 / 10) for n in range(2000)]
    leaderboard.write_html(
        leaderboard.make([write(tmp_path / "r", *runs)]).table, tmp_path / "page.html"
    )
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    seconds = page.evaluate(
        """() => {
          const start = performance.now();
          document.querySelectorAll("#table thead button")[1].click();
          document.body.offsetHeight;  // lays the rows out
          return (performance.now() - start) / 1000;
        }"""
    )
    first = page.locator("#table tbody td").first.inner_text()
    page.close()
    assert first == "0.00"  # at first the best was
    assert seconds < 3  # 0.1 on an idle core; others may share it

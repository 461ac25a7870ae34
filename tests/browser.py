"""A real Chromium for pages, where one is installed."""

import shutil
from contextlib import contextmanager

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def quiet_pages(browser, files, default):
    """Opens pages by name; at the end nothing was loaded and nothing was said in the console.

    Args:
        files: name -> path of a page.
        default: the name where none is given.
    """
    contexts, wrong, loaded = [], [], []

    def start(name=default, hash="", **options):
        options = {"viewport": {"width": 1400, "height": 900}, **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(files[name].as_uri() + hash)
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in loaded if not url.startswith(("file:", "data:"))] == []


def brightness(page, selector, property):
    """Of a color of an element: 0 black, 1 white."""
    color = page.evaluate(
        "([selector, property]) => getComputedStyle(document.querySelector(selector))[property]",
        [selector, property],
    )
    red, green, blue = map(float, color[color.index("(") + 1 : -1].split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255

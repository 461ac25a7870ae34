"""The documentation site builds without a warning and shows every entry of the registries."""

import html
import pkgutil
import re
import subprocess
import sys

import pytest

import virtex.eval_tools
from tests.documentation.markdown_pages import ROOT

pytestmark = [pytest.mark.whole, pytest.mark.xdist_group("site")]
for package in ("sphinx", "furo", "myst_parser"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[docs]'")


@pytest.fixture(scope="module")
def text_of(tmp_path_factory):
    """Build the site; return a function of a page's name that returns its text."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr

    def text(page):
        content = (folder / f"{page}.html").read_text(encoding="utf-8")
        plain = html.unescape(re.sub(r"<[^>]*>", "", content))
        return plain.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")

    return text


def test_pages_show_the_registries(text_of):
    from virtex import zoo
    from virtex.checkpoints.formats import FORMATS
    from virtex.config import packaged_configs

    tools = {f"usage: {module.name}" for module in pkgutil.iter_modules(virtex.eval_tools.__path__)}
    shown = {
        "checkpoints": FORMATS,
        "zoo": zoo.entries(),
        "tutorials/pretraining": packaged_configs(),
        "commands": tools,
    }
    for page, names in shown.items():
        text = text_of(page)
        assert [name for name in names if name not in text] == [], page
    assert "needs full data and GPUs" in text_of("tutorials/detection")

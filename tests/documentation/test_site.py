"""The documentation site builds without a warning, and what it is made from is all on it."""

import html
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest
from filelock import FileLock

import virtex.eval_tools
from tests.documentation.markdown_pages import ROOT

for package in ("sphinx", "furo", "myst_parser"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[docs]'")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built site and what the build said; built once for all of xdist's processes."""
    shared = tmp_path_factory.getbasetemp().parent
    folder, log = shared / "site", shared / "site.log"
    with FileLock(shared / "site.lock"):
        if not log.exists():
            log.write_text("the build did not come to its end")  # nor will it at another try
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
            built = subprocess.run(
                [*command, str(ROOT / "docs"), str(folder)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=540,
            )
            log.write_text(f"{built.stdout}\nstatus {built.returncode}\n")
    return folder, log.read_text()


def plain(markup):
    """Text without markup, and with straight quotation marks."""
    text = html.unescape(re.sub(r"<[^>]*>", "", markup))
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def text_of(site, page):
    """A built page as its reader sees it."""
    return plain((site[0] / f"{page}.html").read_text(encoding="utf-8"))


def rows_of(site, page):
    """The rows of a built page's tables, each the texts of its cells."""
    content = (site[0] / f"{page}.html").read_text(encoding="utf-8")
    for row in re.findall(r"<tr.*?</tr>", content, re.DOTALL):
        cells = re.findall(r"<t[dh][ >].*?</t[dh]>", row, re.DOTALL)
        yield [plain(cell).strip() for cell in cells]


def test_it_builds_without_a_warning(site):
    assert site[1].split() == ["status", "0"], site[1]


def test_every_format_is_on_the_page_of_checkpoints(site):
    from virtex.checkpoints.formats import FORMATS

    rows = {cells[0]: cells for cells in rows_of(site, "checkpoints")}
    for format in FORMATS.values():
        names = ", ".join((format.name, *format.aliases))
        row = rows[names + "only by --format" * format.explicit_only]
        assert any(format.project in cell for cell in row)


def test_every_protocol_and_its_settings_are_on_their_page(site):

    from virtex.resources import resource_path
    from virtex.tasks import TASKS

    text = text_of(site, "protocols")
    for name, task in TASKS.items():
        assert name in text or not task.protocols
        assert all(protocol.name in text for protocol in task.protocols.values()), name
    for path in resource_path("configs/downstream").glob("*.yaml"):
        assert path.read_text().rstrip() in text, path.name


def test_every_published_model_and_config_is_there(site):
    from virtex import zoo
    from virtex.config import packaged_configs

    text = text_of(site, "zoo")
    assert [name for name in zoo.entries() if name not in text] == []
    text = text_of(site, "tutorials/pretraining")
    assert [name for name in packaged_configs() if name not in text] == []


def test_published_numbers_stand_with_their_source(site):
    from virtex import zoo

    text = " ".join(map(lambda page: text_of(site, page), ("tutorials/detection", "reproduce")))
    rows = [cells for page in ("tutorials/detection", "reproduce") for cells in rows_of(site, page)]
    shown = [r for r in zoo.published_results() if r.task in ("coco", "voc")]
    assert shown
    for result in shown:
        of_model = [cells for cells in rows if any(result.model in cell for cell in cells)]
        assert any(str(result.value) in cells for cells in of_model), result
    assert all(r.source in text for r in shown)


def test_whatever_a_package_offers_is_in_the_reference():
    pages = (ROOT / "docs/api").glob("*.md")
    told = set(re.findall(r"automodule:: ([\w.]+)", "".join(page.read_text() for page in pages)))
    for package in ("checkpoints", "leaderboard", "optim", "zoo"):
        module = importlib.import_module(f"virtex.{package}")
        offered = [getattr(module, name) for name in module.__all__]
        homes = {getattr(thing, "__module__", "") for thing in offered}
        assert {home for home in homes if home.startswith("virtex")} <= told


def test_every_tool_has_its_help_on_the_page_of_commands(site):
    text = text_of(site, "commands")
    for module in pkgutil.iter_modules(virtex.eval_tools.__path__):
        assert f"usage: {module.name}.py" in text, module.name


def test_readers_see_what_a_command_needs(site):
    assert "needs full data and GPUs" in text_of(site, "tutorials/detection")
    assert "takes minutes" in text_of(site, "index")


def test_the_api_is_that_of_the_docstrings(site):
    from virtex.checkpoints.loading import load_backbone

    summary = load_backbone.__doc__.splitlines()[0].replace("``", "")
    assert summary in text_of(site, "api/checkpoints")

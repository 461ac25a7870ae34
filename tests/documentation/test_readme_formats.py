"""README's table of formats is the registry's."""

from docs.site.tables import formats_in_short
from tests.documentation.markdown_pages import ROOT


def test_the_table_of_formats_is_made_from_the_registry():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    written = readme.partition("formats_in_short() of docs/site/tables.py -->")[2]
    assert written.partition("<!--")[0].strip() == formats_in_short()

"""Sphinx: the documentation site. ``make docs`` builds it into output/docs, warnings are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import virtex

project = "VirTex transfer toolkit"
author = "the VirTex transfer toolkit's authors"
copyright = "MIT license"
version = release = virtex.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.site.directives",
]
exclude_patterns = ["site"]
templates_path = []

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
napoleon_use_ivar = True  # attributes as a list in their class
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "VirTex transfer toolkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "native"

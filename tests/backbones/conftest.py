"""Detectron2 v0.5 is patched for current libraries before a test module imports it."""

import virtex.detectron  # noqa: F401

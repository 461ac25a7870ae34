"""Detectron2 v0.5 is made fit for today's libraries before a test module imports it."""

import logging

import virtex.detectron  # noqa: F401

# Detectron2's console handler keeps the stream of the first test that captured its output.
logging.raiseExceptions = False

#!/usr/bin/env python3
"""Run ``virtex.eval_tools.frozen_suite`` from this checkout, installed or not."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module("virtex.eval_tools.frozen_suite", run_name="__main__")

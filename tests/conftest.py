"""Shared by all tests: each worker process keeps to one core."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch at import, and by the tools the tests start

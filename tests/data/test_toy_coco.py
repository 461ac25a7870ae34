"""The toy COCO and LVIS folders are read by the real libraries, and agree with themselves."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest_sizes import TRAIN, VAL
from PIL import Image
from pycocotools.coco import COCO

from virtex.data.layouts import check_coco_json, check_lvis_json


@pytest.fixture(scope="module", params=["train", "val"])
def coco(request, toy_root: Path) -> COCO:
    loaded = COCO(toy_root / "coco" / "annotations" / f"instances_{request.param}2017.json")
    loaded.folder = toy_root / "coco" / f"{request.param}2017"
    return loaded


def content(toy_root: Path, name: str) -> dict:
    return json.loads((toy_root / name).read_text())

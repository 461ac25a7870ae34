"""File names of arbitrary bytes: not UTF-8, control characters, shell metacharacters."""

import json
import os
import shutil
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.data_runs import outcome, require_plain, run
from tests.hostile.toy_root import smallest
from virtex.captioning.images import find_images
from virtex.data.decoding import decode_image
from virtex.data.image_folders import read_image_folder
from virtex.eval_tools import check_data
from virtex.records import write_json

PICTURE = next((smallest() / "imagenet/val").glob("*/*.JPEG"))
NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: not {0, 47}.intersection(name) and name not in (b".", b"..")
)


@given(NAMES, NAMES, NAMES)
@example(b"caf\xe9", b"\x1b[2J", b"\xed\xa0\x80")
@example(b"\n", b"$(touch x)", b"-rf")
def test_names_of_arbitrary_bytes(tmp_path_factory, folder, label, name):
    top = tmp_path_factory.mktemp("names")
    root = top / os.fsdecode(folder)
    for split in ("train", "val"):
        place = root / "imagenet" / split / os.fsdecode(label)
        place.mkdir(parents=True)
        shutil.copy(PICTURE, place / os.fsdecode(name + b".jpg"))
    (root / os.fsdecode(name)).mkdir(exist_ok=True)
    (root / "imagenet/val/empty").mkdir(exist_ok=True)
    for more in ([], ["--json"]):
        status, out, err = run(check_data, "--data-root", root, "--task", "imagenet", "coco", *more)
        require_plain(status, err, "imagenet")
        assert all(c.isprintable() or c == "\n" for c in out)
    (root / "imagenet/val/empty").rmdir()
    train, val = read_image_folder(root / "imagenet", "imagenet")
    assert decode_image(val.path(0)).shape[0] == 3
    pictures = find_images([str(root)])
    write_json(top / "record.json", [train.describe(), val.class_names, list(pictures.ids)])
    json.loads((top / "record.json").read_text(encoding="utf-8"))
    shutil.rmtree(top)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000 + "x"])
def test_path_longer_than_the_system_allows(name):
    assert not outcome(partial(decode_image, name), name[:200])

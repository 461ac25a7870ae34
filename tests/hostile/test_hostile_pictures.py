"""Files that are called like pictures and lie: they decode, or are refused by name in time."""

import io
import os
import struct
import zlib
from functools import partial

import pytest
from detectron2.data import DatasetMapper
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.data_runs import guarded, outcome
from tests.hostile.toy_root import copied, smallest
from virtex.captioning.generation import CaptioningSet
from virtex.captioning.images import find_images
from virtex.data.classification import ClassificationSet, evaluation_transform
from virtex.data.image_folders import read_image_folder
from virtex.data.transforms import build_transform, decode_image
from virtex.detectron.loading import SafeMapper
from virtex.detectron.settings import build_settings
from virtex.errors import UserError
from virtex.tasks import packaged_protocol

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"


def drawn(kind, mode="RGB", size=(40, 30)):
    """A picture as a file of a format."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind)
    return file.getvalue()


def png_of_size(width, height, data=b"\0" * 1000):
    """A PNG that announces more pixels than it has."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PICTURES = {
    **{kind: drawn(kind) for kind in FORMATS},
    **{f"PNG {mode}": drawn("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
    **{f"JPEG {mode}": drawn("JPEG", mode) for mode in ("L", "CMYK")},
    "TIFF F": drawn("TIFF", "F"),
}
LIES = (
    *(
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"P6 99999 99999 255\n",
        b"BM",
    ),
    *(POSTSCRIPT, b"<svg/>", b"\x1f\x8b\x08\0", b"version https://git-lfs.github.com/spec/v1\n"),
    *(png_of_size(30_000, 30_000), png_of_size(2**31 - 1, 2**31 - 1), png_of_size(0, 0)),
    *(png_of_size(16_000, 16_000), png_of_size(1, 60_000), png_of_size(60_000, 1, b"\0" * 180_001)),
    *(drawn("PNG", size=(1, 1)), drawn("PNG", size=(2000, 1)), drawn("GIF", size=(1, 1))),
)


@st.composite
def pictures(draw):
    """A picture's bytes: cut, changed in places, or another thing from the start."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(LIES))
    data = bytearray(PICTURES[draw(st.sampled_from(sorted(PICTURES)))])
    for _ in range(draw(st.integers(0, 4))):
        # most of what decides lies at the start
        at = draw(st.one_of(st.integers(0, min(60, len(data) - 1)), st.integers(0, len(data) - 1)))
        data[at] = draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
    if draw(st.integers(0, 2)) == 0:
        del data[draw(st.integers(0, len(data) - 1)) :]
    return bytes(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("pictures"), "imagenet", "coco")


@pytest.fixture(scope="module")
def mapper():
    cfg = build_settings(packaged_protocol("coco", "toy"), [], 1, "cpu").cfg
    return SafeMapper(DatasetMapper(cfg, False), "restore it")


@given(pictures())
@example(png_of_size(30_000, 30_000))
@example(POSTSCRIPT)
@pytest.mark.timeout(3000)
def test_whatever_a_picture_holds(root, mapper, content):
    train, _ = read_image_folder(root / "imagenet", "imagenet")
    path = train.path(0)
    path.write_bytes(content)
    with guarded(root.parent / "outside"):
        read = outcome(partial(decode_image, path), path)
        transform = evaluation_transform(32, 32)
        strict = ClassificationSet(train, transform)[0, 0]
        assert isinstance(strict, UserError) != read
        skipping = ClassificationSet(train, transform, skip_bad_images=True)[0, 0]
        assert skipping["image_id"] == (0 if read else 1)
        found = mapper({"file_name": str(path), "height": 30, "width": 40, "image_id": 0})
        assert isinstance(found, UserError | dict)
        as_captions_take_it(path)


def as_captions_take_it(path):
    """The pictures of one's own are told, not raised."""
    own = find_images([str(path)])
    transform = build_transform(["smallest_resize", "center_crop", "normalize"], 32)
    sample = CaptioningSet(own, transform, 0, 1).sample(0)
    assert ("problem" in sample) != ("image" in sample)
    assert str(path) in sample.get("problem", str(path))


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device", "nothing"])
def test_what_is_called_like_a_picture_and_is_none(tmp_path, kind):
    make = {
        "pipe": lambda path: os.mkfifo(path),
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "device": lambda path: path.symlink_to("/dev/zero"),
        "nothing": lambda path: path.symlink_to("gone"),
    }
    path = tmp_path / "a.jpg"
    make[kind](path)
    assert not outcome(partial(decode_image, path), path)


def test_postscript_is_run_by_nobody(tmp_path, monkeypatch):
    """Pillow would start Ghostscript: a program of that name leaves a file."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/it_ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "a.jpg"
    path.write_bytes(POSTSCRIPT)
    assert not outcome(partial(decode_image, path), path)
    assert not (tmp_path / "it_ran").exists()


def test_links_that_lead_back_are_told_at_once(tmp_path):
    """Two of them in a folder would be followed 2^40 times."""
    for split in ("train", "val"):
        folder = tmp_path / split / "cat"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(PICTURES["PNG"])
    for name in ("one", "two"):
        (tmp_path / "train/cat" / name).symlink_to(tmp_path / "train/cat")
    assert not outcome(partial(read_image_folder, tmp_path, "x"), tmp_path / "train/cat/one")


def test_links_that_lead_out_of_a_data_root_are_followed(tmp_path):
    """Data on several disks are linked, whole folders and single pictures."""
    train = read_image_folder(smallest() / "imagenet", "imagenet")[0]
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
        for folder in sorted((smallest() / "imagenet" / split).iterdir()):
            link = tmp_path / "imagenet" / split / folder.name
            if split == "train":
                link.symlink_to(folder)
                continue
            link.mkdir()
            for file in folder.iterdir():
                (link / file.name).symlink_to(file)
    linked = read_image_folder(tmp_path / "imagenet", "imagenet")
    assert linked[0].files == train.files
    assert [decode_image(images.path(0)).shape[0] for images in linked] == [3, 3]

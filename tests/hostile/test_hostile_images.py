"""Files with the name of an image and other content: they decode, or raise a UserError."""

import contextlib
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
from virtex.data.decoding import FORMATS, decode_image
from virtex.data.image_folders import read_image_folder
from virtex.data.transforms import build_transform
from virtex.detectron.loading import SafeMapper
from virtex.detectron.settings import build_settings
from virtex.errors import UserError
from virtex.tasks import packaged_protocol

ENCODED = (*FORMATS, "ICO", "TGA", "PCX", "SGI", "DDS")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"


def encode(kind, mode="RGB", size=(40, 30)):
    """Return the file of an image."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind)
    return file.getvalue()


def png_of_size(width, height, data=b"\0" * 1000):
    """A PNG whose header states more pixels than it has."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


IMAGES = {
    **{kind: encode(kind) for kind in ENCODED},
    **{f"PNG {mode}": encode("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
    **{f"JPEG {mode}": encode("JPEG", mode) for mode in ("L", "CMYK")},
    "TIFF F": encode("TIFF", "F"),
}
INVALID = (
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
    *(encode("PNG", size=(1, 1)), encode("PNG", size=(2000, 1)), encode("GIF", size=(1, 1))),
)


@st.composite
def contents(draw):
    """The bytes of an image, truncated or changed in places, or something else."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(INVALID))
    data = bytearray(IMAGES[draw(st.sampled_from(sorted(IMAGES)))])
    for _ in range(draw(st.integers(0, 4))):
        # the first bytes matter most
        at = draw(st.one_of(st.integers(0, min(60, len(data) - 1)), st.integers(0, len(data) - 1)))
        data[at] = draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
    if draw(st.integers(0, 2)) == 0:
        del data[draw(st.integers(0, len(data) - 1)) :]
    return bytes(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("images"), "imagenet", "coco")


@pytest.fixture(scope="module")
def mapper():
    cfg = build_settings(packaged_protocol("coco", "toy"), [], 1, "cpu").cfg
    return SafeMapper(DatasetMapper(cfg, False))


@given(contents())
@example(png_of_size(30_000, 30_000))
@example(POSTSCRIPT)
@pytest.mark.timeout(3000)
def test_any_content(root, mapper, content):
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
        check_captioning(path)


def check_captioning(path):
    """Captioning reports unreadable images, instead of raising."""
    own = find_images([str(path)])
    transform = build_transform(["smallest_resize", "center_crop", "normalize"], 32)
    sample = CaptioningSet(own, transform, 0, 1).sample(0)
    assert ("problem" in sample) != ("image" in sample)
    assert str(path) in sample.get("problem", str(path))


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device", "nothing"])
def test_not_a_regular_file(tmp_path, kind):
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


def iptc_field(record, number, data):
    return struct.pack(">BBBH", 0x1C, record, number, len(data)) + data


def iptc_with(content):
    """An IPTC file, whose image is a file of any format that Pillow would open."""
    size, layers = struct.pack(">H", 50), b"\1\0"
    fields = [(3, 20, size), (3, 30, size), (3, 60, layers), (3, 65, b"\1"), (3, 120, b"\5")]
    return b"".join(iptc_field(*field) for field in [*fields, (8, 10, content)])


def read_with_detectron2(mapper, path):
    found = mapper({"file_name": str(path), "height": 30, "width": 40, "image_id": 0})
    if isinstance(found, UserError):
        raise found


@pytest.mark.parametrize("reader", ["decode_image", "detectron2"])
@pytest.mark.parametrize("content", [POSTSCRIPT, iptc_with(POSTSCRIPT)], ids=["eps", "iptc"])
def test_ghostscript_is_not_started(tmp_path, monkeypatch, mapper, content, reader):
    """Pillow would start Ghostscript: a program of that name leaves a file."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with Image.open(path) as image, contextlib.suppress(OSError):
        image.load()
    assert (tmp_path / "started").exists(), "the file tests nothing"
    (tmp_path / "started").unlink()
    read = decode_image if reader == "decode_image" else partial(read_with_detectron2, mapper)
    assert not outcome(partial(read, path), path)
    assert not (tmp_path / "started").exists()


def test_cyclic_links(tmp_path):
    """Two of them in a folder would be followed 2^40 times."""
    for split in ("train", "val"):
        folder = tmp_path / split / "cat"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(IMAGES["PNG"])
    for name in ("one", "two"):
        (tmp_path / "train/cat" / name).symlink_to(tmp_path / "train/cat")
    assert not outcome(partial(read_image_folder, tmp_path, "x"), tmp_path / "train/cat/one")


def test_links_out_of_the_data_root(tmp_path):
    """Data on several disks are linked, folders and single images."""
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

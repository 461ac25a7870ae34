"""Cityscapes on disk: labels, the files of each image, and checks of its annotations.

``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` is an image, and ``gtFine/SPLIT/CITY/`` contains its
annotations: ``NAME_gtFine_polygons.json``, from back to front, and what cityscapesscripts renders
from them: ``NAME_gtFine_labelIds.png``, ``NAME_gtFine_labelTrainIds.png`` (not part of the
download), and ``NAME_gtFine_instanceIds.png``, whose pixels are ``1000 * label id + instance
number``, or the label id alone for groups and for labels without instances.
"""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from virtex.data.annotations import MAX_COORDINATE, read_json
from virtex.data.masks import MAX_SIDE
from virtex.errors import UserError
from virtex.files import list_folder, require_file
from virtex.text import join_first, short_repr

# Labels ------------------------------------------------------------------------------------------

# Label id -> name of the classes that are evaluated; their order is that of the train ids.
CLASSES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole"},
    **{19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky"},
    **{24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train"},
    **{32: "motorcycle", 33: "bicycle"},
}
# Label id -> name of the labels that are neither trained on nor scored.
IGNORED = {
    **{0: "unlabeled", 1: "ego vehicle", 2: "rectification border", 3: "out of roi"},
    **{4: "static", 5: "dynamic", 6: "ground", 9: "parking", 10: "rail track"},
    **{14: "guard rail", 15: "bridge", 16: "tunnel", 18: "polegroup", 29: "caravan"},
    **{30: "trailer", -1: "license plate"},
}
LABEL_IDS = {name: number for number, name in {**CLASSES, **IGNORED}.items()}
HAS_INSTANCES = range(24, 34)  # label ids whose objects have instance ids
THINGS = {number: name for number, name in CLASSES.items() if number in HAS_INSTANCES}
GROUP = "group"  # suffix of a label's name: several objects without separate outlines
IGNORED_TRAIN_ID = 255
# Train id of each label id (256,): 0 to 18, or 255
TRAIN_IDS = np.full(256, IGNORED_TRAIN_ID, np.uint8)
TRAIN_IDS[list(CLASSES)] = range(len(CLASSES))


def label_id(name: str) -> int | None:
    """Return the label id of an object in a JSON file, whose name may end in "group"."""
    return LABEL_IDS.get(name, LABEL_IDS.get(name.removesuffix(GROUP)))


# Files -------------------------------------------------------------------------------------------

IMAGE_SUFFIX = "_leftImg8bit.png"
# Suffixes of annotations
POLYGONS, INSTANCE_IDS = "polygons.json", "instanceIds.png"
LABEL_IDS_FILE, TRAIN_IDS_FILE = "labelIds.png", "labelTrainIds.png"
DOWNLOADED = (POLYGONS, INSTANCE_IDS, LABEL_IDS_FILE)  # labelTrainIds are created by the user
REMEDY = "restore it from gtFine_trainvaltest.zip"


@dataclass(frozen=True)
class Frame:
    """An image, and the common prefix of the paths of its annotations."""

    image: Path
    prefix: str

    @property
    def city(self) -> str:
        return self.image.parent.name

    def annotation(self, suffix: str) -> Path:
        """Return the path of an annotation by its suffix, such as ``POLYGONS``."""
        return Path(self.prefix + suffix)


def find_frames(
    image_dir: Path, gt_dir: Path, suffixes: Collection[str]
) -> tuple[list[Frame], list[str]]:
    """List the images of a split, sorted by city and name, and the paths of missing files.

    An image is listed if it or one of its annotations exists.

    Args:
        image_dir: for example ``leftImg8bit/train``.
        gt_dir: for example ``gtFine/train``.
        suffixes: of the annotations that each image needs.
    """
    frames, missing = [], []
    for city in sorted(list_folder(image_dir).folders | list_folder(gt_dir).folders):
        images, annotations = (list_folder(top / city).files for top in (image_dir, gt_dir))
        ends = {IMAGE_SUFFIX: images, **{f"_gtFine_{suffix}": annotations for suffix in suffixes}}
        names = {
            file.removesuffix(end)
            for end, files in ends.items()
            for file in files
            if file.endswith(end) and not file.startswith(".")
        }
        for name in sorted(names):
            prefix = f"{gt_dir / city / name}_gtFine_"
            frames.append(Frame(image_dir / city / f"{name}{IMAGE_SUFFIX}", prefix))
            missing += [
                str((image_dir if end == IMAGE_SUFFIX else gt_dir) / city / f"{name}{end}")
                for end, files in ends.items()
                if f"{name}{end}" not in files
            ]
    return frames, missing


def require_frames(image_dir: Path, gt_dir: Path, suffixes: Collection[str]) -> list[Frame]:
    """Return the images of ``find_frames``.

    Raises:
        UserError: there are no images, or files are missing.
    """
    frames, missing = find_frames(image_dir, gt_dir, suffixes)
    if missing:
        raise UserError(
            f"every image in {image_dir} must have its annotations in {gt_dir}, and vice versa, "
            f"but {len(missing)} files are missing: {join_first(missing)}; restore them",
            "data.missing",
        )
    if not frames:
        raise UserError(
            f"{image_dir} must contain a folder of images *{IMAGE_SUFFIX} for each city, but has "
            "none; unpack leftImg8bit_trainvaltest.zip there",
            "data.empty",
        )
    return frames


def read_split(
    image_dir: Path, gt_dir: Path, is_scored: bool, num_threads: int = 1
) -> list[tuple[Frame, dict[str, Any], str]]:
    """Read and check the annotations of a split.

    Args:
        is_scored: also check the ``instanceIds``, which detections are scored against.

    Returns:
        each image with the content of its JSON file and the SHA-256 of its annotations.

    Raises:
        UserError: a file is missing or invalid.
    """
    frames = require_frames(image_dir, gt_dir, DOWNLOADED[: 1 + is_scored])
    read = partial(_read_frame, is_scored)
    with ThreadPoolExecutor(num_threads) as pool:
        return list(tqdm(pool.map(read, frames), f"reading {gt_dir}", len(frames), disable=None))


def _read_frame(is_scored: bool, frame: Frame) -> tuple[Frame, dict[str, Any], str]:
    digest = hashlib.sha256()
    path = frame.annotation(POLYGONS)
    content = read_json(path, "polygons of Cityscapes", digest=digest)
    check_polygons(content, path)
    if is_scored:
        path = frame.annotation(INSTANCE_IDS)
        ids = read_ids(path, content["imgWidth"], content["imgHeight"])
        check_instance_ids(ids, path)
        digest.update(ids.tobytes())
    return frame, content, digest.hexdigest()


# Annotations -------------------------------------------------------------------------------------


def check_polygons(content: Any, path: str | Path) -> None:
    """Check the content of a polygons file, as returned by ``read_json`` for ``path``.

    Raises:
        UserError: a field is missing or invalid, or a label is unknown.
    """
    for side in ("imgHeight", "imgWidth"):
        value = content.get(side) if isinstance(content, dict) else None
        if type(value) is not int or not 0 < value <= MAX_SIDE:
            raise _invalid(path, side, f"a number of pixels from 1 to {MAX_SIDE}", value)
    if not isinstance(content.get("objects"), list):
        raise _invalid(path, "objects", "a list", content.get("objects"))
    for index, found in enumerate(content["objects"]):
        place = f"objects[{index}]"
        if not isinstance(found, dict):
            raise _invalid(path, place, "an object", found)
        name, polygon = found.get("label"), found.get("polygon")
        if not isinstance(name, str) or label_id(name) is None:
            raise _invalid(path, f"{place}: label", "a label of Cityscapes", name)
        if not isinstance(polygon, list) or len(polygon) < 3 or not all(map(_is_point, polygon)):
            raise _invalid(path, f"{place}: polygon", "at least three points [x, y]", polygon)


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(n) in (int, float) and abs(n) <= MAX_COORDINATE for n in value)
    )


def _invalid(path: str | Path, place: str, expected: str, found: Any) -> UserError:
    return UserError(
        f"{path}: {place}: expected {expected}, found {short_repr(found)}; {REMEDY}",
        "data.annotations",
    )


def read_ids(path: Path, width: int, height: int) -> np.ndarray:
    """Read an image of ids: (height, width), uint8 or uint16.

    Raises:
        UserError: it cannot be decoded, or does not have this size or one channel.
    """
    from virtex.data.decoding import DECODE_ERRORS, check_size  # imports torch

    try:
        require_file(path)
        with Image.open(path, formats=["PNG"]) as image:
            check_size(*image.size)
            ids = np.asarray(image)
            mode = image.mode
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f"cannot decode the annotation {path}: {reason}; {REMEDY}", "data.annotations"
        ) from error
    if mode not in ("L", "I", "I;16", "I;16B") or ids.shape != (height, width):
        raise UserError(
            f"{path} must be a one-channel image of {width} x {height} pixels, but has "
            f"{image.size[0]} x {image.size[1]} pixels of mode {mode}; {REMEDY}",
            "data.annotations",
        )
    return ids if mode == "L" else ids.astype(np.uint16)


def check_instance_ids(ids: np.ndarray, path: Path) -> None:
    """Check that the ids of an ``instanceIds`` image belong to known labels.

    Raises:
        UserError: one does not.
    """
    present = np.flatnonzero(np.bincount(ids.ravel()))
    labels = np.where(present < 1000, present, present // 1000)
    unknown = [
        int(number)
        for number, label in zip(present, labels, strict=True)
        if int(label) not in (HAS_INSTANCES if number >= 1000 else LABEL_IDS.values())
    ]
    if unknown:
        raise UserError(
            f"{path} must contain label ids, or 1000 times the label id plus a number for labels "
            f"with instances, but contains {join_first(list(map(str, unknown)))}; {REMEDY}",
            "data.annotations",
        )

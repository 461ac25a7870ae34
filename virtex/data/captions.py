"""COCO's captions and object labels per image; no image is opened.

``root`` is the folder ``coco/``, which contains ``train2017/``, ``val2017/`` and ``annotations/``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from virtex.data.annotations import check_coco_json, is_id, read_json
from virtex.errors import UserError
from virtex.files import describe_missing, find_missing, is_path_below
from virtex.text import short_repr

logger = logging.getLogger(__name__)

WHAT = "COCO captions"
BACKGROUND = "background"  # the name of label 0, which no image has


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and its captions, at least one."""

    image_id: int
    file: Path
    captions: tuple[str, ...]

    @property
    def target(self) -> tuple[str, ...]:
        """What a model learns to predict."""
        return self.captions


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image and the categories of its objects: ascending labels from 1, at least one."""

    image_id: int
    file: Path
    labels: tuple[int, ...]

    @property
    def target(self) -> tuple[int, ...]:
        """What a model learns to predict."""
        return self.labels


def read_captions(
    root: Path, split: str, skip_missing_images: bool = False
) -> list[CaptionedImage]:
    """Read the images of a split that have captions, in the order of the file.

    Args:
        root: contains ``annotations/captions_<split>2017.json`` and ``<split>2017/``.
        split: "train" or "val".
        skip_missing_images: leave out images whose file is missing, with a warning.

    Raises:
        UserError: the file is missing or invalid, or images are missing.
    """
    path = Path(root, "annotations", f"captions_{split}2017.json")
    content = read_json(path, WHAT)
    names = _image_names(content, path)
    captions: dict[int, list[str]] = {image_id: [] for image_id in names}
    annotations = _checked_captions(content, path)
    for index, annotation in enumerate(
        tqdm(annotations, f"captions of {split}2017", unit="", leave=False, disable=None)
    ):
        image_id = annotation.get("image_id")
        if not is_id(image_id) or image_id not in captions:
            raise UserError(
                f"{path}: annotations[{index}]: image_id {image_id!r:.40} is not in images; "
                "download or write the file again",
                "data.annotations",
            )
        captions[image_id].append(annotation["caption"])
    folder = Path(root, f"{split}2017")
    images = [
        CaptionedImage(image_id, folder / name, tuple(captions[image_id]))
        for image_id, name in names.items()
        if captions[image_id]
    ]
    return _with_files(images, path, skip_missing_images)


def read_labels(
    root: Path, split: str, skip_missing_images: bool = False
) -> tuple[list[LabeledImage], list[str]]:
    """Read the images of a split that have objects, with the categories of these.

    Labels number the categories from 1 in the order of their COCO ids; 0 is the background. Crowds
    count as objects.

    Args:
        root: contains ``annotations/instances_<split>2017.json`` and ``<split>2017/``.
        skip_missing_images: leave out images whose file is missing, with a warning.

    Returns:
        the images, and the name of each label, "background" first.

    Raises:
        UserError: the file is missing or invalid, or images are missing.
    """
    path = Path(root, "annotations", f"instances_{split}2017.json")
    content = read_json(path, "COCO instances")
    check_coco_json(content, path)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories, 1)}
    labels: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in tqdm(
        content["annotations"], f"objects of {split}2017", unit="", leave=False, disable=None
    ):
        labels[annotation["image_id"]].add(label_of[annotation["category_id"]])
    folder = Path(root, f"{split}2017")
    images = [
        LabeledImage(image["id"], folder / image["file_name"], tuple(sorted(found)))
        for image in content["images"]
        if (found := labels[image["id"]])
    ]
    names = [BACKGROUND, *(category["name"] for category in categories)]
    return _with_files(images, path, skip_missing_images), names


def caption_annotations(path: Path) -> list[dict[str, Any]]:
    """Return the annotations of a COCO captions file, each with a ``caption``.

    Raises:
        UserError: the file is missing or invalid.
    """
    return _checked_captions(read_json(path, WHAT), path)


def _checked_captions(content: Any, path: Path) -> list[dict[str, Any]]:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise UserError(f"{path} must be {WHAT}, but has no list annotations", "data.annotations")
    for index, annotation in enumerate(annotations):
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        if not isinstance(caption, str):
            raise UserError(
                f"{path}: annotations[{index}]: caption: expected a string, found "
                f"{short_repr(caption)}; download or write the file again",
                "data.annotations",
            )
    return annotations


def _image_names(content: Any, path: Path) -> dict[int, str]:
    """Return image id -> file name."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{path} must be {WHAT}, but has no list images", "data.annotations")
    names: dict[int, str] = {}
    for index, image in enumerate(images):
        fields = image if isinstance(image, dict) else {}
        image_id: Any = fields.get("id")
        name = fields.get("file_name")
        if not is_id(image_id) or not is_path_below(name):
            raise UserError(
                f"{path}: images[{index}]: expected an integer id and a file_name, a relative "
                "path without ..; download or write the file again",
                "data.annotations",
            )
        if image_id in names:
            raise UserError(
                f"{path}: images[{index}]: the id {image_id} is used twice; "
                "download or write the file again",
                "data.annotations",
            )
        names[image_id] = name
    return names


Image = TypeVar("Image", CaptionedImage, LabeledImage)


def _with_files(images: list[Image], path: Path, skip_missing: bool) -> list[Image]:
    """Return the images whose files exist.

    Raises:
        UserError: files are missing and not to be skipped, or no image is left.
    """
    missing = find_missing(str(image.file) for image in images)
    if missing:
        message = describe_missing(missing, path)
        if not skip_missing:
            raise UserError(f"{message}; restore them", "data.missing_images")
        logger.warning("skipped: %s", message)
        gone = set(missing)
        images = [image for image in images if str(image.file) not in gone]
    if not images:
        raise UserError(
            f"{path} lists no image that exists; specify a file that does", "data.empty"
        )
    return images

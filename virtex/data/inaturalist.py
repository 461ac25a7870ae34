"""The images of iNaturalist 2018, whose classes are in JSON files, not in folders."""

from pathlib import Path
from typing import Any

import numpy as np

from virtex.data.annotations import check_inaturalist_json, read_json
from virtex.data.image_sets import ImageSet, require_images
from virtex.errors import UserError
from virtex.text import join_first

WHAT = "iNaturalist 2018 annotations"


def read_inaturalist(data_root: Path) -> tuple[ImageSet, ImageSet]:
    """Read train and val, in the order of their files.

    Labels number the categories in the order of their ids; there are as many classes as
    categories in the file (8142 in the published ones), also if some have no image.

    Args:
        data_root: holds ``inaturalist/annotations/{train,val}2018.json``; names of images in
            them are relative to ``inaturalist/``.

    Raises:
        UserError: a file is missing or invalid, the two have different categories, an image has
            no category or two, or images are missing.
    """
    root = Path(data_root, "inaturalist")
    paths = [root / "annotations" / f"{split}2018.json" for split in ("train", "val")]
    contents = [read_json(path, WHAT) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        check_inaturalist_json(content, path)
    _require_same_categories(contents, paths)
    train, val = (
        _image_set(content, path, root, f"inaturalist_2018_{split}")
        for content, path, split in zip(contents, paths, ("train", "val"), strict=True)
    )
    return train, val


def _require_same_categories(contents: list[dict[str, Any]], paths: list[Path]) -> None:
    """Compare ids only: names were published later and may be missing in one of the files."""
    train, val = ({category["id"] for category in content["categories"]} for content in contents)
    if train != val:
        different = join_first([str(number) for number in sorted(train ^ val)])
        raise UserError(
            f"{paths[1]} and {paths[0].name} must have the same categories, but "
            f"{len(train ^ val)} are only in one of them (id {different}); "
            "use files of the same release",
            "data.annotations",
        )


def _image_set(content: dict[str, Any], path: Path, root: Path, name: str) -> ImageSet:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    category_of = _category_of_images(content, path)
    labels = [label_of[category_of[image["id"]]] for image in content["images"]]
    images = ImageSet(
        name,
        root,
        [image["file_name"] for image in content["images"]],
        np.array(labels, dtype=np.int64),
        [str(category.get("name", category["id"])) for category in categories],
    )
    return require_images(images, path)


def _category_of_images(content: dict[str, Any], path: Path) -> dict[int, int]:
    """Return image id -> id of its category."""
    found: dict[int, int] = {}
    for index, annotation in enumerate(content["annotations"]):
        image, category = annotation["image_id"], annotation["category_id"]
        if found.setdefault(image, category) != category:
            raise UserError(
                f"{path}: annotations[{index}]: image {image} has category {category} here, but "
                f"{found[image]} before; download or write the file again",
                "data.annotations",
            )
    without = [image["file_name"] for image in content["images"] if image["id"] not in found]
    if without:
        raise UserError(
            f"{path}: {len(without)} images have no annotation: {join_first(without)}; specify the "
            "file of a split with annotations",
            "data.annotations",
        )
    return found

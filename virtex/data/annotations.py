"""Annotation files, whose contents are checked before anything is computed.

The checks name the first offence, because a broken annotation file otherwise shows as a KeyError
deep inside a library, or as a score that is silently wrong.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtex.data.layouts import TOY_HINT
from virtex.data.masks import LARGEST_SIDE, is_mask, whats_wrong_in_mask
from virtex.errors import UserError
from virtex.files import CONTROL, is_path_below, read_file
from virtex.text import is_encodable


def read_json(
    path: str | Path, what: str, keep: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """The content of a JSON file; ``what`` says in words what it should be.

    ``keep`` is called with every object, innermost first, and what it returns takes the object's
    place: of a large file no more need be held in memory than is asked for.

    Raises UserError with file, line and column if it is not there or not JSON.
    """
    try:
        return json.loads(read_file(path).decode(), object_hook=keep)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; it should be {what}. {TOY_HINT}") from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({what}): {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            f"it should be {what}: download or write it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text (byte {error.start} is not UTF-8); "
            f"it should be {what} in JSON: unpack, download or write it again"
        ) from error
    except ValueError as error:  # of thousands of digits
        raise UserError(f"{path} holds a number beyond all measure; it should be {what}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be {what}") from error


# Contents ----------------------------------------------------------------------------------------

FARTHEST = 1_000_000  # pixels from the corner of an image, of a box

Check = tuple[str, Callable[[Any], bool], str]  # a field, what holds for it, in words


def is_id(value: Any) -> bool:
    """Whether it is a whole number that a tensor can hold."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_index(value: Any) -> bool:
    """An id that scorers take as well."""
    return is_id(value) and value >= 0


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str) and value != "" and not CONTROL.search(value) and is_encodable(value)
    )


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= FARTHEST**2  # NaN is not


def _is_box(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and all(type(n) in (int, float) and -FARTHEST <= n <= FARTHEST for n in value)
        and value[2] >= 0
        and value[3] >= 0
    )


def _is_id_list(value: Any) -> bool:
    return type(value) is list and all(type(number) is int for number in value)


def lvis_file(image: dict[str, Any]) -> str:
    """Folder and file below ``coco/``, which LVIS tells by the address alone."""
    return "/".join(image["coco_url"].split("/")[-2:])


def _is_lvis_url(value: Any) -> bool:
    return isinstance(value, str) and "/" in value and is_path_below(lvis_file({"coco_url": value}))


ID: Check = ("id", _is_index, "a whole number from 0 on")
SIZE: tuple[Check, ...] = (
    ("height", _is_length, f"a whole number of pixels above 0 and not above {LARGEST_SIDE}"),
    ("width", _is_length, f"a whole number of pixels above 0 and not above {LARGEST_SIDE}"),
)
AREA: Check = ("area", _is_number, "a number")
NAME: Check = ("name", _is_name, "a name")
FILE: Check = ("file_name", is_path_below, "a path below the folder (a file name, without ..)")
ANNOTATION: tuple[Check, ...] = (
    ID,
    ("image_id", is_id, "a whole number"),
    ("category_id", is_id, "a whole number"),
    (
        "bbox",
        _is_box,
        f"4 finite numbers x, y, width, height below {FARTHEST}, the last two not negative",
    ),
)
COCO_FIELDS: dict[str, tuple[Check, ...]] = {
    "categories": (ID, NAME),
    "images": (ID, FILE, *SIZE),
    "annotations": (
        *ANNOTATION,
        AREA,
        ("iscrowd", lambda value: value in (0, 1), "0 or 1"),  # or False or True
    ),
}
LVIS_FIELDS: dict[str, tuple[Check, ...]] = {
    "categories": (
        ID,
        NAME,
        ("frequency", lambda value: value in ("r", "c", "f"), '"r", "c" or "f"'),
    ),
    "images": (
        ID,
        *SIZE,
        ("coco_url", _is_lvis_url, "an address that ends in <folder>/<file>.jpg"),
        ("neg_category_ids", _is_id_list, "a list of category ids"),
        ("not_exhaustive_category_ids", _is_id_list, "a list of category ids"),
    ),
    "annotations": (*ANNOTATION, AREA),
}
INATURALIST_FIELDS: dict[str, tuple[Check, ...]] = {
    "categories": (ID,),  # their names were secret at first, and matter to none
    "images": (ID, FILE),
    "annotations": (
        ID,
        ("image_id", is_id, "a whole number"),
        ("category_id", is_id, "a whole number"),
    ),
}


def check_coco_json(content: Any, path: str | Path) -> None:
    """Raise UserError for the first thing that keeps ``content`` from being COCO instances.

    ``content`` is what ``read_json`` returned for ``path``. It must be an object with the lists
    images (id, file_name, height, width), annotations (id, image_id, category_id, bbox, area,
    iscrowd, perhaps segmentation) and categories (id, name); ids are unique, and an annotation's
    image and category exist.
    """
    _check_fields(content, path, COCO_FIELDS, "COCO instances")
    _check_references(content, path)


def check_lvis_json(content: Any, path: str | Path) -> None:
    """Raise UserError for the first thing that keeps ``content`` from being LVIS v1.

    As ``check_coco_json``, but an image has coco_url (whose last two parts are its folder and
    file), neg_category_ids and not_exhaustive_category_ids, and a category has a frequency.
    """
    _check_fields(content, path, LVIS_FIELDS, "LVIS v1 annotations")
    _check_references(content, path)
    categories = {category["id"] for category in content["categories"]}
    for index, image in enumerate(content["images"]):
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            for number in image[field]:
                if number not in categories:
                    raise UserError(
                        f"{path}: {_where('images', index, image)}: {field} names category "
                        f"{number}, which is not in categories"
                    )


def check_inaturalist_json(content: Any, path: str | Path) -> None:
    """Raise UserError for the first thing that keeps ``content`` from being iNaturalist 2018.

    As ``check_coco_json``, but an image has no size, its file_name is a path that stays below the
    folder, an annotation has image_id and category_id alone, and a category needs no name.
    """
    _check_fields(content, path, INATURALIST_FIELDS, "iNaturalist 2018 annotations")
    _check_references(content, path)


def _check_fields(
    content: Any, path: str | Path, fields: dict[str, tuple[Check, ...]], what: str
) -> None:
    """Every item of every list has its fields, of the right kind, and an id of its own."""
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds {_describe(content)} at its top, but {what} are a JSON object "
            "with the lists images, annotations and categories"
        )
    for key, checks in fields.items():
        items = content.get(key)
        if not isinstance(items, list):
            found = f"holds {_describe(items)}" if key in content else "is not there"
            raise UserError(f"{path}: {key} {found}, but {what} need a list there")
        seen: set[int] = set()
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise UserError(f"{path}: {key}[{index}] must be an object, not {_describe(item)}")
            for field, holds, expected in checks:
                if field not in item:
                    raise UserError(f"{path}: {_where(key, index, item)} has no {field}")
                if not holds(item[field]):
                    raise UserError(
                        f"{path}: {_where(key, index, item)}: {field} must be {expected}, "
                        f"not {_describe(item[field])}"
                    )
            if item["id"] in seen:
                raise UserError(f"{path}: {_where(key, index, item)} has an id that is used twice")
            seen.add(item["id"])


def _check_references(content: dict, path: str | Path) -> None:
    """Every annotation is of an image and of a category that exist; its mask, if any, is one."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for index, annotation in enumerate(content["annotations"]):
        for field, known, key in (
            ("image_id", images, "images"),
            ("category_id", categories, "categories"),
        ):
            if annotation[field] not in known:
                raise UserError(
                    f"{path}: {_where('annotations', index, annotation)}: {field} "
                    f"{annotation[field]} is not in {key}"
                )
        if "segmentation" in annotation:
            image, mask = images[annotation["image_id"]], annotation["segmentation"]
            if expected := _whats_expected_of_mask(mask, image):
                raise UserError(
                    f"{path}: {_where('annotations', index, annotation)}: segmentation must be "
                    f"{expected}, not {_describe(mask)}"
                )


def _whats_expected_of_mask(mask: Any, image: dict[str, Any]) -> str:
    """What a mask must be, in words, where it is not; "" where it is."""
    if not is_mask(mask):
        return "a list of polygons [x, y, x, y, …], or an object with size and counts"
    if "height" not in image:  # of iNaturalist, whose masks nobody reads
        return ""
    wrong = whats_wrong_in_mask(mask, image["height"], image["width"])
    return f"such that {wrong}" if wrong else ""


def _where(key: str, index: int, item: dict) -> str:
    return f"{key}[{index}] (id {item['id']})" if is_id(item.get("id")) else f"{key}[{index}]"


def _describe(value: Any) -> str:
    """A value as JSON, cut short."""
    try:
        text = json.dumps(value, default=repr)
    except RecursionError:
        text = "something nested deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."

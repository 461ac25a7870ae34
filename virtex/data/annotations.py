"""Annotation files in JSON, validated before anything is computed.

An invalid file would otherwise show as a KeyError deep inside a library, or as a wrong score.
Errors name the file, the first invalid item, its id and the field.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from virtex.data.layouts import TOY_HINT
from virtex.data.masks import MAX_SIDE, find_mask_problem, is_mask
from virtex.errors import UserError
from virtex.files import CONTROL, is_path_below, read_file
from virtex.text import is_encodable, truncate


class Digest(Protocol):
    """A hash of ``hashlib``, which has no public type."""

    def update(self, data: bytes, /) -> None: ...


def read_json(
    path: str | Path,
    what: str,
    keep: Callable[[dict[str, Any]], Any] | None = None,
    digest: Digest | None = None,
) -> Any:
    """Return the content of a JSON file.

    Args:
        what: the expected content, for error messages.
        keep: is called with every object, innermost first, and returns its replacement, so that
            only the needed part of a large file is kept in memory.
        digest: is updated with the bytes of the file, so that exactly what is read is hashed.

    Raises:
        UserError: the file is missing (``data.missing``), unreadable (``data.unreadable``) or not
            valid JSON (``data.annotations``).
    """
    try:
        data = read_file(path)
        if digest is not None:
            digest.update(data)
        return json.loads(data.decode(), object_hook=keep)
    except FileNotFoundError as error:
        raise UserError(f"{path} ({what}) was not found. {TOY_HINT}", "data.missing") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read {path} ({what}): {reason}", "data.unreadable") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except ValueError:
        reason = "a number has thousands of digits"
    except RecursionError:
        reason = "nested too deeply"
    raise UserError(
        f"{path} must be {what} in JSON, but is not valid: {reason}; download or write it again",
        "data.annotations",
    )


# Fields ----

MAX_COORDINATE = 1_000_000  # pixels
COCO_KEYPOINTS = 17  # of a person
Check = tuple[str, Callable[[Any], bool], str]  # field, predicate of its value, description


def is_id(value: Any) -> bool:
    """Return whether ``value`` is an integer that a tensor can hold."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_index(value: Any) -> bool:
    return is_id(value) and value >= 0  # evaluators accept no negative ids


def _is_name(value: Any) -> bool:
    is_string = isinstance(value, str) and value != ""
    return is_string and not CONTROL.search(value) and is_encodable(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE**2  # False for NaN


def _is_box(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and all(type(n) in (int, float) and -MAX_COORDINATE <= n <= MAX_COORDINATE for n in value)
        and value[2] >= 0
        and value[3] >= 0
    )


def _are_keypoints(number: int, value: Any) -> bool:
    if type(value) is not list or len(value) != 3 * number:
        return False
    try:  # as for polygons (virtex.data.masks), faster than a loop
        is_near = min(value) >= -MAX_COORDINATE and max(value) <= MAX_COORDINATE
        return is_near and sum(value) == sum(value) and set(value[2::3]) <= {0, 1, 2}
    except TypeError:  # not all are numbers
        return False


def _is_integer_list(value: Any) -> bool:
    return type(value) is list and all(type(number) is int for number in value)


def lvis_file(image: dict[str, Any]) -> str:
    """Return folder and file below ``coco/``, which LVIS v1 gives only in ``coco_url``."""
    return "/".join(image["coco_url"].split("/")[-2:])


def _is_lvis_url(value: Any) -> bool:
    return isinstance(value, str) and "/" in value and is_path_below(lvis_file({"coco_url": value}))


ID: Check = ("id", _is_index, "an integer >= 0")
SIZE: tuple[Check, ...] = tuple(
    (side, _is_side, f"an integer from 1 to {MAX_SIDE}") for side in ("height", "width")
)
AREA: Check = ("area", _is_number, "a number")
NAME: Check = ("name", _is_name, "a non-empty string")
FILE: Check = ("file_name", is_path_below, "a relative path without ..")
LABEL: tuple[Check, ...] = (
    ID,
    ("image_id", is_id, "an integer"),
    ("category_id", is_id, "an integer"),
)
BOX: Check = (
    "bbox",
    _is_box,
    f"[x, y, width, height] of numbers up to {MAX_COORDINATE}, with width and height >= 0",
)
CROWD: Check = ("iscrowd", lambda value: value in (0, 1), "0 or 1")
FIELDS: dict[str, dict[str, tuple[Check, ...]]] = {
    "COCO instances": {
        "categories": (ID, NAME),
        "images": (ID, FILE, *SIZE),
        "annotations": (*LABEL, BOX, AREA, CROWD),
    },
    # file names may be absolute, or outside of the folder of images
    "custom COCO instances": {
        "categories": (ID, NAME),
        "images": (ID, ("file_name", _is_name, "a path"), *SIZE),
        "annotations": (*LABEL, BOX, AREA, CROWD),
    },
    "LVIS v1 annotations": {
        "categories": (
            ID,
            NAME,
            ("frequency", lambda value: value in ("r", "c", "f"), '"r", "c" or "f"'),
        ),
        "images": (
            ID,
            *SIZE,
            ("coco_url", _is_lvis_url, "a URL that ends in FOLDER/FILE"),
            ("neg_category_ids", _is_integer_list, "a list of category ids"),
            ("not_exhaustive_category_ids", _is_integer_list, "a list of category ids"),
        ),
        "annotations": (*LABEL, BOX, AREA),
    },
    "iNaturalist 2018 annotations": {
        "categories": (ID,),  # names were published later
        "images": (ID, FILE),
        "annotations": LABEL,
    },
}


def check_coco_json(content: Any, path: str | Path) -> None:
    """Raise UserError (``data.annotations``) unless ``content`` is valid COCO instances.

    ``content`` is what ``read_json`` returned for ``path``: an object with the lists images (id,
    file_name, height, width), annotations (id, image_id, category_id, bbox, area, iscrowd, and
    optionally segmentation) and categories (id, name). Ids are unique, and the image and category
    of every annotation exist.
    """
    _check(content, path, "COCO instances")


def check_keypoints(content: Any, path: str | Path, number: int) -> None:
    """Raise UserError (``data.annotations``) unless all objects have ``number`` keypoints.

    As in COCO's person_keypoints files, annotations must have keypoints (x and y in pixels and
    visibility of each: 0 not labeled, 1 labeled but not visible, 2 visible) and num_keypoints, the
    number of labeled ones.

    Args:
        content: of the file, checked by ``check_coco_json``.
    """
    expected = f"[x, y, visibility, …], {3 * number} numbers, each visibility 0, 1 or 2"
    checks: tuple[Check, ...] = (
        ("keypoints", partial(_are_keypoints, number), expected),
        (
            "num_keypoints",
            lambda value: type(value) is int and 0 <= value <= number,
            f"an integer from 0 to {number}, the number of labeled keypoints",
        ),
    )
    _check_items(content["annotations"], path, "annotations", checks)


def check_custom_json(content: Any, path: str | Path) -> None:
    """Raise UserError (``data.annotations``) unless ``content`` is valid custom COCO instances.

    Like ``check_coco_json``, except that file names may be any paths, there must be a category, and
    the names of categories must be unique.
    """
    _check(content, path, "custom COCO instances")
    if not content["categories"]:
        raise _error(path, "categories", "expected at least one, found none")
    names: set[str] = set()
    for index, category in enumerate(content["categories"]):
        if category["name"] in names:
            raise _error(path, _place("categories", index, category), "its name is used twice")
        names.add(category["name"])


def check_lvis_json(content: Any, path: str | Path) -> None:
    """Raise UserError (``data.annotations``) unless ``content`` is valid LVIS v1.

    As ``check_coco_json``, but images have coco_url (whose last two parts are folder and file),
    neg_category_ids and not_exhaustive_category_ids, and categories have a frequency.
    """
    _check(content, path, "LVIS v1 annotations")
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        pairs = ((i, n) for i, image in enumerate(content["images"]) for n in image[field])
        _check_references(content, path, "images", pairs, field, "categories")


def check_inaturalist_json(content: Any, path: str | Path) -> None:
    """Raise UserError (``data.annotations``) unless ``content`` is valid iNaturalist 2018.

    As ``check_coco_json``, but images have only id and file_name, annotations have only image_id
    and category_id, and categories need no name.
    """
    _check(content, path, "iNaturalist 2018 annotations")


def _check(content: Any, path: str | Path, what: str) -> None:
    if not isinstance(content, dict):
        raise _error(path, what, f"expected an object, found {_describe(content)}")
    for key, checks in FIELDS[what].items():
        if not isinstance(content.get(key), list):
            raise _error(path, key, f"expected a list, found {_describe(content.get(key))}")
        _check_items(content[key], path, key, checks)
    for field, key in (("image_id", "images"), ("category_id", "categories")):
        pairs = enumerate(annotation[field] for annotation in content["annotations"])
        _check_references(content, path, "annotations", pairs, field, key)
    _check_masks(content, path)


def _check_items(items: list[Any], path: str | Path, key: str, checks: tuple[Check, ...]) -> None:
    """Check one field of all items after the other."""
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _error(path, f"{key}[{index}]", f"expected an object, found {_describe(item)}")
    for field, is_valid, expected in checks:
        for index, item in enumerate(items):
            if field not in item or not is_valid(item[field]):
                found = _describe(item[field]) if field in item else "nothing"
                place = f"{_place(key, index, item)}: {field}"
                raise _error(path, place, f"expected {expected}, found {found}")
    ids = [item["id"] for item in items]
    if len(set(ids)) < len(ids):
        first: dict[int, int] = {}
        index = next(i for i, number in enumerate(ids) if first.setdefault(number, i) != i)
        raise _error(path, _place(key, index, items[index]), "its id is used twice")


def _check_references(
    content: dict[str, Any],
    path: str | Path,
    key: str,
    pairs: Iterable[tuple[int, int]],
    field: str,
    target: str,
) -> None:
    """Check that each id in ``pairs`` (index in ``key``, id) is one of ``target``."""
    known = {item["id"] for item in content[target]}
    for index, number in pairs:
        if number not in known:
            place = f"{_place(key, index, content[key][index])}: {field}"
            raise _error(path, place, f"{number} is not in {target}")


def _check_masks(content: dict[str, Any], path: str | Path) -> None:
    images = {image["id"]: image for image in content["images"]}
    for index, annotation in enumerate(content["annotations"]):
        if "segmentation" not in annotation:
            continue
        image, mask = images[annotation["image_id"]], annotation["segmentation"]
        if not is_mask(mask):
            problem = "expected polygons [[x, y, x, y, …], …], or an object with size and counts"
        elif "height" in image:
            problem = find_mask_problem(mask, image["height"], image["width"])
        else:  # iNaturalist's masks are not read
            problem = ""
        if problem:
            place = f"{_place('annotations', index, annotation)}: segmentation"
            raise _error(path, place, f"{problem}, found {_describe(mask)}")


def _error(path: str | Path, place: str, problem: str) -> UserError:
    return UserError(
        f"{path}: {place}: {problem}; download or write the file again", "data.annotations"
    )


def _place(key: str, index: int, item: dict[str, Any]) -> str:
    return f"{key}[{index}] (id {item['id']})" if is_id(item.get("id")) else f"{key}[{index}]"


def _describe(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters."""
    try:
        return truncate(json.dumps(value, default=repr), 60)
    except (RecursionError, ValueError):
        return "a value that is nested too deeply or too large"

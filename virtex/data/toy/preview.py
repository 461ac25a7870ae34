"""A contact sheet of toy data: COCO with masks, boxes and captions, Cityscapes with classes."""

import textwrap
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from virtex.data.annotations import read_json
from virtex.data.cityscapes import (
    CLASSES,
    IGNORED_TRAIN_ID,
    TRAIN_IDS_FILE,
    Frame,
    find_frames,
    read_ids,
)
from virtex.data.decoding import load_rgb
from virtex.errors import UserError

ZOOM = 2
CELL = (420, 520)  # width, height in pixels
COLUMNS = 3
COLORS = ((255, 120, 220), (64, 255, 255), (255, 255, 64), (120, 255, 120), (255, 160, 64))
PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg")


def write_preview(data_root: Path, file: Path, images: int = 6) -> None:
    """Draw the first ``images`` of COCO val2017, and some of Cityscapes val, into ``file``.

    Raises UserError if the data cannot be read or the file cannot be written.
    """
    check_preview_name(file)
    sheet = contact_sheet(Path(data_root), images)
    done, encoded = cv2.imencode(Path(file).suffix.lower(), sheet[:, :, ::-1])
    assert done, "OpenCV writes all of PREVIEW_SUFFIXES"
    try:
        Path(file).write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"cannot write the preview {file}: {error.strerror or error}", "data.unwritable"
        ) from error


def check_preview_name(file: Path) -> None:
    """Raise UserError unless ``file`` has the name of a PNG or JPEG."""
    if Path(file).suffix.lower() not in PREVIEW_SUFFIXES:
        raise UserError(
            f"the preview {file} must end in one of {', '.join(PREVIEW_SUFFIXES)}",
            "arguments.invalid",
        )


def contact_sheet(data_root: Path, images: int) -> np.ndarray:
    """Return the sheet, (height, width, 3) RGB uint8, one cell per image."""
    folder = data_root / "coco" / "annotations"
    content = read_json(folder / "instances_val2017.json", "COCO instances")
    captions = read_json(folder / "captions_val2017.json", "COCO captions")
    names = {category["id"]: category["name"] for category in content["categories"]}
    cells = []
    for image in content["images"][:images]:
        found = [ann for ann in content["annotations"] if ann["image_id"] == image["id"]]
        lines = [
            ann["caption"] for ann in captions["annotations"] if ann["image_id"] == image["id"]
        ]
        cells.append(_cell(data_root, image, found, lines, names))
    while len(cells) % COLUMNS:
        cells.append(np.full_like(cells[0], 255))
    folder = data_root / "cityscapes"
    frames, _ = find_frames(folder / "leftImg8bit/val", folder / "gtFine/val", [TRAIN_IDS_FILE])
    cells += [_street_cell(frame) for frame in frames[:COLUMNS]]
    while len(cells) % COLUMNS:
        cells.append(np.full_like(cells[0], 255))
    rows = [np.concatenate(cells[at : at + COLUMNS], 1) for at in range(0, len(cells), COLUMNS)]
    return np.concatenate(rows)


def _cell(
    data_root: Path, image: dict, found: list[dict], lines: list[str], names: dict[int, str]
) -> np.ndarray:
    pixels = load_rgb(data_root / "coco" / "val2017" / image["file_name"])
    pixels = cv2.resize(pixels, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
    for index, annotation in enumerate(found):
        _draw_annotation(pixels, annotation, names, COLORS[index % len(COLORS)], image)
    cell = np.full((CELL[1], CELL[0], 3), 255, np.uint8)
    cell[8 : 8 + pixels.shape[0], 8 : 8 + pixels.shape[1]] = pixels
    y = pixels.shape[0] + 26
    for line in lines:
        for part in textwrap.wrap(line, 58, subsequent_indent="   "):
            _write_text(cell, part, (8, y), (0, 0, 0))
            y += 15
    return cell


def _street_cell(frame: Frame) -> np.ndarray:
    """Draw an image of Cityscapes, its classes as colors (black: ignored) and their names."""
    pixels = load_rgb(frame.image)
    height, width = pixels.shape[:2]
    ids = read_ids(frame.annotation(TRAIN_IDS_FILE), width, height)
    colors = cv2.applyColorMap((ids * 13).astype(np.uint8), cv2.COLORMAP_HSV)  # 19 hues
    colors[ids == IGNORED_TRAIN_ID] = 0
    both = np.concatenate([pixels, colors]).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    cell = np.full((CELL[1], CELL[0], 3), 255, np.uint8)
    cell[8 : 8 + both.shape[0], 8 : 8 + both.shape[1]] = both
    names = [name for index, name in enumerate(CLASSES.values()) if index in ids]
    for number, line in enumerate(textwrap.wrap(", ".join(names), 58)):
        _write_text(cell, line, (8, both.shape[0] + 26 + 15 * number), (0, 0, 0))
    return cell


def _draw_annotation(
    pixels: np.ndarray,
    annotation: dict,
    names: dict[int, str],
    color: tuple[int, int, int],
    image: dict,
) -> None:
    """Draw the mask, the box and the name of the category."""
    mask = _mask(annotation["segmentation"], image["height"], image["width"])
    mask = mask.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, contours, -1, color, 2)
    x, y, width, height = (round(ZOOM * value) for value in annotation["bbox"])
    cv2.rectangle(pixels, (x, y), (x + width, y + height), color, 1)
    name = names[annotation["category_id"]] + " (crowd)" * annotation["iscrowd"]
    top = max(y - 14, 0)
    cv2.rectangle(pixels, (x, top), (x + 7 * len(name), top + 14), color, -1)
    _write_text(pixels, name, (x + 2, top + 11), (0, 0, 0))


def _write_text(
    pixels: np.ndarray, text: str, place: tuple[int, int], color: tuple[int, int, int]
) -> None:
    cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)


def _mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    rles = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(coco_mask.merge(rles) if isinstance(rles, list) else rles)

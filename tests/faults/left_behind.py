"""What a run has left on the disk: whether each file is whole, and what it says."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from PIL import Image

from virtex.checkpoints.hashing import sha256_of
from virtex.data.tokenizer import Tokenizer
from virtex.data.toy.write import UNFINISHED as UNFINISHED_TOY

# Written as they come, and never read by a run; or of no meaning while nobody holds them.
JOURNALS = re.compile(r"log\.txt.*|events\.out\..*|.*\.log|.*\.lock|\.evaluate_all.*|\.somebody.*")
# Goes on where a process was killed or refused; none is there once the same has ended well.
PARTS = re.compile(r".*\.part|.*\.part\.json|captions\.partial.*|toy\.unfinished\.json")
# What a killed process may leave, and one that ends in order may not.
UNFINISHED = re.compile(r".*\.unfinished|tmp\w{8}|partial-.*|(virtex-truth-|pascal_voc_).*")
# Differs between two runs of the same.
OF_THE_TIME = re.compile(
    r"timing|created|stopwatch|git_revision|when|(data_|rank_data_)?time|.*seconds|.*per_second"
    # the machine's affair
    r"|NUM_WORKERS"
    # medians over the iterations that one process of Detectron2 has seen
    r"|total_loss|loss_.*|(fast_rcnn|mask_rcnn|rpn|roi_head)/.*"
)
DATE = re.compile(r"\d{4}-\d\d-\d\dT[\d:+]+")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def results_of(folder: Path) -> dict[str, Path]:
    """Relative path -> path, of files with the name of something finished."""
    paths = {path.relative_to(folder): path for path in files_of(folder)}
    return {str(name): path for name, path in paths.items() if not any(map(is_other, name.parts))}


def is_other(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in (JOURNALS, PARTS, UNFINISHED))


def unfinished(folder: Path, *, parts: bool = False) -> list[str]:
    """What should not be there.

    Args:
        parts: nor should that which a next run would go on with.
    """
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if UNFINISHED.fullmatch(path.name) or (parts and PARTS.fullmatch(path.name))
    ]


# --- one file ------------------------------------------------------------------------------------


def as_checkpoint(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def as_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def as_lines(path: Path) -> Any:
    """A JSON object a line; the process may have been killed within the last one."""
    *lines, last = path.read_text().split("\n")
    return [json.loads(line) for line in lines] + [last][: bool(last)]


def as_features(path: Path) -> Any:
    features = np.load(path)
    assert list(features.shape) == as_json(path.with_name("entry.json"))["shape"]
    assert np.isfinite(features).all()
    return features


def as_picture(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def as_page(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>"), f"{path} has no end"
    return DATE.sub("", text)


def as_table(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n"), f"{path} has no end"
    return list(csv.reader(io.StringIO(DATE.sub("", text))))


def as_pin(path: Path) -> Any:
    pinned, name = path.read_text().split()
    assert name == path.stem and pinned == sha256_of(path.with_name(name))
    return pinned


def as_settings(path: Path) -> Any:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found, f"{path} is empty"
    return found


def as_name(path: Path) -> Any:
    name = path.read_text()
    assert path.with_name(name).is_file()
    return name


READERS = {
    "metrics.json": as_lines,
    "features.npy": as_features,
    "last_checkpoint": as_name,
    ".pth": as_checkpoint,
    ".json": as_json,
    ".yaml": as_settings,
    ".png": as_picture,
    ".jpg": as_picture,
    ".JPEG": as_picture,
    ".html": as_page,
    ".csv": as_table,
    ".md": as_table,
    ".vocab": as_table,
    ".sha256": as_pin,
    ".xml": lambda path: ElementTree.parse(path) and path.read_bytes(),
    ".model": lambda path: len(Tokenizer(path)) and path.read_bytes(),
}


def read(path: Path) -> Any:
    """What a file holds.

    Raises:
        Exception: it is not all of what its name promises.
    """
    reader = READERS.get(path.name) or READERS.get(path.suffix, Path.read_bytes)
    return reader(path)


def said_by(path: Path) -> Any:
    """What a file says, but for the time it took; comparable by ==."""
    return timeless(read(path))


def timeless(value: Any) -> Any:
    """JSON or a checkpoint without what depends on the time."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not OF_THE_TIME.fullmatch(str(k))}
    if isinstance(value, list | tuple):
        return [timeless(one) for one in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), timeless(value.tobytes()))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value


# --- all of them ---------------------------------------------------------------------------------


def torn(folder: Path) -> list[str]:
    """Files under a final name that do not hold all of what that name promises."""
    found = []
    for name, path in results_of(folder).items():
        if not marked_unfinished(path, folder):
            try:
                read(path)
            except Exception as error:
                found.append(f"{name}: {error!r}")
    return found


def marked_unfinished(path: Path, folder: Path) -> bool:
    """Whether the toy data it belongs to say that they are not all there."""
    place = folder / path.relative_to(folder).parts[0]
    return (place / UNFINISHED_TOY).is_file()


def content(folder: Path) -> dict[str, Any]:
    """Relative path -> what a file says."""
    return {name: said_by(path) for name, path in results_of(folder).items()}


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of files that are not in both, or do not say the same."""
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )

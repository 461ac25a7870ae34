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

from virtex.data.tokenizer import Tokenizer
from virtex.data.toy.write import UNFINISHED as UNFINISHED_TOY

# Written line by line, or as they come; their last line may be torn, and is dropped by --resume.
STREAMS = (
    *("log.txt", "metrics.json", "events.out.", "captions.partial", ".lock", "toy.unfinished"),
    *(".somebody_elses", ".evaluate_all"),
)
STREAM_ENDINGS = (".part", ".lock", ".log")
# What a killed process may leave, and one that ends in order may not.
UNFINISHED = re.compile(r".*\.unfinished|tmp\w{8}|partial-.*|(virtex-truth-|pascal_voc_).*")
# Differs between two runs of the same.
OF_THE_TIME = {
    *("timing", "created", "environment", "stopwatch", "images_per_second", "data_seconds"),
    *("time", "data_time", "eta_seconds", "seconds", "when", "rank_data_time"),
}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_stream(path: Path) -> bool:
    return path.name.startswith(STREAMS) or path.name.endswith(STREAM_ENDINGS)


def marked_unfinished(path: Path, folder: Path) -> bool:
    """Whether the toy data it belongs to say that they are not all there."""
    place = folder / path.relative_to(folder).parts[0]
    return (place / UNFINISHED_TOY).is_file()


def unfinished(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if UNFINISHED.fullmatch(path.name)
    ]


def as_checkpoint(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def as_picture(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def as_page(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>"), f"{path} has no end"
    return text


def as_table(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n"), f"{path} has no end"
    return list(csv.reader(io.StringIO(text)))


def as_lines(path: Path) -> Any:
    """Of metrics.json, each once: a run that was stopped after its last validation, and before
    its record, validates again."""
    return [json.loads(line) for line in dict.fromkeys(path.read_text().splitlines())]


READERS = {
    ".pth": as_checkpoint,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".yaml": lambda path: yaml.safe_load(path.read_text(encoding="utf-8")) or 1 / 0,
    ".npy": np.load,
    ".png": as_picture,
    ".jpg": as_picture,
    ".JPEG": as_picture,
    ".html": as_page,
    ".csv": as_table,
    ".md": as_table,
    ".vocab": as_table,
    ".sha256": as_table,
    ".xml": lambda path: ElementTree.parse(path) and path.read_bytes(),
    ".model": lambda path: len(Tokenizer(path)) and path.read_bytes(),
}


def torn(folder: Path) -> list[str]:
    """Files under a final name that do not hold all of what that name promises."""
    found = []
    for path in files_of(folder):
        if is_stream(path) or marked_unfinished(path, folder):
            continue
        try:
            READERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error!r}")
    return found


def content(folder: Path) -> dict[str, Any]:
    """Relative path -> what a file says, but for the time it took."""
    found = {}
    for path in files_of(folder):
        name = str(path.relative_to(folder))
        if path.name == "metrics.json":
            found[name] = timeless(as_lines(path))
        elif not is_stream(path):
            found[name] = timeless(READERS.get(path.suffix, Path.read_bytes)(path))
    return found


def timeless(value: Any) -> Any:
    """JSON or a checkpoint without what depends on the time; comparable by ==."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in OF_THE_TIME}
    if isinstance(value, list | tuple):
        return [timeless(one) for one in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), timeless(value.tobytes()))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of files that are not in both, or do not say the same."""
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )

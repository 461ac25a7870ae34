"""Read the files that a run leaves, and compare their content without times and dates."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

# not read by a resumed run
JOURNALS = re.compile(r"log\.txt.*|events\.out\..*|.*\.log|.*\.lock|std(out|err)")
# left by a killed process only
UNFINISHED = re.compile(r".*\.unfinished|tmp\w{8}|partial-.*|captions\.partial.*|.*\.part(\.json)?")
TIMES = re.compile(
    r"timing|created|stopwatch|git_revision|when|(data_|rank_data_)?time|.*seconds|.*per_second"
    r"|NUM_WORKERS|peak_memory"
    # medians over the iterations of one process of Detectron2
    r"|total_loss|loss_.*|(fast_rcnn|mask_rcnn|rpn|roi_head)/.*"
)


def read_lines(path: Path) -> list:
    """Read JSON lines; a process may have been killed while it wrote the last one."""
    *lines, last = path.read_text().split("\n")
    return [json.loads(line) for line in lines] + [last][: bool(last)]


def read_features(path: Path) -> np.ndarray:
    features = np.load(path)
    shape = json.loads(path.with_name("entry.json").read_text())["shape"]
    assert list(features.shape) == shape and np.isfinite(features).all()
    return features


READERS = {
    "metrics.json": read_lines,
    "features.npy": read_features,
    "last_checkpoint": lambda path: path.with_name(path.read_text()).stat() and path.read_text(),
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".yaml": lambda path: yaml.safe_load(path.read_text(encoding="utf-8")),
}


def read(path: Path) -> Any:
    """Read a file.

    Raises:
        Exception: it is incomplete.
    """
    return (READERS.get(path.name) or READERS.get(path.suffix, Path.read_bytes))(path)


def timeless(value: Any) -> Any:
    """Remove what depends on the time, and make the rest comparable by ``==``."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not TIMES.fullmatch(str(k))}
    if isinstance(value, list | tuple):
        return [timeless(one) for one in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), timeless(value.tobytes()))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value


def incomplete(folder: Path) -> list[str]:
    """Return the files under a final name that cannot be read."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        if not any(JOURNALS.fullmatch(part) or UNFINISHED.fullmatch(part) for part in parts):
            try:
                read(path)
            except Exception as error:
                found.append(f"{path}: {error!r}")
    return found


def unfinished(folder: Path) -> list[str]:
    """Return the files that only a killed process may leave."""
    return [str(path) for path in sorted(folder.rglob("*")) if UNFINISHED.fullmatch(path.name)]

"""What is to be written, and the few ways in which toy files are written.

The same ``Plan`` gives the same bytes in every file. OSError passes through.
"""

import io
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

LICENSES = [
    {
        "id": 1,
        "name": "No rights reserved",
        "url": "http://creativecommons.org/publicdomain/zero/1.0/",
    }
]

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Plan:
    """What to write: the folder, the seed, how many images; ``tick`` is called after each.

    ``train_images`` are those of every set but COCO.
    """

    out: Path
    seed: int
    train_images: int
    val_images: int
    coco_train_images: int
    tick: Callable[[], object] = lambda: None

    def each(self, make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """``make(item)`` of every item, in their order; no picture depends on another one."""
        made = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for one in pool.map(make, items):
                made.append(one)
                self.tick()
        return made


def jpeg_bytes(image: np.ndarray) -> bytes:
    """``image`` (height, width, 3) RGB uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def write_file(path: Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8 with Unix line ends, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: dict) -> None:
    write_file(path, json.dumps(content))


def info_block(name: str, year: int) -> dict:
    """The ``info`` of a JSON file; its date is fixed, for files must not depend on the day."""
    return {
        "description": f"Toy world in the format of {name}",
        "url": "",
        "version": "1.0",
        "year": year,
        "contributor": "virtex.data.toy",
        "date_created": f"{year}/01/01",
    }

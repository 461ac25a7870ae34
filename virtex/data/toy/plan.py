"""The sizes of toy data, and how its files are written.

The same ``Plan`` gives the same bytes in every file. OSError is not caught here.
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

from virtex.files import record_file

LICENSES = [
    {
        "id": 1,
        "name": "No rights reserved",
        "url": "http://creativecommons.org/publicdomain/zero/1.0/",
    }
]

Item = TypeVar("Item")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Plan:
    """What to write: the folder, the seed and the numbers of images.

    ``train_images`` is the number of every dataset but COCO; ``tick`` is called after each image.
    """

    out: Path
    seed: int
    train_images: int
    val_images: int
    coco_train_images: int
    tick: Callable[[], object] = lambda: None

    def map(self, make: Callable[[Item], Output], items: Iterable[Item]) -> list[Output]:
        """Return ``make(item)`` for every item, in order, computed in threads."""
        outputs = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for output in pool.map(make, items):
                outputs.append(output)
                self.tick()
        return outputs


def jpeg_bytes(image: np.ndarray) -> bytes:
    """Encode an image, (height, width, 3) RGB uint8, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode RGB (height, width, 3) uint8, or one channel (height, width) uint8 or uint16."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_file(path: Path, content: bytes | str) -> None:
    """Write bytes or text (UTF-8, Unix line ends) and create the folders above."""
    record_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: dict) -> None:
    write_file(path, json.dumps(content))


def info_block(name: str, year: int) -> dict:
    """Return the ``info`` of a JSON file; the date is fixed, so that files are reproducible."""
    return {
        "description": f"Toy world in the format of {name}",
        "url": "",
        "version": "1.0",
        "year": year,
        "contributor": "virtex.data.toy",
        "date_created": f"{year}/01/01",
    }

"""Toy data for tests, drawn once a process: drawing takes seconds, copying does not."""

import functools
import shutil
import tempfile
from pathlib import Path

from virtex.data.toy import write_toy_data


@functools.cache
def _drawn(train_images: int, val_images: int) -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="virtex-toy-")
    sizes = {"train_images": train_images, "val_images": val_images}
    write_toy_data(Path(folder.name) / "data", seed=0, **sizes)
    return folder


def copy_toy_data(root: Path, train_images: int, val_images: int) -> Path:
    """Write toy data of seed 0 to a folder that does not exist; return the folder."""
    drawn = Path(_drawn(train_images, val_images).name) / "data"
    return Path(shutil.copytree(drawn, root))

"""The smallest toy data, of which every test module spoils a copy of its own."""

import functools
import shutil
import tempfile
from pathlib import Path

from virtex.data.toy import write_toy_data


@functools.cache
def smallest() -> Path:
    """A data root with two images to train and two to validate on, written once a process."""
    holder = tempfile.TemporaryDirectory(prefix="virtex-hostile-")
    _kept.append(holder)
    root = Path(holder.name) / "toy"
    write_toy_data(root, seed=0, train_images=2, val_images=2)
    return root


_kept: list[tempfile.TemporaryDirectory] = []


def copied(top: Path, *names: str) -> Path:
    """A data root in ``top`` with some of the layouts, beside a picture that nobody has named."""
    root = top / "data"
    root.mkdir()
    for name in names:
        shutil.copytree(smallest() / name, root / name)
    (top / "outside").mkdir()
    picture = next((smallest() / "VOC2007/JPEGImages").iterdir())
    shutil.copy(picture, top / "outside/secret.jpg")
    return root

"""Find the image files of ``--images``: files, folders and patterns."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from virtex.errors import UserError
from virtex.files import describe_folder

SETTING = re.compile(r"[A-Z]+(\.[A-Z_]+)+")


def find_image_files(names: Sequence[str]) -> list[Path]:
    """Find the images of ``--images``, without duplicates.

    Args:
        names: image files with any suffix, folders, which are searched recursively for files with
            an image suffix, or patterns such as ``photos/*.jpg``.

    Raises:
        UserError: a path does not exist, or a folder or pattern contains no image.
    """
    paths: dict[str, Path] = {}
    for name in names:
        found = _find(Path(name)) or [
            path for match in sorted(glob.glob(name, recursive=True)) for path in _find(Path(match))
        ]
        if not found and SETTING.fullmatch(name):
            raise UserError(
                f"--images expects images and folders, but got the setting {name}; put settings "
                "before --images",
                code="arguments.misplaced_setting",
            )
        if not found:
            raise UserError(
                f"--images: {name} {describe_folder(name)}; expected images, or a folder of images "
                f"({', '.join(IMG_EXTENSIONS)})",
                code="data.no_images",
            )
        for path in found:
            paths.setdefault(os.path.abspath(path), path)
    return list(paths.values())


def _find(path: Path) -> list[Path]:
    """Return a file, or the files with an image suffix below a folder, sorted."""
    if path.is_file():
        return [path]
    return [
        found
        for found in sorted(path.rglob("*"))
        if found.suffix.lower() in IMG_EXTENSIONS and found.is_file()
    ]

"""Locate the packaged files (configs, the model zoo, published results) and the cache."""

import os
from pathlib import Path

from virtex.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def resource_path(name: str) -> Path:
    """Return the path of a packaged file or folder, such as ``"model_zoo.yaml"``.

    ``model_zoo.yaml`` and ``detectron_configs`` are at the top of the repository, where people look
    for them, and a wheel holds copies in the package. Checkouts, editable installs and the zip that
    ``torch.hub`` unpacks have them beside the package.
    """
    packaged = PACKAGE / name
    return packaged if packaged.exists() else PACKAGE.parent / name


def cache_folder() -> Path:
    """Return ``$FVCORE_CACHE``, or iopath's cache in the home folder; it may not exist.

    Unlike iopath's ``get_cache_dir``, it never falls back to a folder in TMPDIR: other users know
    its name, and could put files into it.

    Raises:
        UserError: the home folder is unknown.
    """
    folder = os.path.expanduser(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache")
    if folder.startswith("~"):
        raise UserError(
            "the cache needs a home folder, but there is none; set FVCORE_CACHE to a folder of "
            "your own",
            "cache.no_home",
        )
    return Path(folder)

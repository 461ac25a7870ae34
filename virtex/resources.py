"""Locate the packaged files: configs, the model zoo and published results."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource_path(name: str) -> Path:
    """Return the path of a packaged file or folder, such as ``"model_zoo.yaml"``.

    ``model_zoo.yaml`` and ``detectron_configs`` are at the top of the repository, where people look
    for them, and a wheel holds copies in the package. Checkouts, editable installs and the zip that
    ``torch.hub`` unpacks have them beside the package.
    """
    packaged = PACKAGE / name
    return packaged if packaged.exists() else PACKAGE.parent / name

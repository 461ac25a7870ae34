"""What Detectron2 trips over today, each line with its reason; all but two for v0.5 alone."""

import builtins
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import NoReturn


def version() -> str | None:
    """The installed detectron2's version, or None. Does not import it."""
    if importlib.util.find_spec("detectron2") is None:
        return None
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None  # an unusual installation: taken for a current one


def prepare() -> None:
    """Supply what Detectron2 expects of its libraries. Call before anything imports it."""
    # every Detectron2 scripts a function at import; torch 2.14 warns that this will go
    warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
    supply_pkg_resources()
    if (version() or "").startswith("0.5"):
        supply_pillow_names()
        supply_numpy_names()
        supply_compiled_module()
        ignore_old_idioms()


def supply_pillow_names() -> None:
    from PIL import Image

    if not hasattr(Image, "LINEAR"):  # data/transforms/transform.py; removed in Pillow 10
        vars(Image)["LINEAR"] = Image.Resampling.BILINEAR


def supply_numpy_names() -> None:
    import numpy as np

    # structures, evaluation and utils.visualizer use them; removed in numpy 1.24
    for name in ("str", "int", "float", "bool", "object"):
        if name not in vars(np):
            setattr(np, name, getattr(builtins, name))


def supply_pkg_resources() -> None:
    """model_zoo.py finds its configs through it, on main too; current setuptools lack it."""
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    from importlib.resources import files

    stand_in = types.ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = lambda package, name: str(files(package) / name)
    sys.modules["pkg_resources"] = stand_in


def supply_compiled_module() -> None:
    """Four modules import ``_C`` when they are imported, though nothing here calls it:
    evaluation/fast_eval_api.py, layers/deform_conv.py, layers/rotated_boxes.py and
    layers/roi_align_rotated.py.
    """
    # finding detectron2._C would import detectron2, and torch with it, which may not be there
    package = importlib.util.find_spec("detectron2")
    folders = (package.submodule_search_locations or ()) if package else ()
    compiled = any(path for folder in folders for path in Path(folder).glob("_C.*"))
    if "detectron2._C" not in sys.modules and not compiled:
        sys.modules["detectron2._C"] = NotCompiled("detectron2._C")


class NotCompiledError(RuntimeError, AttributeError):
    """AttributeError too, as pickle asks every module there is for any name."""


class NotCompiled(types.ModuleType):
    """Stands in for detectron2's compiled code and says so when it is used."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what the import system itself asks of a module
            raise AttributeError(name)
        raise NotCompiledError(
            f"detectron2's compiled function {name} is needed, but this installation has "
            "none: install the official repository with a compiler (deformable convolutions "
            "and rotated boxes need it)"
        )


def ignore_old_idioms() -> None:
    """torch warns of these at each image: structures/boxes.py, modeling/anchor_generator.py."""
    warnings.filterwarnings("ignore", r"Creating a tensor from a list of numpy", UserWarning)
    warnings.filterwarnings("ignore", r"torch\.meshgrid", UserWarning)

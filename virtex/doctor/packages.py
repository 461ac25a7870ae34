"""Checks of the packages that the toolkit asks for: which are there, and in which versions."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Iterator

from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding

TORCH_PAIR = "pip install --upgrade --force-reinstall torch torchvision"

# What the main job, training and scoring a detector, cannot run without. The one place that says
# so: without any other package the doctor has a note, not a problem.
NEEDED = {
    "torch": "the engine",
    "torchvision": "NMS and RoIAlign; must match torch",
    "numpy": "arrays",
    "fvcore": "configuration, checkpoints, PreciseBN",
    "iopath": "paths",
    "pycocotools": "masks, and the reference scores of COCO",
    "lvis": "the reference scores of LVIS",
    "opencv-python": "drawing and polygons",
    "Pillow": "image decoding",
    "safetensors": "checkpoints",
    "requests": "downloads",
    "filelock": "downloads",
    "tqdm": "progress",
    "tensorboard": "training curves",
    "matplotlib": "Detectron2's drawings",
    "termcolor": "Detectron2's log",
    "yacs": "Detectron2's configuration",
    "tabulate": "Detectron2's tables",
    "cloudpickle": "Detectron2's processes",
    "omegaconf": "Detectron2's configuration",
    "packaging": "Detectron2's and matplotlib's look at versions",
}
# the same module from another package; the last two draw no windows and need no libGL
STAND_INS = {
    "opencv-python": (
        "opencv-contrib-python",
        "opencv-python-headless",
        "opencv-contrib-python-headless",
    )
}


def requirements(seconds: float) -> Iterator[Finding]:
    """All that the toolkit's metadata ask for, in the versions that they ask for.

    Another version is a note: whether it works all the same, the checks of libraries try.
    """
    answer = ask("from virtex.doctor.packages import unmet; tell(**unmet())", seconds)
    if answer.error:
        said = f"the versions of packages cannot be checked: {answer.error}"
        yield Finding("packages", NOTE, said, "make setup")
    elif wrong := answer.facts["wrong"]:
        names = " ".join(map(shlex.quote, wrong))
        state = PROBLEM if answer.facts["absent"] else NOTE
        yield Finding("packages", state, "; ".join(wrong.values()), f"pip install {names}")
    else:
        said = f"all {answer.facts['asked']} that are asked for, in versions that fit"
        yield Finding("packages", OK, said)


def unmet() -> dict[str, object]:
    """How many packages are asked for; what is wrong with those that do not fit; who is absent.

    Returns:
        ``asked``, their number; ``wrong``, requirement -> what is wrong; ``absent``, those of
        ``NEEDED`` that are not installed.
    """
    from packaging.requirements import Requirement  # which may be missing

    asked = [Requirement(text) for text in importlib.metadata.requires("virtex") or ()]
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong, absent = {}, []
    for one in asked:
        package = distribution(one.name)
        if package is None:
            purpose = f", which is needed for {NEEDED[one.name]}" if one.name in NEEDED else ""
            wrong[str(one)] = f"{one.name} is not installed{purpose}"
            absent += [one.name] * (one.name in NEEDED)
            continue
        version = importlib.metadata.version(package)
        if not one.specifier.contains(version, prereleases=True):
            fits = str(one).replace(one.name, package, 1)
            wrong[fits] = f"{package} is {version}, and {one.specifier} is asked for"
    return {"asked": len(asked), "wrong": wrong, "absent": absent}


def distribution(package: str) -> str | None:
    """The installed package, or the one that stands in for it; None where pip knows of neither."""
    for name in (package, *STAND_INS.get(package, ())):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return None

"""Checks of Python and of what is imported: what is there, and whether it works."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import virtex
from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding, Limits
from virtex.results import git_revision

INSTALL_DETECTRON2 = "python -m virtex.detectron.install"
WITHOUT = "; no deformable convolutions, no rotated boxes"
TORCH_PAIR = "pip install --upgrade --force-reinstall torch torchvision"


def this_toolkit(limits: Limits) -> Iterator[Finding]:
    revision = git_revision()
    commit = f", commit {revision}" if revision else ""
    yield Finding("virtex", OK, f"{virtex.__version__}{commit}")


def this_python(limits: Limits) -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    yield Finding("Python", OK, found)  # an older one has not come this far


def requirements(limits: Limits) -> Iterator[Finding]:
    """All that the toolkit's metadata ask for, in the versions that they ask for."""
    answer = ask(REQUIREMENTS, limits.seconds)
    if answer.error:
        said = f"the versions of packages cannot be checked: {answer.error}"
        yield Finding("packages", NOTE, said, "make setup")
    elif wrong := answer.facts["wrong"]:
        names = " ".join(map(shlex.quote, wrong))
        yield Finding("packages", PROBLEM, "; ".join(wrong.values()), f"pip install {names}")
    else:
        said = f"all {answer.facts['needed']} that are needed, in versions that fit"
        yield Finding("packages", OK, said)


REQUIREMENTS = """
from importlib import metadata
from packaging.requirements import Requirement
needed = [Requirement(text) for text in metadata.requires("virtex")]
needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
wrong = {}
for one in needed:
    try:
        version = metadata.version(one.name)
    except metadata.PackageNotFoundError:
        wrong[str(one)] = f"{one.name} is not installed"
        continue
    if not one.specifier.contains(version, prereleases=True):
        wrong[str(one)] = f"{one.name} is {version}, and {one.specifier} is needed"
tell(wrong=wrong, needed=len(needed))
"""


def torchvision(limits: Limits) -> Iterator[Finding]:
    """Its compiled code runs with the torch that it was made for alone."""
    answer = ask(TORCHVISION, limits.seconds)
    if not answer.error:
        found = f"{answer.facts['version']}, its NMS runs on {answer.facts['ran']}"
        yield Finding("torchvision", OK, found)
        return
    version, wanted = installed("torchvision")
    if version:
        found = f"{version}, which asks for {wanted}, does not work with torch "
        found += f"{installed('torch')[0] or '(which is not installed)'}: {answer.error}"
    else:
        found = f"is not installed: {answer.error}"
    yield Finding("torchvision", PROBLEM, found, TORCH_PAIR)


def installed(package: str) -> tuple[str, str]:
    """Its version and the torch that it asks for; "" where pip knows of none."""
    try:
        asked = importlib.metadata.requires(package) or []
        wanted = next((text for text in asked if re.match(r"torch\b", text)), "any torch")
        return importlib.metadata.version(package), wanted
    except importlib.metadata.PackageNotFoundError:
        return "", ""


TORCHVISION = """
import torch, torchvision
tell(version=torchvision.__version__)
devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
for device in devices:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]], device=device)
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9], device=device), 0.5)
    if kept.tolist() != [1]:
        raise RuntimeError(f"NMS on {device} keeps boxes {kept.tolist()} in place of [1]")
tell(ran=" and ".join(devices))
"""


def detectron2(limits: Limits) -> Iterator[Finding]:
    """Which one is there, and whether the engine here can be imported with it."""
    answer = ask(DETECTRON2, limits.seconds)
    there, python_only = answer.facts.get("there"), answer.facts.get("python_only")
    if "there" in answer.facts and there is None:
        yield Finding("detectron2", PROBLEM, "is not installed", INSTALL_DETECTRON2)
    elif missing := answer.facts.get("missing"):
        said = f"{there}; it cannot be imported without {', '.join(missing)}"
        yield Finding("detectron2", PROBLEM, said, "make setup")
    elif answer.error:
        said = f"{there or 'is there'}; the engine cannot be imported with it: {answer.error}"
        remedy = f"mend what is named there first; then {INSTALL_DETECTRON2} --check"
        yield Finding("detectron2", PROBLEM, said, remedy)
    else:
        yield Finding(
            "detectron2", OK, f"{there}; the engine imports{WITHOUT if python_only else ''}"
        )


DETECTRON2 = """
import importlib.util
from virtex.detectron import install
there = install.installed()
tell(there=there and str(there).removeprefix("detectron2 "))
tell(python_only=there is not None and there.kind == "python-only")
tell(missing=[name for name in install.NEEDED if importlib.util.find_spec(name) is None])
if there:
    import virtex.detectron.trainer
"""


@dataclass(frozen=True)
class Library:
    """Something that is imported.

    Attributes:
        purpose: what it is for.
        code: uses it a little, and tells its version.
        remedy: where it does not work.
        state: what it is then.
    """

    name: str
    purpose: str
    code: str
    remedy: str
    state: str = PROBLEM

    def __call__(self, limits: Limits) -> Iterator[Finding]:
        answer = ask(self.code, limits.seconds)
        if answer.error:
            remedy = next((r for sign, r in KNOWN.items() if sign in answer.error), self.remedy)
            said = f"does not work: {answer.error} (it is for {self.purpose})"
            yield Finding(self.name, self.state, said, remedy)
        else:
            told = ", ".join(str(fact) for fact in answer.facts.values())
            yield Finding(self.name, OK, f"{told}; {self.purpose}")


# signs of what keeps a library from being imported -> the remedy
KNOWN = {
    "libGL": "pip uninstall --yes opencv-python && pip install opencv-python-headless",
    "libgthread": "pip uninstall --yes opencv-python && pip install opencv-python-headless",
}
VERSION = "from importlib.metadata import version\n"
LIBRARIES = (
    Library(
        "OpenCV",
        "drawing and polygons",
        VERSION
        + """
import cv2, numpy
tell(version=cv2.__version__, threads=f"{cv2.getNumThreads()} threads")
ok, jpeg = cv2.imencode(".jpg", numpy.full((8, 9, 3), 128, numpy.uint8))
if cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape != (8, 9, 3):
    raise RuntimeError("a JPEG is decoded to another size")
tell(jpeg="decodes a JPEG")
""",
        "pip install --force-reinstall opencv-python",
    ),
    Library(
        "Pillow",
        "image decoding",
        """
import io, PIL
from PIL import Image
tell(version=PIL.__version__)
file = io.BytesIO()
Image.new("RGB", (9, 8)).save(file, "JPEG")
if Image.open(file).convert("RGB").size != (9, 8):
    raise RuntimeError("a JPEG is decoded to another size")
tell(jpeg="decodes a JPEG")
""",
        "pip install --force-reinstall Pillow",
    ),
    Library(
        "pycocotools",
        "masks, and the reference scores of COCO",
        VERSION
        + """
import numpy, pycocotools.cocoeval, pycocotools.mask
pycocotools.mask.encode(numpy.ones((2, 2, 1), numpy.uint8, order="F"))
tell(version=version("pycocotools"))
""",
        "pip install --force-reinstall pycocotools",
    ),
    Library(
        "lvis",
        "the reference scores of LVIS",
        VERSION + "import lvis\ntell(version=version('lvis'))",
        "pip install --force-reinstall lvis",
    ),
    Library(
        "hotcoco",
        "scores of COCO and LVIS, about 20 times as fast as the reference",
        VERSION + "import hotcoco\ntell(version=version('hotcoco'))",
        "pip install --force-reinstall hotcoco",
        NOTE,
    ),
    Library(
        "scikit-learn",
        "VOC07's SVMs as published",
        VERSION + "import sklearn.svm\ntell(version=version('scikit-learn'))",
        "pip install --force-reinstall scikit-learn",
        NOTE,
    ),
    Library(
        "sentencepiece",
        "vocabularies of captions",
        VERSION + "import sentencepiece\ntell(version=version('sentencepiece'))",
        "pip install --force-reinstall sentencepiece",
        NOTE,
    ),
    Library(
        "submitit",
        "evaluate_all.py --launcher slurm",
        VERSION + "import submitit\ntell(version=version('submitit'))",
        "pip install 'virtex[slurm]'",
        NOTE,
    ),
)

"""Checks of Python and of what is imported: what is there, and whether it works."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import virtex
from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding
from virtex.doctor.packages import NEEDED, TORCH_PAIR, distribution
from virtex.records import git_revision

INSTALL_DETECTRON2 = "python -m virtex.detectron.install"
WITHOUT = "; no deformable convolutions, no rotated boxes"


def this_toolkit(seconds: float) -> Iterator[Finding]:
    revision = git_revision()
    commit = f", commit {revision}" if revision else ""
    yield Finding("virtex", OK, f"{virtex.__version__}{commit}")


def this_python(seconds: float) -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    yield Finding("Python", OK, found)  # an older one has not come this far


def torchvision(seconds: float) -> Iterator[Finding]:
    """Its compiled code runs with the torch that it was made for alone."""
    answer = ask(TORCHVISION, seconds)
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
    yield Finding("torchvision", PROBLEM, found, answer.remedy(TORCH_PAIR))


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


def detectron2(seconds: float) -> Iterator[Finding]:
    """Which one is there, and whether the engine here can be imported with it."""
    answer = ask(DETECTRON2, seconds)
    there = answer.facts.get("there")
    if "there" in answer.facts and there is None:
        yield Finding("detectron2", PROBLEM, "is not installed", INSTALL_DETECTRON2)
    elif answer.error:
        said = f"{there or 'is there'}; the engine cannot be imported with it: {answer.error}"
        remedy = f"fix what is named there first; then {INSTALL_DETECTRON2} --check"
        if COMPILED in answer.error:
            remedy = f"pip uninstall --yes detectron2 && {INSTALL_DETECTRON2}"
        yield Finding("detectron2", PROBLEM, said, answer.remedy(remedy))
    else:
        without = WITHOUT * answer.facts["python_only"]
        yield Finding("detectron2", OK, f"{there}; the engine imports{without}")


COMPILED = "detectron2/_C."  # made for another torch, it cannot be loaded
DETECTRON2 = """
from virtex.detectron import install
there = install.installed()
tell(there=there and str(there).removeprefix("detectron2 "))
tell(python_only=there is not None and there.kind == "python-only")
if there:
    import virtex.detectron.trainer
"""


@dataclass(frozen=True)
class Library:
    """Something that is imported.

    Attributes:
        package: that brings it.
        purpose: what it is for.
        code: uses it a little, and tells its version.
    """

    name: str
    package: str
    purpose: str
    code: str

    def __call__(self, seconds: float) -> Iterator[Finding]:
        answer = ask(self.code, seconds)
        if answer.error:
            said = f"does not work: {answer.error} (it is for {self.purpose})"
            state = PROBLEM if self.package in NEEDED else NOTE
            yield Finding(self.name, state, said, answer.remedy(self.remedy(answer.error)))
        else:
            told = ", ".join(str(fact) for fact in answer.facts.values())
            yield Finding(self.name, OK, f"{told}; {self.purpose}")

    def remedy(self, error: str) -> str:
        if known := next((remedy for sign, remedy in KNOWN.items() if sign in error), ""):
            return known
        there = distribution(self.package)
        return f"pip install --force-reinstall {there}" if there else f"pip install {self.package}"


# opencv-python draws windows and wants it; images of containers come without
GET_LIBGL = (
    "apt-get install libgl1 libglib2.0-0; where you may not: "
    "pip uninstall --yes opencv-python && pip install opencv-python-headless"
)
KNOWN = {"libGL": GET_LIBGL, "libgthread": GET_LIBGL}  # signs in an error -> the remedy
VERSION = "from importlib.metadata import version\n"
OF_DETECTION = (
    Library(
        "OpenCV",
        "opencv-python",
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
    ),
    Library(
        "Pillow",
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
    ),
    Library(
        "pycocotools",
        "pycocotools",
        "masks, and the reference scores of COCO",
        VERSION
        + """
import numpy, pycocotools.cocoeval, pycocotools.mask
pycocotools.mask.encode(numpy.ones((2, 2, 1), numpy.uint8, order="F"))
tell(version=version("pycocotools"))
""",
    ),
    Library(
        "lvis",
        "lvis",
        "the reference scores of LVIS",
        VERSION + "import lvis\ntell(version=version('lvis'))",
    ),
    Library(
        "hotcoco",
        "hotcoco",
        "scores of COCO and LVIS, about 20 times as fast as the reference",
        VERSION + "import hotcoco\ntell(version=version('hotcoco'))",
    ),
)
OF_OTHER_TASKS = (
    Library(
        "scikit-learn",
        "scikit-learn",
        "VOC07's SVMs as published",
        VERSION + "import sklearn.svm\ntell(version=version('scikit-learn'))",
    ),
    Library(
        "sentencepiece",
        "sentencepiece",
        "vocabularies of captions",
        VERSION + "import sentencepiece\ntell(version=version('sentencepiece'))",
    ),
    Library(
        "submitit",
        "submitit",
        "evaluate_all.py --launcher slurm",
        VERSION + "import submitit\ntell(version=version('submitit'))",
    ),
)

"""Report the environment, and check that the toolkit can run in it.

    python -m virtex.doctor

Prints what torch and Detectron2 collect about the environment, then a table of checks: every
required and optional package imports, Detectron2 works, NMS works, a GPU is visible, Java is found.

Exit status: 0 everything required works (optional parts may be missing); 2 something required
is missing or broken.
"""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from virtex.cli import run_tool, tool_parser
from virtex.errors import UserError

# Distributions, as in install_requires of setup.cfg
REQUIRED = (
    *("torch", "torchvision", "numpy", "fvcore", "iopath", "pycocotools", "lvis", "hotcoco"),
    *("opencv-python", "scikit-learn", "joblib", "Pillow", "sentencepiece", "safetensors"),
    *("requests", "filelock", "tqdm", "tensorboard", "matplotlib", "termcolor", "yacs"),
    *(
        "tabulate",
        "cloudpickle",
        "omegaconf",
        "hydra-core",
        "packaging",
        "pandas",
        "jinja2",
        "pydantic",
        "timm",
        "huggingface_hub",
        "scipy",
        "shapely",
    ),
)
OPTIONAL = ("cityscapesscripts", "pycocoevalcap", "submitit")
# Distribution -> module, where their names differ
MODULES = {
    "opencv-python": "cv2",
    "scikit-learn": "sklearn",
    "Pillow": "PIL",
    "hydra-core": "hydra",
}


class Check(NamedTuple):
    """A check that returns what it found, and raises an exception if that does not work.

    Attributes:
        fix: what to do where it fails.
    """

    name: str
    run: Callable[[], str]
    fix: str
    required: bool = True


def check_import(distribution: str) -> str:
    found = importlib.import_module(MODULES.get(distribution, distribution))
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # such as opencv-python-headless for cv2
        return str(getattr(found, "__version__", "unknown version"))


def check_detectron2() -> str:
    from virtex.detectron.install import find_installed

    found = find_installed()
    if found is None:
        raise ModuleNotFoundError("No module named 'detectron2'")
    importlib.import_module("virtex.detectron.trainer")
    return f"{found.version} ({found.kind})"


def check_nms() -> str:
    """Torchvision's compiled operators work only with the torch that they were built for."""
    import torch
    from torchvision.ops import nms

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]], device=device)
        kept = nms(boxes, torch.tensor([0.5, 0.9], device=device), 0.5).tolist()
        if kept != [1]:
            raise RuntimeError(f"NMS on {device} returned boxes {kept}, expected [1]")
    return f"runs on {', '.join(devices)}"


def check_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU; everything runs on the CPU")
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def check_java() -> str:
    from virtex.captioning.java import find_java, java_version

    java = find_java()
    if java is None:
        raise FileNotFoundError("no Java runtime; captions are scored without METEOR and SPICE")
    return f"{java_version(java)} at {java}"


def all_checks() -> list[Check]:
    def package(name: str, required: bool) -> Check:
        fix = f"pip install --force-reinstall {name}"
        return Check(name, partial(check_import, name), fix, required)

    return [
        *(package(name, required=True) for name in REQUIRED),
        Check("detectron2", check_detectron2, "python -m virtex.detectron.install"),
        Check("NMS", check_nms, "install a torchvision that was built for this torch"),
        *(package(name, required=False) for name in OPTIONAL),
        Check("GPU", check_gpu, "check the driver and CUDA_VISIBLE_DEVICES", required=False),
        Check("Java", check_java, "apt-get install default-jre-headless", required=False),
    ]


def collect_environment() -> str:
    """The reports of torch and Detectron2; where one fails, its error."""
    from virtex.detectron import compat

    compat.patch_libraries()
    if isinstance(sys.modules.get("detectron2._C"), compat.CompiledOpsStub):
        # collect_env calls the compiled module; it expects an ImportError where there is none
        sys.modules["detectron2._C"] = None  # type: ignore[assignment]
    reports = []
    for module, function in (
        ("torch.utils.collect_env", "get_pretty_env_info"),
        ("detectron2.utils.collect_env", "collect_env_info"),
    ):
        try:
            report = getattr(importlib.import_module(module), function)()
        except Exception as error:
            report = f"{type(error).__name__}: {error}"
        reports.append(f"---- {module}\n{report}\n")
    return "\n".join(reports)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    return parser


def main(args: argparse.Namespace) -> None:
    broken, rows = [], []
    for check in all_checks():
        try:
            rows.append((check.name, "ok", check.run()))
        except Exception as error:
            broken += [check.name] * check.required
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            found = f"{lines[0]}; {check.fix}"
            rows.append((check.name, "FAILED" if check.required else "missing", found))
    print(f"{collect_environment()}\n---- virtex.doctor")
    print("\n".join(f"{name:16} {status:8} {found}" for name, status, found in rows))
    if broken:
        raise UserError(f"required but not working: {', '.join(broken)}", "environment.broken")


if __name__ == "__main__":
    run_tool(main, build_parser())

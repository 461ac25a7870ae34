"""The import contracts of pyproject.toml, and what a command imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from virtex.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def modules_after(code):
    """Names of the modules that a new Python process has imported after running code."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", sorted({command.module for command in COMMANDS.values()}))
def test_help_imports_no_heavy_library(module):
    """``--help`` is fast because it imports no torch; a time would depend on the machine."""
    names = modules_after(f"import {module} as tool; tool.build_parser().format_help()")
    heavy = {"torch", "torchvision", "numpy", "detectron2", "pandas", "sklearn"}
    assert heavy.intersection(names) == set()


def test_knn_imports_few_modules():
    own = [name for name in modules_after("import virtex.probes.knn") if name.startswith("virtex")]
    unrelated = ("virtex.captioning", "virtex.detectron")
    assert [name for name in own if name.startswith(unrelated)] == []
    assert len(own) < 40, own


@pytest.mark.parametrize(
    "library", ["torchvision.transforms.v2", "timm", "virtex.detectron.transfer"]
)
def test_compiler_is_not_imported(library):
    assert "torch._dynamo" not in modules_after(f"import virtex; import {library}")


def test_compiler_is_imported_at_its_first_use():
    """The functions that torchvision and timm hold behave as torch's own."""
    modules_after(
        "import virtex, sys, torch, torchvision, timm\n"
        "from torchvision.ops import roi_align\n"
        "from timm.models.naflexvit import disable_compiler\n"
        "found = sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')\n"
        "import torch._dynamo.utils as utils\n"
        "assert found == utils.is_compile_supported('cpu')\n"
        "@disable_compiler\n"
        "def function(x): return torch.compiler.is_compiling()\n"
        "assert torch.compile(lambda x: function(x), backend='eager')(torch.ones(1)) is False\n"
        "boxes = torch.tensor([[0.0, 0, 0, 4, 4]])\n"
        "assert roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)\n"
    )

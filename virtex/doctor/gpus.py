"""Checks of torch and of the GPUs that it can use, or why it can use none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding
from virtex.doctor.packages import TORCH_PAIR

DRIVER_FILE = Path("/proc/driver/nvidia/version")
SMI_SECONDS = 20
GIB = 2**30

TORCH = """
import torch
tell(version=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip)
tell(threads=torch.get_num_threads())
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
tell(gpus=[[gpu.name, gpu.total_memory] for gpu in gpus])
for number in range(len(gpus)):
    ones = torch.ones(64, 64, device=f"cuda:{number}")
    ones.mm(ones).sum().item()
if not gpus and torch.version.cuda:
    torch.cuda.init()
"""


def torch_and_gpus(seconds: float) -> Iterator[Finding]:
    answer = ask(TORCH, seconds)
    facts = answer.facts
    if "threads" not in facts:
        found = f"{facts.get('version', '')} does not work: {answer.error}".strip()
        yield Finding("torch", PROBLEM, found, answer.remedy(TORCH_PAIR))
        return
    made_for = f"CUDA {facts['cuda']}" if facts["cuda"] else "ROCm" if facts["hip"] else "CPU alone"
    found = f"{facts['version']}, made for {made_for}; {facts['threads']} threads"
    yield Finding("torch", OK, found)
    yield gpus(facts, answer.error)


def gpus(facts: dict[str, Any], error: str) -> Finding:
    """What torch sees, or what keeps it from seeing any."""
    driver = nvidia_driver()
    found = facts.get("gpus", [])
    if found:
        names = ", ".join(f"{name} ({memory / GIB:.0f} GiB)" for name, memory in found)
        said = f"{len(found)}: {names}; {driver or 'no NVIDIA driver'}"
        if error:
            return Finding("GPU", PROBLEM, f"{said}; it computes nothing: {error}", TORCH_PAIR)
        return Finding("GPU", OK, said)
    cpu = "everything runs on the CPU, far more slowly"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        said = "none: CUDA_VISIBLE_DEVICES hides them all"
        return Finding("GPU", NOTE, f"{said}; {cpu}", "unset CUDA_VISIBLE_DEVICES")
    if driver is None:
        remedy = "install its driver where there is an NVIDIA GPU; --protocol toy fits a CPU"
        return Finding("GPU", NOTE, f"none: there is no NVIDIA driver; {cpu}", remedy)
    if not facts["cuda"]:
        said = f"none: {driver}, but this torch is made for the CPU alone; {cpu}"
        return Finding("GPU", NOTE, said, TORCH_PAIR)
    remedy = "update the NVIDIA driver, or install a torch that is made for its CUDA"
    return Finding("GPU", NOTE, f"none: {driver}, but torch cannot use it ({error}); {cpu}", remedy)


def nvidia_driver() -> str | None:
    """The driver as it tells itself; None where there is none."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"nvidia-smi does not answer ({type(error).__name__})"
        lines = (done.stdout or done.stderr).strip().splitlines()
        if done.returncode:
            return f"nvidia-smi fails ({lines[-1] if lines else done.returncode})"
        return f"NVIDIA driver {lines[0]}" if lines else "an NVIDIA driver without a GPU"
    return "an NVIDIA driver" if DRIVER_FILE.exists() else None

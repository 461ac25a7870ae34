"""Why torch sees no GPU, or computes nothing on it."""

import pytest

from tests.doctor.broken_modules import SECONDS, put_program
from virtex.doctor import gpus
from virtex.doctor.findings import NOTE, OK, PROBLEM

CUDA = {"cuda": "13.0", "hip": None, "gpus": []}


def test_without_torch_the_remedy_installs_it(shadow):
    shadow("torch", "raise ModuleNotFoundError(\"No module named 'torch'\")")
    (finding,) = gpus.torch_and_gpus(SECONDS)
    assert (finding.check, finding.state) == ("torch", PROBLEM)
    assert "No module named 'torch'" in finding.found
    assert "pip install" in finding.remedy


def test_without_a_driver_the_gpu_is_a_note(monkeypatch, tmp_path):
    if gpus.DRIVER_FILE.exists():
        pytest.skip("this machine has an NVIDIA driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = gpus.gpus(CUDA, "RuntimeError: no NVIDIA driver")
    assert finding.state == NOTE
    assert "there is no NVIDIA driver; everything runs on the CPU" in finding.found
    assert finding.remedy


@pytest.mark.parametrize(
    ("script", "facts", "error", "said"),
    [
        ("echo 570.1", {**CUDA, "cuda": None}, "", "570.1, but this torch is made for the CPU"),
        ("echo 470.1", CUDA, "RuntimeError: driver too old", "470.1, but torch cannot use it (Run"),
        ("echo NVML mismatch; exit 18", CUDA, "RuntimeError: 803", "fails (NVML mismatch)"),
    ],
)
def test_a_driver_without_a_gpu_for_torch_is_a_note_with_the_reason(
    monkeypatch, tmp_path, script, facts, error, said
):
    put_program(tmp_path / "bin", "nvidia-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = gpus.gpus(facts, error)
    assert finding.state == NOTE
    assert said in finding.found
    assert finding.remedy


def test_hidden_gpus_are_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = gpus.gpus(CUDA, "RuntimeError: no CUDA GPUs are available")
    assert (finding.state, finding.remedy) == (NOTE, "unset CUDA_VISIBLE_DEVICES")


def test_a_gpu_is_told_with_its_memory_and_one_that_computes_nothing_is_a_problem():
    facts = {**CUDA, "gpus": [["H100", 80 * 2**30]]}
    assert "1: H100 (80 GiB)" in gpus.gpus(facts, "").found
    assert gpus.gpus(facts, "").state == OK
    broken = gpus.gpus(facts, "RuntimeError: no kernel image")
    assert broken.state == PROBLEM
    assert "no kernel image" in broken.found

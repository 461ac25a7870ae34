"""python -m virtex.doctor: on this Python, and on ones that are really broken."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from virtex.doctor import captions, gpus, libraries, machine
from virtex.doctor.__main__ import all_checks
from virtex.doctor.asking import ask
from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding, Limits, run_checks, without_names
from virtex.doctor.libraries import LIBRARIES, VERSION, Library

REPOSITORY = Path(__file__).parents[1]
LIMITS = Limits(seconds=500)  # a busy machine may take minutes for an import
# what the toolkit imports, for a Python that has none of it
HEAVY = (
    *(
        "torch",
        "torchvision",
        "detectron2",
        "cv2",
        "PIL",
        "numpy",
        "pycocotools",
        "lvis",
        "hotcoco",
    ),
    *("sklearn", "sentencepiece", "submitit", "pycocoevalcap", "packaging", "yaml", "fvcore"),
)


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "virtex.doctor", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def findings(done: subprocess.CompletedProcess) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def one(check, limits: Limits = LIMITS) -> Finding:
    (finding,) = check(limits)
    return finding


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """A function that puts a module of its own before an installed one, for other processes."""

    def shadow(name: str, code: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return shadow


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# ---- the command


@pytest.fixture(scope="module")
def here():
    return doctor("--json", "--seconds", "500")


def test_here_there_is_no_problem(here):
    assert here.returncode == 0, here.stdout + here.stderr
    assert json.loads(here.stdout)["problems"] == 0


def test_what_is_here_is_told_with_its_version(here):
    import torch
    import torchvision

    found = findings(here)
    assert torch.__version__ in found["torch"]["found"]
    assert torchvision.__version__ in found["torchvision"]["found"]
    assert "the engine imports" in found["detectron2"]["found"]
    assert "decodes a JPEG" in found["OpenCV"]["found"]
    assert found["packages"]["state"] == "ok"


def test_every_check_finds_something(here):
    assert len(findings(here)) >= len(all_checks())


def test_neither_home_nor_machine_is_named(here):
    assert os.path.expanduser("~") + "/" not in here.stdout
    assert socket.gethostname() not in here.stdout.replace("localhost", "")


def test_where_nothing_can_be_imported_each_is_told_with_its_remedy(shadow):
    for name in HEAVY:
        shadow(name, f"raise ImportError('{name} is broken here')")
    done = doctor()
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    for name in ("torch", "torchvision", "detectron2", "OpenCV", "Pillow", "pycocotools", "lvis"):
        assert name in done.stderr.partition("cannot run: mend ")[2].strip().split(", ")
    assert "ImportError: cv2 is broken here" in done.stdout
    lines = done.stdout.splitlines()
    problems = [number for number, line in enumerate(lines) if line.startswith("problem")]
    assert len(problems) >= 7
    for number in problems:
        assert lines[number + 1].lstrip().startswith("-> ")


def test_where_every_import_hangs_it_still_ends(shadow):
    for name in HEAVY:
        shadow(name, "import time; time.sleep(1000)")
    begun = time.monotonic()
    done = doctor("--seconds", "2")
    assert time.monotonic() - begun < 300  # 9 s on an idle machine; the modules sleep for 1000
    assert done.returncode == 2
    assert "it did not answer in 2 seconds" in done.stdout


def test_help_answers_at_once():
    command = [sys.executable, "-X", "importtime", "-m", "virtex.doctor", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert "--network" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "virtex.doctor.machine" in imported
    assert not imported.intersection(HEAVY)


def test_a_python_that_is_too_old_is_told(shadow):
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 18)\n"
        "runpy.run_module('virtex.doctor', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "3.9, but virtex needs 3.10 or newer" in done.stdout


# ---- processes of their own


def test_what_code_tells_comes_back_whatever_else_it_prints():
    answer = ask("print('hello'); tell(a=1); tell(b=[2])", 60)
    assert (answer.facts, answer.error) == ({"a": 1, "b": [2]}, "")


def test_an_exception_is_told_without_its_stack_and_after_what_was_told_before():
    answer = ask("tell(a=1)\ndef f(): raise ValueError('two\\nlines')\nf()", 60)
    assert (answer.facts, answer.error) == ({"a": 1}, "ValueError: two lines")


def test_a_crash_is_told():
    assert ask("import os; os.abort()", 60).error == "it was killed by SIGABRT"


def test_what_hangs_is_killed_with_all_that_it_has_started(tmp_path):
    left = tmp_path / "left"
    code = (
        "import subprocess, time\n"
        f"subprocess.Popen(['sh', '-c', 'sleep 3; touch {left}'])\n"
        "time.sleep(1000)"
    )
    assert ask(code, 1).error == "it did not answer in 1 seconds"
    time.sleep(4)
    assert not left.exists()


def test_a_check_that_fails_itself_is_a_note():
    def broken(limits):
        raise KeyError("of its own")

    (finding,) = run_checks([broken], LIMITS)
    assert (finding.check, finding.state) == ("broken", NOTE)
    assert "KeyError: 'of its own'" in finding.found


# ---- torch, torchvision, GPUs


def test_a_torchvision_that_cannot_be_imported_is_a_problem(shadow):
    shadow("torchvision", "raise ImportError('undefined symbol: _ZN2at')")
    finding = one(libraries.torchvision)
    assert finding.state == PROBLEM
    assert "ImportError: undefined symbol: _ZN2at" in finding.found
    assert finding.remedy.endswith("torch torchvision")


def test_a_torchvision_whose_nms_does_not_run_is_a_problem_with_what_it_wants(shadow):
    shadow("torchvision", "__version__ = '0.99'\nfrom . import ops")
    ops = Path(os.environ["PYTHONPATH"], "torchvision", "ops.py")
    ops.write_text("def nms(*_): raise RuntimeError('operator torchvision::nms does not exist')")
    finding = one(libraries.torchvision)
    assert finding.state == PROBLEM
    assert ", which asks for torch" in finding.found
    assert "does not work with torch 2." in finding.found
    assert "RuntimeError: operator torchvision::nms does not exist" in finding.found


def test_without_torch_the_remedy_installs_it(shadow):
    shadow("torch", "raise ModuleNotFoundError(\"No module named 'torch'\")")
    (finding,) = gpus.torch_and_gpus(LIMITS)
    assert (finding.check, finding.state) == ("torch", PROBLEM)
    assert "No module named 'torch'" in finding.found
    assert "pip install" in finding.remedy


CUDA = {"cuda": "13.0", "hip": None, "gpus": []}


def test_without_a_driver_the_gpu_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = gpus.gpus(CUDA, "RuntimeError: no NVIDIA driver")
    if gpus.DRIVER_FILE.exists():
        pytest.skip("this machine has an NVIDIA driver")
    assert finding.state == NOTE
    assert "there is no NVIDIA driver; everything runs on the CPU" in finding.found


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
    program(tmp_path / "bin", "nvidia-smi", script)
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


# ---- Detectron2 and libraries


def test_without_detectron2_the_remedy_installs_it(tmp_path):
    # a Python of its own: a module that is there could not be made to look absent
    site = tmp_path / "site"
    site.mkdir()
    for name in ("virtex",):
        (site / name).symlink_to(REPOSITORY / name)
    code = (
        "from virtex.doctor import libraries\n"
        "from virtex.doctor.findings import Limits\n"
        "print(next(iter(libraries.detectron2(Limits()))))"
    )
    interpreter = [os.path.realpath(sys.executable), "-S", "-c", code]
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(interpreter, env=environment, capture_output=True, text=True)
    assert "state='problem'" in done.stdout, done.stderr
    assert "found='is not installed'" in done.stdout
    assert "python -m virtex.detectron.install" in done.stdout


def test_an_engine_that_cannot_be_imported_is_a_problem(shadow):
    shadow("fvcore", "raise ImportError('fvcore is broken')")
    finding = one(libraries.detectron2)
    assert finding.state == PROBLEM
    assert "fvcore is broken" in finding.found


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_each_library_works_here(library):
    assert one(library).state == OK


def test_an_optional_library_that_is_missing_is_a_note(shadow):
    shadow("submitit", "raise ModuleNotFoundError('no submitit')")
    library = next(library for library in LIBRARIES if library.name == "submitit")
    finding = one(library)
    assert (finding.state, finding.remedy) == (NOTE, "pip install 'virtex[slurm]'")


def test_opencv_without_libgl_is_told_the_one_that_needs_none(shadow):
    shadow("cv2", "raise ImportError('libGL.so.1: cannot open shared object file')")
    library = next(library for library in LIBRARIES if library.name == "OpenCV")
    assert "opencv-python-headless" in one(library).remedy


def test_a_library_that_hangs_is_told():
    library = Library("slow", "waiting", "import time; time.sleep(1000)", "pip install fast")
    assert "did not answer in 1 seconds" in one(library, Limits(seconds=1)).found


def test_a_package_of_another_version_is_told_with_the_command(tmp_path):
    """As pip leaves it: metadata of an older version are found first."""
    folder = tmp_path / "tqdm-4.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 4.1.0\n")
    code = (
        "from virtex.doctor import libraries\n"
        "from virtex.doctor.findings import Limits\n"
        "print(next(iter(libraries.requirements(Limits()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert "state='problem'" in done.stdout, done.stderr
    assert "tqdm is 4.1.0, and >=4.60 is needed" in done.stdout
    assert "pip install 'tqdm>=4.60'" in done.stdout


# ---- Java


@pytest.fixture
def only_path(tmp_path, monkeypatch):
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def test_without_java_it_is_told_what_is_left_out(only_path):
    finding = one(captions.java)
    assert finding.state == NOTE
    assert finding.found.startswith("there is none: captions are scored without METEOR")
    assert finding.remedy


def test_java_is_told_with_its_version(only_path):
    program(only_path, "java", "echo 'openjdk version \"21.0.2\" 2024-01-16' >&2")
    assert one(captions.java).found == f"21.0.2 at {only_path}/java"


def test_a_java_that_fails_is_a_note_that_quotes_it(only_path):
    program(only_path, "java", "echo 'Error: could not find libjava.so' >&2; exit 2")
    finding = one(captions.java)
    assert finding.state == NOTE
    assert "exit status 2 (Error: could not find libjava.so)" in finding.found
    assert "--resume" not in finding.found


def test_a_java_that_hangs_is_a_note(only_path):
    program(only_path, "java", "while :; do :; done")
    assert "did not end in 1 seconds" in one(captions.java, Limits(seconds=1)).found


def test_without_pycocoevalcap_captions_are_a_note(shadow):
    shadow("pycocoevalcap", "")  # without its programs
    finding = one(captions.caption_programs)
    assert (finding.state, finding.remedy) == (NOTE, "pip install 'virtex[captions]'")


# ---- the machine


@pytest.mark.parametrize(
    ("value", "state"), [(None, OK), ("1", OK), ("0", NOTE), ("many", NOTE), ("99999", NOTE)]
)
def test_threads(monkeypatch, value, state):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert one(machine.threads).state == state


def test_caches_are_where_the_tools_have_them(monkeypatch, tmp_path):
    from iopath.common.file_io import get_cache_dir

    from virtex.evaluation.feature_cache import default_folder

    monkeypatch.delenv("VIRTEX_FEATURE_CACHE", raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    assert machine.downloads_folder() == get_cache_dir()
    assert machine.features_folder() == str(default_folder())
    monkeypatch.setenv("VIRTEX_FEATURE_CACHE", str(tmp_path / "features"))
    assert machine.features_folder() == str(default_folder())
    monkeypatch.delenv("FVCORE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.path.expanduser(machine.downloads_folder()) == get_cache_dir()


def test_a_folder_with_little_room_is_a_note_and_is_not_made(tmp_path):
    folder = machine.Folder("features", str(tmp_path / "a" / "b"), 10**9, "features", "move it")
    finding = one(folder)
    assert finding.state == NOTE
    assert "of 1e+09 that features may take" in finding.found
    assert finding.remedy == "free some, or move it"
    assert not (tmp_path / "a").exists()


def test_a_folder_with_room_is_ok(tmp_path):
    assert one(machine.Folder("output", str(tmp_path), 0, "runs", "move it")).state == OK


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "cache").write_text("")
    finding = one(
        machine.Folder("features", str(tmp_path / "cache" / "x"), 0, "features", "move it")
    )
    assert (finding.state, finding.remedy) == (PROBLEM, "move it")


def test_shared_memory_is_told():
    if not machine.SHARED.is_dir():
        pytest.skip("this system has none")
    free = shutil.disk_usage(machine.SHARED).free / 2**30
    assert f"{free:.1f}"[:2] in one(machine.shared_memory).found


def test_no_server_is_asked_unless_told_so(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert one(machine.network).state == OK


def test_servers_that_do_not_answer_are_notes(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    found = list(machine.network(Limits(network=True)))
    assert {finding.state for finding in found} == {NOTE}
    assert found[0].found.startswith("github.com does not answer (")
    assert len(found) > 3


# ---- names


def test_names_of_user_and_machine_are_left_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("USER", "jane")
    host = socket.gethostname()
    text = "/home/jane/x: /scratch/jane: /tmp/pytest-of-jane/y janet /home/janet"
    assert without_names(text) == "~/x: /scratch/USER: /tmp/pytest-of-USER/y janet /home/janet"
    if host != "localhost":
        assert without_names(f"{host}: {host}.example.org") == "HOST: HOST.example.org"


def test_root_is_no_name(monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("USER", "root")
    assert without_names("--data-root /root/x") == "--data-root ~/x"


def test_remedies_of_libraries_are_commands():
    assert all(library.remedy.startswith("pip install ") for library in LIBRARIES)
    assert all("tell(version=" in library.code for library in LIBRARIES)
    assert VERSION.endswith("\n")

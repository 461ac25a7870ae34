"""torch's companions, Detectron2 and what is imported beside it: that they work, or why not."""

import pytest

from tests.doctor.broken_modules import bare_python, one
from virtex.doctor import libraries
from virtex.doctor.findings import NOTE, OK, PROBLEM
from virtex.doctor.libraries import OF_DETECTION, OF_OTHER_TASKS, Library

LIBRARIES = {library.name: library for library in (*OF_DETECTION, *OF_OTHER_TASKS)}


# ---- torchvision


def test_a_torchvision_that_cannot_be_imported_is_a_problem(shadow):
    shadow("torchvision", "raise ImportError('undefined symbol: _ZN2at')")
    finding = one(libraries.torchvision)
    assert finding.state == PROBLEM
    assert "ImportError: undefined symbol: _ZN2at" in finding.found
    assert finding.remedy.endswith("torch torchvision")


def test_a_torchvision_whose_nms_does_not_run_is_a_problem_with_what_it_wants(shadow):
    folder = shadow("torchvision", "__version__ = '0.99'\nfrom . import ops")
    (folder / "ops.py").write_text(
        "def nms(*_): raise RuntimeError('operator torchvision::nms does not exist')"
    )
    finding = one(libraries.torchvision)
    assert finding.state == PROBLEM
    assert ", which asks for torch" in finding.found
    assert "does not work with torch 2." in finding.found
    assert "RuntimeError: operator torchvision::nms does not exist" in finding.found


# ---- Detectron2


def test_without_detectron2_the_remedy_installs_it(tmp_path):
    code = (
        "from virtex.doctor.libraries import detectron2\n"
        "(finding,) = detectron2(500)\n"
        "print(finding.state, finding.found, finding.remedy, sep=' | ')"
    )
    said = f"{PROBLEM} | is not installed | python -m virtex.detectron.install"
    assert bare_python(tmp_path, code, {}) == said


def test_an_engine_that_cannot_be_imported_is_a_problem(shadow):
    shadow("fvcore", "raise ImportError('fvcore is broken')")
    finding = one(libraries.detectron2)
    assert finding.state == PROBLEM
    assert "fvcore is broken" in finding.found
    assert finding.remedy == (
        "fix what is named there first; then python -m virtex.detectron.install --check"
    )


def test_compiled_code_of_another_torch_is_built_again(shadow):
    shadow("fvcore", "raise ImportError('/x/detectron2/_C.so: undefined symbol: _ZN2at')")
    remedy = "pip uninstall --yes detectron2 && python -m virtex.detectron.install"
    assert one(libraries.detectron2).remedy == remedy


# ---- what is imported beside it


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_each_library_works_here_and_tells_its_version(library):
    finding = one(library)
    assert finding.state == OK, finding
    assert finding.found[0].isdigit()


@pytest.mark.parametrize("name", ["hotcoco", "scikit-learn", "sentencepiece", "submitit"])
def test_a_broken_library_that_the_main_job_can_do_without_is_a_note(shadow, name):
    module = {"scikit-learn": "sklearn"}.get(name, name)
    shadow(module, f"raise ImportError('no {module}')")
    finding = one(LIBRARIES[name])
    assert (finding.state, finding.remedy) == (NOTE, f"pip install --force-reinstall {name}")


def test_a_broken_library_that_is_needed_is_a_problem(shadow):
    shadow("lvis", "raise ImportError('no lvis')")
    finding = one(LIBRARIES["lvis"])
    assert (finding.state, finding.remedy) == (PROBLEM, "pip install --force-reinstall lvis")


def test_what_is_absent_is_installed_by_its_own_name():
    library = Library("Nothing", "nothing-of-this-name", "nothing", "import nothing_of_this_name")
    finding = one(library)
    assert (finding.state, finding.remedy) == (NOTE, "pip install nothing-of-this-name")


@pytest.mark.parametrize("file", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_opencv_without_libgl_is_told_to_install_that_first(shadow, file):
    shadow("cv2", f"raise ImportError('{file}: cannot open shared object file')")
    remedy = one(LIBRARIES["OpenCV"]).remedy
    assert remedy.startswith("apt-get install libgl1 libglib2.0-0; ")


def test_a_broken_opencv_is_installed_again_as_the_one_that_is_there(tmp_path):
    code = (
        "from virtex.doctor.libraries import OF_DETECTION\n"
        "print(OF_DETECTION[0].remedy('ImportError: cv2 is broken'))"
    )
    remedy = "pip install --force-reinstall opencv-python-headless"
    assert bare_python(tmp_path, code, {"opencv-python-headless": "4.9"}) == remedy


def test_a_library_that_hangs_may_only_be_slow():
    library = Library("slow", "slow", "waiting", "import time; time.sleep(1000)")
    finding = one(library, 1)
    assert "did not end in 1 seconds" in finding.found
    assert finding.remedy == (
        "if the machine is but slow or busy: python -m virtex.doctor --seconds 1000; "
        "else pip install slow"
    )

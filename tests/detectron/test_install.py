"""Installation of Detectron2 and the patches for v0.5."""

import pickle
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest

import virtex
from tests.errors import raises_code
from virtex.detectron import compat, install


def test_installed_distribution_is_kept():
    assert install.install() == install.find_installed()


def test_sdist_is_verified(tmp_path):
    other = tmp_path / "detectron2_cdo-0.5.tar.gz"
    with tarfile.open(other, "w:gz"):
        pass
    with raises_code("environment.sdist", other, install.SDIST_SHA256):
        install.unpack_sdist(other, tmp_path)
    with raises_code("environment.sdist", "missing.tar.gz"):
        install.unpack_sdist(tmp_path / "missing.tar.gz", tmp_path)


def test_v05_patches_are_for_v05_only(monkeypatch):
    called = []
    for name in ("add_pillow_aliases", "add_numpy_aliases", "add_compiled_ops_stub",
                 "ignore_deprecation_warnings"):  # fmt: skip
        monkeypatch.setattr(compat, name, lambda name=name: called.append(name))
    monkeypatch.setattr(compat, "detectron2_version", lambda: "0.6")
    compat.patch_libraries()
    assert called == []
    monkeypatch.setattr(compat, "detectron2_version", lambda: "0.5+python")
    compat.patch_libraries()
    assert len(called) == 4


def test_compiled_ops_stub_raises_on_use(monkeypatch):
    stub = compat.CompiledOpsStub("detectron2._C")
    with pytest.raises(RuntimeError, match="deform_conv_forward"):
        stub.deform_conv_forward  # noqa: B018
    # pickle looks up names in every loaded module
    monkeypatch.setitem(sys.modules, "detectron2._C", stub)
    anywhere = types.SimpleNamespace(__module__=None)
    assert pickle.whichmodule(anywhere, "no such name anywhere") == "__main__"


def test_only_this_package_imports_detectron2():
    package = Path(virtex.__file__).parent
    sources = [p for p in package.rglob("*.py") if "detectron" not in p.relative_to(package).parts]
    assert len(sources) > 10
    for path in sources:
        imports = [
            line
            for line in path.read_text().splitlines()
            if line.strip().startswith(("import detectron2", "from detectron2"))
        ]
        assert imports == [], path


@pytest.mark.whole
def test_checkpoints_load_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from virtex.checkpoints.loading import load_backbone\n"
        "print(load_backbone('random:resnet18?seed=0').arch.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "resnet18", done.stderr

"""Detectron2 installs with or without a compiler, and says what is there."""

import pickle
import subprocess
import sys
import tarfile
import types

import pytest

from virtex.detectron import compat, install
from virtex.errors import UserError


def test_an_importable_detectron2_is_kept():
    assert install.install() == install.installed()


def test_a_file_of_another_hash_is_refused(tmp_path):
    other = tmp_path / "detectron2_cdo-0.5.tar.gz"
    with tarfile.open(other, "w:gz"):
        pass
    with pytest.raises(UserError, match="has sha256"):
        install.unpack_sdist(other, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*nothing\.tar\.gz"):
        install.unpack_sdist(tmp_path / "nothing.tar.gz", tmp_path)


def test_what_only_v05_trips_over_is_left_alone_on_a_current_detectron2(monkeypatch):
    called = []
    for name in ("supply_pillow_names", "supply_numpy_names", "supply_compiled_module",
                 "ignore_old_idioms"):  # fmt: skip
        monkeypatch.setattr(compat, name, lambda name=name: called.append(name))
    monkeypatch.setattr(compat, "version", lambda: "0.6")
    compat.prepare()
    assert called == []
    monkeypatch.setattr(compat, "version", lambda: "0.5+python")
    compat.prepare()
    assert len(called) == 4


def test_the_stand_in_for_compiled_code_says_what_to_do():
    with pytest.raises(RuntimeError, match="install the official repository with a compiler"):
        compat.NotCompiled("detectron2._C").deform_conv_forward  # noqa: B018


def test_pickle_may_ask_the_missing_module_for_a_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2._C", compat.NotCompiled("detectron2._C"))
    nowhere = types.SimpleNamespace(__module__=None)
    assert pickle.whichmodule(nowhere, "no such name anywhere") == "__main__"


def test_nothing_outside_the_detectron_folder_imports_detectron2():
    from pathlib import Path

    import virtex

    package = Path(virtex.__file__).parent
    sources = [p for p in package.rglob("*.py") if "detectron" not in p.relative_to(package).parts]
    assert len(sources) > 10
    for path in sources:
        lines = path.read_text().splitlines()
        imports = [
            s for s in lines if s.strip().startswith(("import detectron2", "from detectron2"))
        ]
        assert imports == [], path


def test_checkpoints_are_inspected_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from virtex.checkpoints.loading import load_backbone\n"
        "print(load_backbone('random:resnet18?seed=0').arch.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "resnet18", done.stderr

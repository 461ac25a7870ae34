"""What others install: sdist and wheel, built and installed for real, without network."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# of git and of continuous integration: only a clone needs them
ONLY_IN_A_CLONE = {".ci", ".gitignore"}
# beside the sources in the folder that an sdist unpacks to
NOT_SOURCES = {"PKG-INFO", "build", "dist", "output", "datasets", "virtex.egg-info"}
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def run(*command: str | Path, **options) -> str:
    """What it prints; a failure shows all of that."""
    result = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def pip(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", *arguments, "--quiet", "--no-index", "--no-deps")


def files_of_the_tree() -> set[str]:
    """The files git tracks, or where the sources are no clone, all that is there."""
    if (ROOT / ".git").exists():
        names = run("git", "-C", ROOT, "ls-files", "-z").split("\0")
        return {name for name in names if name and (ROOT / name).exists()}
    names = {path.relative_to(ROOT) for path in every_file(ROOT)}
    return {str(name) for name in names if name.parts[0] not in NOT_SOURCES}


def every_file(folder: Path) -> list[Path]:
    """All files but those of hidden folders (.venv, .git) and what Python compiled."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        files += [Path(parent, name) for name in names]
    return files


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The sources alone, as a clone has them, so that nothing built before takes part."""
    copy = tmp_path_factory.mktemp("tree") / "virtex"
    for name in files_of_the_tree():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    printed = run(sys.executable, "-c", BUILD_SDIST, out, cwd=tree)
    # told of a line of MANIFEST.in that fits nothing
    assert [line for line in printed.splitlines() if "no files found" in line] == []
    return next(out.glob("virtex-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, tree)
    return next(out.glob("virtex-*.whl"))


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_repository_has_no_links(tree):
    """A zip, as torch.hub unpacks one, would turn them into text files."""
    assert [name for name in files_of_the_tree() if (ROOT / name).is_symlink()] == []


def test_sdist_is_complete(tree, sdist):
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    wanted = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    wanted = {name for name in wanted if Path(name).parts[0] not in ONLY_IN_A_CLONE}
    assert "virtex/py.typed" in wanted and "eval_tools/leaderboard.py" in wanted
    assert wanted - held == set()


def test_wheel_holds_the_package_and_its_resources(tree, wheel):
    held = {name: data for name, data in content(wheel).items() if ".dist-info/" not in name}
    expected = {str(file.relative_to(tree)): file for file in every_file(tree / "virtex")}
    for file in (tree / "model_zoo.yaml", *every_file(tree / "detectron_configs")):
        expected[f"virtex/{file.relative_to(tree)}"] = file
    assert "virtex/py.typed" in held
    assert set(held) == set(expected)
    assert all(expected[name].read_bytes() == data for name, data in held.items())


@pytest.mark.whole
def test_wheel_from_sdist_is_the_same(sdist, wheel, tmp_path):
    pip("wheel", "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    assert content(next(tmp_path.glob("virtex-*.whl"))) == content(wheel)


def test_scripts_match_the_tools(tree):
    tools = {path.name for path in (tree / "virtex" / "eval_tools").glob("[!_]*.py")}
    assert {path.name for path in (tree / "eval_tools").iterdir()} == tools


def test_scripts_run_in_a_checkout_that_is_not_installed(tree, tmp_path):
    """``-S`` hides the editable install; the dependencies come from ``PYTHONPATH``."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != "typing.py":  # cityscapesscripts requires this backport of Python's own
            (packages / path.name).symlink_to(path)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    script = tree / "eval_tools" / "model_zoo.py"
    command = (sys.executable, "-S", script, "list", "--json")
    assert json.loads(run(*command, cwd=tmp_path, env=environment))


@pytest.mark.whole
def test_installed_wheel_runs_from_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--target", site, wheel)

    def python(*arguments: str) -> str:
        return run(sys.executable, *arguments, cwd=elsewhere, env=environment)

    environment = {**os.environ, "PYTHONPATH": str(site), "FVCORE_CACHE": str(tmp_path / "cache")}
    where = python("-c", "import virtex; print(virtex.__file__)").strip()
    assert Path(where) == site / "virtex" / "__init__.py"

    tools, sizes = "virtex.eval_tools", ("--train-images", "12", "--val-images", "6")
    assert "wrote toy data" in python("-m", f"{tools}.make_toy_data", "toy", *sizes)
    captions = ("--captions", "toy/coco/annotations/captions_train2017.json")
    python("-m", "virtex.data.tokenizer", *captions, "--vocab-size", "80", "--output", "toy.model")
    assert (elsewhere / "toy.model").is_file()
    configs = python("-m", "virtex.pretrain", "--list-configs").split()
    assert "toy/bicaptioning_R_18_L1_H256" in configs
    listed = json.loads(python("-m", f"{tools}.model_zoo", "list", "--json"))
    assert "moco/v2_800ep" in {entry["name"] for entry in listed}
    found = python("-m", f"{tools}.inspect_checkpoint", "random:resnet18?seed=0", "--json")
    assert json.loads(found)["complete"]

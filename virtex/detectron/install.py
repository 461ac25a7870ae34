"""Install Detectron2, with a compiler or without one.

    python -m virtex.detectron.install            # install where nothing is there yet
    python -m virtex.detectron.install --sdist FILE    # no network: from a file fetched elsewhere

Detectron2 is on no package registry and building it needs a compiler that agrees with the
installed torch. The detectors here need none of its compiled code: NMS and RoIAlign are
torchvision's. So, in this order:

1. an importable detectron2 is kept as it is;
2. the official repository at a pinned commit, where it answers and a C++ compiler is there;
3. the Python files of Detectron2's tag v0.5 from the package registry (an sdist that lacks
   the C++ sources, so that pip alone cannot install it), as the pure-Python package they are.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from virtex.cli import run_tool, tool_parser
from virtex.errors import UserError

REPOSITORY = "https://github.com/facebookresearch/detectron2"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main, June 2026; still calls itself 0.6
PROBE_SECONDS = 10

# Its Python files are byte for byte those of Detectron2's tag v0.5.
SDIST = "detectron2-cdo==0.5"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"

PURE_SETUP = """\
from setuptools import find_packages, setup

setup(
    name="detectron2",
    version="0.5+python",
    description="Detectron2 v0.5 without its compiled code",
    license="Apache-2.0",
    packages=find_packages(include=["detectron2", "detectron2.*"]),
    package_data={"detectron2.model_zoo": ["configs/**/*.yaml"]},
)
"""


@dataclass(frozen=True)
class Distribution:
    """The detectron2 that Python would import."""

    version: str
    kind: str  # "official" or "python-only"
    location: str

    def __str__(self) -> str:
        return f"detectron2 {self.version} ({self.kind}) at {self.location}"


def installed() -> Distribution | None:
    """The importable detectron2, or None. Imports neither it nor torch."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    location = Path(spec.origin).parent
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    compiled = any(location.glob("_C.*"))
    return Distribution(version, "official" if compiled else "python-only", str(location))


def official_can_be_built() -> tuple[bool, str]:
    """Whether the official repository answers and a compiler is there, and why not."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        return False, "no C++ compiler"
    if not shutil.which("git"):
        return False, "no git"
    try:
        urllib.request.urlopen(REPOSITORY, timeout=PROBE_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        return False, f"{REPOSITORY} does not answer ({getattr(error, 'reason', error)})"
    return True, ""


def pip(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python's own pip, so that the user's index and proxy settings hold."""
    if importlib.util.find_spec("pip") is None:
        subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def last_lines(text: str, count: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def install_official() -> bool:
    """Build the pinned commit against the installed torch; False (and why) if it fails."""
    print(f"building detectron2 {COMMIT[:8]} from {REPOSITORY} (several minutes) …", flush=True)
    done = pip(
        "install", "--no-deps", "--no-build-isolation", f"detectron2 @ git+{REPOSITORY}@{COMMIT}"
    )
    if done.returncode:
        print(f"that failed; its last lines:\n{last_lines(done.stdout)}")
    return done.returncode == 0


def fetch_sdist(folder: Path) -> Path:
    """The unpacked sdist from the package registry, hash-checked by pip.

    ``pip download`` cannot finish (the file's own metadata names a direct address, which
    pip refuses), but it fetches, checks and unpacks the file first; ``--no-clean`` keeps that.

    Raises:
        UserError: the registry does not answer, lacks the file, or its hash is another.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
    done = pip(
        *("download", "--no-clean", "--no-deps", "--no-build-isolation", "--require-hashes"),
        *("--no-binary", ":all:", "--dest", str(folder / "unused"), "-r", str(requirements)),
        TMPDIR=str(folder),
    )
    trees = [path.parent for path in folder.glob("*/*/setup.py")]
    if len(trees) != 1:
        raise UserError(
            f"{SDIST} could not be fetched from the package registry; check pip's index settings, "
            f"or fetch the file elsewhere and pass it with --sdist. pip's last lines:\n"
            f"{last_lines(done.stdout)}"
        )
    return trees[0]


def unpack_sdist(sdist: Path, folder: Path) -> Path:
    """The unpacked sdist from a file at hand, hash-checked.

    Raises:
        UserError: there is no such file or it is another one.
    """
    # torch-free on purpose: checkpoints.opening hashes too, but this runs before torch is there
    import hashlib

    if not sdist.is_file():
        raise UserError(f"there is no file {sdist}")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise UserError(f"{sdist} has sha256 {found}, but {SDIST} has {SDIST_SHA256}")
    shutil.unpack_archive(sdist, folder, format="gztar")
    return next(folder.iterdir())


def install_python_only(sdist: Path | None) -> None:
    """Install v0.5's Python files as the pure-Python package they are.

    Raises:
        UserError: the sdist cannot be had, or pip cannot install it.
    """
    print(f"installing the Python files of {SDIST}, no compiler needed …", flush=True)
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        tree = unpack_sdist(sdist, folder) if sdist else fetch_sdist(folder)
        configs = tree / "detectron2" / "model_zoo" / "configs"
        if not configs.is_dir() and (tree / "configs").is_dir():
            shutil.copytree(tree / "configs", configs)
        (tree / "setup.py").write_text(PURE_SETUP)
        done = pip("install", "--no-deps", "--no-build-isolation", str(tree))
        if done.returncode:
            raise UserError(f"pip could not install {SDIST}:\n{last_lines(done.stdout)}")


def install(sdist: Path | None = None) -> Distribution:
    """Make detectron2 importable, by the first way that works. Returns what is there then.

    Raises:
        UserError: no way worked.
    """
    found = installed()
    if found:
        return found
    possible, why_not = (False, "a file was given") if sdist else official_can_be_built()
    if not (possible and install_official()):
        if why_not:
            print(f"not building the official repository: {why_not}")
        install_python_only(sdist)
    importlib.invalidate_caches()
    found = installed()
    if found is None:
        raise UserError("detectron2 was installed but cannot be found; is this Python's site on?")
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--sdist", type=Path, metavar="FILE", help=f"a local copy of {SDIST}")
    return parser


def main(args: argparse.Namespace) -> None:
    print(f"ready: {install(args.sdist)}")


if __name__ == "__main__":
    run_tool(main, build_parser())

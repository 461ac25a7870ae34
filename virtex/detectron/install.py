"""Install Detectron2, with or without a C++ compiler.

    python -m virtex.detectron.install                 # install, unless it is installed
    python -m virtex.detectron.install --sdist FILE    # install from a local copy, offline

Detectron2 is not on any package registry, and building it needs a compiler that matches the
installed torch. The detectors of this project use none of its compiled code (NMS and RoIAlign
come from torchvision), so the following are tried in order:

1. keep an importable detectron2 as it is;
2. build a pinned commit of the official repository, if it can be reached and a C++ compiler
   is installed;
3. install the Python files of Detectron2's tag v0.5 as a pure-Python package. They come from
   an sdist on the package registry that lacks the C++ sources, so pip alone cannot install it.
"""

import argparse
import hashlib
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
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main, June 2026; its version is still 0.6
PROBE_SECONDS = 10

# Its Python files are byte for byte those of Detectron2's tag v0.5.
SDIST = "detectron2-cdo==0.5"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"

SETUP_PY = """\
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


def find_installed() -> Distribution | None:
    """Find the importable detectron2 without importing it or torch; None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    location = Path(spec.origin).parent
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    kind = "official" if any(location.glob("_C.*")) else "python-only"
    return Distribution(version, kind, str(location))


def describe_installed() -> dict[str, str]:
    """Return version and kind of the importable detectron2, for records and run identities."""
    found = find_installed()
    return {"version": found.version, "distribution": found.kind} if found else {}


def why_not_official() -> str:
    """Return why the official repository cannot be built; "" if it can be tried."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        return "no C++ compiler"
    if not shutil.which("git"):
        return "no git"
    try:
        urllib.request.urlopen(REPOSITORY, timeout=PROBE_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        return f"{REPOSITORY} does not respond ({getattr(error, 'reason', error)})"
    return ""


def pip(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the pip of this Python, so that the user's index and proxy settings apply."""
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
    """Build the pinned commit against the installed torch. Return whether it succeeded."""
    print(f"building detectron2 {COMMIT[:8]} from {REPOSITORY} (several minutes) …", flush=True)
    done = pip(
        "install", "--no-deps", "--no-build-isolation", f"detectron2 @ git+{REPOSITORY}@{COMMIT}"
    )
    if done.returncode:
        print(f"the build failed; last lines of pip:\n{last_lines(done.stdout)}")
    return done.returncode == 0


def download_sdist(folder: Path) -> Path:
    """Download, verify and unpack the sdist; return the source tree.

    ``pip download`` fails in the end (the sdist's metadata has a direct URL as a requirement,
    which pip refuses), but only after it has downloaded, verified and unpacked the file, and
    ``--no-clean`` keeps the result.

    Raises:
        UserError: the registry cannot be reached, lacks the file or has one with another hash.
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
            f"{SDIST} could not be downloaded from the package registry; check pip's index "
            "settings, or download the file elsewhere and pass it with --sdist. Last lines of "
            f"pip:\n{last_lines(done.stdout)}",
            code="environment.download_failed",
        )
    return trees[0]


def unpack_sdist(sdist: Path, folder: Path) -> Path:
    """Verify and unpack a local sdist; return the source tree.

    Raises:
        UserError: the file is missing or has another hash.
    """
    if not sdist.is_file():
        raise UserError(f"--sdist {sdist} does not exist", code="environment.sdist")
    sha256 = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if sha256 != SDIST_SHA256:
        raise UserError(
            f"expected sha256 {SDIST_SHA256} of {SDIST}, but {sdist} has {sha256}; download it "
            "again",
            code="environment.sdist",
        )
    shutil.unpack_archive(sdist, folder, format="gztar")
    return next(folder.iterdir())


def install_python_only(sdist: Path | None) -> None:
    """Install the Python files of v0.5.

    Raises:
        UserError: the sdist could not be downloaded, or pip cannot install it.
    """
    print(f"installing the Python files of {SDIST} (no compiler needed) …", flush=True)
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        tree = unpack_sdist(sdist, folder) if sdist else download_sdist(folder)
        configs = tree / "detectron2" / "model_zoo" / "configs"
        if not configs.is_dir() and (tree / "configs").is_dir():
            shutil.copytree(tree / "configs", configs)
        (tree / "setup.py").write_text(SETUP_PY)
        done = pip("install", "--no-deps", "--no-build-isolation", str(tree))
        if done.returncode:
            raise UserError(
                f"pip could not install {SDIST}; last lines of pip:\n{last_lines(done.stdout)}",
                code="environment.install_failed",
            )


def install(sdist: Path | None = None) -> Distribution:
    """Make detectron2 importable in the first way that works.

    Raises:
        UserError: none worked.
    """
    if found := find_installed():
        return found
    reason = "--sdist was given" if sdist else why_not_official()
    if reason:
        print(f"not building the official repository: {reason}")
    if reason or not install_official():
        install_python_only(sdist)
    importlib.invalidate_caches()
    found = find_installed()
    if found is None:
        raise UserError(
            "detectron2 was installed but is not on sys.path; check this Python's site-packages",
            code="environment.install_failed",
        )
    return found


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--sdist", type=Path, metavar="FILE", help=f"a local copy of {SDIST}")
    return parser


def main(args: argparse.Namespace) -> None:
    print(f"ready: {install(args.sdist)}")


if __name__ == "__main__":
    run_tool(main, build_parser())

"""Checks of the machine: memory, cores, room on disks, servers."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from virtex.doctor.findings import NOTE, OK, PROBLEM, Finding
from virtex.resources import resource_path

GIB = 2**30
LITTLE_MEMORY = 8  # GiB; COCO's annotations and a detector on the CPU take about that
SHARED = Path("/dev/shm")
LITTLE_SHARED, TOO_LITTLE_SHARED = 2, 0.25  # GiB; the second is a container's default and more
REPOSITORY = "https://github.com/facebookresearch/detectron2"
NETWORK_SECONDS = 10


def memory(seconds: float) -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = f"{total:.1f} GiB"
    if (limit := memory_limit()) and limit < total:
        total, found = limit, f"{limit:.1f} GiB for this container, of {found}"
    if total < LITTLE_MEMORY:
        remedy = "fewer workers and smaller batches: --num-workers 1, SOLVER.IMS_PER_BATCH 2"
        yield Finding("memory", NOTE, f"{found}, which is little", remedy)
    else:
        yield Finding("memory", OK, found)


def memory_limit() -> float | None:
    """What a container may use, in GiB; None if there is no limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.isfile(path):
            text = Path(path).read_text().strip()
            return int(text) / GIB if text.isdecimal() else None
    return None


def cores(seconds: float) -> Iterator[Finding]:
    there = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    found = f"{there} CPU cores"
    if allowed < there:
        found += f", of which {allowed} may be used: more workers than that make it slower"
        remedy = f"give --num-workers {allowed}, or ask the container or cluster for more cores"
        yield Finding("cores", NOTE, found, remedy)
    else:
        yield Finding("cores", OK, found)


def threads(seconds: float) -> Iterator[Finding]:
    """Of torch, NumPy and OpenCV, which all read it."""
    text = os.environ.get("OMP_NUM_THREADS")
    there = os.cpu_count() or 1
    if text is None:
        found = "OMP_NUM_THREADS is not set: a process computes on all cores"
        yield Finding("threads", OK, found)
    elif not text.isdecimal() or int(text) == 0:
        found = f"OMP_NUM_THREADS is {text!r}, which is no number above 0"
        yield Finding("threads", NOTE, found, "unset OMP_NUM_THREADS")
    elif int(text) > there:
        found = f"OMP_NUM_THREADS is {text}, more than there are cores, which makes it slower"
        yield Finding("threads", NOTE, found, f"export OMP_NUM_THREADS={there}")
    else:
        yield Finding("threads", OK, f"OMP_NUM_THREADS is {text}")


def shared_memory(seconds: float) -> Iterator[Finding]:
    """Through it, workers hand over images; where it is full they are killed by SIGBUS."""
    if not SHARED.is_dir():
        found = f"there is no {SHARED}: workers hand over images through files"
        yield Finding("shared memory", OK, found)
        return
    free = shutil.disk_usage(SHARED).free / GIB
    found = f"{free:.2f} GiB free in {SHARED}"
    remedy = "start the container with --shm-size=8g or --ipc=host; or give --num-workers 0"
    if free < TOO_LITTLE_SHARED:
        found += ": workers that load images will be killed (Bus error)"
        yield Finding("shared memory", PROBLEM, found, remedy)
    elif free < LITTLE_SHARED:
        yield Finding("shared memory", NOTE, f"{found}, which is little for many workers", remedy)
    else:
        yield Finding("shared memory", OK, found)


@dataclass(frozen=True)
class Folder:
    """A folder that is written to.

    Attributes:
        where: its path.
        needed: GiB that are sensible there, and for what.
        remedy: what moves it.
        state: what it is where it cannot be written to.
    """

    name: str
    where: Callable[[], str]
    needed: float
    what: str
    remedy: str
    state: str = NOTE

    def __call__(self, seconds: float) -> Iterator[Finding]:
        try:
            path = Path(self.where()).expanduser().absolute()
        except OSError as error:  # where the current folder is gone, or no folder is writable
            said = f"there is none to write to ({error.strerror})"
            yield Finding(self.name, self.state, said, self.remedy)
            return
        there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            yield Finding(self.name, self.state, f"{path} cannot be written to", self.remedy)
            return
        free = shutil.disk_usage(there).free / GIB
        found = f"{path}: {free:.1f} GiB free"
        if free < self.needed:
            said = f"{found}, of {self.needed:g} that {self.what} may take"
            yield Finding(self.name, NOTE, said, f"free some, or {self.remedy}")
        else:
            yield Finding(self.name, OK, found)


def downloads_folder() -> str:
    """iopath's cache, which is not made here."""
    return os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache"


def features_folder() -> str:
    named = os.environ.get("VIRTEX_FEATURE_CACHE")
    return named or os.path.join(downloads_folder(), "virtex", "features")


FOLDERS = (
    Folder("output", os.getcwd, 10, "the runs of a model", "give another --output-dir"),
    Folder(
        "temporary files",
        tempfile.gettempdir,
        1,
        "builds and scores",
        "export TMPDIR=another folder",
        PROBLEM,
    ),
    Folder("downloads", downloads_folder, 5, "checkpoints", "export FVCORE_CACHE=another folder"),
    Folder(
        "features",
        features_folder,
        15,
        "ImageNet's features",
        "export VIRTEX_FEATURE_CACHE=another folder",
    ),
)


def network(seconds: float) -> Iterator[Finding]:
    """Whether the servers of Detectron2 and of the model zoo answer."""
    text = resource_path("model_zoo.yaml").read_text(encoding="utf-8")
    addresses = [REPOSITORY, *dict.fromkeys(re.findall(r"https://[\w.-]+", text))]
    with ThreadPoolExecutor(len(addresses)) as pool:
        for address, why in zip(addresses, pool.map(why_silent, addresses), strict=True):
            host = address.split("/")[2]
            if why:
                remedy = (
                    "export HTTPS_PROXY=…, or fetch files elsewhere and name them by their path"
                )
                yield Finding("network", NOTE, f"{host} does not answer ({why})", remedy)
            else:
                yield Finding("network", OK, f"{host} answers")


def why_silent(address: str) -> str:
    """Why a server does not answer; "" if it does, be it that it knows no such page."""
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except OSError as error:  # URLError is one
        return str(getattr(error, "reason", error))
    return ""

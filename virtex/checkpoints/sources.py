"""From the name of a checkpoint to a file on this machine.

Names are iopath's: a local path, ``https://…``, ``virtex://NAME`` (of the model zoo),
``torchvision://resnet50``, ``torchvision://resnet50?weights=IMAGENET1K_V2``,
``random:resnet50?seed=0``. A handler for another kind of name is one line:
``PATHS.register_handler(Handler())``.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
import torchvision
from iopath.common.file_io import PathHandler, PathManager, get_cache_dir

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.downloading import cached_path, download
from virtex.config.yaml_files import expanduser
from virtex.files import replace_file
from virtex.quoting import quoted
from virtex.zoo.entries import PREFIX, find
from virtex.zoo.files import fetch_entry

_EXAMPLES = "a local path, https://…, virtex://NAME, torchvision://resnet50 or random:resnet50"

PATHS = PathManager()


def resolve(name: str | os.PathLike[str]) -> str:
    """The local path of a checkpoint, downloaded or made if need be.

    Raises:
        CheckpointError: there is no such file, network or address, or it could not be had.
    """
    name = os.fspath(name)
    absent = f"there is no checkpoint {quoted(name, 300)}; give {_EXAMPLES}"
    if not name.isprintable() and not os.path.exists(name):
        raise CheckpointError(absent)
    try:
        path = PATHS.get_local_path(expanduser(name))
    except OSError as error:
        raise CheckpointError(
            f"{quoted(name, 300)} cannot be had: {quoted(str(error), 500)}; free space, or set "
            "FVCORE_CACHE to another folder"
        ) from error
    if not os.path.exists(path):
        raise CheckpointError(absent)
    return path


class WebHandler(PathHandler):
    """``https://…``: downloaded once into the cache, checked whenever it is used."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["https://", "http://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(download([path], cached_path(path)))


class ZooHandler(PathHandler):
    """``virtex://NAME``: an entry of the model zoo."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(fetch_entry(find(path)))


class TorchvisionHandler(PathHandler):
    """``torchvision://resnet50?weights=IMAGENET1K_V1``: torchvision's published weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["torchvision://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, options = _parse(path.removeprefix("torchvision://"), path, {"weights"})
        weights = torchvision.models.get_model_weights(_network_name(name, path))
        wanted = options.get("weights", "IMAGENET1K_V1")
        if wanted not in weights.__members__:
            there_are = " and ".join(weights.__members__)
            raise CheckpointError(f"{path}: torchvision has no weights {wanted}, only {there_are}")
        url = weights[wanted].url
        return str(download([url], cached_path(url), hash_in_name(url)))


class RandomHandler(PathHandler):
    """``random:resnet50?seed=0``: torchvision's network as its initialization makes it.

    The file is made once for each network, seed and version of torch, which decides what a
    seed gives. The global random state is left as it was.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return ["random:"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, options = _parse(path.removeprefix("random:"), path, {"seed"})
        _network_name(name, path)
        seed = options.get("seed", "0")
        if not seed.isdecimal():
            raise CheckpointError(f"{path}: the seed should be a whole number, not {seed!r}")
        folder = os.path.join(get_cache_dir(), "virtex", "random")
        file = os.path.join(folder, f"{name}_seed{int(seed)}_torch{torch.__version__}.pth")
        if force or not os.path.exists(file):
            os.makedirs(folder, exist_ok=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(seed))
                network = torchvision.models.get_model(name, weights=None)
            replace_file(
                Path(file), lambda unfinished: torch.save(network.state_dict(), unfinished)
            )
        return file


def hash_in_name(url: str) -> str:
    """The first digits of the sha256, which torchvision writes into its files' names."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return found[1] if found else ""


def _parse(rest: str, path: str, known: set[str]) -> tuple[str, dict[str, str]]:
    """``resnet50?seed=0`` -> ("resnet50", {"seed": "0"})."""
    name, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise CheckpointError(f"{path}: unknown option {', '.join(unknown)}; there is {allowed}")
    return name, options


def _network_name(name: str, path: str) -> str:
    """``name`` itself if torchvision has such a ResNet, else an error with the nearest names."""
    families = ("resnet", "resnext", "wide_resnet")
    names = [
        n for n in torchvision.models.list_models(torchvision.models) if n.startswith(families)
    ]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise CheckpointError(f"{path}: there is no network {name!r}; near it: {', '.join(near)}")
    return name


for _handler in (WebHandler(), ZooHandler(), TorchvisionHandler(), RandomHandler()):
    PATHS.register_handler(_handler)

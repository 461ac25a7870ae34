"""From the name of a checkpoint to a file on this machine.

Names are iopath's: a local path, ``https://…``, ``torchvision://resnet50``,
``torchvision://resnet50?weights=IMAGENET1K_V2``, ``random:resnet50?seed=0``. A handler for
another kind of name is one line: ``PATHS.register_handler(Handler())``.
"""

from __future__ import annotations

import difflib
import logging
import os
import tempfile
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, urlsplit

import torch
import torchvision
from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager, get_cache_dir

from virtex.checkpoints.backbone import CheckpointError

_EXAMPLES = "a local path, https://…, torchvision://resnet50 or random:resnet50?seed=0"

PATHS = PathManager()


def resolve(name: str) -> str:
    """The local path of a checkpoint, downloaded or made if need be.

    Raises:
        CheckpointError: there is no such file, network or address, or it could not be had.
    """
    try:
        path = PATHS.get_local_path(os.path.expanduser(name))
    except (URLError, HTTPException, OSError) as error:
        raise CheckpointError(
            f"could not download {name}: {_reason(error)}; check the address and the connection, "
            "or download the file by other means and give its path"
        ) from error
    if not os.path.exists(path):
        raise CheckpointError(f"there is no checkpoint {name}; give {_EXAMPLES}")
    return path


class WebHandler(HTTPURLHandler):
    """Downloads once into the cache, a folder for each host.

    iopath's own handler leaves the host out: files of one path on two hosts would be one.
    """

    def _get_local_path(self, path: str, force: bool = False, cache_dir=None, **kwargs) -> str:
        host = urlsplit(path).netloc.replace(":", "_")
        folder = os.path.join(get_cache_dir(cache_dir), "virtex", host)
        log = logging.getLogger("iopath.common.download")
        level = log.level
        log.setLevel(logging.CRITICAL)  # a failure is told by the exception, once
        try:
            return super()._get_local_path(path, force=force, cache_dir=folder, **kwargs)
        finally:
            log.setLevel(level)


class TorchvisionHandler(PathHandler):
    """``torchvision://resnet50?weights=IMAGENET1K_V1``: torchvision's published weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["torchvision://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        name, options = _parse(path.removeprefix("torchvision://"), path, {"weights"})
        weights = torchvision.models.get_model_weights(_network_name(name, path))
        wanted = options.get("weights", "IMAGENET1K_V1")
        if wanted not in weights.__members__:
            there_are = " and ".join(weights.__members__)
            raise CheckpointError(f"{path}: torchvision has no weights {wanted}, only {there_are}")
        return PATHS.get_local_path(weights[wanted].url, force=force, **kwargs)


class RandomHandler(PathHandler):
    """``random:resnet50?seed=0``: torchvision's network as its initialisation makes it.

    The file is made once for each network, seed and version of torch, which decides what a
    seed gives. The global random state is left as it was.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return ["random:"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
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
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as unfinished:
                torch.save(network.state_dict(), unfinished)
            os.replace(unfinished.name, file)
        return file


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


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__


for _handler in (WebHandler(), TorchvisionHandler(), RandomHandler()):
    PATHS.register_handler(_handler)

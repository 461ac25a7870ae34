"""Resolve the name of a checkpoint to a file on this machine.

A name is a local path, ``https://…``, ``virtex://NAME`` (of the model zoo), ``torchvision://resnet50``,
``torchvision://resnet50?weights=IMAGENET1K_V2`` or ``random:resnet50?seed=0``. To add a
source, register a function::

    @register_source("s3://")
    def resolve_s3(uri: str) -> Resolved: ...
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import torch
import torchvision

from virtex.checkpoints.backbone import CheckpointError, InputSpec
from virtex.checkpoints.download import cached_path, download
from virtex.checkpoints.sharding import find_index
from virtex.config.yaml_files import expanduser
from virtex.files import replace_file
from virtex.resources import cache_folder
from virtex.text import escape

_EXAMPLES = "a local path, https://…, virtex://NAME, torchvision://resnet50 or random:resnet50"


@dataclass(frozen=True)
class Resolved:
    """A local file and the metadata that its source declares.

    Attributes:
        path: the file.
        format: a format's name; ``"auto"`` to detect it.
        input: the input that the network expects; ``None`` for that of the format.
        arch: the architecture's name; "" if unknown.
        stated_by: the file that declares the metadata, for error messages.
    """

    path: str
    format: str = "auto"
    input: InputSpec | None = None
    arch: str = ""
    stated_by: str = ""


Resolver = Callable[[str], Resolved]
SOURCES: dict[str, Resolver] = {}
# Sources in packages above this one, imported on first use.
PROVIDERS = {"virtex://": "virtex.zoo.source"}


def register_source(prefix: str) -> Callable[[Resolver], Resolver]:
    """Register the decorated function for names that start with ``prefix``.

    Raises:
        ValueError: the prefix is taken.
    """

    def register(resolver: Resolver) -> Resolver:
        if prefix in SOURCES:
            raise ValueError(f"a source for the prefix {prefix!r} is already registered")
        SOURCES[prefix] = resolver
        return resolver

    return register


def resolve_source(name: str | os.PathLike[str]) -> Resolved:
    """Return the local file of a checkpoint, downloaded or created if needed.

    Raises:
        CheckpointError: it was not found or could not be downloaded.
    """
    name = os.fspath(name)
    for prefix, module in PROVIDERS.items():
        if name.startswith(prefix):
            importlib.import_module(module)
    resolver = next((SOURCES[p] for p in SOURCES if name.startswith(p)), None)
    try:
        found = resolver(name) if resolver else Resolved(find_index(expanduser(name)))
    except OSError as error:
        raise CheckpointError(
            f"{escape(name, 300)} could not be stored: {escape(str(error), 500)}; free space, or "
            "set FVCORE_CACHE to another folder",
            code="checkpoint.download_failed",
        ) from error
    if not os.path.exists(found.path):
        raise CheckpointError(
            f"checkpoint not found: {escape(name, 300)}; specify {_EXAMPLES}",
            code="checkpoint.not_found",
        )
    return found


def resolve(name: str | os.PathLike[str]) -> str:
    """Return the path of ``resolve_source``."""
    return resolve_source(name).path


@register_source("https://")
@register_source("http://")
def resolve_url(url: str) -> Resolved:
    """Download a URL once into the cache; verify the file at every use."""
    return Resolved(str(download([url], cached_path(url))))


@register_source("torchvision://")
def resolve_torchvision(uri: str) -> Resolved:
    """Download torchvision's weights, ``IMAGENET1K_V1`` unless ``?weights=`` is given."""
    name, options = _parse(uri, "torchvision://", {"weights"})
    weights = torchvision.models.get_model_weights(name)
    wanted = options.get("weights", "IMAGENET1K_V1")
    if wanted not in weights.__members__:
        available = " and ".join(weights.__members__)
        raise CheckpointError(
            f"{uri}: unknown weights {wanted}; torchvision has {available}",
            code="checkpoint.invalid_name",
        )
    url = weights[wanted].url
    return Resolved(str(download([url], cached_path(url), sha256_prefix(url))))


@register_source("random:")
def resolve_random(uri: str) -> Resolved:
    """Create torchvision's network with random initialization from a seed.

    The file is created once for each network, seed and version of torch, on which the random
    numbers depend. The global random state is left unchanged.
    """
    name, options = _parse(uri, "random:", {"seed"})
    seed = options.get("seed", "0")
    if not seed.isdecimal():
        raise CheckpointError(
            f"{uri}: the seed should be an integer, found {seed!r}", code="checkpoint.invalid_name"
        )
    folder = cache_folder() / "virtex" / "random"
    file = folder / f"{name}_seed{int(seed)}_torch{torch.__version__}.pth"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            network = torchvision.models.get_model(name, weights=None)
        replace_file(file, lambda unfinished: torch.save(network.state_dict(), unfinished))
    return Resolved(str(file))


def sha256_prefix(url: str) -> str:
    """Return the first digits of the sha256, which torchvision includes in its file names."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return found[1] if found else ""


def _parse(uri: str, prefix: str, known: set[str]) -> tuple[str, dict[str, str]]:
    """Split ``random:resnet50?seed=0`` into ``("resnet50", {"seed": "0"})``."""
    name, _, query = uri.removeprefix(prefix).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - known)
    if unknown:
        raise CheckpointError(
            f"{uri}: unknown option {', '.join(unknown)}; expected {', '.join(sorted(known))}",
            code="checkpoint.invalid_name",
        )
    names = torchvision.models.list_models(torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise CheckpointError(
            f"{uri}: unknown torchvision network {name!r}; closest: {', '.join(near)}",
            code="checkpoint.invalid_name",
        )
    return name, options

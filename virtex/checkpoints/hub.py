"""Checkpoints of the Hugging Face Hub: ``hf://ORG/REPO[@REVISION][/FILE]`` and ``timm://NAME[.TAG]``.

``huggingface_hub`` downloads into its own cache, which it shares with other programs, and without a
connection (``HF_HUB_OFFLINE=1``, too) only what is in it is used.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from virtex.checkpoints.backbone import CheckpointError
from virtex.checkpoints.download import cached_path, download
from virtex.checkpoints.sharding import parse_index
from virtex.checkpoints.sources import Resolved, register_source, sha256_prefix
from virtex.files import sha256_of
from virtex.text import escape, join_first, one_line

# Names of a repository's weights, the preferred first
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz", ".pkl", ".tar", ".ckpt")
# Configs that may state a network's input, fetched into the same folder
CONFIGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
INDEX_SUFFIX = ".index.json"
TIMEOUT = 10.0  # seconds to connect

_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([^/\s]+))?(?:/(.+))?")


@dataclass(frozen=True)
class Repository:
    """A repository at one revision.

    Attributes:
        name: ``ORG/REPO``.
        requested: a branch, tag or commit; "" for the main branch.
        revision: its commit.
        files: paths of its files; without a connection, of those in the cache.
        offline: whether only the cache is used.
    """

    name: str
    requested: str
    revision: str
    files: tuple[str, ...]
    offline: bool = False

    def fetch(self, file: str) -> Path:
        """Return the local path of a file, downloaded unless it is in the cache.

        Raises:
            CheckpointError: it could not be downloaded, or differs from what the Hub declares.
        """
        from huggingface_hub import hf_hub_download

        # By the requested name, which the cache then maps to the commit
        revision = self.revision if self.offline else self.requested or None
        try:
            path = Path(
                hf_hub_download(self.name, file, revision=revision, local_files_only=self.offline)
            )
        except Exception as error:
            raise hub_error(self.name, self.requested, error, file) from error
        if self.revision not in path.parts:
            raise CheckpointError(
                f"{self.name} changed while {file} was downloaded; run the command again",
                code="checkpoint.download_failed",
            )
        # Large files are stored in the cache under their sha256
        expected = path.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", expected) and sha256_of(path) != expected:
            raise CheckpointError(
                f"{path} differs from what {self.name} provides, its sha256 should be {expected}; "
                "delete this file to download it again",
                code="checkpoint.hash_mismatch",
            )
        return path


@register_source("hf://")
def resolve_hub(uri: str) -> Resolved:
    """Download a repository's weights and the configs that state their input.

    A revision with slashes is written with ``%2F`` (``@refs%2Fpr%2F1``).
    """
    match = _NAME.fullmatch(uri)
    if match is None:
        raise CheckpointError(
            f"expected hf://ORG/REPO, hf://ORG/REPO@REVISION or hf://ORG/REPO/FILE, found "
            f"{escape(uri, 300)}; correct the name",
            code="checkpoint.invalid_name",
        )
    name, revision, file = match.groups()
    return fetch_weights(name, unquote(revision or ""), file or "")


def fetch_weights(name: str, revision: str = "", file: str = "") -> Resolved:
    """Return the weights of a repository, with all shards if they are in several files.

    Args:
        name: ``ORG/REPO``.
        revision: a branch, tag or commit; "" for the main branch.
        file: path in the repository; "" to choose, see ``choose_weights``.

    Raises:
        CheckpointError: they could not be downloaded, or the repository has no such file.
    """
    repository = open_repository(name, revision)
    file = file or choose_weights(repository)
    if file not in repository.files:
        near = difflib.get_close_matches(file, repository.files, n=3) or repository.files
        raise CheckpointError(
            f"{name} at revision {repository.revision} has no file {escape(file)}; it has "
            f"{escape(join_first(near), 300)}",
            code="checkpoint.not_found",
        )
    folder = file.rpartition("/")[0]
    for config in CONFIGS:
        beside = f"{folder}/{config}" if folder else config
        if beside in repository.files:
            repository.fetch(beside)
    path = repository.fetch(file)
    if file.endswith(INDEX_SUFFIX):
        for shard in parse_index(path, path.read_bytes()):
            repository.fetch(f"{folder}/{shard}" if folder else shard)
    return Resolved(str(path), notes=(f"{name} at revision {repository.revision}",))


def open_repository(name: str, revision: str = "") -> Repository:
    """Return the files of a repository; those in the cache if the Hub cannot be reached.

    Raises:
        CheckpointError: it does not exist or needs permission, or it is not in the cache either.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=TIMEOUT)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        cached = find_cached(name, revision) if status is None or status >= 500 else None
        if cached is None:
            raise hub_error(name, revision, error) from error
        return cached
    files = tuple(sibling.rfilename for sibling in info.siblings or ())
    return Repository(name, revision, info.sha or revision, files)


def find_cached(name: str, revision: str) -> Repository | None:
    """Return the files of a repository in the cache; ``None`` if there are none.

    The cache has a folder of each commit in ``snapshots``; ``refs`` maps other revisions to them.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    files = [path for path in snapshot.rglob("*") if path.is_file()] if commit else []
    names = tuple(sorted(path.relative_to(snapshot).as_posix() for path in files))
    return Repository(name, revision, commit, names, offline=True) if names else None


def choose_weights(repository: Repository) -> str:
    """Return the first of ``WEIGHTS`` that a repository has, or its only file of weights.

    Raises:
        CheckpointError: it has none, or several others.
    """
    files = repository.files
    if chosen := next((name for name in WEIGHTS if name in files), ""):
        return chosen
    others = [name for name in files if name.endswith(SUFFIXES)]
    if len(others) == 1:
        return others[0]
    found = f"several: {join_first(others, 8)}" if others else f"only {join_first(files, 8)}"
    raise CheckpointError(
        f"expected a file of weights in {repository.name}, such as {WEIGHTS[0]}, found "
        f"{escape(found, 500)}; specify one: hf://{repository.name}/FILE",
        code="checkpoint.not_found",
    )


def hub_error(name: str, revision: str, error: Exception, file: str = "") -> CheckpointError:
    """Return what an error of ``huggingface_hub`` means, in one sentence."""
    from huggingface_hub import errors

    what = f"{file} of {name}" if file else name
    what += f" at revision {escape(revision)}" if revision else ""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return CheckpointError(
            f"{what} needs permission (status {status}); accept its terms at "
            f"https://huggingface.co/{name} and set HF_TOKEN, or run hf auth login",
            code="checkpoint.access_denied",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return CheckpointError(
            f"{what} was not found on the Hugging Face Hub, or is private (status {status}); "
            "correct the name, or set HF_TOKEN",
            code="checkpoint.not_found",
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError):
        return CheckpointError(
            f"{what} was not found on the Hugging Face Hub; correct the revision or the file",
            code="checkpoint.not_found",
        )
    # of a file that is not in the cache, either
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if cause is None or isinstance(cause, errors.OfflineModeIsEnabled):
        reason = "it is not in the cache, and the Hub is offline (HF_HUB_OFFLINE)"
    else:
        reason = escape(one_line(cause), 300) or type(cause).__name__
    return CheckpointError(
        f"{what} could not be downloaded: {reason}; check the connection, or download the file by "
        "other means",
        code="checkpoint.download_failed",
    )


@register_source("timm://")
def resolve_timm(uri: str) -> Resolved:
    """Download pretrained weights of timm, the default ones of a model unless a tag is given."""
    cfg = find_weights(uri)
    size = "x".join(map(str, cfg.input_size[1:]))
    note = f"timm evaluates it at {size} pixels, crop {cfg.crop_pct:g}, {cfg.interpolation}"
    if cfg.hf_hub_id:
        name, _, revision = cfg.hf_hub_id.partition("@")
        found = fetch_weights(name, revision, cfg.hf_hub_filename or "")
    else:
        url = cfg.url if isinstance(cfg.url, str) else cfg.url[0]
        found = Resolved(str(download([url], cached_path(url), sha256_prefix(url))))
    tag = f".{cfg.tag}" if cfg.tag else ""
    return Resolved(found.path, f"timm:{cfg.architecture}{tag}", notes=(*found.notes, note))


def find_weights(uri: str) -> Any:
    """Return timm's ``PretrainedCfg`` of ``timm://NAME[.TAG]``.

    Raises:
        CheckpointError: timm has no such model or tag, or no weights of it.
    """
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models

    name = uri.removeprefix("timm://")
    base = name.partition(".")[0]
    if not is_model(base):
        near = difflib.get_close_matches(base[:100], list_models(), n=3, cutoff=0.4)
        raise CheckpointError(
            f"{escape(uri)}: timm has no such model; closest: {', '.join(near) or 'none'}",
            code="checkpoint.invalid_name",
        )
    weights = {n: cfg for n, cfg in get_arch_pretrained_cfgs(base).items() if cfg.has_weights}
    known = join_first(list(weights), 10) or f"none of {base}"
    if "." in name and name not in weights:
        raise CheckpointError(
            f"{escape(uri)}: timm has no such weights; it has {known}",
            code="checkpoint.invalid_name",
        )
    cfg = get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise CheckpointError(
            f"{escape(uri)}: timm has no default weights of this model; it has {known}",
            code="checkpoint.invalid_name",
        )
    return cfg

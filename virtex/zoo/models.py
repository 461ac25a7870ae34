"""The zoo's Python API: files, whole models with their textual head, the backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.errors import UserError
from virtex.zoo.entries import PREFIX, Entry, find, find_entry

if TYPE_CHECKING:
    from torch import nn

    from virtex.pretraining.models.build import PretrainingModel

WRAPPERS = ("module.", "_orig_mod.")


def download(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the file of an entry, downloaded once.

    Args:
        name: as ``width_ablations/bicaptioning_R_50_L1_H2048``, or its last part alone.
        folder: for a copy; ``None`` for the cache only, which ``virtex://NAME`` uses.

    Raises:
        UserError: the entry does not exist, or its file could not be downloaded.
    """
    from virtex.zoo.files import copy_entry, fetch_entry

    entry = find(name)
    return fetch_entry(entry) if folder is None else copy_entry(entry, Path(folder))


def config_yaml(name: str) -> str:
    """Return all settings of a model's pretraining, as YAML that reproduces it.

    Raises:
        UserError: the entry does not exist, or has no config.
    """
    from virtex.config import load_config

    entry = find(name)
    if not entry.config:
        raise UserError(
            f"{entry.name} was not trained by this package and has no config; "
            f"see {entry.source or entry.urls[0]}",
            "zoo.no_config",
        )
    part = "the backbone of a" if entry.holds == "backbone" else "a"
    return f"# {entry.name}: {part} model of this config\n{load_config(config_of(entry)).dump()}"


def config_of(entry: Entry) -> str:
    """Return the name of a packaged config, or the path of one next to the entry's zoo file."""
    return resolve_zoo_path(entry, entry.config)


def resolve_zoo_path(entry: Entry, name: str) -> str:
    """Return the path of a file next to the entry's zoo file if it exists, else ``name``."""
    path = entry.zoo_file.parent / name
    return str(path) if path.is_file() else name


def get(name: str, pretrained: bool = False) -> PretrainingModel:
    """Return a whole pretraining model, textual head included, in eval mode.

    Args:
        name: as ``width_ablations/bicaptioning_R_50_L1_H2048``, or its last part alone.
        pretrained: with its published weights, downloaded once; else randomly initialized.

    Raises:
        UserError: the model does not exist, or its weights could not be downloaded.
    """
    from virtex.config import load_config
    from virtex.pretraining.models.build import build_model

    entry = find(name)
    if entry.holds != "model" or not entry.config:
        raise UserError(
            f"{entry.name} is only a backbone; load it with virtex.checkpoints.load_backbone",
            "zoo.not_a_model",
        )
    model = build_model(load_config(config_of(entry)))
    if pretrained:
        load_weights(model, f"{PREFIX}{entry.name}")
    return model.eval()


def load(checkpoint: str) -> PretrainingModel:
    """Return the whole model of a checkpoint of ``virtex.pretrain``, in eval mode.

    Args:
        checkpoint: a path with ``pretrain_config.yaml`` next to it, or ``virtex://NAME``.

    Raises:
        UserError: the config is missing, or is that of another model.
    """
    from virtex.config import load_config
    from virtex.pretraining.models.build import build_model

    if find_entry(str(checkpoint)):
        return get(str(checkpoint), pretrained=True)
    model = build_model(load_config(find_pretraining_config(checkpoint)))
    load_weights(model, str(checkpoint))
    return model.eval()


def find_pretraining_config(checkpoint: str) -> Path:
    """Return the ``pretrain_config.yaml`` that training wrote next to a checkpoint.

    Raises:
        UserError: it is missing.
    """
    from virtex.checkpoints.sources import resolve

    path = Path(resolve(checkpoint))
    config = path.with_name("pretrain_config.yaml")
    if not config.is_file():
        raise UserError(
            f"{config} is missing; copy the config that {path.name} was trained with",
            "zoo.no_config",
        )
    return config


def resnet50(pretrained: bool | str = False, **kwargs: Any) -> nn.Module:
    """Return a ResNet-50 without head, with torchvision's parameter names.

    Args:
        pretrained: ``True``: the backbone of VirTex's best model (bicaptioning, L1 H2048),
            downloaded once; a path, URL or other name of a checkpoint: the backbone in it,
            in any format; ``False``: randomly initialized.
        kwargs: for ``torchvision.models.ResNet``.

    Returns:
        A network from RGB images (batch, 3, height, width), normalized with ImageNet's mean and
        standard deviation, to features (batch, 2048, height / 32, width / 32).

    Raises:
        UserError: the checkpoint could not be loaded or is not a complete ResNet-50.
    """
    from virtex.backbones.resnet import ResNetArch, SpatialResNet50
    from virtex.checkpoints.loading import load_backbone

    model = SpatialResNet50(**kwargs)
    if not pretrained:
        return model
    checkpoint = f"{PREFIX}hub/resnet50" if pretrained is True else pretrained
    backbone = load_backbone(checkpoint)
    expected = ResNetArch(50, "bottleneck")
    if backbone.arch != expected:
        raise UserError(
            f"expected a ResNet-50 in {checkpoint}, {expected}, found {backbone.arch}",
            code="checkpoint.unexpected_architecture",
        )
    model.load_state_dict(backbone.state_dict, strict=True)
    return model


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load all weights of a pretraining model from a checkpoint, which must contain no others.

    Args:
        checkpoint: a path, a URL or another name of a checkpoint.

    Raises:
        UserError: the checkpoint could not be loaded, or is of another model.
    """
    fill(model, weights_in(checkpoint), checkpoint)


def weights_in(
    checkpoint: str, trust_pickle: bool = False, sha256: str | None = None
) -> dict[str, Any]:
    """Return the state_dict of a pretraining checkpoint; empty if there is none.

    Args:
        trust_pickle: allow a pickle to run code.
        sha256: of the file, if it was opened before.

    Raises:
        UserError: the checkpoint could not be loaded, or has another hash.
    """
    from virtex.checkpoints.containers import open_checkpoint
    from virtex.checkpoints.sources import resolve

    opened = open_checkpoint(resolve(checkpoint), trust_pickle)
    if sha256 not in (None, opened.sha256):
        raise UserError(
            f"{checkpoint} was replaced while it was read; run the command again",
            "checkpoint.replaced",
        )
    content = opened.content
    weights = content.get("model", content) if isinstance(content, dict) else {}
    if not isinstance(weights, dict):
        return {}
    return {without_wrappers(str(name)): value for name, value in weights.items()}


def without_wrappers(name: str) -> str:
    """Return a tensor's name without the prefixes of torch's wrappers."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def fill(model: nn.Module, weights: dict[str, Any], checkpoint: str) -> None:
    """Load weights strictly; raise UserError if they are of another model."""
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]
        first = problems[0] if problems else str(error)
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"{checkpoint} contains another model: {first[:300]}{more}",
            "checkpoint.other_model",
        ) from error

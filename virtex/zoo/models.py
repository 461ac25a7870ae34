"""Models of the zoo in Python: download, whole models with their textual head, the backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtex.errors import UserError
from virtex.zoo.entries import PREFIX, Entry, entry_named, find

if TYPE_CHECKING:
    from torch import nn

    from virtex.pretraining.models.build import PretrainingModel

WRAPPERS = ("module.", "_orig_mod.")


def download(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The file of an entry, downloaded once.

    Args:
        name: as ``width_ablations/bicaptioning_R_50_L1_H2048``, or its last part alone.
        folder: where a copy goes; ``None``: only the cache, where ``virtex://NAME`` looks.

    Raises:
        UserError: there is no such entry, or its file cannot be had.
    """
    from virtex.zoo.files import copy_entry, fetch_entry

    entry = find(name)
    return fetch_entry(entry) if folder is None else copy_entry(entry, Path(folder))


def config_yaml(name: str) -> str:
    """Every setting of the pretraining that a model came from, as YAML that reproduces it.

    Raises:
        UserError: there is no such entry, or no config of it.
    """
    from virtex.config import load_config

    entry = find(name)
    if not entry.config:
        raise UserError(
            f"{entry.name} was not trained by this package, so that there is no config of it; "
            f"see {entry.source or entry.urls[0]}"
        )
    part = "the backbone of a" if entry.holds == "backbone" else "a"
    return f"# {entry.name}: {part} model of this config\n{load_config(config_of(entry)).dump()}"


def config_of(entry: Entry) -> str:
    """The name of a packaged config, or the path of one beside the entry's zoo file."""
    return beside_zoo_file(entry, entry.config)


def beside_zoo_file(entry: Entry, name: str) -> str:
    """The path of a file beside the entry's zoo file, if it is there; else ``name``."""
    beside = entry.zoo_file.parent / name
    return str(beside) if beside.is_file() else name


def get(name: str, pretrained: bool = False) -> PretrainingModel:
    """A whole pretraining model, textual head included, in eval mode.

    Args:
        name: as ``width_ablations/bicaptioning_R_50_L1_H2048``, or its last part alone.
        pretrained: with its published weights, downloaded once; else randomly initialized.

    Raises:
        UserError: there is no such model, or its weights cannot be had.
    """
    from virtex.config import load_config
    from virtex.pretraining.models.build import build_model

    entry = find(name)
    if entry.holds != "model" or not entry.config:
        raise UserError(
            f"{entry.name} is a backbone alone; load it with virtex.checkpoints.load_backbone, "
            "or hubconf.py's resnet50"
        )
    model = build_model(load_config(config_of(entry)))
    if pretrained:
        load_weights(model, f"{PREFIX}{entry.name}")
    return model.eval()


def load(checkpoint: str) -> PretrainingModel:
    """The whole model in a checkpoint of ``virtex.pretrain``, in eval mode.

    Args:
        checkpoint: its path, beside which ``pretrain_config.yaml`` says what it is; or
            ``virtex://NAME``.

    Raises:
        UserError: there is no config beside it, or they do not fit.
    """
    from virtex.config import load_config
    from virtex.pretraining.models.build import build_model

    if entry_named(str(checkpoint)):
        return get(str(checkpoint), pretrained=True)
    model = build_model(load_config(config_beside(checkpoint)))
    load_weights(model, str(checkpoint))
    return model.eval()


def config_beside(checkpoint: str) -> Path:
    """``pretrain_config.yaml`` in the folder of a checkpoint, which training leaves there.

    Raises:
        UserError: there is none.
    """
    from virtex.checkpoints.sources import resolve

    path = Path(resolve(checkpoint))
    config = path.with_name("pretrain_config.yaml")
    if not config.is_file():
        raise UserError(f"{path} has no {config.name} beside it; put the one it was trained with")
    return config


def resnet50(pretrained: bool | str = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 that gives its last feature map, with torchvision's parameter names.

    Args:
        pretrained: ``True``: the backbone of VirTex's best model (bicaptioning, L1 H2048),
            downloaded once; a path, address or other name of a checkpoint: the backbone in it,
            whatever its format; ``False``: randomly initialized.
        kwargs: for ``torchvision.models.ResNet``.

    Returns:
        A network from RGB images (batch, 3, height, width), normalized with ImageNet's mean and
        standard deviation, to features (batch, 2048, height / 32, width / 32).

    Raises:
        UserError: the checkpoint cannot be had or is no complete ResNet-50.
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
    """Fill a pretraining model from a checkpoint that must hold it whole, and nothing else.

    Args:
        checkpoint: a path or an address, as everywhere.

    Raises:
        UserError: the checkpoint cannot be had, or is of another model.
    """
    fill(model, weights_in(checkpoint), checkpoint)


def weights_in(checkpoint: str, trust_pickle: bool = False) -> dict[str, Any]:
    """The state_dict in a pretraining's checkpoint; empty where there is none.

    Args:
        trust_pickle: let a pickle run the code it asks for.

    Raises:
        UserError: the checkpoint cannot be had or opened.
    """
    from virtex.checkpoints.containers import open_checkpoint
    from virtex.checkpoints.sources import resolve

    content, _ = open_checkpoint(resolve(checkpoint), trust_pickle)
    weights = content.get("model", content) if isinstance(content, dict) else {}
    if not isinstance(weights, dict):
        return {}
    return {without_wrappers(str(name)): value for name, value in weights.items()}


def without_wrappers(name: str) -> str:
    """A tensor's name without what torch's wrappers put before it."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def fill(model: nn.Module, weights: dict[str, Any], checkpoint: str) -> None:
    """Load all of a model's weights, and no others; ``UserError`` where they are of another."""
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]]  # torch says many
        first = problems[0] if problems else str(error)
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(f"{checkpoint} does not hold this model: {first[:300]}{more}") from error

"""Published models by name: look up in ``model_zoo.yaml``, download, load strictly.

>>> from virtex import zoo
>>> model = zoo.get("width_ablations/bicaptioning_R_50_L1_H2048", pretrained=True)
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import virtex
from virtex.errors import UserError

if TYPE_CHECKING:
    from torch import nn

ZOO_FILE = Path(virtex.__file__).parent / "model_zoo.yaml"


@dataclass(frozen=True)
class Entry:
    """One downloadable model.

    Attributes:
        url: where its file is.
        config: the packaged pretraining config it was trained with; "" for a bare backbone.
        arch: its backbone, by torchvision's name.
    """

    name: str
    url: str
    config: str = ""
    arch: str = "resnet50"


def entries() -> dict[str, Entry]:
    """Every entry of ``model_zoo.yaml`` by name."""
    rows = yaml.safe_load(ZOO_FILE.read_text(encoding="utf-8"))["models"]
    return {name: Entry(name, **row) for name, row in rows.items()}


def find(name: str) -> Entry:
    """The entry of this name; its last part alone is enough.

    Raises:
        UserError: there is none; the nearest names are listed.
    """
    known = entries()
    by_last_part = {key.rpartition("/")[2]: entry for key, entry in known.items()}
    entry = known.get(name.removesuffix(".yaml")) or by_last_part.get(name.removesuffix(".yaml"))
    if entry is None:
        near = difflib.get_close_matches(name, [*known, *by_last_part], n=3, cutoff=0.3) or known
        raise UserError(f"the model zoo has no {name!r}; near it: {', '.join(near)}")
    return entry


def get(name: str, pretrained: bool = False) -> nn.Module:
    """A whole pretraining model, textual head included, in eval mode.

    Args:
        name: as ``width_ablations/bicaptioning_R_50_L1_H2048``, or its last part alone.
        pretrained: with its published weights, downloaded once; else randomly initialised.

    Raises:
        UserError: there is no such model, or its weights cannot be had.
    """
    from virtex.config import load_config
    from virtex.models.build import build_model

    entry = find(name)
    if not entry.config:
        raise UserError(
            f"{entry.name} is a backbone alone; load it with virtex.checkpoints.load_backbone, "
            "or hubconf.py's resnet50"
        )
    model = build_model(load_config(entry.config))
    if pretrained:
        load_weights(model, entry.url)
    return model.eval()


def load(checkpoint: str) -> nn.Module:
    """The whole model in a checkpoint of ``virtex.pretrain``, in eval mode.

    Args:
        checkpoint: its path; the ``pretrain_config.yaml`` beside it says what it is.

    Raises:
        UserError: there is no config beside it, or they do not fit.
    """
    from virtex.checkpoints.sources import resolve
    from virtex.config import load_config
    from virtex.models.build import build_model

    path = Path(resolve(checkpoint))
    config = path.with_name("pretrain_config.yaml")
    if not config.is_file():
        raise UserError(f"{path} has no {config.name} beside it; put the one it was trained with")
    model = build_model(load_config(config))
    load_weights(model, str(path))
    return model.eval()


def resnet50(pretrained: bool | str = False, **kwargs) -> nn.Module:
    """ResNet-50 that gives its last feature map, with torchvision's parameter names.

    Args:
        pretrained: ``True``: the backbone of VirTex's best model (bicaptioning, L1 H2048),
            downloaded once; a path, address or other name of a checkpoint: the backbone in it,
            whatever its format; ``False``: randomly initialised.
        kwargs: for ``torchvision.models.ResNet``.

    Returns:
        A network from RGB images (batch, 3, height, width), normalised with ImageNet's mean and
        standard deviation, to features (batch, 2048, height / 32, width / 32).

    Raises:
        UserError: the checkpoint cannot be had or is no complete ResNet-50.
    """
    from virtex.checkpoints.loading import load_backbone
    from virtex.models.resnet import SpatialResNet50

    model = SpatialResNet50(**kwargs)
    if not pretrained:
        return model
    checkpoint = find("hub/resnet50").url if pretrained is True else pretrained
    backbone = load_backbone(checkpoint)
    # the stride's place leaves no trace in the shapes, but makes it another network
    if backbone.arch.name != "resnet50" or backbone.arch.stride_in_1x1:
        stride = " with its stride in the 1x1 convolutions" * backbone.arch.stride_in_1x1
        raise UserError(f"{checkpoint} holds a {backbone.arch.name}{stride}, not a ResNet-50")
    model.load_state_dict(backbone.state_dict, strict=True)
    return model


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Fill a pretraining model from a checkpoint that must hold it whole, and nothing else.

    Args:
        checkpoint: a path or an address, as everywhere.

    Raises:
        UserError: the checkpoint cannot be had, or is of another model.
    """
    from virtex.checkpoints.opening import open_checkpoint
    from virtex.checkpoints.sources import resolve

    content, _ = open_checkpoint(resolve(checkpoint))
    weights = content.get("model", content) if isinstance(content, dict) else {}
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint} does not hold this model: {error}") from error

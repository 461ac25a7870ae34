"""What the families of timm's networks share: names of models, and tensors that do not fit."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

from virtex.backbones.registry import (
    Arch,
    Family,
    Shapes,
    UnsupportedArchitectureError,
    detect_arch,
    detect_named_arch,
    expected_shapes,
    get_family,
)
from virtex.text import escape


class TimmFamily(Family):
    """A family whose networks timm builds and names.

    Attributes:
        size_fields: fields of the architecture that tensor shapes determine and in which timm's
            models differ.
    """

    size_fields: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read_fields(self, network: Any) -> dict[str, Any]:
        """Return the ``format_fields`` of one of timm's networks, those that it shows."""

    def contradicts(self, arch: Arch, stated: str) -> str | None:
        """See ``Family``. Names of timm's models are compared with the models themselves."""
        known = timm_arch(stated)
        if known is None:
            return None
        same = known.family == self.name and all(
            getattr(known, name) == getattr(arch, name) for name in self.size_fields
        )
        return None if same else "another architecture"

    def stated_fields(self, arch: Arch, stated: str) -> dict[str, Any]:
        known = timm_arch(stated)
        if known is None or known.family != self.name:
            return {}
        return {name: getattr(known, name) for name in self.format_fields}


def timm_name(stated: str) -> str:
    """Return the name of timm's model in one that a file states; "" if timm has none.

    The stated name may have an organization (``timm/…``) and a tag of pretrained weights
    (``vit_base_patch16_224.mae``).
    """
    import timm

    name = stated.rpartition("/")[2].partition(".")[0]
    return name if timm.is_model(name) else ""


@lru_cache(maxsize=64)
def timm_network(name: str) -> Any:
    """Return timm's model of this name without classifier, on the meta device.

    Raises:
        UnsupportedArchitectureError: the installed timm has none.
    """
    import timm
    import torch

    if not timm.is_model(name):
        raise UnsupportedArchitectureError(
            f"timm {timm.__version__} has no network named {escape(name)}; install a version that "
            "has it"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def timm_normalization(stated: str) -> tuple[Any, Any, float]:
    """Return mean, std and the value of a white pixel of timm's pretrained weights.

    Args:
        stated: a name of one of timm's models; without a tag, of its default weights.
    """
    from timm.models import get_pretrained_cfg

    name = stated.rpartition("/")[2]
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        cfg = get_pretrained_cfg(timm_name(name))
    if cfg is None:
        cfg = timm_network(timm_name(name)).pretrained_cfg
        return tuple(cfg["mean"]), tuple(cfg["std"]), 1.0
    return tuple(cfg.mean), tuple(cfg.std), 1.0


@lru_cache(maxsize=64)
def timm_arch(stated: str) -> Arch | None:
    """Return the architecture of timm's model of this name; ``None`` if no family has it.

    Args:
        stated: see ``timm_name``.
    """
    name = timm_name(stated)
    if not name:
        return None
    network = timm_network(name)
    tensors = network.state_dict()
    try:
        arch = detect_arch(tensors)
    except UnsupportedArchitectureError:
        arch = None
    if arch is None:
        return detect_named_arch(tensors, name)
    family = get_family(arch)
    if isinstance(family, TimmFamily):
        return replace(arch, **family.read_fields(network))
    return detect_named_arch(tensors, name) if family.contradicts(arch, name) else arch


def reject_extra_tensors(shapes: Shapes, arch: Arch, inside: re.Pattern[str]) -> None:
    """Check that all tensors inside the backbone belong to an architecture.

    Args:
        inside: matches the whole names of tensors inside the backbone.

    Raises:
        UnsupportedArchitectureError: some do not.
    """
    expected = expected_shapes(arch)
    extra = [name for name in shapes if inside.fullmatch(name) and name not in expected]
    if extra:
        shown = ", ".join(extra[:3]) + (", …" if len(extra) > 3 else "")
        raise UnsupportedArchitectureError(
            f"{len(extra)} tensors inside its blocks do not belong to a {arch.name}: {shown}; "
            "merge adapters into the weights, or choose the --format of the project"
        )

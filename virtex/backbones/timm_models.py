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
    expected_shapes,
    get_family,
)


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


@lru_cache(maxsize=64)
def timm_arch(name: str) -> Arch | None:
    """Return the architecture of timm's model of this name; ``None`` if timm has none.

    A tag of pretrained weights (``vit_base_patch16_224.mae``) may follow.
    """
    import timm
    import torch

    base = name.partition(".")[0]
    if not timm.is_model(base):
        return None
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = timm.create_model(base, num_classes=0)
    try:
        arch = detect_arch(model.state_dict())
    except UnsupportedArchitectureError:
        return None
    if arch is not None and isinstance(family := get_family(arch), TimmFamily):
        return replace(arch, **family.read_fields(model))
    return arch


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

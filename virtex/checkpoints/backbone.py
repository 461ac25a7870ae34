"""The types everything passes: a checkpoint becomes a ``Backbone``, proven complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from virtex.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ("stem", "res2", "res3", "res4", "res5")


class CheckpointError(UserError):
    """A checkpoint that cannot be had, opened, recognized, or loaded completely."""


@dataclass(frozen=True)
class Arch:
    """The architecture of a backbone, read off tensor shapes.

    Attributes:
        family: key of the family registry; ``"resnet"`` covers ResNet, wide ResNet, ResNeXt.
        depth: 18, 34, 50, 101 or 152.
        block: ``"basic"`` or ``"bottleneck"``.
        width_per_group: channels of a group in the 3x3 convolution of res2 (64 in ResNet-50,
            128 in wide ResNet-50-2, 4 in ResNeXt-50 32x4d).
        groups: groups of the 3x3 convolutions.
        stem: ``"standard"``: one 7x7 convolution of 64 channels, stride 2, then max pooling.
        stride_in_1x1: whether a bottleneck's stride sits in its first 1x1 convolution (as in
            the original MSRA models) and not in its 3x3 one (as in torchvision). It leaves no
            trace in the shapes; the format says it.
    """

    family: str
    depth: int
    block: str
    width_per_group: int = 64
    groups: int = 1
    stem: str = "standard"
    stride_in_1x1: bool = False

    @property
    def name(self) -> str:
        """torchvision's name where it has one, else one of the same make."""
        if self.groups > 1:
            return f"resnext{self.depth}_{self.groups}x{self.width_per_group}d"
        if self.width_per_group != 64:
            return f"wide_resnet{self.depth}_{self.width_per_group / 64:g}"
        return f"{self.family}{self.depth}"


@dataclass(frozen=True)
class InputSpec:
    """What a network expects of an image.

    Attributes:
        channel_order: ``"RGB"`` or ``"BGR"``.
        mean, std: per channel, in ``channel_order``, in units of ``scale``.
        scale: the value of a white pixel before normalization: 1.0 or 255.0.
    """

    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1.0


@dataclass(frozen=True)
class StageCoverage:
    """Names of one stage's tensors: all expected, those loaded, missing, of another shape."""

    expected: tuple[str, ...]
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """What of the backbone the file filled, stage by stage, and what of the file was left.

    Attributes:
        stages: stage name (stem, res2 … res5) -> ``StageCoverage``.
        unused: top-level name of tensors left out (``fc``, ``module.encoder_k``) -> how many.
    """

    stages: dict[str, StageCoverage]
    unused: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(not s.missing and not s.mismatched for s in self.stages.values())

    def as_dict(self) -> dict[str, Any]:
        """Counts for the result record; names only of what is wrong."""
        return {
            "complete": self.complete,
            "stages": {
                name: {
                    "expected": len(stage.expected),
                    "loaded": len(stage.loaded),
                    "missing": list(stage.missing),
                    "mismatched": list(stage.mismatched),
                }
                for name, stage in self.stages.items()
            },
            "unused": dict(self.unused),
        }


@dataclass(frozen=True)
class Source:
    """Where a backbone came from: what was asked for, the file, its sha256 and format."""

    requested: str
    path: str
    sha256: str
    format: str
    coverage: Coverage
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A pretrained backbone, complete and finite.

    Attributes:
        arch: the architecture.
        state_dict: torchvision names, no classifier, float32 tensors on the CPU.
        input: what the network expects of an image.
        source: where it came from.
    """

    arch: Arch
    state_dict: dict[str, Tensor]
    input: InputSpec
    source: Source

    def record(self) -> dict[str, Any]:
        """The ``model`` part of a result record (JSON types only)."""
        return {
            "name": self.source.requested,
            "source": self.source.path,
            "sha256": self.source.sha256,
            "format": self.source.format,
            "arch": {"name": self.arch.name, **asdict(self.arch)},
            "input": asdict(self.input),
            "coverage": self.source.coverage.as_dict(),
            "notes": list(self.source.notes),
        }

"""The types that the rest of the toolkit receives: a checkpoint becomes a ``Backbone``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from virtex.checkpoints.coverage import Coverage
from virtex.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from virtex.backbones.registry import Arch


class CheckpointError(UserError):
    """A checkpoint that could not be found, downloaded, opened, detected or loaded completely."""

    code = "checkpoint.invalid"


@dataclass(frozen=True)
class InputSpec:
    """The input that a network expects.

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
class Source:
    """The origin of a backbone: the requested name, the file, its sha256, format and coverage.

    The name is redacted (``virtex.text.redact``): ``reopen_name`` opens the same file again.
    """

    requested: str
    path: str
    sha256: str
    format: str
    coverage: Coverage
    notes: tuple[str, ...] = ()

    @property
    def reopen_name(self) -> str:
        return self.path if "…" in self.requested else self.requested


@dataclass(frozen=True)
class Backbone:
    """A pretrained backbone, complete and finite.

    Attributes:
        arch: the architecture, a dataclass of its family.
        state_dict: the family's canonical names (torchvision's for ResNets), no classifier,
            float32 tensors on the CPU.
        input: the input that the network expects.
        source: the origin of the tensors.
    """

    arch: Arch
    state_dict: dict[str, Tensor]
    input: InputSpec
    source: Source

    def record(self) -> dict[str, Any]:
        """Return the ``model`` part of a result record (JSON types only)."""
        from virtex.backbones.registry import count_parameters

        return {
            "name": self.source.requested,
            "source": self.source.path,
            "sha256": self.source.sha256,
            "format": self.source.format,
            "family": self.arch.family,
            "arch": {"name": self.arch.name, **asdict(self.arch)},
            "params": count_parameters(self.arch),
            "input": asdict(self.input),
            "coverage": self.source.coverage.as_dict(),
            "notes": list(self.source.notes),
        }


def build_network(backbone: Backbone) -> nn.Module:
    """Return the network with the backbone's weights, in training mode, float32, on the CPU."""
    from virtex.backbones.registry import get_family

    network = get_family(backbone.arch).build(backbone.arch)
    network.load_state_dict(backbone.state_dict, strict=True)
    return network

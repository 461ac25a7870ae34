"""The registry of backbone families.

A family is a kind of network, such as ResNet. One subclass of ``Family`` contains everything that
is specific to it. To add a family, register an instance::

    register_family(ConvNeXt())
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from virtex.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

# BatchNorm's counter of training steps. It is used only with ``momentum=None``, and checkpoints
# saved with frozen batch norm do not contain it.
BATCH_COUNTER = "num_batches_tracked"

# Tokens, position embeddings, and parameters of relative position bias and cosine attention
_NO_WEIGHT_DECAY = re.compile(
    r"(?:.+\.)?(?:\w+_token|\w*pos_embed\w*|relative_position_bias_table|logit_scale|cpb_mlp\..+)"
)

Shapes = Mapping[str, tuple[int, ...]]


class UnsupportedArchitectureError(UserError):
    """The tensors belong to a network that no registered family can build."""

    code = "checkpoint.unsupported_architecture"


@dataclass(frozen=True)
class Arch(ABC):
    """Base class of architecture descriptions: frozen dataclasses whose fields are JSON types.

    Attributes:
        family: key of the family registry.
    """

    family: str

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the model name, that of torchvision or timm if they provide the model."""


class Family(ABC):
    """A kind of network.

    Attributes:
        name: key in the registry; ``Arch.family``.
        default_arch: a typical architecture, with which unrecognized checkpoints are compared.
        anchor_key: name of a tensor that every architecture of the family has; its position in a
            key reveals the prefix.
        generic_formats: whether the rows of the format table that name no family apply to it.
        format_fields: fields of the architecture that cannot be inferred from tensor shapes. The
            checkpoint's format or the file itself defines them.
        fixed_settings: other settings without tensors -> the only supported value, in the notation
            of ``virtex.checkpoints.statements``. A file that states another is rejected.
        torchvision_options: keyword arguments of torchvision's model builders that this family
            accepts besides the common ones.
        detectron2_converters: detector layout (``"FPN"``, …) -> ``"module:function"`` with the
            signature of ``virtex.detectron.adapters.Converter``. Layouts that are not listed are
            rejected.
    """

    name: ClassVar[str]
    default_arch: ClassVar[Arch]
    anchor_key: ClassVar[str]
    generic_formats: ClassVar[bool] = True
    format_fields: ClassVar[tuple[str, ...]] = ()
    fixed_settings: ClassVar[Mapping[str, Any]] = {}
    torchvision_options: ClassVar[tuple[str, ...]] = ()
    detectron2_converters: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def detect(self, tensors: Mapping[str, Any]) -> Arch | None:
        """Return the architecture of a state_dict, even if some of its tensors are missing.

        Args:
            tensors: names -> tensors or arrays, of which only the shapes are read. Tensors
                outside the backbone, such as heads, may be included.

        Returns:
            ``None`` if the names do not belong to this family.

        Raises:
            UnsupportedArchitectureError: the names belong to this family, but it cannot build the
                network.
        """

    def detect_named(self, tensors: Mapping[str, Any], name: str) -> Arch | None:
        """Return the architecture of a state_dict whose network is named, for names of the family.

        For networks that tensor shapes alone do not show. See ``detect``.

        Args:
            name: any text that a file or the user states.
        """
        return None

    @abstractmethod
    def build(self, arch: Any) -> nn.Module:
        """Return a randomly initialized network with exactly the backbone's ``state_dict``."""

    @abstractmethod
    def features(self, network: Any, images: Tensor) -> dict[str, Tensor]:
        """Return feature maps (batch, channels, height / stride, width / stride), shallow to deep.

        Args:
            images: normalized (batch, 3, height, width).
        """

    @abstractmethod
    def strides(self, arch: Any) -> dict[str, int]:
        """Return the stride in pixels of every feature map."""

    @abstractmethod
    def channels(self, arch: Any) -> dict[str, int]:
        """Return the number of channels of every feature map."""

    @abstractmethod
    def get_stage(self, name: str) -> str:
        """Return the stage under which the coverage report counts a tensor."""

    @abstractmethod
    def layer_id(self, arch: Any, name: str) -> int:
        """Return the depth of a parameter for layer-wise learning rate decay; 0 is the stem."""

    def head_layer(self, arch: Any) -> int:
        """Return the depth of a classifier on the network: one above the deepest weight matrix.

        A norm layer after the last block shares it, as in the fine-tuning of MAE and BEiT.
        """
        shapes = expected_shapes(arch)
        return 1 + max(self.layer_id(arch, name) for name in shapes if len(shapes[name]) > 1)

    def has_weight_decay(self, name: str, ndim: int) -> bool:
        """Return whether a parameter of the network or of a classifier on it has weight decay.

        Biases, the parameters of norm layers, tokens and position embeddings have none, as in
        timm and in the fine-tuning of MAE, BEiT and Swin.
        """
        return ndim > 1 and not _NO_WEIGHT_DECAY.fullmatch(name)

    def representations(self, arch: Any) -> dict[str, int]:
        """Return the number of features of every representation of an image, the default first.

        ``"avg"`` is the mean of the last feature map. Vision transformers also have ``"cls"`` and
        others that their papers evaluate.
        """
        return {"avg": list(self.channels(arch).values())[-1]}

    def represent(self, network: Any, images: Tensor, name: str) -> Tensor:
        """Return one vector per image (batch, features).

        Args:
            images: normalized (batch, 3, height, width).
            name: one of ``representations``.
        """
        assert name == "avg", name
        return list(self.features(network, images).values())[-1].mean(dim=(2, 3))

    def unused_prefixes(self, name: str) -> tuple[str, ...]:
        """Return the prefixes of parameters without effect on a representation."""
        return ()

    def input_size_requirement(self, arch: Any, height: int, width: int) -> str | None:
        """Return the requirement (such as "224x224 pixels") that a size violates, or ``None``."""
        return None

    def contradicts(self, arch: Any, stated: str) -> str | None:
        """Return why a name that a file states for its network does not fit; ``None`` if it may.

        Args:
            arch: the architecture by tensor shapes.
            stated: any text; names that the family does not know fit.
        """
        return None

    def stated_fields(self, arch: Any, stated: str) -> dict[str, Any]:
        """Return the ``format_fields`` that a stated name of a network determines, if any."""
        return {}

    def remove_head(self, network: Any) -> None:
        """Remove the classifier of a torchvision network, in place.

        Raises:
            UnsupportedArchitectureError: the family does not build networks by torchvision's names.
        """
        raise UnsupportedArchitectureError(
            f"networks of family {self.name} cannot be built by torchvision's names; specify a "
            "checkpoint file"
        )

    def explain_unsupported(self, shapes: Shapes) -> str | None:
        """Return why a network that no family detects is unsupported; ``None`` if unknown.

        Args:
            shapes: all tensors of the file, under any prefix.
        """
        return None


@dataclass(frozen=True)
class Derived:
    """A tensor that is computed from others of the file when the checkpoint is loaded.

    Attributes:
        shape: of the result.
        parts: translated name -> tensor of the file; these are not tensors of the network
            themselves, unless ``Dialect.derive`` returns them, too.
        compute: the parts, in order, as float32 tensors -> the result.
    """

    shape: tuple[int, ...]
    parts: Mapping[str, Any]
    compute: Callable[..., Tensor]

    def is_same(self, other: Any) -> bool:
        """Return whether another is computed from the same tensors."""
        return (
            isinstance(other, Derived)
            and self.shape == other.shape
            and len(self.parts) == len(other.parts)
            and all(a is b for a, b in zip(self.parts.values(), other.parts.values(), strict=True))
        )


@dataclass(frozen=True)
class Dialect:
    """The mapping from a project's tensor names to those of a family.

    Attributes:
        translate: a name without its prefix -> the family's name; ``None`` for a tensor that is
            not part of the backbone. An unknown tensor inside the backbone keeps its own name, so
            that the architecture is rejected instead of the tensor being ignored.
        derive: translated tensors -> those that such files store differently (in parts, in another
            layout) or omit, under the family's names. They replace translated ones.
        fields: translated tensors -> fields of the architecture that their layout shows, such as
            the heads of Flax's kernels (inputs, heads, head width).
    """

    translate: Callable[[str], str | None]
    derive: Callable[[Mapping[str, Any]], dict[str, Derived]] = lambda tensors: {}
    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda tensors: {}


FAMILIES: dict[str, Family] = {}
# Specific anchor keys before those that end them, in whatever order the modules are imported
BUILT_IN = ("resnet", "swin", "convnext", "vit", "timm_cnn")
DIALECTS: dict[str, Dialect] = {"canonical": Dialect(lambda name: name)}


def register_family(family: Family) -> Family:
    """Add a family to the registry and return it.

    Raises:
        ValueError: the name is already registered.
    """
    if family.name in FAMILIES:
        raise ValueError(f"a family named {family.name!r} is already registered")
    FAMILIES[family.name] = family
    return family


def get_families() -> dict[str, Family]:
    """Return all families by name, the built-in ones first, in the order they are tried."""
    import virtex.backbones.convnext
    import virtex.backbones.resnet
    import virtex.backbones.swin
    import virtex.backbones.timm_cnn
    import virtex.backbones.vit  # noqa: F401  they register themselves

    names = sorted(FAMILIES, key=lambda n: BUILT_IN.index(n) if n in BUILT_IN else len(BUILT_IN))
    return {name: FAMILIES[name] for name in names}


def get_dialects() -> dict[str, Dialect]:
    """Return all dialects by name; ``"canonical"`` keeps each family's own names."""
    import virtex.backbones.convnext_names
    import virtex.backbones.resnet_names
    import virtex.backbones.swin_names
    import virtex.backbones.timm_cnn_names
    import virtex.backbones.vit_names  # noqa: F401  they register their dialects

    return DIALECTS


def get_family(arch: Arch) -> Family:
    """Return the family of an architecture."""
    return get_families()[arch.family]


def detect_arch(
    tensors: Mapping[str, Any],
    fields: Mapping[str, Any] | None = None,
    applies_to: Callable[[str], bool] = lambda family: True,
    names: Sequence[str] = (),
) -> Arch | None:
    """Return the architecture from the first family that detects it; ``None`` if none does.

    Args:
        fields: values for the family's ``format_fields``.
        applies_to: whether to try the family of a name.
        names: what a file states as its network. They matter if no family detects the tensors by
            their shapes, or if that family knows that the name is of another network.

    Raises:
        UnsupportedArchitectureError: a family recognizes its names, but none can build the network.
    """
    fields = fields or {}
    names = [fields["model"]] if "model" in fields else names
    found, unsupported = None, None
    for family in get_families().values():
        if not applies_to(family.name):
            continue
        try:
            found = family.detect(tensors)
        except UnsupportedArchitectureError as error:
            unsupported = unsupported or error
            continue
        if found is not None:
            break
    if found is None or any(get_family(found).contradicts(found, name) for name in names):
        for name in names:
            try:
                if named := detect_named_arch(tensors, name):
                    return named if applies_to(named.family) else None
            except UnsupportedArchitectureError as error:
                unsupported = unsupported or error
    if found is not None:
        known = {k: v for k, v in fields.items() if k in get_family(found).format_fields}
        return replace(found, **known)
    if unsupported is not None:
        raise unsupported
    return None


def detect_named_arch(tensors: Mapping[str, Any], name: str) -> Arch | None:
    """Return the architecture of the network of this name if the tensors may be its.

    Raises:
        UnsupportedArchitectureError: they are similar, but not its.
    """
    archs = (family.detect_named(tensors, name) for family in get_families().values())
    return next((arch for arch in archs if arch is not None), None)


@lru_cache(maxsize=32)
def expected_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor a backbone must have, BatchNorm's counters excluded."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in _meta_network(arch).state_dict().items()
        if not name.endswith(f".{BATCH_COUNTER}")
    }


@lru_cache(maxsize=32)
def count_parameters(arch: Arch) -> int:
    """Return the number of parameters (buffers excluded)."""
    return sum(math.prod(parameter.shape) for parameter in _meta_network(arch).parameters())


def _meta_network(arch: Arch) -> nn.Module:
    import torch

    with torch.device("meta"):
        return get_family(arch).build(arch)


def check_input_size(arch: Arch, height: int, width: int) -> None:
    """Check that a network supports images of this size in pixels.

    Raises:
        UserError: the size is not supported.
    """
    requirement = get_family(arch).input_size_requirement(arch, height, width)
    if requirement:
        raise UserError(
            f"{arch.name} expects images of {requirement}, found {height}x{width}; change "
            "DATA.IMAGE_CROP_SIZE",
            code="checkpoint.input_size",
        )


def torchvision_arch(name: str) -> Arch:
    """Return the architecture of a torchvision network by the name of its builder.

    Raises:
        UnsupportedArchitectureError: no family detects the network.
    """
    import torch
    import torchvision

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        arch = detect_arch(torchvision.models.get_model(name, weights=None).state_dict())
    if arch is None:
        raise UnsupportedArchitectureError(
            f"torchvision model {name} is not supported; choose one of a supported family, such as "
            + ", ".join(family.default_arch.name for family in get_families().values())
        )
    return arch


def build_torchvision(name: str, **options: Any) -> nn.Module:
    """Return a torchvision network without its classifier, with torchvision's initialization.

    Args:
        name: name of the torchvision model builder.
        options: keyword arguments of the builder; those its family does not accept are ignored.

    Raises:
        UnsupportedArchitectureError: no family detects the network.
    """
    import torchvision

    family = get_family(torchvision_arch(name))
    known = {k: v for k, v in options.items() if k in family.torchvision_options}
    network = torchvision.models.get_model(name, weights=None, **known)
    family.remove_head(network)
    return network

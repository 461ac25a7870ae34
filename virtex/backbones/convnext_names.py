"""Names and layouts of ConvNeXt's tensors in other projects, translated to timm's."""

from __future__ import annotations

import math
from typing import Any

from virtex.backbones.registry import DIALECTS, Derived, Dialect, UnsupportedArchitectureError
from virtex.backbones.vit_names import Rules, Tensors, renaming, reshaped

# The words of all projects differ without conflicts, so that one table covers them: the official
# repositories, MMPretrain and mmdetection, Hugging Face (under embeddings, encoder or model), and
# torchvision (features). The sparse modules of FCMAE contain an ``ln`` or a ``linear``.
_BLOCK = r"(?:encoder\.|model\.)?stages\.(\d)\.(?:layers\.)?(\d+)\."
_DOWNSAMPLE = r"(?:encoder\.|model\.)?stages\.(\d)\.downsampl(?:e|ing)_layers?\.([01])\.(.+)"
_RULES: Rules = (
    # DINOv3's norms.3 is its norm once more; norms of other stages are inputs of detectors' heads
    (r"norms\..+|norm[012]\..+|hidden_states_norms\.stage[123]\..+|projectors\..+", None),
    (r"(?:norm|norm3|layernorm|layer_norm|hidden_states_norms\.stage4)\.(.+)", r"head.norm.\1"),
    (r"embeddings\.patch_embeddings\.(.+)", r"stem.0.\1"),
    (r"embeddings\.layernorm\.(.+)", r"stem.1.\1"),
    (r"(?:model\.)?stages\.0\.downsample_layers\.([01])\.(.+)", r"stem.\1.\2"),
    (r"downsample_layers\.0\.([01])\.(.+)", r"stem.\1.\2"),
    (r"downsample_layers\.(\d)\.([01])\.(?:ln\.)?(.+)", r"stages.\1.downsample.\2.\3"),
    (_DOWNSAMPLE, r"stages.\1.downsample.\2.\3"),
    (_BLOCK + r"(?:dwconv|depthwise_conv)\.(.+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (_BLOCK + r"(?:norm|layernorm|layer_norm)\.(?:ln\.)?(.+)", r"stages.\1.blocks.\2.norm.\3"),
    (
        _BLOCK + r"(?:pwconv|pointwise_conv)([12])\.(?:linear\.)?(.+)",
        r"stages.\1.blocks.\2.mlp.fc\3.\4",
    ),
    (_BLOCK + r"(?:gamma|layer_scale_parameter)", r"stages.\1.blocks.\2.gamma"),
    (_BLOCK + r"grn\.(?:gamma|weight)", r"stages.\1.blocks.\2.mlp.grn.weight"),
    (_BLOCK + r"grn\.(?:beta|bias)", r"stages.\1.blocks.\2.mlp.grn.bias"),
    (_BLOCK + r"(.+)", r"stages.\1.blocks.\2.\3"),  # so that unknown tensors are reported
    # torchvision: stem, then blocks and downsampling in turns
    (r"classifier\.0\.(.+)", r"head.norm.\1"),
    (r"features\.0\.([01])\.(.+)", r"stem.\1.\2"),
    *(
        rule
        for stage in range(4)
        for rule in (
            (rf"features\.{2 * stage}\.([01])\.(.+)", rf"stages.{stage}.downsample.\1.\2"),
            *(
                (
                    rf"features\.{2 * stage + 1}\.(\d+)\.{theirs}",
                    rf"stages.{stage}.blocks.\1.{ours}",
                )
                for theirs, ours in (
                    (r"layer_scale", r"gamma"),
                    (r"block\.0\.(weight|bias)", r"conv_dw.\2"),
                    (r"block\.2\.(weight|bias)", r"norm.\2"),
                    (r"block\.3\.(weight|bias)", r"mlp.fc1.\2"),
                    (r"block\.5\.(weight|bias)", r"mlp.fc2.\2"),
                )
            ),
        )
    ),
)


def derive_layouts(tensors: Tensors) -> dict[str, Derived]:
    """Convert vectors with other dimensions of 1, and the kernels of MinkowskiEngine (FCMAE).

    Raises:
        UnsupportedArchitectureError: a kernel is not square.
    """
    derived = {}
    for name, tensor in tensors.items():
        shape, is_vector = tensor.shape, name.endswith((".bias", ".gamma", ".grn.weight"))
        if name.endswith(".kernel"):
            derived[name.removesuffix("kernel") + "weight"] = _dense_kernel(name, tensor)
        elif is_vector and len(shape) > 1 and max(shape) == math.prod(shape):
            derived |= reshaped(name, tensor, (max(shape),))
    return derived


def _dense_kernel(name: str, kernel: Any) -> Derived:
    """Return the weight of a dense convolution that equals a sparse one.

    MinkowskiEngine stores (positions, inputs, outputs), or (positions, channels) of depthwise
    ones. The first coordinate of its positions changes fastest, PyTorch's last: ConvNeXt-V2's
    ``remap_checkpoint_keys`` transposes them.
    """
    positions, *channels = kernel.shape or (0,)
    side = math.isqrt(positions)
    if side**2 != positions or len(channels) not in (1, 2):
        raise UnsupportedArchitectureError(
            f"expected square kernels, found {name} of shape {tuple(kernel.shape)}; get the file "
            "as it was saved"
        )
    inputs = 1 if len(channels) == 1 else channels[0]
    return Derived(
        (channels[-1], inputs, side, side),
        {name: kernel},
        lambda k: k.reshape(side, side, inputs, channels[-1]).permute(3, 2, 1, 0),
    )


DIALECTS["convnext"] = Dialect(renaming(_RULES), derive_layouts)

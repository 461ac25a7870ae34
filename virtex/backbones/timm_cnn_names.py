"""Names of tensors of CNNs in other projects, translated to timm's."""

from __future__ import annotations

import re

from virtex.backbones.registry import DIALECTS, Dialect
from virtex.backbones.vit_names import renaming

# blocks of the stages of EfficientNet-Lite0, which EfficientNet-PyTorch numbers without stages
_LITE0_BLOCKS = [
    (stage, block) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(n)
]
_LITE0_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)\.(\w+)")
_LITE0_LAYERS = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
# the first block has no expansion
_LITE0_FIRST = {
    "depthwise_conv": "conv_dw",
    "bn1": "bn1",
    "project_conv": "conv_pw",
    "bn2": "bn2",
}
_LITE0_OTHERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def translate_lite0(name: str) -> str | None:
    """Translate a name of EfficientNet-PyTorch's EfficientNet-Lite0."""
    if name.startswith("_fc."):
        return None
    module, _, kind = name.partition(".")
    if module in _LITE0_OTHERS:
        return f"{_LITE0_OTHERS[module]}.{kind}"
    match = _LITE0_BLOCK.fullmatch(name)
    if match is None or int(match[1]) >= len(_LITE0_BLOCKS):
        return name.removeprefix("_")
    stage, block = _LITE0_BLOCKS[int(match[1])]
    layers = _LITE0_FIRST if stage == 0 else _LITE0_LAYERS
    return f"blocks.{stage}.{block}.{layers.get(match[2], match[2])}.{match[3]}"


# openai/CLIP's ModifiedResNet; timm numbers stages from 0
_CLIP_RESNET = (
    (r"conv([123])\.(.+)", r"stem.conv\1.conv.\2"),
    (r"bn([123])\.(.+)", r"stem.conv\1.bn.\2"),
    *(
        (rf"layer{stage + 1}\.(\d+)\.{theirs}\.(.+)", rf"stages.{stage}.\1.{ours}.\2")
        for stage in range(4)
        for theirs, ours in (
            ("conv1", "conv1_1x1.conv"),
            ("bn1", "conv1_1x1.bn"),
            ("conv2", "conv2_kxk.conv"),
            ("bn2", "conv2_kxk.bn"),
            ("conv3", "conv3_1x1.conv"),
            ("bn3", "conv3_1x1.bn"),
            (r"downsample\.0", "shortcut.conv.conv"),
            (r"downsample\.1", "shortcut.conv.bn"),
        )
    ),
    (r"attnpool\.positional_embedding", "head.pos_embed"),
    (r"attnpool\.([qkv])_proj\.(.+)", r"head.\1.\2"),
    (r"attnpool\.c_proj\..+", None),  # into the space of CLIP's captions
)

DIALECTS["efficientnet_lite0"] = Dialect(translate_lite0)
DIALECTS["clip_resnet"] = Dialect(renaming(_CLIP_RESNET))

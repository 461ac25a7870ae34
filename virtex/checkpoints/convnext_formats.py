"""Rows of the format table for ConvNeXt; see ``formats.py``."""

from virtex.checkpoints.formats import Format, register_format
from virtex.checkpoints.inputs import CLIP_RGB

CONVNEXT = ("convnext",)
DINOV3_CONTAINERS = ("teacher", "model", "state_dict", "")

_ROWS = (
    Format(
        "dinov3_convnext",
        "facebookresearch/dinov3: ConvNeXt",
        containers=DINOV3_CONTAINERS,
        strip=("backbone.", ""),
        ignore_prefixes=("dino_head.", "ibot_head."),
        required_prefixes=("norms.3.", "backbone.norms.3."),
        dialects=("convnext",),
        families=CONVNEXT,
    ),
    Format(
        "convnext",
        "facebookresearch/ConvNeXt and ConvNeXt-V2, also their detectors and segmenters",
        aliases=("convnext_v2",),
        strip=("", "backbone."),
        required_prefixes=("stages.0.0.dwconv.", "backbone.stages.0.0.dwconv."),
        dialects=("convnext",),
        families=CONVNEXT,
        only_if=lambda arch: arch.final_norm != "none",
    ),
    Format(
        "fcmae",
        "facebookresearch/ConvNeXt-V2: FCMAE's encoder, sparse or dense",
        aliases=("convnext_v2_fcmae",),
        strip=("encoder.", ""),
        required_prefixes=("encoder.stages.0.0.dwconv.", "stages.0.0.dwconv."),
        dialects=("convnext",),
        families=CONVNEXT,
        only_if=lambda arch: arch.final_norm == "none",
        note="it has no final norm layer; average pooling is not followed by one",
    ),
    Format(
        "mmpretrain_convnext",
        "open-mmlab mmpretrain, mmdetection, mmsegmentation: ConvNeXt",
        strip=("backbone.", ""),
        required_prefixes=(*("backbone.stages.0.0.depthwise_conv.", "stages.0.0.depthwise_conv."),),
        dialects=("convnext",),
        families=CONVNEXT,
    ),
    Format(
        "torchvision_convnext",
        "pytorch/vision: ConvNeXt",
        required_prefixes=("features.1.0.block.",),
        dialects=("convnext",),
        families=CONVNEXT,
    ),
    Format(
        "hf_convnext",
        "huggingface/transformers: ConvNextModel, ConvNextV2Model",
        strip=("convnext.", "convnextv2.", "backbone.", ""),
        required_prefixes=tuple(
            f"{prefix}embeddings." for prefix in ("", "convnext.", "convnextv2.", "backbone.")
        ),
        dialects=("convnext",),
        families=CONVNEXT,
        # not config.json, whose layer_norm_eps is that of the final norm alone: 1e-12, where the
        # weights were trained with 1e-6
        sidecars=("preprocessor_config.json",),
    ),
    Format(
        "hf_dinov3_convnext",
        "huggingface/transformers: DINOv3ConvNextModel",
        required_prefixes=("stages.0.downsample_layers.", "model.stages.0.downsample_layers."),
        dialects=("convnext",),
        families=CONVNEXT,
        sidecars=("config.json", "preprocessor_config.json"),
    ),
    Format(
        "open_clip_convnext",
        "mlfoundations/open_clip: ConvNeXt",
        strip=("visual.trunk.",),
        required_prefixes=("visual.trunk.stem.",),
        families=CONVNEXT,
        input=CLIP_RGB,
        sidecars=("open_clip_config.json",),
    ),
    Format(
        "timm_convnext",
        "huggingface/pytorch-image-models: ConvNeXt (ImageNet's mean and std)",
        containers=("state_dict_ema", "model_ema", "state_dict", "model", "module", ""),
        required_prefixes=("stem.",),
        families=CONVNEXT,
        sidecars=("config.json",),
        must_state=("normalization",),
        alternatives=("timm_convnext_clip",),
    ),
    Format(
        "timm_convnext_clip",
        "huggingface/pytorch-image-models: ConvNeXt of CLIP",
        containers=("state_dict", "model", ""),
        families=CONVNEXT,
        input=CLIP_RGB,
        explicit_only=True,
    ),
)

for _row in _ROWS:
    register_format(_row)

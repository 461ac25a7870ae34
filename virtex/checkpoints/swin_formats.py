"""Rows of the format table for Swin transformers; see ``formats.py``."""

from typing import Any

from virtex.checkpoints.formats import Format, register_format

SWIN = ("swin",)
HUGGING_FACE = ("config.json", "preprocessor_config.json")
# averaged weights first
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "")
# Properties of version 2 that only the official buffers of coordinates show
_V2_FACTS = ("windows", "pretrained_windows", "image_size")
_WINDOW_8 = {"windows": 8, "image_size": 256}
# timm's other published networks of version 2
_V2_VARIANTS: dict[str, dict[str, Any]] = {
    "swin_v2_window16_256": {"windows": 16, "image_size": 256},
    "swin_v2_window12_192": {"windows": 12, "image_size": 192},
    "swin_v2_window12to16_192to256": {
        "windows": 16,
        "image_size": 256,
        "pretrained_windows": (12, 12, 12, 6),
    },
    "swin_v2_window12to24_192to384": {
        "windows": 24,
        "image_size": 384,
        "pretrained_windows": (12, 12, 12, 6),
    },
}
_HF_ATTENTION = tuple(
    f"{prefix}encoder.layers.0.blocks.0.attention." for prefix in ("swin.", "swinv2.", "")
)
IBOT_EPS = 1e-6  # models/swin_transformer.py of bytedance/ibot

_ROWS = (
    Format(
        "swin",
        "microsoft/Swin-Transformer V1 and V2, SimMIM fine-tuned; timm before 0.8",
        aliases=("swin_v2",),
        containers=_CONTAINERS,
        dialects=("swin",),
        families=SWIN,
        sidecars=("config.json",),
        only_if=lambda arch: bool(arch.windows),
    ),
    Format(
        "simmim_swin",
        "microsoft/SimMIM: Swin",
        strip=("encoder.",),
        ignore_prefixes=("decoder.",),
        required_prefixes=("decoder.0.", "encoder.mask_token"),
        dialects=("swin",),
        families=SWIN,
        only_if=lambda arch: bool(arch.windows),
    ),
    Format(
        "ibot_swin",
        "bytedance/ibot, training file of Swin: the teacher",
        containers=("teacher",),
        strip=("backbone.",),
        ignore_prefixes=("head.",),
        dialects=("swin",),
        families=SWIN,
        arch_fields={"norm_eps": IBOT_EPS},
    ),
    Format(
        "ibot_swin_student",
        "bytedance/ibot, training file of Swin: the student",
        containers=("student",),
        strip=("backbone.",),
        ignore_prefixes=("head.",),
        dialects=("swin",),
        families=SWIN,
        arch_fields={"norm_eps": IBOT_EPS},
        explicit_only=True,
    ),
    Format(
        "ibot_swin_backbone",
        "bytedance/ibot: backbone files of Swin",
        dialects=("swin",),
        families=SWIN,
        arch_fields={"norm_eps": IBOT_EPS},
        explicit_only=True,
    ),
    Format(
        "timm_swin",
        "huggingface/pytorch-image-models since 0.8: Swin V1",
        containers=_CONTAINERS,
        families=SWIN,
        sidecars=("config.json",),
        only_if=lambda arch: arch.version == 1,
    ),
    Format(
        "timm_swin_v2",
        "huggingface/pytorch-image-models since 0.8: Swin V2; chosen: window 8",
        containers=_CONTAINERS,
        families=SWIN,
        arch_fields=_WINDOW_8,
        sidecars=("config.json",),
        must_state=_V2_FACTS,
        alternatives=tuple(_V2_VARIANTS),
        only_if=lambda arch: arch.version == 2,
    ),
    Format(
        "swin_v2_window8_256",
        "microsoft/Swin-Transformer V2 without its buffers; timm before 0.8; chosen: window 8",
        containers=_CONTAINERS,
        forbidden_prefixes=("layers.0.blocks.0.attn.relative_coords_table",),
        dialects=("swin",),
        families=SWIN,
        arch_fields=_WINDOW_8,
        sidecars=("config.json",),
        must_state=_V2_FACTS,
        alternatives=tuple(_V2_VARIANTS),
        only_if=lambda arch: arch.version == 2,
    ),
    *(
        Format(
            name,
            f"Swin V2 of timm or without buffers: {name.removeprefix('swin_v2_')}",
            containers=_CONTAINERS,
            dialects=("canonical", "swin"),
            families=SWIN,
            arch_fields=fields,
            must_state=_V2_FACTS,
            only_if=lambda arch: arch.version == 2,
            explicit_only=True,
        )
        for name, fields in _V2_VARIANTS.items()
    ),
    Format(
        "hf_swin",
        "huggingface/transformers: SwinModel",
        strip=("swin.", ""),
        required_prefixes=_HF_ATTENTION,
        dialects=("hf_swin",),
        families=SWIN,
        sidecars=HUGGING_FACE,
        only_if=lambda arch: arch.version == 1,
    ),
    Format(
        "hf_swin_v2",
        "huggingface/transformers: Swinv2Model; chosen: window 8",
        strip=("swinv2.", ""),
        required_prefixes=_HF_ATTENTION,
        dialects=("hf_swin",),
        families=SWIN,
        arch_fields=_WINDOW_8,
        sidecars=HUGGING_FACE,
        must_state=_V2_FACTS,
        only_if=lambda arch: arch.version == 2,
    ),
    Format(
        "torchvision_swin",
        "pytorch/vision: Swin V1 and V2",
        required_prefixes=("features.1.0.attn.",),
        dialects=("torchvision_swin",),
        families=SWIN,
        only_if=lambda arch: bool(arch.windows),
    ),
    Format(
        "mmpretrain_swin",
        "open-mmlab mmpretrain, mmdetection, mmsegmentation: Swin V1 and V2",
        strip=("backbone.", ""),
        required_prefixes=("backbone.stages.0.blocks.0.attn.", "stages.0.blocks.0.attn."),
        dialects=("mmpretrain_swin", "mmpretrain_swin_v2"),
        families=SWIN,
        only_if=lambda arch: bool(arch.windows),
    ),
    Format(
        "detectron2_swin",
        "facebookresearch/detectron2, SwinTransformer/…-Object-Detection: a detector",
        strip=("backbone.bottom_up.", "backbone."),
        required_prefixes=("backbone.bottom_up.layers.0.blocks.", "backbone.layers.0.blocks."),
        dialects=("swin",),
        families=SWIN,
        sidecars=("config.yaml",),
        only_if=lambda arch: bool(arch.windows),
        note="its norm layers on the first three stages are not part of the backbone; that on the "
        "last one is the final norm",
    ),
)

for _row in _ROWS:
    register_format(_row)

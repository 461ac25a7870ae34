"""Checkpoints of small Swin transformers as their projects write them, and reference features.

The reference networks are timm's own, torchvision's, and one with patch merging by ``nn.Unfold``.
Every writer is written from the project's code, independently of the rules that read the files.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from torchvision.models import swin_transformer as torchvision_swin
from yacs.config import CfgNode

StateDict = dict[str, Any]
IMAGE = 64  # the last of three stages has 4x4 tokens, those of one window
SIZES = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Set all parameters to random values around usual ones, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = "norm" in name and name.endswith("weight")
        fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 1
        parameter.data = 1 + 0.2 * noise if is_scale else 0.7 * noise / math.sqrt(fan_in)
        if name.endswith("logit_scale"):
            parameter.data = math.log(10) + 0.2 * noise
    return network.eval()


def timm_v1(**options: Any) -> nn.Module:
    defaults = {"img_size": IMAGE, "window_size": 4, "num_classes": 0}
    return randomize(SwinTransformer(**(SIZES | defaults | options)))


def timm_v2(**options: Any) -> nn.Module:
    """Return windows of 8, 8 and 4 tokens: timm reduces them to the size of the feature map."""
    defaults = {"img_size": IMAGE, "window_size": 8, "num_classes": 0}
    return randomize(SwinTransformerV2(**(SIZES | defaults | options)))


def timm_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of timm's stages (batch, channels, height, width), the last one normed."""
    maps, x = [], network.patch_embed(images)
    for layer in network.layers:
        x = layer(x)
        maps.append(x)
    maps[-1] = network.norm(x)
    return [features.permute(0, 3, 1, 2) for features in maps]


# Official layouts -----------------------------------------------------------------------------


def official(network: nn.Module, masks: bool = True) -> StateDict:
    """Return the state_dict of microsoft/Swin-Transformer: merging ends a stage, buffers."""
    state, stages = network.state_dict(), len(network.layers)
    for i in range(1, stages):
        for kind in [k for k in state if k.startswith(f"layers.{i}.downsample.")]:
            state[f"layers.{i - 1}.downsample!{kind.split('downsample.')[1]}"] = state.pop(kind)
    state = {name.replace("downsample!", "downsample."): value for name, value in state.items()}
    for i, layer in enumerate(network.layers):
        for j, block in enumerate(layer.blocks):
            where, window = f"layers.{i}.blocks.{j}", block.window_size[0]
            state[f"{where}.attn.relative_position_index"] = relative_index(window)
            if hasattr(block.attn, "logit_scale"):
                old = block.attn.pretrained_window_size[0] or window
                state[f"{where}.attn.relative_coords_table"] = coordinates(window, old)
            if masks and any(block.shift_size):
                state[f"{where}.attn_mask"] = torch.zeros(4, window**2, window**2)
    return state


def relative_index(window: int) -> Tensor:
    grid = torch.arange(window)
    rows, columns = grid.repeat_interleave(window), grid.repeat(window)
    distance = lambda n: n[:, None] - n[None] + window - 1  # noqa: E731
    return distance(rows) * (2 * window - 1) + distance(columns)


def coordinates(window: int, pretrained: int) -> Tensor:
    distances = torch.arange(1 - window, window).float() * 8 / (pretrained - 1)
    scaled = distances.sign() * torch.log2(1 + distances.abs()) / math.log2(8)
    side = len(scaled)
    both = torch.stack([scaled[:, None].expand(side, side), scaled[None].expand(side, side)], -1)
    return both[None]


def swin_file(network: nn.Module) -> StateDict:
    """Return the file of ``utils.save_checkpoint``: a classifier, optimizer and yacs config."""
    width = network.num_features
    head = {"head.weight": torch.zeros(10, width), "head.bias": torch.zeros(10)}
    config = CfgNode({"MODEL": {"TYPE": "swin", "NAME": "swin_small_test"}})
    return {
        "model": official(network) | head,
        "optimizer": {"state": {}, "param_groups": []},
        "max_accuracy": 81.3,
        "epoch": 299,
        "config": config,
    }


def timm_file(network: nn.Module) -> StateDict:
    width = network.num_features
    head = {"head.fc.weight": torch.zeros(10, width), "head.fc.bias": torch.zeros(10)}
    return network.state_dict() | head


def simmim_file(network: nn.Module) -> StateDict:
    encoder = official(network) | {"mask_token": torch.zeros(1, 1, 16)}
    decoder = {"decoder.0.weight": torch.zeros(3072, 64, 1, 1), "decoder.0.bias": torch.zeros(3072)}
    return {"model": {f"encoder.{name}": v for name, v in encoder.items()} | decoder, "epoch": 99}


def ibot_file(network: nn.Module) -> StateDict:
    backbone = official(network, masks=False) | {"masked_embed": torch.zeros(1, 16)}
    head = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_v": torch.zeros(4, 8)}
    teacher = {f"backbone.{name}": value for name, value in backbone.items()} | head
    student = {f"module.{name}": 2 * value for name, value in teacher.items()}
    return {"teacher": teacher, "student": student, "epoch": 100, "ibot_loss": {}}


def detectron2_file(network: nn.Module) -> StateDict:
    state = official(network, masks=False)
    for kind in ("weight", "bias"):
        state[f"norm{len(network.layers) - 1}.{kind}"] = state.pop(f"norm.{kind}")
    for i in range(len(network.layers) - 1):
        state |= {f"norm{i}.weight": torch.ones(16 * 2**i), f"norm{i}.bias": torch.ones(16 * 2**i)}
    heads = {"backbone.fpn_lateral2.weight": torch.zeros(8, 16, 1, 1)}
    heads["proposal_generator.rpn_head.conv.weight"] = torch.zeros(8, 8, 3, 3)
    model = {f"backbone.bottom_up.{name}": value for name, value in state.items()} | heads
    return {"model": model, "iteration": 1}


# Other names ----------------------------------------------------------------------------------

_HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.proj": "attention.output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.logit_scale": "attention.self.logit_scale",
    "attn.cpb_mlp": "attention.self.continuous_position_bias_mlp",
    "attn.q_bias": "attention.self.query.bias",
    "attn.v_bias": "attention.self.value.bias",
}


def hf_file(network: nn.Module, prefix: str) -> StateDict:
    """Return the state_dict of SwinForImageClassification or its second version."""
    state = {"classifier.weight": torch.zeros(10, network.num_features)}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "patch_embed":
            new = f"embeddings.{'patch_embeddings.projection' if parts[1] == 'proj' else 'norm'}"
            state[f"{prefix}.{new}.{parts[2]}"] = value
        elif parts[0] == "norm":
            state[f"{prefix}.layernorm.{parts[1]}"] = value
        elif parts[2] == "downsample":
            rest = ".".join(parts[2:])
            state[f"{prefix}.encoder.layers.{int(parts[1]) - 1}.{rest}"] = value
        else:
            block, inner = ".".join(parts[:4]), ".".join(parts[4:])
            if inner.startswith("attn.qkv."):
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    state[f"{prefix}.encoder.{block}.attention.self.{part}.{parts[6]}"] = rows
                continue
            old = next(old for old in _HF_BLOCK if inner == old or inner.startswith(f"{old}."))
            new = _HF_BLOCK[old] + inner.removeprefix(old)
            state[f"{prefix}.encoder.{block}.{new}"] = value
    return state


class UnfoldMerging(nn.Module):
    """Patch merging of OpenMMLab (``PatchMerging`` of mmcv): channels in the order of Unfold."""

    def __init__(self, width: int, norm_last: bool):
        super().__init__()
        self.norm = nn.LayerNorm(2 * width if norm_last else 4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm_last = norm_last

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        merged = nn.functional.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2)
        merged = merged.transpose(1, 2).unflatten(1, (rows, columns))
        if self.norm_last:
            return self.norm(self.reduction(merged))
        return self.reduction(self.norm(merged))


def unfolded(network: nn.Module) -> nn.Module:
    """Return a network whose patch merging is OpenMMLab's, with new random weights."""
    network = copy.deepcopy(network)
    for i, layer in enumerate(network.layers):
        if i:
            merging = UnfoldMerging(16 * 2 ** (i - 1), isinstance(network, SwinTransformerV2))
            layer.downsample = randomize(merging, seed=i)
    return network


def mmpretrain_file(network: nn.Module) -> StateDict:
    """Return the file of an ``unfolded`` network; version 2 merges at the start of stages."""
    is_v2 = isinstance(network, SwinTransformerV2)
    state = network.state_dict() if is_v2 else official(network)
    if is_v2:
        tables = official(network, masks=False)
        state |= {k: v for k, v in tables.items() if "coords_table" in k or "position_index" in k}
    model = {"head.fc.weight": torch.zeros(10, network.num_features)}
    for name, value in state.items():
        if name.endswith("attn_mask"):
            continue
        new = name.replace("layers.", "stages.").replace(
            "patch_embed.proj.", "patch_embed.projection."
        )
        new = new.replace(".attn.", ".attn.w_msa.")
        new = new.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")
        new = f"norm3.{name.removeprefix('norm.')}" if name.startswith("norm.") else new
        model[f"backbone.{new}"] = value
    return {"state_dict": model, "meta": {"mmpretrain_version": "1.2.0"}}


# torchvision ----------------------------------------------------------------------------------


def torchvision_network(version: int) -> nn.Module:
    options: dict[str, Any] = {}
    if version == 2:
        options["block"] = torchvision_swin.SwinTransformerBlockV2
        options["downsample_layer"] = torchvision_swin.PatchMergingV2
    network = torchvision_swin.SwinTransformer(
        [4, 4], 16, [2, 2, 2], [1, 2, 4], [4, 4], num_classes=10, **options
    )
    return randomize(network)


def torchvision_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    maps, x = [], images
    for i, module in enumerate(network.features):
        x = module(x)
        if i % 2:
            maps.append(x)
    maps[-1] = network.norm(x)
    return [features.permute(0, 3, 1, 2) for features in maps]


# All of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A format under test.

    Attributes:
        format: the row that should be detected.
        network: the reference network, randomly initialized.
        write: the network -> the content of the file.
        maps: the network, images -> its feature maps.
        configs: name of a file beside it -> its content.
        arch: fields of the architecture that should be read.
    """

    format: str
    network: Callable[[], nn.Module]
    write: Callable[[nn.Module], StateDict]
    maps: Callable[[nn.Module, Tensor], list[Tensor]] = timm_maps
    configs: Mapping[str, Mapping[str, Any]] | None = None
    arch: Mapping[str, Any] | None = None


def _v2_larger() -> nn.Module:
    """Return a network that was pretrained with windows of 6 and 3."""
    return timm_v2(pretrained_window_sizes=(6, 6, 3))


_HF_V2 = {"model_type": "swinv2", "window_size": 8, "image_size": IMAGE, "layer_norm_eps": 1e-5}
_TIMM_V2 = {"window_size": 8, "img_size": IMAGE}
_V2 = {"version": 2, "windows": (8, 8, 4), "image_size": IMAGE}
_LARGER = {"pretrained_windows": (6, 6, 3)}

FORMATS = {
    "official": Written("swin", timm_v1, swin_file, arch={"windows": (4, 4, 4)}),
    "official v2": Written("swin", timm_v2, swin_file, arch=_V2),
    "official v2, larger windows": Written("swin", _v2_larger, swin_file, arch=_V2 | _LARGER),
    "timm": Written("timm_swin", timm_v1, timm_file),
    "timm, windows per stage": Written(
        "timm_swin", partial(timm_v1, window_size=[(4, 4), (8, 8), (4, 4)]), timm_file
    ),
    "timm v2": Written(
        "timm_swin_v2",
        _v2_larger,
        timm_file,
        configs={
            "config.json": {
                "architecture": "swinv2_of_this_test",
                "model_args": {**_TIMM_V2, "pretrained_window_sizes": [6, 6, 3]},
            }
        },
        arch=_V2 | _LARGER,
    ),
    "timm v2 before 0.8": Written(
        "swin_v2_window8_256",
        _v2_larger,
        lambda network: {
            name: value
            for name, value in official(network).items()
            if not name.endswith(("relative_coords_table", "relative_position_index"))
        },
        configs={"config.json": {"model_args": {**_TIMM_V2, "pretrained_window_sizes": [6, 6, 3]}}},
        arch=_V2 | _LARGER,
    ),
    "SimMIM": Written("simmim_swin", timm_v1, simmim_file),
    "iBOT": Written(
        "ibot_swin",
        partial(timm_v1, norm_layer=partial(nn.LayerNorm, eps=1e-6)),
        ibot_file,
        arch={"norm_eps": 1e-6},
    ),
    "Detectron2": Written(
        "detectron2_swin",
        partial(timm_v1, img_size=128, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        detectron2_file,
    ),
    "Hugging Face": Written("hf_swin", timm_v1, partial(hf_file, prefix="swin")),
    "Hugging Face v2": Written(
        "hf_swin_v2",
        _v2_larger,
        partial(hf_file, prefix="swinv2"),
        configs={"config.json": {**_HF_V2, "pretrained_window_sizes": [6, 6, 3]}},
        arch=_V2 | _LARGER,
    ),
    "torchvision": Written(
        "torchvision_swin",
        partial(torchvision_network, 1),
        lambda network: network.state_dict(),
        torchvision_maps,
    ),
    "torchvision v2": Written(
        "torchvision_swin",
        partial(torchvision_network, 2),
        lambda network: network.state_dict(),
        torchvision_maps,
        arch={"version": 2, "windows": (4, 4, 4), "pretrained_windows": (0, 0, 0)},
    ),
    "MMPretrain": Written("mmpretrain_swin", lambda: unfolded(timm_v1()), mmpretrain_file),
    "MMPretrain v2": Written(
        "mmpretrain_swin", lambda: unfolded(_v2_larger()), mmpretrain_file, arch=_V2 | _LARGER
    ),
}

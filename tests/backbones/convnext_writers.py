"""ConvNeXt checkpoints as each project writes them, from the state_dict of timm's network."""

import re

import torch

# The words inside a block that stand for timm's, which are replaced in this order
OFFICIAL = {"conv_dw": "dwconv", "mlp.fc": "pwconv"}
OFFICIAL_V2 = {**OFFICIAL, "mlp.grn.weight": "grn.gamma", "mlp.grn.bias": "grn.beta"}
MMPRETRAIN = {**OFFICIAL_V2, "conv_dw": "depthwise_conv", "mlp.fc": "pointwise_conv"}
HF = {**OFFICIAL, "norm": "layernorm", "mlp.grn": "grn", "gamma": "layer_scale_parameter"}
HF_DINOV3 = {"conv_dw": "depthwise_conv", "mlp.fc": "pointwise_conv", "norm": "layer_norm"}


def linear(name):
    return {f"{name}.weight": torch.ones(3, 32), f"{name}.bias": torch.zeros(3)}


def prefixed(prefix, content):
    return {prefix + name: tensor for name, tensor in content.items()}


def renamed(timm, stem, downsample, block, words, norm):
    """Rename all tensors.

    Args:
        stem: names of its two modules.
        downsample, block: names with {s} for the stage, {i} for 0 or 1, and {b} for the block.
        norm: name of the final norm layer.
    """
    content = {}
    for name, tensor in timm.items():
        kind, *parts = name.split(".")
        if kind == "stem":
            new = f"{stem[int(parts[0])]}.{parts[1]}"
        elif kind == "head":
            new = f"{norm}.{parts[1]}"
        elif parts[1] == "downsample":
            new = f"{downsample.format(s=parts[0], i=parts[2])}.{parts[3]}"
        else:
            inner = ".".join(parts[3:])
            for ours, theirs in words.items():
                inner = inner.replace(ours, theirs)
            new = f"{block.format(s=parts[0], b=parts[2])}.{inner}"
        content[new] = tensor
    return content


def official_names(timm, words=OFFICIAL_V2, norm="norm"):
    stem = ("downsample_layers.0.0", "downsample_layers.0.1")
    return renamed(timm, stem, "downsample_layers.{s}.{i}", "stages.{s}.{b}", words, norm)


def official(timm):
    content = official_names(timm)
    content = {k: t[None, None, None] if "grn" in k else t for k, t in content.items()}
    return {"model": content | linear("head")}


def official_detector(timm):
    """A training file of mmdetection with the official repository's backbone."""
    content = official_names(timm, norm="norm3")
    for stage, width in enumerate((8, 12, 24)):
        content |= {f"norm{stage}.{leaf}": torch.ones(width) for leaf in ("weight", "bias")}
    return {"meta": {"epoch": 36}, "state_dict": prefixed("backbone.", content)}


def dinov3(timm):
    content = official_names(timm)
    return content | {f"norms.3.{leaf}": content[f"norm.{leaf}"] for leaf in ("weight", "bias")}


def dinov3_training(timm):
    content = prefixed("backbone.", dinov3(timm))
    return {"teacher": content | linear("dino_head.last_layer")}


def sparse_kernel(weight):
    """Return MinkowskiEngine's kernel, whose position x * size + y is row y and column x."""
    size = weight.shape[-1]
    kernel = torch.stack([weight[:, :, y, x].T for x in range(size) for y in range(size)])
    return kernel[:, 0] if weight.shape[1] == 1 else kernel  # (positions, inputs, outputs)


def fcmae(timm):
    """FCMAE's pretraining file: a sparse encoder without norm, its stem and decoder dense."""
    content = {}
    for name, tensor in official_names(timm).items():
        module, leaf = name.rsplit(".", 1)
        if name.startswith("norm."):
            continue
        if "dwconv" in name or re.match(r"downsample_layers\.[123]\.1\.", name):
            is_weight = leaf == "weight"
            name = f"{module}.kernel" if is_weight else name
            tensor = sparse_kernel(tensor) if is_weight else tensor[None]
        elif "grn" in name:
            tensor = tensor[None]
        elif not name.startswith("downsample_layers.0."):
            name = f"{module}.{'linear' if 'pwconv' in name else 'ln'}.{leaf}"
        content[f"encoder.{name}"] = tensor
    decoder = {"decoder.0.grn.gamma": torch.ones(1, 1, 1, 8), "mask_token": torch.ones(1, 2, 1, 1)}
    return {"model": content | decoder | linear("proj") | linear("pred"), "epoch": 1}


def fcmae_dense(timm):
    """The names to which ConvNeXt-V2's fine-tuning converts FCMAE's encoder."""
    content = official({k: t for k, t in timm.items() if not k.startswith("head.")})
    return {"model": {k: t for k, t in content["model"].items() if not k.startswith("head.")}}


def mmpretrain(timm):
    content = prefixed("backbone.", official_names(timm, MMPRETRAIN, "norm3"))
    return {"meta": {"dataset_meta": {}}, "state_dict": content | linear("head.fc")}


def hugging_face(timm, prefix="convnext."):
    content = renamed(
        timm,
        ("embeddings.patch_embeddings", "embeddings.layernorm"),
        "encoder.stages.{s}.downsampling_layer.{i}",
        "encoder.stages.{s}.layers.{b}",
        HF,
        "layernorm",
    )
    content = {k: t[None, None, None] if "grn" in k else t for k, t in content.items()}
    return prefixed(prefix, content) | linear("classifier")


def hugging_face_v2(timm):
    return hugging_face(timm, "convnextv2.")


def hugging_face_dinov3(timm, prefix=""):
    stem = ("stages.0.downsample_layers.0", "stages.0.downsample_layers.1")
    names = ("stages.{s}.downsample_layers.{i}", "stages.{s}.layers.{b}")
    content = renamed(timm, stem, *names, HF_DINOV3, "layer_norm")
    return {k if k.startswith("layer_norm") else prefix + k: t for k, t in content.items()}


def hugging_face_dinov3_v5(timm):
    return hugging_face_dinov3(timm, "model.")


def open_clip(timm):
    content = prefixed("visual.trunk.", timm) | {"visual.head.proj.weight": torch.ones(3, 32)}
    return content | {"logit_scale": torch.tensor(4.6), "transformer.ln.weight": torch.ones(3)}


def timm_training(timm):
    """A file of timm's training script, which states mean and std in its arguments."""
    args = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    raw = {name: tensor + 1 for name, tensor in timm.items()}
    return {"state_dict": raw, "state_dict_ema": timm | linear("head.fc"), "args": args}

"""Checkpoints as each project writes them: container, prefixes, heads, what stands beside.

Every writer takes a backbone's state_dict in torchvision's names, without a classifier, and
gives what that project would save. ``TORCH_WRITERS`` go through ``torch.save``,
``PICKLE_WRITERS`` through ``pickle``; each is named after the format it must be recognized as.
"""

import argparse
import collections
import pickle
from pathlib import Path

import numpy as np
import torch
import torchvision

STAGES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


def randomized(name):
    """torchvision's network by name, no classifier, every tensor random, statistics too.

    A kernel has one value at all its places, stored once, so that files are small.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    state_dict = {}
    for key, tensor in network.state_dict().items():
        if key.startswith("fc."):
            continue
        if key.endswith("num_batches_tracked"):
            state_dict[key] = torch.tensor(100)
        else:
            places = (*tensor.shape[:2], 1, 1)[: tensor.ndim]
            state_dict[key] = (torch.rand(places, generator=generator) + 0.5).expand(tensor.shape)
    return state_dict


def prefixed(prefix, state_dict):
    return {prefix + key: value for key, value in state_dict.items()}


def moved(state_dict):
    """A momentum copy: the same names, other weights (one value each, stored once)."""
    return {key: value.new_tensor(2).expand(value.shape) for key, value in state_dict.items()}


def linear(name, out=3, width=5):
    return {f"{name}.weight": torch.ones(out, width), f"{name}.bias": torch.zeros(out)}


def norm(name, width=5):
    return {
        **{f"{name}.{leaf}": torch.ones(width) for leaf in ("weight", "bias")},
        **{f"{name}.{leaf}": torch.ones(width) for leaf in ("running_mean", "running_var")},
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def mlp(name):
    return {**linear(f"{name}.0"), **norm(f"{name}.1"), **linear(f"{name}.3")}


def arch_of(sd):
    """The name that a project would save for these weights."""
    depth = 50 if "layer1.0.conv3.weight" in sd else 18
    return f"resnet{depth}"


def training(container, state_dict, **beside):
    return {"epoch": 200, container: state_dict, "optimizer": OPTIMIZER, **beside}


# Self-supervised projects ------------------------------------------------------------------


def moco(sd):
    weights = {
        **prefixed("module.encoder_q.", sd),
        **mlp("module.encoder_q.fc"),
        **prefixed("module.encoder_k.", moved(sd)),
        **mlp("module.encoder_k.fc"),
        "module.queue": torch.zeros(5, 8),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    return training("state_dict", weights, arch=arch_of(sd))


def moco_v3(sd):
    weights = {
        **prefixed("module.base_encoder.", sd),
        **mlp("module.base_encoder.fc"),
        **prefixed("module.momentum_encoder.", moved(sd)),
        **mlp("module.predictor"),
    }
    return training("state_dict", weights, scaler={"scale": 65536.0})


def simsiam(sd):
    weights = {
        **prefixed("module.encoder.", sd),
        **mlp("module.encoder.fc"),
        **mlp("module.predictor"),
    }
    return training("state_dict", weights, arch=arch_of(sd))


def pixpro(sd):
    weights = {
        **prefixed("module.encoder.", sd),
        **mlp("module.projector"),
        **prefixed("module.encoder_k.", moved(sd)),
        **mlp("module.projector_k"),
        **linear("module.value_transform"),
    }
    opt = argparse.Namespace(model="PixPro", arch=arch_of(sd))
    return training("model", weights, opt=opt, scheduler={})


def pixpro_with_instance_branch(sd):
    content = pixpro(sd)
    content["model"] |= {
        **mlp("module.projector_instance"),
        **mlp("module.projector_instance_k"),
        **mlp("module.predictor"),
    }
    return content


def pixpro_without_transform(sd):
    """Its ``value_transform`` is an identity."""
    content = pixpro(sd)
    for name in linear("module.value_transform"):
        del content["model"][name]
    return content


def pycontrast(sd):
    online = {
        **prefixed("module.encoder.", sd),
        **mlp("module.head"),
        **mlp("module.head_jig.fc1"),
    }
    momentum = {**prefixed("encoder.", moved(sd)), **mlp("head")}
    return training("model", online, model_ema=momentum, contrast={"memory": torch.zeros(4, 5)})


def cmc_of_rgb(sd):
    weights = {
        **prefixed("module.encoder1.", sd),
        **prefixed("module.encoder2.", moved(sd)),
        **mlp("module.head1"),
    }
    return training("model", weights)


def swav(sd):
    return {
        **prefixed("module.", sd),
        **mlp("module.projection_head"),
        "module.prototypes.weight": torch.zeros(30, 5),
    }


def swav_training(sd):
    return training("state_dict", swav(sd), amp={"loss_scaler0": {"loss_scale": 1.0}})


def deepcluster_v2(sd):
    weights = {**prefixed("module.", sd), **mlp("module.projection_head")}
    return {**weights, "module.prototypes.prototypes0.weight": torch.zeros(30, 5)}


def dino(sd):
    student = {**prefixed("module.backbone.", moved(sd)), **mlp("module.head.mlp")}
    teacher = {**prefixed("module.backbone.", sd), **mlp("module.head.mlp")}
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": OPTIMIZER,
        "epoch": 100,
        "args": argparse.Namespace(arch=arch_of(sd), output_dir=Path("runs")),
        "dino_loss": {"center": torch.zeros(1, 5)},
    }


def barlow_twins(sd):
    weights = {
        **prefixed("module.backbone.", sd),
        **mlp("module.projector"),
        "module.bn.running_mean": torch.zeros(5),
        "module.bn.running_var": torch.ones(5),
        "module.bn.num_batches_tracked": torch.tensor(3),
    }
    return training("model", weights)


def simclr_sthalles(sd):
    weights = {
        **prefixed("backbone.", sd),
        **linear("backbone.fc.0"),
        **linear("backbone.fc.2"),
    }
    return training("state_dict", weights, arch=arch_of(sd))


def vissl(sd):
    trunk = prefixed("_feature_blocks.", sd)
    model = {"trunk": trunk, "heads": linear("0.clf.0")}
    return {
        "phase_idx": 99,
        "iteration": 500,
        "loss": {"center": torch.zeros(3)},
        "classy_state_dict": {"base_model": {"model": model, "meters": {}}, "optimizer": OPTIMIZER},
        "type": "consolidated",
    }


def vissl_extractor(sd):
    return {"model_state_dict": prefixed("base_model._feature_blocks.", sd)}


def vissl_trunk_at_the_root(sd):
    return prefixed("_feature_blocks.", sd)


def vissl_to_torchvision(sd):
    return {"model_state_dict": dict(sd)}


def openselfsup(sd):
    weights = {**prefixed("backbone.", sd), **mlp("neck.mlp"), **linear("head.fc_cls")}
    return {"meta": {"epoch": 200, "iter": 1000}, "state_dict": weights, "optimizer": OPTIMIZER}


def mmselfsup_moco(sd):
    weights = {
        **prefixed("backbone.", sd),
        **mlp("neck.mlp"),
        **prefixed("encoder_k.0.", moved(sd)),
        **mlp("encoder_k.1.mlp"),
        "queue": torch.zeros(5, 8),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    return {"meta": {"mmselfsup_version": "0.11"}, "state_dict": weights}


def densecl(sd):
    weights = {
        **prefixed("encoder_q.0.", sd),
        **mlp("encoder_q.1.mlp"),
        **prefixed("encoder_k.0.", moved(sd)),
        **mlp("encoder_k.1.mlp"),
        **prefixed("backbone.", sd),
        "queue": torch.zeros(5, 8),
        "queue2": torch.zeros(5, 8),
    }
    return {"meta": {"epoch": 200}, "state_dict": weights, "optimizer": OPTIMIZER}


def lightning(weights):
    return {
        "epoch": 99,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": weights,
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": ""}},
        "optimizer_states": [OPTIMIZER],
        "lr_schedulers": [{"last_epoch": 99}],
        "hyper_parameters": {"lr": 0.3, "seen": collections.defaultdict(list)},
    }


def solo_learn(sd):
    weights = {
        **prefixed("backbone.", sd),
        **prefixed("momentum_backbone.", moved(sd)),
        **mlp("projector"),
        **mlp("momentum_projector"),
        **mlp("predictor"),
        **linear("classifier"),
        **linear("momentum_classifier"),
    }
    return lightning(weights)


def solo_learn_older(sd):
    weights = {**prefixed("encoder.", sd), **mlp("projector"), **linear("classifier")}
    return lightning(weights)


def as_sequential(sd):
    children = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}
    children["layer4"] = "7"
    heads_and_tails = ((key.partition("."), value) for key, value in sd.items())
    return {f"{children[head]}.{tail}": value for (head, _, tail), value in heads_and_tails}


def lightly(sd):
    weights = {
        **prefixed("backbone.", sd),
        **mlp("projection_head.layers"),
        **prefixed("backbone_momentum.", moved(sd)),
        **mlp("projection_head_momentum.layers"),
    }
    return lightning(weights)


def lightly_of_a_sequential(sd):
    weights = {**prefixed("backbone.", as_sequential(sd)), **mlp("projection_head.layers")}
    return lightning(weights)


def lightly_dino(sd):
    weights = {
        **prefixed("student_backbone.", sd),
        **mlp("student_head.layers"),
        **prefixed("teacher_backbone.", moved(sd)),
        **mlp("teacher_head.layers"),
    }
    return lightning(weights)


def virtex(sd):
    weights = {
        **prefixed("visual.cnn.", sd),
        **linear("textual.visual_projection"),
        "textual.embedding.words.weight": torch.zeros(10, 5),
        **linear("backward_textual.output"),
    }
    return {"model": weights, "optimizer": OPTIMIZER, "scheduler": {}, "iteration": 500000}


# torchvision and timm ----------------------------------------------------------------------


def torchvision_published(sd):
    return {**sd, **linear("fc")}


def torchvision_training(sd):
    args = argparse.Namespace(model=arch_of(sd), output_dir=".")
    return training("model", torchvision_published(sd), lr_scheduler={}, args=args)


def imagenet_example(sd):
    weights = prefixed("module.", torchvision_published(sd))
    return training("state_dict", weights, arch=arch_of(sd), best_acc1=torch.tensor(70.0))


def hub_without_classifier(sd):
    return dict(sd)


def timm_training(sd):
    weights = {**moved(sd), **linear("fc")}
    ema = {**prefixed("module.", sd), **linear("module.fc")}
    return training("state_dict", weights, state_dict_ema=ema, arch=arch_of(sd), version=2)


def torchvision_training_with_ema(sd):
    """Both ``model`` and ``model_ema``: torchvision and timm mean different weights by it."""
    ema = {"n_averaged": torch.tensor(9), **prefixed("module.", torchvision_published(sd))}
    return training("model", torchvision_published(moved(sd)), model_ema=ema)


def torchvision_detection(sd):
    frozen = {k: v for k, v in sd.items() if not k.endswith("num_batches_tracked")}
    weights = {
        **prefixed("backbone.body.", frozen),
        **linear("backbone.fpn.inner_blocks.0.0"),
        **linear("rpn.head.cls_logits"),
        **linear("roi_heads.box_predictor.cls_score"),
    }
    return weights


def torchvision_segmentation(sd):
    weights = {**prefixed("backbone.", sd), **norm("classifier.1"), **linear("classifier.4")}
    return training("model", weights | linear("aux_classifier.4"), lr_scheduler={})


OPENMMLAB_CONFIG = """/home/user/configs/_base_/models/faster_rcnn_r50_fpn.py
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth={depth}, norm_eval=True, style='{style}'),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048]))
img_norm_cfg = dict(mean={mean}, std={std}, to_rgb={rgb})
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='Normalize', **img_norm_cfg)]
"""


def openmmlab_config(sd, style="pytorch"):
    pytorch = style == "pytorch"
    return OPENMMLAB_CONFIG.format(
        depth=arch_of(sd).removeprefix("resnet"),
        style=style,
        mean=[123.675, 116.28, 103.53] if pytorch else [103.53, 116.28, 123.675],
        std=[58.395, 57.12, 57.375] if pytorch else [1.0, 1.0, 1.0],
        rgb=pytorch,
    )


def openmmlab(sd):
    weights = {
        **prefixed("backbone.", sd),
        **linear("neck.lateral_convs.0.conv"),
        **linear("rpn_head.rpn_conv"),
        **linear("roi_head.bbox_head.fc_cls"),
    }
    meta = {"config": openmmlab_config(sd), "CLASSES": ("cat", "dog")}
    return {"meta": meta, "state_dict": weights, "optimizer": OPTIMIZER}


def mmpretrain(sd):
    weights = {**prefixed("backbone.", sd), **linear("head.fc")}
    return {"meta": {"cfg": openmmlab_config(sd)}, "state_dict": weights}


def detr(sd):
    frozen = {k: v for k, v in sd.items() if not k.endswith("num_batches_tracked")}
    weights = {
        **prefixed("backbone.0.body.", frozen),
        **linear("transformer.encoder.layers.0.linear1"),
        **linear("class_embed"),
    }
    return {"model": weights, "args": argparse.Namespace(backbone=arch_of(sd))}


# Detectron2 and Caffe2 ---------------------------------------------------------------------


def detectron2_name(name):
    """``layer1.0.bn2.weight`` -> ``res2.0.conv2.norm.weight``, ``bn1`` -> ``stem.conv1.norm``."""
    parts = name.split(".")
    where = ["stem"] if parts[0] not in STAGES else [STAGES[parts.pop(0)], parts.pop(0)]
    if parts[0] == "downsample":
        layer = ["shortcut"] if parts[1] == "0" else ["shortcut", "norm"]
        parts = parts[2:]
    else:
        kind = parts.pop(0)
        layer = [kind] if kind.startswith("conv") else [kind.replace("bn", "conv"), "norm"]
    return ".".join([*where, *layer, *parts])


def in_detectron2_names(sd, tracked=False):
    return {
        detectron2_name(name): value
        for name, value in sd.items()
        if tracked or not name.endswith("num_batches_tracked")
    }


def detectron2_fpn(sd):
    weights = {
        **prefixed("backbone.bottom_up.", in_detectron2_names(sd)),
        **linear("backbone.fpn_lateral2"),
        **linear("proposal_generator.rpn_head.conv"),
        **linear("roi_heads.box_predictor.cls_score"),
        "pixel_mean": torch.zeros(3, 1, 1),
    }
    return {"model": weights, "optimizer": OPTIMIZER, "scheduler": {}, "iteration": 89999}


def detectron2_c4(sd):
    weights = {}
    for name, value in in_detectron2_names(sd, tracked=True).items():
        prefix = "roi_heads." if name.startswith("res5.") else "backbone."
        weights[prefix + name] = value
    weights |= norm("roi_heads.res5.norm") | linear("roi_heads.box_predictor.cls_score")
    return {"model": weights, "iteration": 24000}


def detectron2_dc5(sd):
    weights = prefixed("backbone.", in_detectron2_names(sd))
    return {"model": {**weights, **linear("roi_heads.box_predictor.cls_score")}}


def as_arrays(weights):
    return {key: value.numpy() for key, value in weights.items()}


def detectron2_zoo_detector(sd):
    return {
        "model": as_arrays(detectron2_fpn(sd)["model"]),
        "__author__": "Detectron2 Model Zoo",
    }


def detectron2_backbone(sd, author="torchvision"):
    weights = {**in_detectron2_names(sd, tracked=True), **linear("stem.fc")}
    return {"model": as_arrays(weights), "__author__": author, "matching_heuristics": True}


def caffe2_name(name):
    """``layer1.0.bn2.weight`` -> ``res2_0_branch2b_bn_s``; ``None`` for statistics."""
    parts = name.split(".")
    layer, leaf = ".".join(parts[:-1]), parts[-1]
    if leaf not in ("weight", "bias"):
        return None
    if parts[0] in ("conv1", "bn1"):
        return {"conv1": "conv1_w", "bn1": f"res_conv1_bn_{'s' if leaf == 'weight' else 'b'}"}[
            layer
        ]
    branch = {"1": "2a", "2": "2b", "3": "2c"}.get(parts[2][-1], "1")
    is_norm = parts[2].startswith("bn") or layer.endswith("downsample.1")
    blob = ("bn_s" if leaf == "weight" else "bn_b") if is_norm else "w"
    return f"{STAGES[parts[0]]}_{parts[1]}_branch{branch}_{blob}"


def caffe2(sd):
    blobs = {caffe2_name(name): value.numpy() for name, value in sd.items() if caffe2_name(name)}
    momentum = {f"{name}_momentum": np.zeros(2, np.float32) for name in blobs}
    heads = {"fc1000_w": np.zeros((3, 5), np.float32), "fc1000_b": np.zeros(3, np.float32)}
    return {**blobs, **momentum, **heads, "conv1_b": np.zeros(64, np.float32)}


def caffe2_detectron(sd):
    return {"blobs": caffe2(sd), "cfg": "MODEL: {}"}


def caffe2_with_statistics(sd):
    blobs = caffe2(sd)
    for name, value in sd.items():
        layer, _, leaf = name.rpartition(".")
        blob = {"running_mean": "rm", "running_var": "riv"}.get(leaf)
        if blob:
            blobs[f"{caffe2_name(layer + '.weight').removesuffix('s')}{blob}"] = value.numpy()
    return blobs


# Wrappers ----------------------------------------------------------------------------------


def compiled(sd):
    return prefixed("_orig_mod.", torchvision_published(sd))


def compiled_inside_ddp(sd):
    return {"state_dict": prefixed("module._orig_mod.", torchvision_published(sd))}


def sharded_then_gathered(sd):
    return {"model": prefixed("_fsdp_wrapped_module.", torchvision_published(sd))}


def compiled_encoder_in_virtex(sd):
    weights = {**prefixed("visual.cnn._orig_mod.", sd), **linear("textual.output")}
    return {"model": weights}


def deepspeed(sd):
    return {"module": torchvision_published(sd), "ds_version": "0.14.0", "global_steps": 9}


def wrapped_encoder_in_simsiam(sd):
    return {"state_dict": {**prefixed("encoder.module.", sd), **mlp("predictor")}}


def under_backbone(sd):
    return prefixed("backbone.", sd)


def under_encoder(sd):
    return {"state_dict": prefixed("encoder.", sd)}


# (format it must be recognized as, writer)
TORCH_WRITERS = [
    ("moco", moco),
    ("moco_v3", moco_v3),
    ("simsiam", simsiam),
    ("pixpro", pixpro),
    ("pixpro", pixpro_with_instance_branch),
    ("pixpro", pixpro_without_transform),
    ("pycontrast", pycontrast),
    ("cmc", cmc_of_rgb),
    ("swav", swav),
    ("swav", swav_training),
    ("swav", deepcluster_v2),
    ("dino", dino),
    ("barlow_twins", barlow_twins),
    ("simclr_sthalles", simclr_sthalles),
    ("vissl", vissl),
    ("vissl", vissl_extractor),
    ("vissl", vissl_trunk_at_the_root),
    ("vissl", vissl_to_torchvision),
    ("openselfsup", openselfsup),
    ("openselfsup", mmselfsup_moco),
    ("openselfsup", densecl),
    ("solo_learn", solo_learn),
    ("solo_learn", solo_learn_older),
    ("lightly", lightly),
    ("lightly", lightly_of_a_sequential),
    ("lightly_sequential", as_sequential),
    ("virtex", virtex),
    ("torchvision", torchvision_published),
    ("torchvision", torchvision_training),
    ("torchvision", imagenet_example),
    ("torchvision", hub_without_classifier),
    ("timm", timm_training),
    ("torchvision_detection", torchvision_detection),
    ("torchvision_segmentation", torchvision_segmentation),
    ("openmmlab", openmmlab),
    ("openmmlab", mmpretrain),
    ("detr", detr),
    ("detectron2", detectron2_fpn),
    ("detectron2", detectron2_c4),
    ("detectron2", detectron2_dc5),
    ("torchvision", compiled),
    ("torchvision", compiled_inside_ddp),
    ("torchvision", sharded_then_gathered),
    ("torchvision", deepspeed),
    ("backbone_prefix", under_backbone),
    ("encoder_prefix", under_encoder),
    ("virtex", compiled_encoder_in_virtex),
    ("simsiam", wrapped_encoder_in_simsiam),
]
PICKLE_WRITERS = [
    ("detectron2", detectron2_zoo_detector),
    ("detectron2_backbone", detectron2_backbone),
    ("caffe2", caffe2),
    ("caffe2", caffe2_detectron),
    ("caffe2", caffe2_with_statistics),
]
ALL_WRITERS = TORCH_WRITERS + PICKLE_WRITERS


def save(content, path, writer=None):
    """Save as the project of ``writer`` would; returns the path as text."""
    if any(writer is w for _, w in PICKLE_WRITERS):
        Path(path).write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    return str(path)

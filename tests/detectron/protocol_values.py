"""What the packaged protocols mean: the values that both Detectron2 distributions must give.

    python -m tests.detectron.protocol_values    # rewrite protocol_values.json

``protocol_values.json`` is written with the official Detectron2 (main) only.
"""

import hashlib
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.solver import build_lr_scheduler
from detectron2.structures import BoxMode
from PIL import Image

from virtex.config import flatten
from virtex.detectron import federated, heads  # noqa: F401 (register the heads of configs)
from virtex.detectron.compat import default_config
from virtex.detectron.install import find_installed
from virtex.detectron.loading import SeededSamples, build_sampler
from virtex.detectron.optimizer import build_optimizer
from virtex.detectron.settings import build_settings
from virtex.engine.frozen import freeze
from virtex.tasks import TASKS

FILE = Path(__file__).with_suffix(".json")
PROTOCOLS = {
    f"{task}/{short}": protocol
    for task in ("coco", "lvis", "voc", "coco_keypoints", "cityscapes")
    for short, protocol in TASKS[task].protocols.items()
    if "vitdet" not in short or short == "vitdet"  # of other sizes: test_vitdet_protocols.py
}
# Settings that v0.5 lacks. Their defaults, which no protocol changes, are what it does.
ONLY_IN_MAIN = {
    "DATALOADER.REPEAT_SQRT",  # True: the repeat factor's square root
    "FLOAT32_PRECISION",  # "": torch's own
    "SOLVER.BASE_LR_END",  # of the cosine schedule: 0
    "SOLVER.NUM_DECAYS",  # of a schedule that v0.5 lacks
    "SOLVER.RESCALE_INTERVAL",  # False: the schedule is not rescaled after the warm-up
}


def protocol_values(name, folder):
    """Return what ``protocol_values.json`` holds about a protocol.

    Args:
        folder: an existing folder, to write an image to.
    """
    cfg = build_settings(PROTOCOLS[name], [], 1 if "toy" in name else 8, "cuda").cfg
    cfg.SEED = 0
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):  # names and shapes only
        model = build_model(cfg)
    if cfg.MODEL.BACKBONE.FROZEN:
        freeze(model.backbone.bottom_up)
    cfg.DATALOADER.NUM_WORKERS = 0  # depends on the machine
    defaults = flatten(default_config())
    return {
        "settings": {k: v for k, v in sorted(flatten(cfg).items()) if v != defaults[k]},
        "parameter_groups": parameter_groups(cfg, model),
        "learning_rates": learning_rates(cfg, model),
        "anchors": anchors(cfg, model),
        "sampler": sampled(cfg),
        "train_samples": [
            described(SeededSamples([sample(folder)], cfg, False)[position, 0])
            for position in range(3)
        ],
        "test_sample": list(DatasetMapper(cfg, False)(sample(folder))["image"].shape),
    }


def parameter_groups(cfg, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = defaultdict(list)
    for group in build_optimizer(cfg, model, {}).param_groups:
        keys = ("lr", "initial_lr", "weight_decay", "momentum", "dampening", "nesterov", "betas")
        key = ", ".join(f"{key} {group[key]}" for key in keys if key in group)
        groups[key] += [names[id(parameter)] for parameter in group["params"]]
    return {
        key: {
            "parameters": len(found),
            "norm_biases": sum(".norm." in name and name.endswith(".bias") for name in found),
            "names_sha256": hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest(),
        }
        for key, found in sorted(groups.items())
    }


def learning_rates(cfg, model):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    iterations = (0, cfg.SOLVER.WARMUP_ITERS // 2, *cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER - 1)
    rates = (
        cfg.SOLVER.BASE_LR * scheduler._multiplier(i / cfg.SOLVER.MAX_ITER) for i in iterations
    )
    return [round(rate, 9) for rate in rates]


def anchors(cfg, model):
    """Return the anchors of each level's first cell, and its last anchor (x0, y0, x1, y1)."""
    shapes = model.backbone.output_shape()
    strides = [shapes[name].stride for name in cfg.MODEL.RPN.IN_FEATURES]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=stride) for stride in strides])
    levels = generator([torch.zeros(1, 1, 2, 3) for _ in strides])
    return [
        np.round(level.tensor[[*range(len(level) // 6), -1]].numpy().astype(float), 3).tolist()
        for level in levels
    ]


def sampled(cfg):
    """Return the first indices of the stream over 20 images, one of them with a rare category."""
    samples = [{"annotations": [{"category_id": 1 if index == 7 else 0}]} for index in range(20)]
    cfg = cfg.clone()
    cfg.DATALOADER.REPEAT_THRESHOLD *= 500  # of 100 000 images
    stream = iter(build_sampler(cfg, samples, 0))
    return [int(next(stream)) for _ in range(40)]


def sample(folder):
    """Return a Detectron2 dict of an image of 90 x 120 pixels with one object."""
    rows, columns = np.mgrid[0:90, 0:120]
    path = folder / "image.png"
    pixels = np.stack([rows, columns, (rows + columns) % 50], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return {
        "file_name": str(path),
        "image_id": 1,
        "height": 90,
        "width": 120,
        "annotations": [
            {
                "bbox": [10.0, 20.0, 40.0, 30.0],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 3,
                "iscrowd": 0,
                "segmentation": [[10.0, 20.0, 50.0, 20.0, 30.0, 50.0]],
            }
        ],
    }


def described(mapped):
    instances = mapped["instances"]
    found = {
        "shape": list(mapped["image"].shape),
        "means": [round(float(channel.float().mean()), 2) for channel in mapped["image"]],
        "boxes": np.round(instances.gt_boxes.tensor.numpy().astype(float), 3).tolist(),
        "classes": instances.gt_classes.tolist(),
    }
    if instances.has("gt_masks"):
        found["mask_areas"] = [round(float(area), 1) for area in instances.gt_masks.area()]
    return found


def write(path):
    """Write one line for each default and for each value of a protocol."""
    defaults = flatten(default_config())
    with tempfile.TemporaryDirectory() as folder:
        values = {
            # without our own settings
            "defaults": {k: v for k, v in defaults.items() if k in flatten(get_cfg())},
            **{name: protocol_values(name, Path(folder)) for name in PROTOCOLS},
        }
    parts = [
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        + "\n}"
        for part, found in values.items()
    ]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    distribution = find_installed()
    assert distribution is not None and distribution.kind == "official", distribution
    write(FILE)

"""The settings of Detectron2's ViTDet, merged from its lazy configs, for comparison with ours.

    python -m tests.detectron.vitdet_values DETECTRON2    # rewrite vitdet_values.json

``DETECTRON2`` is a checkout of the official repository at the commit that is installed: its package
does not contain ``projects/ViTDet``.
"""

import json
import sys
from functools import partial
from pathlib import Path

import virtex.detectron  # noqa: F401 (makes Detectron2 importable)

FILE = Path(__file__).with_suffix(".json")
CONFIGS = {
    "coco/vitdet": "COCO/mask_rcnn_vitdet_b_100ep.py",
    "coco/vitdet-l": "COCO/mask_rcnn_vitdet_l_100ep.py",
    "coco/vitdet-h": "COCO/mask_rcnn_vitdet_h_75ep.py",
    "lvis/vitdet": "LVIS/mask_rcnn_vitdet_b_100ep.py",
    "lvis/vitdet-l": "LVIS/mask_rcnn_vitdet_l_100ep.py",
    "lvis/vitdet-h": "LVIS/mask_rcnn_vitdet_h_100ep.py",
}


def leaves(node, prefix=""):
    """Return dotted path -> plain value; lists without sections are values."""
    if isinstance(node, partial):  # a class or function with some of its arguments
        node = {"_target_": node.func, **node.keywords}
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return {prefix: getattr(node, "__qualname__", node)}
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found or {prefix: {}}


def merged(config):
    """Return the leaves of a lazy config, whose references are resolved."""
    from omegaconf import OmegaConf

    return {
        part: leaves(OmegaConf.to_container(config[part], resolve=True))
        for part in ("model", "dataloader", "train", "optimizer", "lr_multiplier")
    }


def write(repository):
    from detectron2.config import LazyConfig

    folder = repository / "projects/ViTDet/configs"
    values = {name: merged(LazyConfig.load(str(folder / path))) for name, path in CONFIGS.items()}
    flat = {
        name: {f"{part}.{k}": v for part, found in parts.items() for k, v in found.items()}
        for name, parts in values.items()
    }
    base = flat["coco/vitdet"]
    parts = {"coco/vitdet": base} | {
        name: {
            **{key: value for key, value in found.items() if base.get(key, ()) != value},
            **{key: None for key in base.keys() - found.keys()},
        }
        for name, found in flat.items()
        if name != "coco/vitdet"
    }
    source = "projects/ViTDet/configs of https://github.com/facebookresearch/detectron2"
    lines = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        + "\n}"
        for name, found in parts.items()
    ]
    FILE.write_text("{\n" + ",\n".join([f'"source": {json.dumps(source)}', *lines]) + "\n}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

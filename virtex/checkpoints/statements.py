"""Find what a checkpoint states about its network besides the tensors.

Tensor shapes do not show strides, pooling or the expected images. Many projects write them into the
file (timm's ``arch``, OpenMMLab's ``meta``, the ``args`` of a training script), or into a config
beside it (Detectron2's ``config.yaml``, timm's ``config.json``). To add one, add its paths to
``FACTS`` or ``NORMALIZATIONS``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from torch import Tensor

from virtex.checkpoints.backbone import CheckpointError
from virtex.config.yaml_files import MAX_BYTES, PlainLoader, read_yaml
from virtex.errors import UserError
from virtex.text import escape, one_line

ENTRY = "virtex_backbone"
# Dotted path in a file -> fact. ``*`` matches any key at any depth. All names of an architecture
# are ``arch``; the other facts are input fields, fields of an ``Arch`` or a family's settings.
FACTS: dict[str, str] = {
    "arch": "arch",  # timm, MoCo and other descendants of torch's ImageNet example
    "args.arch": "arch",  # DINO
    "args.model": "arch",  # timm, torchvision
    "args.backbone": "arch",  # DETR
    "opt.arch": "arch",  # PixPro, PyContrast
    "hyper_parameters.arch": "arch",  # Lightning Bolts
    "hyper_parameters.backbone": "arch",
    "hyper_parameters.backbone.name": "arch",  # solo-learn
    "hyper_parameters.encoder": "arch",  # solo-learn, older
    "hyper_parameters.maxpool1": "max_pool",  # Lightning Bolts
    "args.bn_eps": "norm_eps",  # timm, as the next two
    "args.model_kwargs.aa_layer": "anti_aliasing",
    "args.model_kwargs.act_layer": "activation",
    "meta.CLASSES": "classes",  # MMCV
    "meta.dataset_meta.classes": "classes",  # MMEngine
    "openmmlab.channel_order": "channel_order",
    "openmmlab.backbone.arch": "arch",
    "openmmlab.backbone.heads": "heads",
    "openmmlab.backbone.stride_in_1x1": "stride_in_1x1",
    "openmmlab.backbone.strides": "strides",
    "openmmlab.backbone.dilations": "dilations",
    "openmmlab.backbone.norm_cfg.eps": "norm_eps",
    "config.yaml.INPUT.FORMAT": "channel_order",  # Detectron2
    "config.yaml.MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1",
    "config.yaml.MODEL.RESNETS.RES5_DILATION": "res5_dilation",
    "config.yaml.model.input_format": "channel_order",  # Detectron2's LazyConfig
    "config.yaml.model.*.stride_in_1x1": "stride_in_1x1",
    "config.json.architecture": "arch",  # timm
    "config.json.model_args.aa_layer": "anti_aliasing",
    "config.json.model_args.act_layer": "activation",
    "config.json.num_attention_heads": "heads",  # Hugging Face
    "config.json.vision_config.num_attention_heads": "heads",
    "config.json.layer_norm_eps": "norm_eps",
    "config.json.vision_config.layer_norm_eps": "norm_eps",
    "config.json.window_size": "windows",  # of Swin, as the next two; timm's are in model_args
    "config.json.pretrained_window_sizes": "pretrained_windows",
    "config.json.image_size": "image_size",
    "config.json.model_args.window_size": "windows",
    "config.json.model_args.pretrained_window_sizes": "pretrained_windows",
    "config.json.model_args.img_size": "image_size",
    "config.json.hidden_act": "activation",
    "config.json.vision_config.hidden_act": "activation",
    "open_clip_config.json.model_cfg.vision_cfg.timm_model_name": "arch",
    "open_clip_config.json.model_cfg.activation": "activation",  # as the next, by default values
    "open_clip_config.json.model_cfg.heads": "heads",
}
# Configs beside a file
SIDECARS = ("config.yaml", "config.json", "preprocessor_config.json", "open_clip_config.json")
# Hugging Face's names of activations -> ours
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
# (paths of mean and std, value of a white pixel)
NORMALIZATIONS: tuple[tuple[str, str, float], ...] = (
    ("args.mean", "args.std", 1.0),  # timm
    ("model.pixel_mean", "model.pixel_std", 255.0),  # buffers of a Detectron2 detector before 0.5
    ("openmmlab.mean", "openmmlab.std", 255.0),
    ("config.yaml.MODEL.PIXEL_MEAN", "config.yaml.MODEL.PIXEL_STD", 255.0),
    ("config.yaml.model.pixel_mean", "config.yaml.model.pixel_std", 255.0),
    ("config.json.pretrained_cfg.mean", "config.json.pretrained_cfg.std", 1.0),
    ("preprocessor_config.json.image_mean", "preprocessor_config.json.image_std", 1.0),
    ("open_clip_config.json.preprocess_cfg.mean", "open_clip_config.json.preprocess_cfg.std", 1.0),
)
# OpenMMLab's backbones, whose ``style`` is "pytorch" unless they state another
_OPENMMLAB_RESNETS = ("ResNet", "ResNeXt")


@dataclass(frozen=True)
class Statement:
    """A value as a file states it, and the path of the value in the file or config."""

    value: Any
    place: str


@dataclass(frozen=True)
class Statements:
    """What a checkpoint states.

    Attributes:
        archs: all names of the architecture.
        facts: name of a fact -> its statement. ``channel_order`` is ``"RGB"`` or ``"BGR"``;
            ``normalization`` is (mean, std, value of a white pixel) with mean and std per channel
            in ``channel_order``; ``classes`` is a tuple of names in the order of their labels;
            others are in ``Family.format_fields`` or ``Family.fixed_settings``.
        of_virtex: whether they are from this package's entry, which contains all of them.
    """

    archs: tuple[Statement, ...]
    facts: dict[str, Statement]
    of_virtex: bool = False


def read_statements(content: Any, path: str | Path, sidecars: Sequence[str] = ()) -> Statements:
    """Collect what a checkpoint and the config beside it state.

    Args:
        content: the content of the file (``containers.open_checkpoint``).
        path: the file.
        sidecars: names of configs in the same folder: ``"config.yaml"`` of Detectron2,
            ``"config.json"`` of timm and Hugging Face, the latter's
            ``"preprocessor_config.json"``, and ``"open_clip_config.json"``.

    Raises:
        CheckpointError: the config cannot be read, a value is not valid
            (``checkpoint.invalid_input_spec``), or two places state different values
            (``checkpoint.contradiction``).
    """
    document = dict(content) if isinstance(content, Mapping) else {}
    if document.get(ENTRY) is not None:
        return Statements((), _read_entry(document[ENTRY]), of_virtex=True)
    meta = document.get("meta")
    text = isinstance(meta, Mapping) and (meta.get("config") or meta.get("cfg"))
    document["openmmlab"] = parse_openmmlab(text) if isinstance(text, str) else None
    for sidecar in sidecars:
        config = Path(path).with_name(sidecar)
        if config.is_file():
            document[sidecar] = _read_config(config)
    archs: list[Statement] = []
    facts: dict[str, Statement] = {}
    for where, fact in FACTS.items():
        for value in _look_up(document, where):
            if fact != "arch":
                _add(facts, fact, Statement(_validated(fact, value, where), where))
            elif isinstance(value, str):
                archs.append(Statement(value[:200], where))
    for mean_path, std_path, white in NORMALIZATIONS:
        for mean, std in zip(_look_up(document, mean_path), _look_up(document, std_path)):  # noqa: B905
            value = _validated_normalization(mean, std, white, mean_path)
            _add(facts, "normalization", Statement(value, mean_path))
    return Statements(tuple(archs), facts)


def read_names(content: Any, path: str | Path) -> tuple[str, ...]:
    """Return what a checkpoint, or timm's config beside it, states as its network.

    The arguments are those of ``read_statements``, which validates.
    """
    document = dict(content) if isinstance(content, Mapping) else {}
    if (entry := document.get(ENTRY)) is not None:
        model = entry.get("model") if isinstance(entry, Mapping) else None
        return (model[:200],) if isinstance(model, str) else ()
    config = Path(path).with_name("config.json")
    with contextlib.suppress(CheckpointError):
        document["config.json"] = _read_config(config) if config.is_file() else None
    places = (place for place, fact in FACTS.items() if fact == "arch")
    values = (value for place in places for value in _look_up(document, place))
    return tuple(value[:200] for value in values if isinstance(value, str))


def _add(facts: dict[str, Statement], fact: str, new: Statement) -> None:
    old = facts.setdefault(fact, new)
    if not is_same(old.value, new.value):
        raise CheckpointError(
            f"{old.place} states {fact.replace('_', ' ')} {escape(str(old.value))}, but "
            f"{new.place} states {escape(str(new.value))}; correct the wrong one",
            code="checkpoint.contradiction",
        )


def is_same(one: Any, other: Any) -> bool:
    """Compare two values of a fact; normalizations by the pixels that they yield."""
    if isinstance(one, tuple) and one and isinstance(one[0], tuple):
        (*a, white_a), (*b, white_b) = one, other
        return all(
            math.isclose(x / white_a, y / white_b, rel_tol=1e-4, abs_tol=1e-6)
            for xs, ys in zip(a, b, strict=True)
            for x, y in zip(xs, ys, strict=True)
        )
    return bool(one == other)


def _look_up(document: Any, path: str) -> Iterator[Any]:
    """Yield the values at a dotted path that are not ``None``."""
    for name in SIDECARS:
        if path.startswith(name + "."):
            document, path = document.get(name), path.removeprefix(name + ".")
    key, _, rest = path.partition(".")
    if isinstance(document, argparse.Namespace):
        document = vars(document)
    if key == "*":
        yield from _values_of(document, rest)
    elif isinstance(document, Mapping) and document.get(key) is not None:
        if rest:
            yield from _look_up(document[key], rest)
        else:
            yield document[key]


def _values_of(tree: Any, key: str) -> Iterator[Any]:
    """Yield all values of a key in a tree of YAML, which ``read_yaml`` has limited."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            if node.get(key) is not None:
                yield node[key]
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _read_entry(entry: Any) -> dict[str, Statement]:
    """Return the facts that ``inputs.saved_input`` saved."""
    spec = entry.get("input") if isinstance(entry, Mapping) else None
    if not isinstance(spec, Mapping):
        raise _invalid(ENTRY, f"it should contain an input, found {type(entry).__name__}")
    values = {key: value for key, value in entry.items() if key != "input"}
    values["channel_order"] = spec.get("channel_order")
    facts = {key: Statement(_validated(key, value, ENTRY), ENTRY) for key, value in values.items()}
    normalization = _validated_normalization(
        spec.get("mean"), spec.get("std"), spec.get("scale"), ENTRY
    )
    return {**facts, "normalization": Statement(normalization, ENTRY)}


# Configs beside a file ------------------------------------------------------------------------


class LazyConfigLoader(PlainLoader):
    """Loads what Detectron2's ``LazyConfig.save`` writes; Python objects in it become ``None``."""

    yaml_constructors = yaml.SafeLoader.yaml_constructors
    yaml_multi_constructors: ClassVar = {
        "tag:yaml.org,2002:python/": lambda loader, suffix, node: None
    }


def _read_config(config: Path) -> Any:
    try:
        if config.suffix == ".yaml":
            return read_yaml(config, LazyConfigLoader)
        if config.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        content = json.loads(config.read_text(encoding="utf-8"))
        return _complete_open_clip(content) if config.name == "open_clip_config.json" else content
    except (UserError, OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{config} next to the checkpoint should define its input, but cannot be read; fix it "
            f"or move it away ({escape(one_line(error), 300)})",
            code="checkpoint.invalid_input_spec",
        ) from error


def _complete_open_clip(config: Any) -> Any:
    """Add the defaults of open_clip's ``CLIPVisionCfg`` for its own vision transformer."""
    model = config.get("model_cfg") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        return config
    vision = model.get("vision_cfg")
    if not isinstance(vision, Mapping) or "timm_model_name" in vision:
        return config
    stated: dict[str, Any] = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    if isinstance(width, int) and isinstance(head_width, int) and head_width > 0:
        stated["heads"] = width // head_width
    return {**config, "model_cfg": {**model, **stated}}


def parse_openmmlab(text: str) -> dict[str, Any]:
    """Return the backbone and the normalization in the text of an OpenMMLab config.

    The text is Python. It is parsed and not executed: only constants and the keywords of ``dict``
    are read. MMCV joins the files of a config, the base first, so the last setting is valid.

    Returns:
        A mapping that may contain ``backbone`` (its keywords, ``arch`` and ``stride_in_1x1``),
        ``channel_order``, ``mean`` and ``std`` (of pixels up to 255).
    """
    # MMCV before each file: its path, on a line of its own
    text = re.sub(r"(?m)^[^\n=(]*\.py$", "", text[:MAX_BYTES])
    try:
        tree = ast.parse(text)
        return _read_openmmlab(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}


def _read_openmmlab(tree: ast.Module) -> dict[str, Any]:
    names: dict[str, ast.expr] = {}
    backbone: dict[str, Any] = {}
    normalizations: list[tuple[ast.expr, bool]] = []  # and whether RGB is its default
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name, value = statement.targets[0].id, statement.value
        names[name] = value
        if name == "model":
            inner = _keywords(_keywords(value, names).get("backbone"), names)
            backbone |= {key: _literal(node, names) for key, node in inner.items()}
        if name == "data_preprocessor":
            normalizations.append((value, False))
        for node in ast.walk(value):
            keywords = _keywords(node, {})
            if "data_preprocessor" in keywords:
                normalizations.append((keywords["data_preprocessor"], False))
            step = keywords.get("type")
            if isinstance(step, ast.Constant) and str(step.value).endswith("Normalize"):
                normalizations.append((node, True))  # type: ignore[arg-type]
    kind = str(backbone.get("type", "")).rpartition(".")[2]
    if "mocov3" in f"{kind} {backbone.get('arch')}".lower():
        backbone["heads"] = 12  # MoCoV3ViT of mmpretrain, in every size
    if kind:
        backbone["arch"] = f"{kind}{backbone.get('depth', '')}"
        style = backbone.get("style", "pytorch" if kind in _OPENMMLAB_RESNETS else None)
        backbone["stride_in_1x1"] = {"caffe": True, "pytorch": False}.get(str(style))
    if backbone.get("contract_dilation"):
        # computes the features of the plain network, at more positions
        backbone["strides"] = backbone["dilations"] = None
    found = (_normalization(node, names, rgb) for node, rgb in normalizations[:-20:-1])
    return {"backbone": backbone, **next(filter(None, found), {})}


def _normalization(
    node: ast.expr, names: Mapping[str, ast.expr], default_rgb: bool
) -> dict[str, Any]:
    keywords = _keywords(node, names)
    wanted = ("mean", "std", "to_rgb", "bgr_to_rgb")
    values = {key: _literal(keywords[key], names) for key in wanted if key in keywords}
    mean, std = values.get("mean"), values.get("std")
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return {}
    is_rgb = values.get("to_rgb", values.get("bgr_to_rgb"))
    if is_rgb is None and all(_is_number(n) and abs(n) <= 1 for n in (*mean, *std)):
        mean, std = ([255 * n for n in part] for part in (mean, std))  # torchvision's Normalize
    is_rgb = default_rgb if is_rgb is None else bool(is_rgb)
    return {"channel_order": "RGB" if is_rgb else "BGR", "mean": mean, "std": std}


def _keywords(node: Any, names: Mapping[str, ast.expr]) -> dict[str, ast.expr]:
    """Return the items of ``dict(…)`` or ``{…}``, and of those that it unpacks by name."""
    if isinstance(node, ast.Name):
        node = names.get(node.id)
    if isinstance(node, ast.Dict):
        pairs = [(key and _literal(key, {}), value) for key, value in zip(node.keys, node.values)]  # noqa: B905
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
    else:
        return {}
    found: dict[str, ast.expr] = {}
    for key, value in pairs:
        if isinstance(key, str):
            found[key] = value
        elif isinstance(value, ast.Name) and isinstance(names.get(value.id), ast.Call | ast.Dict):
            found |= _keywords(names[value.id], {})
    return found


def _literal(node: ast.expr, names: Mapping[str, ast.expr]) -> Any:
    """Return the value of a node made of constants, or ``None``."""
    if isinstance(node, ast.Name):
        node = names.get(node.id, node)
    if isinstance(node, ast.Call | ast.Dict):
        return {key: _literal(value, {}) for key, value in _keywords(node, {}).items()}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


# Values ---------------------------------------------------------------------------------------


def _validated(fact: str, value: Any, place: str) -> Any:
    """Return a scalar, or a tuple of scalars; names in lower case."""
    if isinstance(value, list | tuple):
        value = tuple(value)
    for item in value if isinstance(value, tuple) else (value,):
        if not isinstance(item, str | bool | int | float):
            raise _invalid(place, f"values of type {type(item).__name__} are not supported")
    if fact == "channel_order" and value not in ("RGB", "BGR"):
        raise _invalid(place, "the channel order should be RGB or BGR")
    if fact == "stride_in_1x1" and not isinstance(value, bool):
        raise _invalid(place, "it should be true or false")
    if isinstance(value, str) and fact != "channel_order":
        value = value.lower()
    return _ACTIVATIONS.get(value, value) if fact == "activation" else value


def _validated_normalization(mean: Any, std: Any, white: Any, place: str) -> Any:
    """Return (mean, std, white) as plain floats."""
    parts = []
    for numbers in (mean, std):
        if isinstance(numbers, Tensor | np.ndarray):
            numbers = numbers.reshape(-1).tolist() if math.prod(numbers.shape) == 3 else None
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            raise _invalid(place, "mean and std should be three numbers each")
        parts.append(numbers)
    if not all(map(_is_number, (*parts[0], *parts[1], white))):
        raise _invalid(place, "mean, std and scale should be numbers")
    if not all(n > 0 for n in (*parts[1], white)):
        raise _invalid(place, "std and scale should be above zero")
    return (*(tuple(map(float, part)) for part in parts), float(white))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _invalid(place: str, message: str) -> CheckpointError:
    return CheckpointError(f"{place}: {message}", code="checkpoint.invalid_input_spec")

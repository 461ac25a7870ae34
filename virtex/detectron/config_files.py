"""Detectron2's YAML files read as data: nothing in them runs, and nothing is fetched.

Detectron2 itself reads a file that is no plain YAML with ``yaml.unsafe_load``, which runs the code
in it, and a ``_BASE_`` from the web.
"""

import copy
import os
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from fvcore.common.config import BASE_KEY

from virtex.config.reading import MOST_FILES, PlainLoader, expanduser, read_yaml, shown
from virtex.errors import UserError
from virtex.quoting import quoted

# The one expression in the YAML files that Detectron2 comes with (Base-RetinaNet.yaml).
RETINANET_SIZES = (
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]",
    [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]],
)


class Detectron2Loader(PlainLoader):
    """Plain YAML, and the one expression of RetinaNet's as the numbers it gives."""


def _expression(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    texts = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if texts != [RETINANET_SIZES[0]]:
        raise yaml.constructor.ConstructorError(
            None, None, "a Python expression, which would run code", node.start_mark
        )
    return RETINANET_SIZES[1]


Detectron2Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _expression)


class PlainConfig(CfgNode):
    """Detectron2's configuration, whose files are read by ``read_tree``."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        return read_tree(Path(filename))


def default_config() -> CfgNode:
    """Detectron2's defaults, which ``merge_from_file`` merges a file of plain values into."""
    return PlainConfig(get_cfg())


def read_tree(path: Path, read: dict[Path, Any] | None = None) -> dict[str, Any]:
    """What a file sets, on top of what the files it is based on do.

    Args:
        read: what was read of other files, ``None`` for those that are based on this one.

    Raises:
        UserError: it, or a file it is based on, is not there, is no YAML of plain values, or is
            based on itself; a section of one is a value in the other.
    """
    read = {} if read is None else read
    if len(read) > MOST_FILES:
        raise UserError(f"{path} and others: more than {MOST_FILES} files are based on each other")
    here = path.resolve()
    if here in read and read[here] is None:
        raise UserError(f"{path} is based on itself through {BASE_KEY}; take that line out")
    if here in read:
        return copy.deepcopy(read[here])
    read[here] = None
    tree = read_yaml(path, Detectron2Loader)
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY} must be a file or a list of files, not {shown(bases)}")
    merged: dict[str, Any] = {}
    for base in bases:
        file = os.path.join(os.path.dirname(path), expanduser(base))
        if "://" in base or not os.path.isfile(file):
            raise UserError(f"{path}: {BASE_KEY}: there is no file '{quoted(file, 300)}'")
        _merge(read_tree(Path(file), read), merged, path)
    _merge(tree, merged, path)
    read[here] = merged
    return copy.deepcopy(merged)


def _merge(tree: dict[Any, Any], into: dict[Any, Any], path: Path) -> None:
    for key, value in tree.items():
        if not isinstance(key, str):
            raise UserError(f"{path}: {shown(key)} is no name of a setting")
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(value, into[key], path)
        elif key in into and isinstance(value, dict) != isinstance(into[key], dict):
            raise UserError(
                f"{path}: {quoted(key)} is a section here or in {BASE_KEY}, not in both"
            )
        elif isinstance(value, dict):
            _merge(value, into.setdefault(key, {}), path)
        else:
            into[key] = value

"""Detectron2 configs from YAML files and overrides, read as plain data by ``virtex.config``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from virtex.config.overrides import merge_overrides
from virtex.config.yaml_files import find_relative, read_layers
from virtex.detectron.compat import default_config
from virtex.errors import UserError
from virtex.text import escape, short_repr

# What Detectron2 raises for settings that it does not have or of another type.
CONFIG_ERRORS = (KeyError, ValueError, TypeError, AttributeError, AssertionError, RecursionError)


class PlainConfig(CfgNode):
    """Detectron2's config, whose files are read without executing or downloading anything."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for path, tree in read_layers(Path(filename), find_relative).items():
            _merge(tree, merged, path)
        _integers_to_floats(merged, default_config())
        return merged


def read_config_file(path: Path) -> CfgNode:
    """Merge a YAML file into Detectron2's defaults.

    Raises:
        UserError: the file, or one it is based on, is missing, is not plain YAML, or sets keys
            that Detectron2 does not have.
    """
    cfg = PlainConfig(default_config())
    try:
        cfg.merge_from_file(str(path))
    except UserError as error:
        raise UserError(f"{path} is not a Detectron2 config: {error}", code=error.code) from error
    except CONFIG_ERRORS as error:
        reason = (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is not a Detectron2 config: {escape(reason, 300)}", code="config.unreadable"
        ) from error
    return cfg


def merge_detectron2_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Set ``KEY VALUE …`` in a Detectron2 config, whose lists may contain lists.

    Raises:
        UserError: a pair is incomplete, a key unknown, or a value of the wrong type.
    """
    merge_overrides(cfg, overrides, nested=True)


def _merge(tree: dict[Any, Any], into: dict[Any, Any], path: Path) -> None:
    for key, value in tree.items():
        if not isinstance(key, str):
            raise UserError(
                f"{path}: {short_repr(key)} is not a setting", code="config.unknown_key"
            )
        if key in into and isinstance(value, dict) != isinstance(into[key], dict):
            raise UserError(
                f"{path}: {escape(key)} must be a section of settings both here and in the files "
                "this one is based on, or in neither",
                code="config.invalid_value",
            )
        if isinstance(value, dict):
            _merge(value, into.setdefault(key, {}), path)
        else:
            into[key] = value


def _integers_to_floats(tree: dict[str, Any], defaults: CfgNode) -> None:
    """Convert integers where the default is a float, as ``virtex.config`` does for overrides."""
    for key, value in tree.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, CfgNode):
            _integers_to_floats(value, default)
        elif isinstance(default, float) and type(value) is int and abs(value) <= 2**53:
            tree[key] = float(value)

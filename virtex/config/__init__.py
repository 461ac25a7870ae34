"""The settings of a pretraining run: defaults, YAML files, ``KEY VALUE`` overrides, checks.

Keys and file layout are those of VirTex (arXiv 2006.06666), so that its published YAML files,
and the ``pretrain_config.yaml`` its runs leave behind, are read as they are.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from virtex.config.checks import TransformerSize, check_config, parse_textual_name
from virtex.config.defaults import default_config, get_setting, leaves
from virtex.config.reading import find_config, packaged_configs, read_overrides, read_settings
from virtex.files import replace_file

__all__ = [
    "TransformerSize",
    "check_config",
    "default_config",
    "find_config",
    "get_setting",
    "leaves",
    "load_config",
    "packaged_configs",
    "parse_textual_name",
    "save_config",
    "with_overrides",
    "with_settings",
]


def load_config(name_or_path: str | os.PathLike[str], overrides: Sequence[Any] = ()) -> CfgNode:
    """The config of a run, checked and frozen: defaults, then the file, then the overrides.

    Args:
        name_or_path: what ``find_config`` takes.
        overrides: ``KEY VALUE KEY VALUE …``; a value that is text is read as a Python literal
            where it is one.

    Raises:
        UserError: there is no such config; a file is not YAML, its ``_BASE_`` is missing or
            goes in a circle; a key does not exist; a value has the wrong type or cannot work.
    """
    known = known_settings()
    settings = read_settings(find_config(os.fspath(name_or_path)), known)
    return with_settings(default_config(), {**settings, **read_overrides(overrides, known)})


@functools.cache
def known_settings() -> dict[str, Any]:
    """Dotted key -> default of every setting of a pretraining run."""
    return dict(leaves(default_config()))


def with_overrides(config: CfgNode, overrides: Sequence[Any]) -> CfgNode:
    """``config`` with ``KEY VALUE …`` of ``overrides``, checked and frozen.

    Raises:
        UserError: as ``load_config``.
    """
    return with_settings(config, read_overrides(overrides, known_settings()))


def with_settings(config: CfgNode, settings: dict[str, Any]) -> CfgNode:
    """``config`` with other values (dotted key -> value), checked and frozen.

    Raises:
        UserError: a value cannot work.
    """
    config = config.clone()
    config.defrost()
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        get_setting(config, section)[name] = value
    check_config(config)
    config.freeze()
    return config


def save_config(config: CfgNode, path: str | os.PathLike[str]) -> None:
    """Write every key to the YAML file ``path``, whole or not at all; its folder must exist.

    ``load_config`` reads it back equal.
    """
    text = config.dump()
    replace_file(Path(path), lambda file: file.write(text.encode()))

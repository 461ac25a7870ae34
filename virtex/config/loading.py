"""Load the configs of pretraining and the settings of downstream tasks."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from virtex.config.defaults import default_config
from virtex.config.overrides import flatten, merge_overrides, merge_tree, set_setting
from virtex.config.validation import validate_downstream, validate_pretraining
from virtex.config.yaml_files import expanduser, find_relative, read_layers
from virtex.errors import UserError
from virtex.files import replace_file
from virtex.resources import resource_path
from virtex.text import escape

PRETRAIN_FOLDER = resource_path("configs/pretrain")


def packaged_configs() -> dict[str, Path]:
    """List the packaged pretraining configs by name.

    A name is the path below ``configs/pretrain`` without suffix, such as
    ``width_ablations/bicaptioning_R_50_L1_H512``. Files that only serve as ``_BASE_`` (their
    names start with ``_``) are omitted.
    """
    paths = sorted(PRETRAIN_FOLDER.rglob("*.yaml"))
    return {
        path.relative_to(PRETRAIN_FOLDER).with_suffix("").as_posix(): path
        for path in paths
        if not path.name.startswith("_")
    }


def find_config(name: str, folder: str | os.PathLike[str] = "") -> Path:
    """Find a pretraining config.

    Args:
        name: a path (relative to ``folder``), a packaged name with or without a leading
            ``configs/`` and a trailing ``.yaml``, or the last part of a packaged name.

    Raises:
        UserError: not found; the message lists the most similar packaged names.
    """
    path = os.path.join(folder, expanduser(name))
    if os.path.isfile(path):
        return Path(path)
    if os.path.isdir(path):
        raise UserError(
            f"{escape(path, 300)} is a folder; specify a YAML file or a packaged config",
            code="config.not_found",
        )
    packaged = packaged_configs()
    wanted = name.removesuffix(".yaml").removeprefix("configs/")
    # configs with the same last part in several groups of ablations are equal
    by_last_part = {known.rpartition("/")[2]: known for known in reversed(packaged)}
    wanted = by_last_part.get(wanted, wanted)
    if wanted in packaged:
        return packaged[wanted]
    last_part = wanted.rpartition("/")[2]
    similar = difflib.get_close_matches(last_part[:100], by_last_part, n=3, cutoff=0.0)
    raise UserError(
        f"'{escape(path, 300)}' is neither a file nor a packaged config; the most similar packaged "
        f"configs are {', '.join(similar)}",
        code="config.not_found",
    )


def load_config(name_or_path: str | os.PathLike[str], overrides: Sequence[Any] = ()) -> CfgNode:
    """Load a pretraining config: the defaults, then the file, then the overrides.

    Args:
        name_or_path: see ``find_config``.
        overrides: ``KEY VALUE KEY VALUE …``; a string that is a Python literal is evaluated.

    Returns:
        The validated, frozen config.

    Raises:
        UserError: the config was not found; a file is not plain YAML, or its ``_BASE_`` is missing
            or circular; a key is unknown; a value is invalid.
    """
    config = default_config()
    layers = read_layers(find_config(os.fspath(name_or_path)), find_config)
    for path, tree in layers.items():
        merge_tree(config, tree, str(path))
    return with_overrides(config, overrides)


def with_overrides(config: CfgNode, overrides: Sequence[Any]) -> CfgNode:
    """Return a validated, frozen copy of a pretraining config with ``KEY VALUE …`` set.

    Raises:
        UserError: see ``load_config``.
    """
    config = config.clone()
    config.defrost()
    merge_overrides(config, overrides)
    validate_pretraining(config)
    config.freeze()
    return config


def with_settings(config: CfgNode, settings: dict[str, Any]) -> CfgNode:
    """Return a validated, frozen copy of a pretraining config with ``{dotted key: value}`` set.

    Raises:
        UserError: a value is invalid.
    """
    config = config.clone()
    config.defrost()
    for key, value in settings.items():
        set_setting(config, key, value)
    return with_overrides(config, ())


def save_config(config: CfgNode, path: str | os.PathLike[str]) -> None:
    """Write all settings to a YAML file, atomically; ``load_config`` restores an equal config."""
    replace_file(Path(path), lambda file: file.write(config.dump().encode()))


def load_settings(
    path: Path, overrides: Sequence[Any] = ()
) -> tuple[CfgNode, list[tuple[str, Any, Any]]]:
    """Load the settings of a downstream task (not a detector's) from its protocol file.

    The file that the others are based on defines the keys and their types; files based on it and
    overrides change values only.

    Args:
        path: the protocol's YAML file.
        overrides: as ``load_config``.

    Returns:
        The validated, frozen settings; (key, value of the protocol, value of the run) of each
        setting that an override changed.

    Raises:
        UserError: as ``load_config``.
    """
    (_, tree), *layers = read_layers(path, find_relative).items()
    config = CfgNode(tree)
    for file, tree in layers:
        merge_tree(config, tree, str(file))
    protocol = flatten(config)
    merge_overrides(config, overrides)
    validate_downstream(config)
    config.freeze()
    changed = [
        (key, protocol[key], value)
        for key, value in flatten(config).items()
        if value != protocol[key]
    ]
    return config, changed

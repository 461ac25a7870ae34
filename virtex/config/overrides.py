"""Merge YAML trees and ``KEY VALUE`` pairs into a ``CfgNode``, with checked names and types."""

import ast
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from virtex.config.older import OLD_KEYS, OLD_NAMES
from virtex.errors import UserError
from virtex.text import escape, nearest, short_repr

logger = logging.getLogger(__name__)

TYPES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
}
# How items of lists are compared: integers and floats are interchangeable there.
KINDS = {bool: "booleans", int: "numbers", float: "numbers", str: "strings", type(None): "None"}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of every setting; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, CfgNode):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = to_list(value)
    return flat


def to_list(value: Any) -> Any:
    """Convert tuples to lists, recursively."""
    return [to_list(item) for item in value] if isinstance(value, list | tuple) else value


def get_setting(config: CfgNode, key: str) -> Any:
    """Look up a dotted key, with tuples as lists; None if it does not exist."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return None
        node = node[part]
    return to_list(node)


def set_setting(config: CfgNode, key: str, value: Any) -> None:
    """Set an existing dotted key of an unfrozen config; a tuple stays a tuple."""
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    is_sequence = isinstance(value, list | tuple) and isinstance(config[name], list | tuple)
    config[name] = type(config[name])(value) if is_sequence else value


def merge_tree(config: CfgNode, tree: Mapping[Any, Any], source: str, prefix: str = "") -> None:
    """Apply the settings of a YAML tree.

    Args:
        source: the file, for error messages.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    for name, value in tree.items():
        key = f"{prefix}{name}"
        current = get_setting(config, key)
        if isinstance(current, CfgNode):
            if not isinstance(value, dict):
                raise invalid_value(
                    f"{source}: {key} must be a section of settings, not {short_repr(value)}"
                )
            merge_tree(config, value, source, f"{key}.")
            continue
        if isinstance(value, str) and not isinstance(current, str):
            value = parse_literal(value)  # YAML reads 1e-4, without a dot, as a string
        merge_setting(config, key, value, source)


def merge_overrides(config: CfgNode, overrides: Sequence[Any], nested: bool = False) -> None:
    """Apply ``KEY VALUE KEY VALUE …``; a string that is a Python literal is evaluated.

    Raises:
        UserError: a pair is incomplete, a key unknown, or a value of the wrong type.
    """
    for key, value in split_pairs(overrides):
        parsed = parse_literal(value)
        if isinstance(get_setting(config, key), str) and not isinstance(parsed, str):
            parsed = value  # a folder may be called 2017
        merge_setting(config, key, parsed, "", nested)


def split_pairs(overrides: Sequence[Any]) -> list[tuple[str, Any]]:
    """Pair up ``KEY VALUE KEY VALUE …``.

    Raises:
        UserError: ``KEY=VALUE`` was given, or a value is missing.
    """
    for text in map(str, overrides[0::2]):
        key, equals, value = text.partition("=")
        if equals:
            raise UserError(
                f"overrides must be KEY VALUE pairs; use '{escape(key)} {escape(value)}' instead "
                f"of '{escape(text)}'",
                code="config.unpaired_override",
            )
    if len(overrides) % 2:
        raise UserError(
            f"overrides must be KEY VALUE pairs; '{escape(str(overrides[-1]))}' has no value",
            code="config.unpaired_override",
        )
    return [(str(key), value) for key, value in zip(overrides[0::2], overrides[1::2], strict=True)]


def merge_setting(config: CfgNode, key: str, value: Any, source: str, nested: bool = False) -> None:
    """Set one key, of this or an earlier version of VirTex.

    Args:
        source: the file, for error messages; empty for an override.

    Raises:
        UserError: the key is unknown, or the value has the wrong type.
    """
    name = f"{source}: {escape(key)}" if source else escape(key)
    if key in OLD_KEYS:
        old = OLD_KEYS[key]
        logger.info("%s is a key of an earlier VirTex; %s", name, old.note)
        if old.replacement is None:
            return
        name = f"{name} (now {old.replacement})"
        key, value = old.replacement, old.convert(value)
    known = flatten(config)
    if key not in known:
        sections = {known_key.rpartition(".")[0] for known_key in known} - {""}
        similar = nearest(key, sections if isinstance(value, dict) else known)
        raise UserError(f"unknown setting {name}; {similar}", code="config.unknown_key")
    value = coerce(known[key], value, name, nested)
    for old_prefix, new_prefix in OLD_NAMES.get(key, {}).items():
        if value.startswith(old_prefix):
            logger.info("%s: %s… of an earlier VirTex is now %s…", name, old_prefix, new_prefix)
            value = new_prefix + value[len(old_prefix) :]
    set_setting(config, key, value)


def coerce(default: Any, value: Any, name: str, nested: bool = False) -> Any:
    """Convert ``value`` to the type of ``default``: integers to floats, tuples to lists.

    Args:
        default: None accepts any plain value; a list accepts items like its own, an empty one
            any plain items.
        name: the setting, for error messages.
        nested: whether lists may contain lists.

    Raises:
        UserError: the value has another type, or is not finite.
    """
    if isinstance(default, float) and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    default, value = to_list(default), to_list(value)
    if default is not None and type(value) is not type(default):
        raise invalid_value(f"{name} must be {TYPES[type(default)]}, not {short_repr(value)}")
    if not nested and isinstance(value, list) and any(isinstance(item, list) for item in value):
        raise invalid_value(f"{name} must be a list without nested lists, not {short_repr(value)}")
    kinds = {KINDS.get(type(item)) for item in scalars(default)}
    if default is None or not kinds:
        kinds |= {"booleans", "numbers", "strings"}
    for item in scalars(value):
        if KINDS.get(type(item)) not in kinds:
            expected = " or ".join(sorted(map(str, kinds)))
            raise invalid_value(f"{name} must consist of {expected}, not {short_repr(value)}")
        if isinstance(item, float) and not math.isfinite(item):
            raise invalid_value(f"{name} must be finite, not {item}")
        if isinstance(item, int) and abs(item) >= 2**63:
            raise invalid_value(f"{name} must be below 2**63, not {short_repr(item)}")
    return value


def scalars(value: Any) -> list[Any]:
    """Return the items of a list and of its nested lists; for anything else, the value itself."""
    return [x for item in value for x in scalars(item)] if isinstance(value, list) else [value]


def parse_literal(value: Any) -> Any:
    """Evaluate a string that is a Python literal (number, tuple, …); return others unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def invalid_value(message: str) -> UserError:
    return UserError(message, code="config.invalid_value")

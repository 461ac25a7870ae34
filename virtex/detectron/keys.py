"""Detectron2's configuration by dotted keys."""

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode


def walk(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of a configuration, sorted; sequences as lists (JSON types)."""
    for key, value in sorted(cfg.items()):
        if isinstance(value, dict):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, as_json(value)


def as_json(value: Any) -> Any:
    return [as_json(v) for v in value] if isinstance(value, list | tuple) else value


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value behind a dotted key, sequences as lists; None where there is no such key."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return as_json(node)


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        cfg = cfg[part]
    cfg[last] = type(cfg[last])(value) if isinstance(value, list | tuple) else value

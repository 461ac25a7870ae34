"""Read YAML files, rejecting duplicate keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from virtex.config.yaml_files import YAML_ERRORS
from virtex.errors import UserError
from virtex.files import read_file
from virtex.text import one_line

MAX_BYTES = 500_000  # PyYAML takes seconds beyond it
NESTED = re.compile(rb"(?:[\[{]\s*){50}")  # PyYAML's time is quadratic in the depth
MAX_KEYS = 1_000  # of a mapping, including merged ones


class Loader(yaml.SafeLoader):
    """Reject duplicate keys, of which PyYAML keeps the last, and merges (<<) that multiply."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else None)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_KEYS:
            raise yaml.MarkedYAMLError(
                problem=f"mapping with more than {MAX_KEYS} keys", problem_mark=node.start_mark
            )


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file, without the keys x-… that anchors refer to.

    Raises:
        UserError: it cannot be read or is not valid YAML.
    """
    try:
        content = read_file(path)
        if len(content) > MAX_BYTES:
            raise ValueError(f"the file has more than {MAX_BYTES} bytes")
        if NESTED.search(content):
            raise RecursionError
        tree = yaml.load(content.decode(), Loader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "zoo.not_found") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply for a zoo file", "zoo.invalid") from error
    except YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = one_line(getattr(error, "problem", None) or error)
        hint = "; quote a URL that contains ?" if "'?'" in problem else ""
        raise UserError(f"{path}{line}: invalid YAML: {problem}{hint}", "zoo.invalid") from error
    if isinstance(tree, dict):
        return {key: value for key, value in tree.items() if not str(key).startswith("x-")}
    return tree

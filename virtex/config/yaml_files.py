"""Read YAML config files, with ``_BASE_``, as plain data.

Nothing in a file is executed and nothing is downloaded. (fvcore loads a file that is not plain
YAML with ``yaml.unsafe_load``, and a remote ``_BASE_``.)
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY

from virtex.errors import UserError
from virtex.text import escape, short_repr

MAX_BYTES = 256 * 1024  # a complete config has about 20 kB
MAX_VALUES = 20_000
MAX_FILES = 50  # based on each other
MAX_BRACKETS = 500  # PyYAML takes seconds for a thousand nested ones
# PyYAML raises the builtin errors for tagged values of the wrong kind, such as `!!int x`.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
# The only expression in Detectron2's own YAML files (Base-RetinaNet.yaml), and its value.
RETINANET_EXPRESSION = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
RETINANET_SIZES = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]


class PlainLoader(yaml.SafeLoader):
    """``yaml.SafeLoader`` with a limit on ``<<`` merges: ten lines can expand to billions."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MAX_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "too many values", node.start_mark)

    def construct_expression(self, node: yaml.Node) -> Any:
        values = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        if values == [RETINANET_EXPRESSION]:
            return RETINANET_SIZES
        raise yaml.constructor.ConstructorError(
            None, None, "Python expressions are not supported", node.start_mark
        )


PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/object/apply:eval", PlainLoader.construct_expression
)


def read_yaml(path: Path, loader: type[PlainLoader] = PlainLoader) -> dict[Any, Any]:
    """Read the mapping in a YAML file.

    Raises:
        UserError: the file cannot be read, is too large, is not plain YAML, or is not a mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise unreadable(f"{path} has more than {MAX_BYTES} bytes, too many for a config file")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > MAX_BRACKETS:
            raise unreadable(f"{path} has more than {MAX_BRACKETS} opening brackets")
        tree = yaml.load(text, loader)
    except OSError as error:
        raise unreadable(f"{path} could not be read: {error.strerror}") from error
    except RecursionError as error:
        raise unreadable(f"{path} is nested too deeply for a config file") from error
    except YAML_ERRORS as error:
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise unreadable(f"{path} is not valid YAML of plain values{line}: {reason}") from error
    if not _is_small(tree):
        raise unreadable(f"{path} expands to more than {MAX_VALUES} values")
    if not isinstance(tree, dict):
        raise unreadable(f"{path} must be a mapping of settings, such as OPTIM: {{LR: 0.1}}")
    return tree


def read_layers(
    path: Path,
    find_base: Callable[[str, Path], Path],
    seen: dict[Path, dict[Path, dict[Any, Any]] | None] | None = None,
) -> dict[Path, dict[Any, Any]]:
    """Read a config file and the files it is based on.

    Args:
        find_base: (value of ``_BASE_``, folder of the file that names it) -> the file.
        seen: layers of files read before; None for files that are being read.

    Returns:
        File -> its own settings without ``_BASE_``, in the order in which they apply.

    Raises:
        UserError: as ``read_yaml``; a ``_BASE_`` is invalid, missing or circular.
    """
    seen, resolved = {} if seen is None else seen, path.resolve()
    if resolved in seen:
        known = seen[resolved]
        if known is None:
            raise unreadable(f"{path} is based on itself through {BASE_KEY}; remove that line")
        return known
    if len(seen) > MAX_FILES:
        raise unreadable(f"{path}: more than {MAX_FILES} files are based on each other")
    seen[resolved] = None
    tree = read_yaml(path)
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise unreadable(
            f"{path}: {BASE_KEY} must be a file or a list of files, not {short_repr(bases)}"
        )
    layers: dict[Path, dict[Any, Any]] = {}
    for base in bases:
        try:
            base_path = find_base(base, path.parent)
        except UserError as error:
            raise UserError(f"{path}: {BASE_KEY}: {error}", code=error.code) from error
        for file, settings in read_layers(base_path, find_base, seen).items():
            layers.pop(file, None)  # a repeated base applies once, at its last position
            layers[file] = settings
    layers[resolved] = tree
    seen[resolved] = layers
    return layers


def find_relative(name: str, folder: Path) -> Path:
    """Find a base file by its path, relative to ``folder``.

    Raises:
        UserError: the file does not exist.
    """
    path = Path(os.path.join(folder, expanduser(name)))
    if "://" in name or not os.path.isfile(path):
        raise UserError(f"file not found: '{escape(str(path), 300)}'", code="config.not_found")
    return path


def expanduser(name: str) -> str:
    """Apply ``os.path.expanduser`` to text that may not be a valid path."""
    return name if "\0" in name else os.path.expanduser(name)


def unreadable(message: str) -> UserError:
    return UserError(message, code="config.unreadable")


def _is_small(tree: Any) -> bool:
    """Return whether ``tree``, which may contain itself or repeated parts, has a bounded size."""
    pending, values = [tree], 0
    while pending and values <= MAX_VALUES:
        value = pending.pop()
        values += 1
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple | set):
            pending += value
    return not pending

"""A zoo file from YAML to checked rows; what is wrong with it is said with line and key."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard
from urllib.parse import urlsplit

import yaml

from virtex.errors import UserError

NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
HASH = re.compile(r"[0-9a-fA-F]{8,64}")


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def is_address(value: Any) -> bool:
    if not is_text(value):
        return False
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and parts.hostname
        return bool(known and parts.path.rpartition("/")[2] not in ("", ".", ".."))
    except ValueError:
        return False


def is_addresses(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_address, value))


def is_file_name(value: Any) -> bool:
    return is_text(value) and bool(re.fullmatch(r"[^/\\\0]{1,200}", value)) and value[0] != "."


def is_hash(value: Any) -> bool:
    return is_text(value) and bool(HASH.fullmatch(value))


def is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def is_three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_number, value))


def is_std(value: Any) -> bool:
    return is_three(value) and all(number > 0 for number in value)


def is_mapping(value: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def is_list(value: Any) -> bool:
    return isinstance(value, list)


@dataclass(frozen=True)
class Key:
    """What a key's value must be: a test, in words, and whether it must be there."""

    fits: Callable[[Any], bool]
    words: str
    required: bool = False


ENTRY: dict[str, Key] = {
    "urls": Key(is_addresses, "a list of addresses of a file, https://…", required=True),
    "file": Key(is_file_name, "a file name without a folder"),
    "sha256": Key(is_hash, "8 to 64 hex digits in quotes"),
    "size": Key(is_size, "a whole number of bytes"),
    "format": Key(is_text, "a checkpoint format (inspect_checkpoint.py --list-formats)"),
    "arch": Key(is_text, "an architecture, as resnet50"),
    "holds": Key(lambda value: value in ("backbone", "model"), "backbone or model"),
    "config": Key(is_text, "a packaged pretraining config, or a YAML file"),
    "tokenizer": Key(is_text, "a sentencepiece model, a file beside this one"),
    "input": Key(is_mapping, "{channel_order, mean, std, scale}"),
    "pretraining_data": Key(is_text, "text"),
    "licence": Key(is_text, "text"),
    "source": Key(is_text, "text"),
    "results": Key(is_list, "a list of {task, protocol, metric, value, source}"),
}
INPUT: dict[str, Key] = {
    "channel_order": Key(lambda value: value in ("RGB", "BGR"), "RGB or BGR", required=True),
    "mean": Key(is_three, "three numbers", required=True),
    "std": Key(is_std, "three numbers above 0", required=True),
    "scale": Key(lambda value: value in (1, 255), "1.0 or 255.0, the value of white"),
}
RESULT: dict[str, Key] = {
    key: Key(is_text, "text", required=True) for key in ("task", "protocol", "metric", "source")
} | {"value": Key(is_number, "a number, in percent", required=True)}


def read_zoo_file(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> row of every model in a zoo file, as ``ENTRY``, ``INPUT`` and ``RESULT`` demand.

    Raises:
        UserError: the first thing that is wrong, with its line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        check = Checker(path, tree)
        check.merges_are_single()
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"the zoo file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the zoo file {path} is not UTF-8 text; name a YAML file") from error
    except RecursionError as error:
        raise UserError(f"the zoo file {path} is nested too deeply; write it anew") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that cannot be
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        hint = " (an address with ? belongs in quotes)" if "'?'" in what else ""
        raise UserError(f"the zoo file {path}{line} is not YAML: {what}{hint}; mend it") from error
    for key in content if is_mapping(content) else ():
        if key != "models" and not str(key).startswith("x-"):
            check.fail((key,), "unknown; there is models, and x-… for what anchors refer to")
    models = content.get("models") if is_mapping(content) else None
    if not is_mapping(models):
        check.fail((), "it has no models: {NAME: {urls: […], …}}")
    check.no_key_twice(("models",))
    for name, row in models.items():
        where = ("models", name)
        if not (is_text(name) and NAME.fullmatch(name)):
            check.fail(where, "a name is letters, digits and ._+- with / between its parts")
        check.row(where, row, ENTRY)
        if "input" in row:
            check.row((*where, "input"), row["input"], INPUT)
        for number, result in enumerate(row.get("results", ())):
            check.row((*where, "results", number), result, RESULT)
            if result in row["results"][:number]:
                check.fail((*where, "results", number), "it is there twice")
        if row.get("holds") == "model" and not row.get("config"):
            check.fail(where, "it holds a model, of which it lacks the config")
    return models


class Checker:
    """Finds what is wrong with a parsed file, and the line it is in."""

    def __init__(self, path: Path, tree: yaml.Node | None):
        self.path, self.tree = path, tree

    def row(self, where: tuple, row: Any, keys: dict[str, Key]) -> None:
        """Check a mapping against its table of keys."""
        if not is_mapping(row):
            self.fail(where, f"it should be a mapping with {', '.join(keys)}")
        self.no_key_twice(where)
        for key, value in row.items():
            if key not in keys:
                self.fail((*where, key), f"unknown; there is {', '.join(keys)}")
            if not keys[key].fits(value):
                self.fail((*where, key), f"it should be {keys[key].words}, not {brief(value)}")
        for key, rule in keys.items():
            if rule.required and key not in row:
                self.fail(where, f"it lacks {key}: {rule.words}")

    def merges_are_single(self) -> None:
        """A merge key with a list of mappings can make a small file endless to read."""
        nodes, seen = [self.tree], set()
        while nodes:
            node = nodes.pop()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == "<<" and not isinstance(value, yaml.MappingNode):
                        raise UserError(self.sentence(("<<",), key, "it takes one mapping, *name"))
                    nodes += (key, value)
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value

    def no_key_twice(self, where: tuple) -> None:
        """YAML takes the last of two equal keys in silence."""
        node, seen = self.node(where)[0], set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen and key.value != "<<":
                raise UserError(self.sentence((*where, key.value), key, "it is there twice"))
            seen.add(key.value) if isinstance(key.value, str) else None

    def fail(self, where: tuple, what: str) -> NoReturn:
        raise UserError(self.sentence(where, self.node(where)[1], what))

    def sentence(self, where: tuple, node: yaml.Node | None, what: str) -> str:
        line = f", line {node.start_mark.line + 1}" if node else ""
        key = f", {'.'.join(map(str, where))}" if where else ""
        return f"the zoo file {self.path}{line}{key}: {what}"

    def node(self, where: Sequence[Any]) -> tuple[yaml.Node | None, yaml.Node | None]:
        """The node at a path of keys, and the nearest one that has a line of its own.

        What a merge key (<<) brings has its line at the anchor; there the row's own is given.
        """
        node = nearest = self.tree
        for step in where:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            items = node.value if isinstance(node, yaml.SequenceNode) else ()
            found = [(key, value) for key, value in pairs if key.value == str(step)]
            if isinstance(step, int) and step < len(items):
                node = nearest = items[step]
            elif found:
                nearest, node = found[-1]
            else:
                return None, nearest
        return node, nearest


def brief(value: Any) -> str:
    """A value in a few words, however much anchors have multiplied it."""
    shorten = reprlib.Repr()
    shorten.maxlevel = 2
    return " ".join(shorten.repr(value).split())

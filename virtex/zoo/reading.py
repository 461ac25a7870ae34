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

from virtex.config.yaml_files import YAML_ERRORS
from virtex.errors import UserError
from virtex.files import is_path_below, read_file
from virtex.text import is_encodable

MERGE = "tag:yaml.org,2002:merge"
NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # all but tabs and ends of lines
LONGEST_NAME = 200  # bytes; what a file is called while it is downloaded is longer than its name
MOST_BYTES = 500_000  # of a zoo file, which take seconds to read
MOST_BRACKETS = 100  # within one another
MOST_KEYS = 100_000  # of all mappings, once what they merge is counted
HASH = re.compile(r"[0-9a-fA-F]{8,64}")


def is_plain(value: Any) -> bool:
    """Characters that can be written, in lines."""
    return isinstance(value, str) and not CONTROL.search(value) and is_encodable(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def is_address(value: Any) -> bool:
    """Of a file, by the web; its host and path become folders of the cache."""
    if not is_plain(value) or not re.fullmatch(r"[!-~\xa1-\uffff]{1,2000}", value):
        return False
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return False
    *folders, file = parts.path.split("/")
    short = all(len(part.encode()) <= LONGEST_NAME for part in (*folders, file, parts.netloc))
    hidden = (parts.hostname or ".").startswith(".") or file in ("", ".", "..")
    return bool(known and short and not hidden)


def is_addresses(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 100 and all(map(is_address, value))


def is_file_name(value: Any) -> bool:
    plain = is_plain(value) and bool(re.fullmatch(r"[^/\\\s.][^/\\\n]*", value))
    return plain and len(value.encode()) <= LONGEST_NAME


def is_beside(value: Any) -> bool:
    """A file in the folder of the zoo file or below it, or a packaged name; or none."""
    return value == "" or (is_plain(value) and is_path_below(value))


def is_hash(value: Any) -> bool:
    return is_plain(value) and bool(HASH.fullmatch(value))


def is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**63


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
    "format": Key(is_plain, "a checkpoint format (inspect_checkpoint.py --list-formats)"),
    "arch": Key(is_plain, "an architecture, as resnet50"),
    "holds": Key(lambda value: value in ("backbone", "model"), "backbone or model"),
    "config": Key(is_beside, "a packaged pretraining config, or a YAML file beside this one"),
    "tokenizer": Key(is_beside, "a sentencepiece model, a file beside this one"),
    "input": Key(is_mapping, "{channel_order, mean, std, scale}"),
    "pretraining_data": Key(is_plain, "text"),
    "license": Key(is_plain, "text"),
    "source": Key(is_plain, "text"),
    "results": Key(is_list, "a list of {task, protocol, metric, value, source}"),
}
INPUT: dict[str, Key] = {
    "channel_order": Key(lambda value: value in ("RGB", "BGR"), "RGB or BGR", required=True),
    "mean": Key(is_three, "three numbers", required=True),
    "std": Key(is_std, "three numbers above 0", required=True),
    "scale": Key(lambda value: value in (1, 255), "1.0 or 255.0, the value of white"),
}
RESULT: dict[str, Key] = {
    key: Key(is_plain, "text", required=True) for key in ("task", "protocol", "metric", "source")
} | {"value": Key(is_number, "a number, in percent", required=True)}


def read_zoo_file(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> row of every model in a zoo file, as ``ENTRY``, ``INPUT`` and ``RESULT`` demand.

    Raises:
        UserError: the first thing that is wrong, with its line and key.
    """
    try:
        data = read_file(path)
        if len(data) > MOST_BYTES:
            raise UserError(f"the zoo file {path} has {len(data)} bytes, too many for a list")
        text = data.decode()
        if brackets_within(text) > MOST_BRACKETS:  # PyYAML takes long to find that out
            raise RecursionError
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
    except YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        hint = " (an address with ? belongs in quotes)" if "'?'" in what else ""
        raise UserError(f"the zoo file {path}{line} is not YAML: {what}{hint}; fix it") from error
    for key in content if is_mapping(content) else ():
        if key != "models" and not (isinstance(key, str) and key.startswith("x-")):
            check.fail((key,), "unknown; there is models, and x-… for what anchors refer to")
    models = content.get("models") if is_mapping(content) else None
    if not is_mapping(models):
        check.fail((), "it has no models: {NAME: {urls: […], …}}")
    check.no_key_twice(("models",))
    for name, row in models.items():
        where = ("models", name)
        if not (is_plain(name) and NAME.fullmatch(name)):
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


def brackets_within(text: str) -> int:
    """How many brackets stand within one another at most; those in quotes are counted too."""
    deepest = depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


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
        """Merge keys can make a small file endless to read: each takes one mapping, few nest."""
        nodes, seen, keys = [self.tree], set(), 0
        while nodes:
            node = nodes.pop()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                keys += self.merged_keys(node)
                if keys > MOST_KEYS:
                    raise UserError(self.sentence(("<<",), node, "it merges too much"))
                for key, value in node.value:
                    nodes += (key, value)
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value

    def merged_keys(self, node: yaml.MappingNode) -> int:
        """How many keys a mapping has with what it merges, and what that merges, …"""
        count, within = 0, set()
        while True:
            count += len(node.value)
            within.add(id(node))
            merges = [pair for pair in node.value if pair[0].tag == MERGE]
            if not merges:
                return count
            key, value = merges[-1]
            if len(merges) > 1 or not isinstance(value, yaml.MappingNode):
                raise UserError(self.sentence(("<<",), key, "it takes one mapping, *name"))
            if id(value) in within:
                raise UserError(self.sentence(("<<",), key, "it merges itself"))
            node = value

    def no_key_twice(self, where: tuple) -> None:
        """YAML takes the last of two equal keys in silence."""
        node, seen = self.node(where)[0], set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                raise UserError(self.sentence((*where, key.value), key, "it is there twice"))
            seen.add(key.value)

    def fail(self, where: tuple, what: str) -> NoReturn:
        raise UserError(self.sentence(where, self.node(where)[1], what))

    def sentence(self, where: tuple, node: yaml.Node | None, what: str) -> str:
        line = f", line {node.start_mark.line + 1}" if node else ""
        key = f", {'.'.join(map(step_text, where))}" if where else ""
        return f"the zoo file {self.path}{line}{key}: {what}"

    def node(self, where: Sequence[Any]) -> tuple[yaml.Node | None, yaml.Node | None]:
        """The node at a path of keys, and the nearest one that has a line of its own.

        What a merge key (<<) brings has its line at the anchor; there the row's own is given.
        """
        node = nearest = self.tree
        for step in where:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            items = node.value if isinstance(node, yaml.SequenceNode) else ()
            found = [(key, value) for key, value in pairs if key.value == step_text(step)]
            if isinstance(step, int) and step < len(items):
                node = nearest = items[step]
            elif found:
                nearest, node = found[-1]
            else:
                return None, nearest
        return node, nearest


def step_text(step: Any) -> str:
    """A key as text, cut short."""
    text = step if isinstance(step, str) else brief(step)
    return text if len(text) <= LONGEST_NAME and is_plain(text) else brief(text)


def brief(value: Any) -> str:
    """A value in a few words, however much anchors have multiplied it."""
    shorten = reprlib.Repr()
    shorten.maxlevel = 2
    try:
        return " ".join(shorten.repr(value).split())
    except ValueError:  # thousands of digits
        return "a number beyond all measure"

"""From names, YAML files and ``KEY VALUE`` pairs to settings; nothing in them can run.

Files are data: they are parsed with ``yaml.safe_load`` and ``ast.literal_eval``.
"""

import ast
import difflib
import logging
import math
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY

from virtex.config.older import OLD_KEYS, OLD_NAMES
from virtex.errors import UserError
from virtex.quoting import quoted
from virtex.resources import resource_path

logger = logging.getLogger(__name__)

# Dotted key -> a value of the type it must have (its default), of every setting of a config.
Settings = Mapping[str, Any]

PRETRAIN_FOLDER = resource_path("configs/pretrain")


def packaged_configs() -> dict[str, Path]:
    """Name -> file of every packaged pretraining config, sorted by name.

    A name is the path below ``configs/pretrain`` without suffix, such as
    ``width_ablations/bicaptioning_R_50_L1_H512``. Files that others are based on are left out.
    """
    paths = sorted(PRETRAIN_FOLDER.rglob("*.yaml"))
    return {
        path.relative_to(PRETRAIN_FOLDER).with_suffix("").as_posix(): path
        for path in paths
        if not path.name.startswith("_")
    }


def find_config(name: str, folder: str = "") -> Path:
    """The YAML file that ``name`` stands for.

    Args:
        name: a path (relative to ``folder``), a packaged name with or without ``configs/``
            before it and ``.yaml`` behind it, or the last part of a packaged name.

    Raises:
        UserError: there is none; the nearest packaged names are listed.
    """
    path = os.path.join(folder, expanduser(name))
    if os.path.isfile(path):
        return Path(path)
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name the YAML file, or a packaged config")
    packaged = packaged_configs()
    wanted = name.removesuffix(".yaml").removeprefix("configs/")
    # equal last parts are the same config, in the group of each ablation it is part of
    by_last_part = {known.rpartition("/")[2]: known for known in reversed(packaged)}
    wanted = by_last_part.get(wanted, wanted)
    if wanted in packaged:
        return packaged[wanted]
    last_part = wanted.rpartition("/")[2]
    near = difflib.get_close_matches(last_part[:100], by_last_part, n=3, cutoff=0.0)
    raise UserError(
        f"there is no config '{quoted(path, 300)}': no such file, and the packaged configs nearest "
        f"to that name are {', '.join(near)}"
    )


def expanduser(name: str) -> str:
    """``name`` with the home folder in place of ``~``, where it can be a path at all."""
    return name if "\0" in name else os.path.expanduser(name)


LARGEST_FILE = 256 * 1024  # bytes; a complete config has about twenty thousand
MOST_VALUES = 20_000
MOST_FILES = 50  # that are based on each other

# What PyYAML raises, beside its own errors, for tags whose value is not of their kind.
NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def read_settings(
    path: Path, known: Settings, read: dict[Path, dict[str, Any] | None] | None = None
) -> dict[str, Any]:
    """Dotted key -> value of everything a YAML file and the files it is based on set.

    Args:
        known: every setting there is.
        read: what was read of other files, ``None`` for those that are based on this one.

    Raises:
        UserError: see ``load_config``.
    """
    read, here = {} if read is None else read, path.resolve()
    if here in read:
        known_already = read[here]
        if known_already is None:
            raise UserError(f"{path} is based on itself through {BASE_KEY}; take that line out")
        return known_already
    if len(read) > MOST_FILES:
        raise UserError(f"{path} and others: more than {MOST_FILES} files are based on each other")
    read[here] = None
    tree = read_yaml(path)
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY} must be a file or a list of files, not {shown(bases)}")
    settings: dict[str, Any] = {}
    for base in bases:
        try:
            found = find_config(base, os.path.dirname(path))
        except UserError as error:
            raise UserError(f"{path}: {BASE_KEY}: {error}") from error
        settings |= read_settings(found, known, read)
    for key, value in leaves_of_file(tree, str(path), known):
        if isinstance(value, str) and not isinstance(known.get(key), str):
            value = parse_literal(value)  # YAML takes 1e-4, without a dot, for text
        settings |= present_setting(key, value, str(path), known)
    read[here] = settings
    return settings


class PlainLoader(yaml.SafeLoader):
    """YAML's plain values; what ``<<`` merges is counted, for ten lines can ask for billions."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "too many values", node.start_mark)


def is_small(tree: Any) -> bool:
    """Whether ``tree``, whose parts may be in it many times or hold themselves, has an end soon."""
    pending, values = [tree], 0
    while pending and values <= MOST_VALUES:
        value = pending.pop()
        values += 1
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple | set):
            pending += value
    return not pending


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = PlainLoader) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file cannot be read, is no YAML of plain values, or no mapping.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is no config: it has more than {LARGEST_FILE} bytes")
        tree = yaml.load(path.read_text(encoding="utf-8"), loader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path} is no config: it is nested too deeply") from error
    except NOT_YAML as error:
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not YAML with plain values{where}: {reason}") from error
    if not is_small(tree):
        raise UserError(f"{path} is no config: it stands for more than {MOST_VALUES} values")
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no config: it must hold settings such as OPTIM: {{LR: 0.1}}")
    return tree


def read_overrides(overrides: Sequence[Any], known: Settings) -> dict[str, Any]:
    """Dotted key -> value of ``KEY VALUE …`` pairs.

    Raises:
        UserError: an odd number of them, an unknown key, or a value of the wrong type.
    """
    if len(overrides) % 2:
        raise UserError(
            "overrides come in pairs KEY VALUE, with a space; "
            f"'{quoted(str(overrides[-1]))}' stands alone"
        )
    settings: dict[str, Any] = {}
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        value = parse_literal(text)
        if isinstance(known.get(key), str) and not isinstance(value, str):
            value = text  # a folder may be called 2017
        settings |= present_setting(str(key), value, "override", known)
    return settings


def leaves_of_file(
    tree: Mapping[Any, Any], where: str, known: Settings
) -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of a file's mapping; only known sections are gone into.

    Raises:
        UserError: an unknown section, or a section that is given a value.
    """
    sections = {key[: dot.start()] for key in known for dot in re.finditer(r"\.", key)}
    pending = [(str(key), value) for key, value in tree.items()]
    while pending:
        key, value = pending.pop(0)
        if key in sections and isinstance(value, dict):
            pending = [(f"{key}.{name}", inner) for name, inner in value.items()] + pending
        elif key in sections:
            raise UserError(f"{where}: {key} is a section of settings and cannot be {shown(value)}")
        elif isinstance(value, dict) and key not in known:
            raise UserError(f"{where}: there is no section {quoted(key)}; {nearest(key, sections)}")
        else:
            yield key, value


def present_setting(key: str, value: Any, where: str, known: Settings) -> dict[str, Any]:
    """What ``key`` and ``value``, of this or an earlier VirTex, set today: one key or none.

    Raises:
        UserError: there is no such key, or the value has the wrong type.
    """
    written = key
    if key in OLD_KEYS:
        old = OLD_KEYS[key]
        logger.info("%s: %s of an earlier VirTex: %s", where, key, old.note)
        if old.now is None:
            return {}
        key, value, written = old.now, old.convert(value), f"{key} (now {old.now})"
    if key not in known:
        raise UserError(f"{where}: there is no setting {quoted(key)}; {nearest(key, known)}")
    value = of_type_of(known[key], value, f"{where}: {written}")
    for before, now in OLD_NAMES.get(key, {}).items():
        if value.startswith(before):
            logger.info("%s: %s: %s… of an earlier VirTex is %s… now", where, key, before, now)
            value = now + value[len(before) :]
    return {key: value}


KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
}


def of_type_of(default: Any, value: Any, what: str) -> Any:
    """``value`` as the type of ``default``; whole numbers are numbers, tuples are lists.

    Raises:
        UserError: it is of another type, or not finite.
    """
    if isinstance(default, float) and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    if isinstance(default, list) and isinstance(value, tuple | list):
        value = list(value)
    if type(value) is not type(default):
        raise UserError(f"{what} must be {KINDS[type(default)]}, not {shown(value)}")
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, bool | int | float | str):
            raise UserError(f"{what} must hold numbers or texts, not {shown(item)}")
        if isinstance(item, int) and abs(item) >= 2**63:
            raise UserError(f"{what} must be a number of at most 63 bits")
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{what} must be a finite number, not {item}")
    return value


def parse_literal(value: Any) -> Any:
    """A Python literal (number, tuple, …) where ``value`` is the text of one, else ``value``."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def shown(value: Any) -> str:
    """``value`` for an error message, however long it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print a whole number of thousands of digits
        return f"{type(value).__name__} with a number too large to be shown"


def nearest(name: str, known: Sequence[str] | Mapping[str, Any] | set[str]) -> str:
    """The end of an error sentence: which of ``known`` is nearest to ``name``."""
    near = difflib.get_close_matches(name[:100], sorted(known), n=1, cutoff=0.0)  # slow if long
    return f"the nearest is {near[0]}"

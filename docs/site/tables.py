"""Tables of the documentation, generated from the package at each build.

Each function returns Markdown. ``directives.py`` makes a directive of each; a page holds, say,
`````{formats-table}`````, and the built page the table.
"""

import argparse
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

WIDTH = 88  # columns of a tool's --help


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(c) for c in line) + " |" for line in lines)


def cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def code(text: Any) -> str:
    return f"`{text}`"


def codes(texts: Iterable[Any]) -> str:
    return ", ".join(map(code, texts))


# Checkpoints and the zoo --------------------------------------------------------------------------


def formats_table() -> str:
    """Return a table of checkpoint formats, in detection order."""
    from virtex.checkpoints.formats import FORMATS

    rows = []
    for row in FORMATS.values():
        named = codes([row.name, *row.aliases])
        rows.append(
            [
                f"{named}<br>only by `--format`" if row.explicit_only else named,
                f"{row.project}<br>*{row.note}*" if row.note else row.project,
                " or ".join(code(place) if place else "the root" for place in row.containers),
                " or ".join(code(prefix) if prefix else "none" for prefix in row.strip),
                " or ".join(row.dialects),
                input_in_words(row.input) + (", or as it states" if row.must_state else ""),
            ]
        )
    rows.append(["`prefix:PREFIX`", "canonical names under any prefix", "", "", "", ""])
    return table(["`--format`", "whose", "found in", "prefix", "names", "input"], rows)


def backbones_table() -> str:
    """Return a table of the backbone families: what each offers to probes and detectors."""
    from virtex.backbones.registry import get_families
    from virtex.checkpoints.formats import FORMATS

    rows = []
    for name, family in get_families().items():
        arch = family.default_arch
        strides = sorted(set(family.strides(arch).values()))
        formats = sum(row.applies_to(name) for row in FORMATS.values())
        rows.append(
            [
                code(name),
                (type(family).__doc__ or "").partition("\n")[0].rstrip("."),
                code(arch.name),
                ", ".join(map(str, strides)),
                codes(family.representations(arch)),
                codes(family.detectron2_converters) or "none",
                formats,
            ]
        )
    head = ["family", "networks", "example", "strides", "representations", "Detectron2", "formats"]
    return table(head, rows)


def formats_in_short() -> str:
    """Return the short table of formats for the README."""
    from virtex.checkpoints.formats import FORMATS

    rows = ([codes([row.name, *row.aliases]), row.project] for row in FORMATS.values())
    return table(["`--format`", "files of"], rows)


def input_in_words(spec: Any) -> str:
    """Describe color order, mean and std."""
    from virtex.checkpoints.inputs import IMAGENET_RGB

    if spec == IMAGENET_RGB:
        return "usual"
    if spec.mean == (0.0,) * 3 and spec.std == (1.0,) * 3:
        return f"{spec.channel_order} in [0, {spec.scale:g}], not normalized"
    return f"{spec.channel_order}, mean {numbers(spec.mean)}, std {numbers(spec.std)}"


def numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def zoo_table() -> str:
    """Return a table of the packaged models, without those of VIRTEX_ZOO's files."""
    from virtex import zoo

    rows = [
        [code(name), e.arch, e.format, e.holds, e.license]
        for name, e in sorted(zoo.entries().items())
        if Path(e.zoo_file) == zoo.ZOO_FILE
    ]
    return table(["name", "architecture", "format", "holds", "license"], rows)


# Protocols ----------------------------------------------------------------------------------------


def all_protocols() -> dict[str, dict[str, Any]]:
    """Return task -> short name -> ``virtex.protocols.Protocol``, in registry order."""
    from virtex.tasks import TASKS

    return {name: dict(task.protocols) for name, task in TASKS.items() if task.protocols}


def protocols_table() -> str:
    """Return a table of every packaged protocol."""
    rows = []
    for task, named in all_protocols().items():
        for short, protocol in named.items():
            default = " (default)" if short == next(iter(named)) else ""
            images = [
                f"{name.partition('_')[2]}_{number:,}".replace("_", "\u00a0").replace(",", "\u00a0")
                for name, number in protocol.images.items()
            ]
            rows.append(
                [
                    code(task),
                    f"`{short}`{default}",
                    f"`{protocol.name}` {protocol.version}",
                    code(protocol.primary_metric),
                    "<br>".join(images) or "any",
                ]
            )
    head = ["task", "`--protocol`", "name and version", "ranked by", "images"]
    return table(head, rows)


def detection_settings() -> str:
    """Return a table of the settings of the detection protocols, without toy protocols."""
    from fvcore.common.config import CfgNode

    from virtex.config import flatten
    from virtex.detectron.config_files import PlainConfig
    from virtex.tasks import TASKS

    columns = {
        f"{task} `{short}`": flatten(CfgNode(PlainConfig.load_yaml_with_base(str(protocol.config))))
        for task, found in TASKS.items()
        if found.command == "detectron2_transfer"
        for short, protocol in found.protocols.items()
        if not short.startswith("toy")
    }
    keys = sorted({key for settings in columns.values() for key in settings} - {"VERSION"})
    rows = [
        [code(key), *(short_json(found[key]) if key in found else "" for found in columns.values())]
        for key in keys
    ]
    return table(["setting", *columns], rows)


def short_json(value: Any) -> str:
    """Format a value; abbreviate a long list to its first and last items."""
    if isinstance(value, list) and len(value) > 4:
        return f"{value[0]} … {value[-1]} ({len(value)})"
    return value if isinstance(value, str) and value else json.dumps(value)


def pretraining_table() -> str:
    """Return a table of the packaged pretraining configs with published results."""
    from virtex import zoo
    from virtex.config import load_config, packaged_configs

    rows, known = [], zoo.entries()
    for name in packaged_configs():
        model = load_config(name).MODEL
        published = {r.task: r.value for r in known[name].results} if name in known else {}
        values = [published.get(task, "") for task in ("voc07_svm", "imagenet_linear")]
        rows.append([code(name), code(model.NAME), model.VISUAL.NAME, model.TEXTUAL.NAME, *values])
    head = ["config", "`MODEL.NAME`", "backbone", "textual head", "VOC07 mAP", "ImageNet top-1"]
    return table(head, rows)


def published_table(task: str, protocol: str) -> str:
    """Return the published results of one task and protocol, one row per model.

    Raises:
        ValueError: there are no such results.
    """
    from virtex import zoo

    found: dict[tuple[str, str], dict[str, float]] = {}
    for r in zoo.published_results():
        if (r.task, r.protocol) == (task, protocol):
            found.setdefault((r.model, r.source), {})[r.metric] = r.value
    if not found:
        raise ValueError(f"no published results for {task} under {protocol}")
    metrics = list(dict.fromkeys(metric for values in found.values() for metric in values))
    rows = [
        [model, *(values.get(metric, "") for metric in metrics), source]
        for (model, source), values in found.items()
    ]
    return table(["model", *metrics, "source"], rows)


# Data and tools -----------------------------------------------------------------------------------


def layout_list(task: str) -> str:
    """Return the paths that a task needs below the data root, and the source of the data."""
    from virtex.tasks import TASKS

    layout = TASKS[task].layout
    lines = [f"- `{need.path}` ({need.kind})" for need in layout.needs]
    source = re.sub(r"https?://[^\s;,]+", r"<\g<0>>", layout.source)
    return "\n".join([*lines, "", f"{source}."])


def tool_help(module: str) -> str:
    """Return the ``--help`` text of a tool and its subcommands."""
    parser = parser_of(module)
    texts = [parser.format_help()]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts += [command.format_help() for command in action.choices.values()]
    return "\n".join(["````text", "\n".join(texts).rstrip(), "````"])


def parser_of(module: str) -> argparse.ArgumentParser:
    """Return the parser of a tool, with ``prog`` set to the script's name."""
    parser = importlib.import_module(module).build_parser()
    called, parser.prog = parser.prog, f"{module.rpartition('.')[2]}.py"
    commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    parts = [part for action in commands for part in action.choices.values()]
    for part in parts:
        part.prog = part.prog.replace(called, parser.prog, 1)
    for part in (parser, *parts):
        part.formatter_class = partial(part.formatter_class, width=WIDTH)
    return parser

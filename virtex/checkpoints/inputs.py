"""The input that a network expects, and its other properties that tensor shapes do not show.

This package's training writes them into the ``virtex_backbone`` entry of its checkpoints. For
others they are what the checkpoint states (``statements.py``), otherwise what its format implies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from virtex.backbones.registry import Arch, UnsupportedArchitectureError, get_family
from virtex.checkpoints.backbone import Backbone, CheckpointError, InputSpec
from virtex.checkpoints.statements import ENTRY, Statement, Statements, is_same
from virtex.text import escape

if TYPE_CHECKING:
    from virtex.checkpoints.formats import Format

IMAGENET_RGB = InputSpec("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0)
HALF_RGB = InputSpec("RGB", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0)  # pixels in [-1, 1]
# open_clip's constants.py, after openai/CLIP
CLIP_RGB = InputSpec(
    "RGB", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 1.0
)
SAT_RGB = InputSpec("RGB", (0.430, 0.411, 0.296), (0.213, 0.156, 0.143), 1.0)  # dinov3's README
UNNORMALIZED_RGB = InputSpec("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
# detectron2/config/defaults.py; the MSRA models have the std folded into their first layer.
CAFFE_BGR = InputSpec("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), 255.0)
# PIXEL_STD of Detectron2's X-101-32x8d configs
CAFFE_BGR_WITH_STD = InputSpec("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), 255.0)


def saved_input(backbone: Backbone, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the entry that this package's training adds to its checkpoints, by its key.

    It contains the input, the fields of the architecture that tensor shapes do not determine, and
    the names of the classes in the order of their labels, unless ``None``.
    """
    fields = get_family(backbone.arch).format_fields
    entry: dict[str, Any] = {"input": asdict(backbone.input)}
    if classes is not None:
        entry["classes"] = list(classes)
    return {ENTRY: entry | {name: getattr(backbone.arch, name) for name in fields}}


def resolve_input(
    row: Format, arch: Arch, statements: Statements, explicit: bool
) -> tuple[InputSpec, Arch, list[str]]:
    """Return the input and the complete architecture of a checkpoint.

    Args:
        row: the format of the checkpoint.
        arch: the architecture by tensor shapes, with the ``arch_fields`` of the format.
        statements: what the checkpoint states.
        explicit: whether the user chose the format.

    Returns:
        (input, architecture, notes on statements and assumptions).

    Raises:
        CheckpointError: the checkpoint states the name of another architecture, or not everything
            that its format requires.
        UnsupportedArchitectureError: it states a network with other computations.
    """
    from virtex.checkpoints.formats import get_format

    family, facts, archs = get_family(arch), dict(statements.facts), list(statements.archs)
    if "model" in row.arch_fields:  # all files of the row have the same network and input
        place = f"format {row.name}"
        archs.append(Statement(row.arch_fields["model"], place))
        normalization = (row.input.mean, row.input.std, row.input.scale)
        facts.setdefault("normalization", Statement(normalization, place))
    for name in archs:
        if reason := family.contradicts(arch, name.value):
            raise CheckpointError(
                f"its tensors are those of a {arch.name}, but {name.place} states "
                f"'{escape(name.value)}', {reason}; correct the wrong one",
                code="checkpoint.unexpected_architecture",
            )
        for fact, value in family.stated_fields(arch, name.value).items():
            facts.setdefault(fact, Statement(value, name.place))
    for setting, value in family.fixed_settings.items():
        if setting in facts and not is_same(facts[setting].value, value):
            raise UnsupportedArchitectureError(
                f"its tensors are those of a {arch.name}, but {facts[setting].place} states "
                f"{setting} {escape(str(facts[setting].value))}; only {value} is supported"
            )
    default: dict[str, Any] = {
        "channel_order": row.input.channel_order,
        "normalization": (row.input.mean, row.input.std, row.input.scale),
        **{name: getattr(arch, name) for name in family.format_fields},
    }
    missing = [name for name in default if name not in facts]
    stated = {name: facts[name].value for name in default if name in facts}
    differs = any(
        not is_same(stated[name], default[name])
        for name in ("channel_order", "normalization")
        if name in stated
    )
    if missing and statements.of_virtex:
        raise CheckpointError(
            f"{ENTRY} should also contain {', '.join(missing)}; get the file as it was saved",
            code="checkpoint.invalid_input_spec",
        )
    needed = [name for name in missing if name in row.must_state]
    if needed and (differs or not explicit):
        choices = [row, *map(get_format, row.alternatives)]
        files = f"files of format {row.name}"
        if row.alternatives:
            files = f"formats {', '.join(c.name for c in choices)} have the same tensors, but"
        config = f", or put its {' and '.join(row.sidecars)} beside it" if row.sidecars else ""
        raise CheckpointError(
            f"{files} differ in {', '.join(needed)}, which this file does not state; choose "
            f"{' or '.join(c.describe_choice() for c in choices)}{config}",
            code="checkpoint.input_not_stated",
        )
    arch = replace(arch, **{name: stated[name] for name in family.format_fields if name in stated})
    values = default | stated
    mean, std, scale = values["normalization"]
    notes = []
    if stated and not statements.of_virtex:
        notes.append(f"stated: {', '.join(f'{n} in {facts[n].place}' for n in stated)}")
    if needed:
        notes.append(f"not stated, assumed as of {row.name}: {', '.join(needed)}")
    return InputSpec(values["channel_order"], mean, std, scale), arch, notes

"""The table of checkpoint formats: one declarative row each.

A row says where a project keeps its weights and under which names. Adding a project is adding
a row, here or through ``register_format``; ``recognition.py`` does the rest. Rows are tried in
this order, the specific before the general; those that read the same tensors are no conflict.
Sources are the projects named in each row, read at their published scripts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from virtex.checkpoints.backbone import Arch, CheckpointError, InputSpec
from virtex.checkpoints.inputs import (
    CAFFE_BGR,
    CAFFE_BGR_WITH_STD,
    IMAGENET_RGB,
    UNNORMALIZED_RGB,
)
from virtex.checkpoints.naming import NAMINGS
from virtex.quoting import quoted


@dataclass(frozen=True)
class Format:
    """How one project writes a backbone. Prefixes are matched at the start of a key, after
    ``module.`` and ``_orig_mod.`` are gone.

    Attributes:
        name, aliases: what ``--format`` takes.
        project: whose files these are.
        containers: dotted paths to the state_dict, the preferred first; "" is the file's root.
        strip: prefixes of the backbone, the preferred first.
        leave_out: prefixes of what is knowingly left: heads, queues, momentum copies.
        marks: prefixes of which at least one must be there, else the row is not recognized.
        absent: prefixes of which none may be there.
        absent_entries: names that must not stand beside the container at the file's root.
        naming: dialects of ``naming.NAMINGS``, the preferred first.
        input: what the network expects of an image.
        stride_in_1x1: where a bottleneck has its stride.
        reads_config: whether Detectron2's ``config.yaml`` beside the file says both.
        only_if: a condition on the architecture.
        explicit_only: never recognized, only taken when ``--format`` names it.
        note: said wherever the format is used.
    """

    name: str
    project: str
    aliases: tuple[str, ...] = ()
    containers: tuple[str, ...] = ("state_dict", "model", "")
    strip: tuple[str, ...] = ("",)
    leave_out: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    absent_entries: tuple[str, ...] = ()
    naming: tuple[str, ...] = ("torchvision",)
    input: InputSpec = IMAGENET_RGB
    stride_in_1x1: bool = False
    reads_config: bool = False
    only_if: Callable[[Arch], bool] | None = None
    explicit_only: bool = False
    note: str = ""


FORMATS: dict[str, Format] = {}


def register_format(row: Format) -> Format:
    """Add a row behind those there are.

    Raises:
        ValueError: its name or an alias is taken, or it names an unknown dialect.
    """
    taken = {name for other in FORMATS.values() for name in (other.name, *other.aliases)}
    for name in (row.name, *row.aliases):
        if name in taken or name == "auto":
            raise ValueError(f"a checkpoint format named {name!r} is registered already")
    unknown = [dialect for dialect in row.naming if dialect not in NAMINGS]
    if unknown:
        raise ValueError(f"format {row.name!r} wants {unknown}; dialects are {sorted(NAMINGS)}")
    FORMATS[row.name] = row
    return row


def get_format(name: str) -> Format:
    """The row of this name or alias; ``prefix:PREFIX`` makes one for torchvision names so prefixed.

    Raises:
        CheckpointError: there is none; the nearest names are given.
    """
    if name.startswith("prefix:"):
        prefix = name.removeprefix("prefix:")
        return Format(
            quoted(name), "torchvision names under a prefix given by hand", strip=(prefix,)
        )
    by_name = {alias: row for row in FORMATS.values() for alias in (row.name, *row.aliases)}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name[:100], by_name, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise CheckpointError(
        f"there is no checkpoint format '{quoted(name)}': {hint}"
        "--list-formats of eval_tools/inspect_checkpoint.py shows all of them"
    )


_ROWS = (
    Format(
        "moco",
        "facebookresearch/moco v1 and v2; salesforce/PCL",
        aliases=("moco_v1_v2", "moco_v1", "moco_v2", "pcl"),
        strip=("encoder_q.",),
        leave_out=("encoder_q.fc.", "encoder_k.", "queue"),
    ),
    Format(
        "moco_v3",
        "facebookresearch/moco-v3",
        strip=("base_encoder.",),
        leave_out=("base_encoder.fc.", "momentum_encoder.", "predictor."),
    ),
    Format(
        "simsiam",
        "facebookresearch/simsiam",
        strip=("encoder.",),
        leave_out=("encoder.fc.", "predictor."),
        marks=("predictor.",),
    ),
    Format(
        "pixpro",
        "zdaxie/PixPro",
        containers=("model", ""),
        strip=("encoder.",),
        leave_out=("encoder_k.", "projector", "value_transform.", "predictor."),
        marks=("encoder_k.",),
    ),
    Format(
        "pycontrast",
        "HobbitLong/PyContrast: InstDis, PIRL, InfoMin, MoCo (the online encoder)",
        aliases=("instdis", "pirl", "infomin"),
        containers=("model", "model_ema", ""),
        strip=("encoder.",),
        leave_out=("head.", "head_jig.", "jigsaw"),
    ),
    Format(
        "pycontrast_ema",
        "HobbitLong/PyContrast: the momentum encoder",
        containers=("model_ema",),
        strip=("encoder.",),
        leave_out=("head.", "head_jig.", "jigsaw"),
        explicit_only=True,
    ),
    Format(
        "cmc",
        "HobbitLong/PyContrast: CMC (a first encoder of 3-channel images only)",
        containers=("model", "model_ema", ""),
        strip=("encoder1.",),
        leave_out=("encoder2.", "head1", "head2", "jigsaw"),
    ),
    Format(
        "swav",
        "facebookresearch/swav: SwAV, DeepCluster v2, SeLa v2",
        aliases=("deepcluster_v2", "sela_v2"),
        containers=("state_dict", ""),
        leave_out=("projection_head.", "prototypes."),
        marks=("projection_head.", "prototypes."),
    ),
    Format(
        "simclr_sthalles",
        "sthalles/SimCLR",
        strip=("backbone.",),
        leave_out=("backbone.fc.",),
        marks=("backbone.fc.2.",),
        input=UNNORMALIZED_RGB,
        note="sthalles/SimCLR trains on images in [0, 1] without mean and std",
    ),
    Format(
        "openselfsup",
        "open-mmlab OpenSelfSup, MMSelfSup; WXinlong/DenseCL",
        aliases=("mmselfsup", "densecl"),
        strip=("backbone.", ""),
        leave_out=(
            *("neck.", "head.", "queue", "encoder_q.", "encoder_k.", "online_net.", "target_net."),
            *("momentum_encoder.", "memory_bank.", "data_preprocessor."),
        ),
        marks=("neck.", "head.", "encoder_q.", "encoder_k.", "online_net.", "target_net."),
        absent=("backbone.fc.2.", "projection_head.", "prototypes."),
    ),
    Format(
        "barlow_twins",
        "facebookresearch/barlowtwins, facebookresearch/vicreg",
        aliases=("vicreg",),
        containers=("model", "state_dict", ""),
        strip=("backbone.", ""),
        leave_out=("projector.", "bn."),
        marks=("projector.",),
        absent=("backbone.fc.2.", "momentum_", "classifier."),
    ),
    Format(
        "solo_learn",
        "vturrisi/solo-learn",
        strip=("backbone.", "encoder."),
        leave_out=("momentum_", "projector.", "predictor.", "classifier.", "prototypes.", "queue"),
        marks=("momentum_backbone.", "momentum_encoder.", "classifier."),
        absent=("backbone.fc.2.",),
    ),
    Format(
        "lightly",
        "lightly-ai/lightly",
        strip=("backbone.",),
        naming=("torchvision", "sequential"),
        leave_out=(
            *("projection_head", "prediction_head", "prototypes.", "online_classifier."),
            *("teacher_", "student_", "query_", "key_", "backbone_momentum."),
        ),
        absent=("backbone.fc.2.",),
    ),
    Format(
        "lightly_sequential",
        "lightly-ai/lightly: nn.Sequential(*resnet.children()) by itself",
        naming=("sequential",),
    ),
    Format(
        "lightly_teacher",
        "lightly-ai/lightly: the teacher",
        strip=("teacher_backbone.", "teacher."),
        naming=("torchvision", "sequential"),
        explicit_only=True,
    ),
    Format(
        "lightly_student",
        "lightly-ai/lightly: the student",
        strip=("student_backbone.", "student."),
        naming=("torchvision", "sequential"),
        explicit_only=True,
    ),
    Format(
        "lightly_momentum",
        "lightly-ai/lightly: the momentum (key) copy",
        aliases=("lightly_key",),
        strip=("backbone_momentum.", "key_backbone."),
        naming=("torchvision", "sequential"),
        explicit_only=True,
    ),
    Format(
        "dino",
        "facebookresearch/dino, training file: the teacher",
        aliases=("dino_teacher",),
        containers=("teacher",),
        strip=("backbone.",),
        leave_out=("head.",),
    ),
    Format(
        "dino_student",
        "facebookresearch/dino, training file: the student",
        containers=("student",),
        strip=("backbone.",),
        leave_out=("head.",),
        explicit_only=True,
    ),
    Format(
        "virtex",
        "kdexd/virtex",
        containers=("model", ""),
        strip=("visual.cnn.",),
        leave_out=("visual.cnn.fc.", "textual.", "backward_textual."),
    ),
    Format(
        "detectron2_backbone",
        "facebookresearch/detectron2: a backbone written by one of its converters",
        containers=("model", ""),
        naming=("detectron2_backbone",),
        leave_out=("stem.fc.",),
        note="its input is taken to be torchvision's, as with every converter known (MoCo's, "
        "PixPro's, …); --format detectron2_backbone_caffe where the weights were Caffe2's",
    ),
    Format(
        "detectron2_backbone_caffe",
        "facebookresearch/detectron2: a backbone of Caffe2's weights, renamed",
        containers=("model", ""),
        naming=("detectron2_backbone",),
        leave_out=("stem.fc.",),
        input=CAFFE_BGR,
        stride_in_1x1=True,
        explicit_only=True,
    ),
    Format(
        "detectron2",
        "facebookresearch/detectron2: a detector (FPN, C4 or DC5)",
        aliases=("detectron2_detector", "detectron2_fpn", "detectron2_c4"),
        containers=("model", ""),
        naming=("detectron2_fpn", "detectron2_c4"),
        input=CAFFE_BGR,
        stride_in_1x1=True,
        reads_config=True,
    ),
    Format(
        "caffe2_resnext",
        "facebookresearch/detectron2: FAIR's ResNeXt in Caffe2's names",
        containers=("blobs", "model", ""),
        naming=("caffe2",),
        input=CAFFE_BGR_WITH_STD,
        only_if=lambda arch: arch.groups > 1,
    ),
    Format(
        "caffe2",
        "MSRA's and FAIR's ResNets in Caffe2's names",
        aliases=("msra",),
        containers=("blobs", "model", ""),
        naming=("caffe2",),
        input=CAFFE_BGR,
        stride_in_1x1=True,
        only_if=lambda arch: arch.groups == 1,
        note="batch norm that is folded into scale and shift gets mean 0 and variance 1 - eps",
    ),
    Format(
        "torchvision",
        "pytorch/vision, its training reference; any file in torchvision's plain names",
        aliases=("dino_hub", "supervised"),
        containers=("state_dict", "model", ""),
        leave_out=("fc.",),
        absent_entries=("state_dict_ema",),
    ),
    Format(
        "timm",
        "huggingface/pytorch-image-models (averaged weights before raw ones)",
        containers=("state_dict_ema", "model_ema", "state_dict", "model", ""),
        leave_out=("fc.",),
    ),
    Format(
        "simclr",
        "google-research/simclr converted (tonylins/simclr-converter)",
        aliases=("simclr_converted",),
        leave_out=("fc.",),
        input=UNNORMALIZED_RGB,
        explicit_only=True,
        note="SimCLR trains on images in [0, 1] without mean and std",
    ),
    Format(
        "vissl",
        "facebookresearch/vissl",
        containers=("classy_state_dict.base_model.model.trunk", "model_state_dict", ""),
        strip=("_feature_blocks.", "base_model._feature_blocks.", ""),
    ),
    Format(
        "torchvision_detection",
        "pytorch/vision: a detector with FPN",
        strip=("backbone.body.",),
        leave_out=("backbone.fpn.", "rpn.", "roi_heads.", "head."),
    ),
    Format(
        "detr",
        "facebookresearch/detr",
        strip=("backbone.0.body.",),
        leave_out=("transformer.", "class_embed.", "bbox_embed.", "query_embed.", "input_proj."),
    ),
)

for _row in _ROWS:
    register_format(_row)


def format_table() -> str:
    """The formats as text: name, aliases, and whose they are, in the order they are tried."""
    lines = []
    for row in FORMATS.values():
        names = ", ".join((row.name, *row.aliases))
        lines.append(
            f"{names}\n    {row.project}{' (only by --format)' if row.explicit_only else ''}"
        )
        where = " or ".join(container or "the root" for container in row.containers)
        prefixes = " or ".join(prefix or "no prefix" for prefix in row.strip)
        lines.append(f"    in {where}; {prefixes}; {' or '.join(row.naming)} names")
    lines.append("prefix:PREFIX\n    torchvision names under any other prefix")
    return "\n".join(lines)

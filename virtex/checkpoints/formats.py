"""The table of checkpoint formats: one declarative row each.

A row states where a project stores its weights and under which names. To add a project, add a
row, here or with ``register_format``; ``detect.py`` does the rest. Rows are tried in this
order, the specific before the general; several rows that yield the same tensors do not conflict.
Sources are the projects named in each row, according to their published scripts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from virtex.backbones.registry import Family, get_dialects, get_families
from virtex.checkpoints.backbone import CheckpointError, InputSpec
from virtex.checkpoints.inputs import (
    CAFFE_BGR,
    CAFFE_BGR_WITH_STD,
    IMAGENET_RGB,
    UNNORMALIZED_RGB,
)
from virtex.text import escape


@dataclass(frozen=True)
class Format:
    """The checkpoint format of one project.

    Prefixes are matched at the start of a key, after ``module.`` and ``_orig_mod.`` have been
    removed.

    Attributes:
        name, aliases: values of ``--format``.
        project: the project that writes such files.
        containers: dotted paths to the state_dict, the preferred first; "" is the file's root,
            ``module`` is DeepSpeed's.
        strip: prefixes of the backbone, the preferred first.
        ignore_prefixes: prefixes of other parts: heads, queues, momentum copies.
        required_prefixes: at least one key must have one of these for the row to be detected.
        forbidden_prefixes: no key may have one of these.
        forbidden_entries: entries that the file's root must not have besides the container.
        dialects: names of ``virtex.backbones.registry.DIALECTS``, the preferred first.
        input: the input that the network expects.
        arch_fields: fields of the architecture that tensor shapes do not determine
            (``Family.format_fields``); ``"model"`` is a name of timm.
        families: names of the families to which the row applies; if empty, all families with
            ``Family.generic_formats``; ``"*"`` stands for all families.
        sidecars: names of the configs beside the file that may state both.
        must_state: facts (``statements.Statements``) in which the project's files differ. If a file
            does not state one, ``--format`` must choose among the row and its alternatives.
        alternatives: other rows for files that this row detects.
        only_if: a condition on the architecture.
        explicit_only: whether the row is never detected, only selected with ``--format``.
        note: added to the notes of every checkpoint of this format.
    """

    name: str
    project: str
    aliases: tuple[str, ...] = ()
    containers: tuple[str, ...] = ("state_dict", "model", "module", "")
    strip: tuple[str, ...] = ("",)
    ignore_prefixes: tuple[str, ...] = ()
    required_prefixes: tuple[str, ...] = ()
    forbidden_prefixes: tuple[str, ...] = ()
    forbidden_entries: tuple[str, ...] = ()
    dialects: tuple[str, ...] = ("canonical",)
    input: InputSpec = IMAGENET_RGB
    arch_fields: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    sidecars: tuple[str, ...] = ()
    must_state: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    only_if: Callable[[Any], bool] | None = None
    explicit_only: bool = False
    note: str = ""

    def applies_to(self, family: str) -> bool:
        """Return whether the row reads networks of this family."""
        generic = get_families()[family].generic_formats
        return not {family, "*"}.isdisjoint(self.families) if self.families else generic

    def get_families(self) -> list[Family]:
        """Return the families whose networks the row reads."""
        return [family for name, family in get_families().items() if self.applies_to(name)]

    def describe_choice(self) -> str:
        """Return the option that selects the row, with the facts that it assumes."""
        mean = [f"{value:g}" for value in self.input.mean]
        shown = ", ".join(mean if len(set(mean)) > 1 else mean[:1])
        facts = [f"{self.input.channel_order}, mean {shown}"]
        facts += [f"{name} {value}" for name, value in self.arch_fields.items()]
        return f"--format {self.name} ({'; '.join(facts)})"


FORMATS: dict[str, Format] = {}


def register_format(row: Format) -> Format:
    """Add a row after the existing ones.

    Raises:
        ValueError: its name or an alias is taken, or it names an unknown dialect.
    """
    taken = {name for other in FORMATS.values() for name in (other.name, *other.aliases)}
    for name in (row.name, *row.aliases):
        if name in taken or name == "auto":
            raise ValueError(f"a checkpoint format named {name!r} is already registered")
    unknown = [dialect for dialect in row.dialects if dialect not in get_dialects()]
    if unknown:
        raise ValueError(
            f"format {row.name!r} names {unknown}; dialects are {sorted(get_dialects())}"
        )
    FORMATS[row.name] = row
    return row


def get_format(name: str) -> Format:
    """Return the row of this name or alias.

    ``prefix:PREFIX`` returns a row for canonical names under that prefix, ``timm:NAME`` one for
    timm's network of that name, with or without a tag of pretrained weights.

    Raises:
        CheckpointError: no row has this name; the message lists the closest ones.
    """
    if name.startswith("timm:"):
        return timm_format(name)
    if name.startswith("prefix:"):
        prefix = name.removeprefix("prefix:")
        return Format(
            escape(name),
            "canonical names under a given prefix",
            strip=(prefix,),
            dialects=("canonical", "swin"),  # two layouts of Swin's patch merging
            families=("*",),
        )
    by_name = {alias: row for row in FORMATS.values() for alias in (row.name, *row.aliases)}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name[:100], by_name, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise CheckpointError(
        f"unknown checkpoint format '{escape(name)}': {hint}"
        "eval_tools/inspect_checkpoint.py --list-formats prints all of them",
        code="checkpoint.unknown_format",
    )


def timm_format(name: str) -> Format:
    """Return the row ``timm:NAME``.

    Raises:
        CheckpointError: timm has no model of this name.
    """
    import timm

    from virtex.backbones.timm_models import timm_name, timm_normalization

    model = name.removeprefix("timm:")
    if not timm_name(model):
        near = difflib.get_close_matches(model.partition(".")[0][:100], timm.list_models(), n=3)
        hint = f"did you mean timm:{' or timm:'.join(near)}? " if near else ""
        raise CheckpointError(
            f"unknown checkpoint format '{escape(name)}': {hint}timm.list_models() of timm "
            f"{timm.__version__} prints all names",
            code="checkpoint.unknown_format",
        )
    mean, std, scale = timm_normalization(model)
    return Format(
        escape(name),
        "huggingface/pytorch-image-models: a named network",
        containers=("state_dict_ema", "model_ema", "state_dict", "model", "module", ""),
        strip=("", "visual.trunk.", "visual."),
        dialects=tuple(get_dialects()),
        input=InputSpec("RGB", mean, std, scale),
        arch_fields={"model": model},
        families=("*",),
    )


_DINO_V2_AND_V3 = ("backbone.mask_token", "backbone.register_tokens", "backbone.storage_tokens")
RESNET_FACTS = ("channel_order", "normalization", "stride_in_1x1")
# Names of the heads of detectors, segmenters and classifiers, not of self-supervised methods
_OPENMMLAB_HEADS = (
    *("neck.lateral_convs.", "neck.fpn_convs.", "rpn_head.", "roi_head.", "bbox_head."),
    *("mask_head.", "decode_head.", "auxiliary_head.", "head.fc."),
)

_ROWS = (
    Format(
        "moco",
        "facebookresearch/moco v1 and v2; salesforce/PCL",
        aliases=("moco_v1_v2", "moco_v1", "moco_v2", "pcl"),
        strip=("encoder_q.",),
        ignore_prefixes=("encoder_q.fc.", "encoder_k.", "queue"),
    ),
    Format(
        "moco_v3",
        "facebookresearch/moco-v3",
        strip=("base_encoder.",),
        ignore_prefixes=(
            *("base_encoder.fc.", "base_encoder.head.", "momentum_encoder.", "predictor."),
        ),
        dialects=("canonical", "vit"),
        families=("resnet", "vit"),
        arch_fields={"heads": 12},  # vits.py of moco-v3: in every size
    ),
    Format(
        "simsiam",
        "facebookresearch/simsiam",
        strip=("encoder.",),
        ignore_prefixes=("encoder.fc.", "predictor."),
        required_prefixes=("predictor.",),
        forbidden_prefixes=("encoder_k.",),
    ),
    Format(
        "pixpro",
        "zdaxie/PixPro",
        strip=("encoder.",),
        ignore_prefixes=("encoder_k.", "projector", "value_transform.", "predictor."),
        required_prefixes=("value_transform.", "projector_k."),
    ),
    Format(
        "pycontrast",
        "HobbitLong/PyContrast: InstDis, PIRL, InfoMin, MoCo (the online encoder)",
        aliases=("instdis", "pirl", "infomin"),
        containers=("model", "model_ema", ""),
        strip=("encoder.",),
        ignore_prefixes=("head.", "head_jig.", "jigsaw"),
        required_prefixes=("head.", "head_jig.", "jigsaw"),
    ),
    Format(
        "pycontrast_ema",
        "HobbitLong/PyContrast: the momentum encoder",
        containers=("model_ema",),
        strip=("encoder.",),
        ignore_prefixes=("head.", "head_jig.", "jigsaw"),
        explicit_only=True,
    ),
    Format(
        "cmc",
        "HobbitLong/PyContrast: CMC (a first encoder of 3-channel images only)",
        containers=("model", "model_ema", ""),
        strip=("encoder1.",),
        ignore_prefixes=("encoder2.", "head1", "head2", "jigsaw"),
    ),
    Format(
        "swav",
        "facebookresearch/swav: SwAV, DeepCluster v2, SeLa v2",
        aliases=("deepcluster_v2", "sela_v2"),
        ignore_prefixes=("projection_head.", "prototypes."),
        required_prefixes=("projection_head.", "prototypes."),
    ),
    Format(
        "simclr_sthalles",
        "sthalles/SimCLR",
        strip=("backbone.",),
        ignore_prefixes=("backbone.fc.",),
        required_prefixes=("backbone.fc.2.",),
        input=UNNORMALIZED_RGB,
        note="sthalles/SimCLR trains on images in [0, 1] without mean and std",
    ),
    Format(
        "openmmlab",
        "open-mmlab mmdetection, mmsegmentation, mmpretrain; chosen: RGB, style='pytorch'",
        aliases=("mmdetection", "mmsegmentation", "mmpretrain"),
        strip=("backbone.",),
        ignore_prefixes=_OPENMMLAB_HEADS,
        required_prefixes=_OPENMMLAB_HEADS,
        must_state=RESNET_FACTS,
        alternatives=("openmmlab_caffe",),
    ),
    Format(
        "openmmlab_caffe",
        "open-mmlab mmdetection, mmsegmentation, mmpretrain: BGR, style='caffe'",
        strip=("backbone.",),
        ignore_prefixes=_OPENMMLAB_HEADS,
        input=CAFFE_BGR,
        arch_fields={"stride_in_1x1": True},
        must_state=RESNET_FACTS,
        explicit_only=True,
    ),
    Format(
        "openselfsup",
        "open-mmlab OpenSelfSup, MMSelfSup; WXinlong/DenseCL",
        aliases=("mmselfsup", "densecl"),
        strip=("backbone.", ""),
        ignore_prefixes=(
            *("neck.", "head.", "queue", "encoder_q.", "encoder_k.", "online_net.", "target_net."),
            *("momentum_encoder.", "memory_bank.", "data_preprocessor."),
        ),
        required_prefixes=(
            *("neck.", "head.", "encoder_q.", "encoder_k.", "online_net.", "target_net."),
        ),
        forbidden_prefixes=(
            *("backbone.fc.2.", "projection_head.", "prototypes."),
            *_OPENMMLAB_HEADS,
        ),
    ),
    Format(
        "barlow_twins",
        "facebookresearch/barlowtwins, facebookresearch/vicreg",
        aliases=("vicreg",),
        strip=("backbone.", ""),
        ignore_prefixes=("projector.", "bn."),
        required_prefixes=("projector.",),
        forbidden_prefixes=("backbone.fc.2.", "momentum_", "classifier."),
    ),
    Format(
        "solo_learn",
        "vturrisi/solo-learn",
        strip=("backbone.", "encoder."),
        ignore_prefixes=(
            "momentum_",
            "projector.",
            "predictor.",
            "classifier.",
            "prototypes.",
            "queue",
        ),
        required_prefixes=("momentum_backbone.", "momentum_encoder.", "classifier.weight"),
        forbidden_prefixes=("backbone.fc.2.",),
    ),
    Format(
        "lightly",
        "lightly-ai/lightly",
        strip=("backbone.",),
        dialects=("canonical", "sequential"),
        ignore_prefixes=(
            *("projection_head", "prediction_head", "prototypes.", "online_classifier."),
            *("teacher_", "student_", "query_", "key_", "backbone_momentum."),
        ),
        required_prefixes=(
            *("projection_head", "prediction_head", "prototypes.", "online_classifier."),
            *("teacher_", "student_", "query_", "key_", "backbone_momentum."),
        ),
        forbidden_prefixes=("backbone.fc.2.",),
    ),
    Format(
        "lightly_sequential",
        "lightly-ai/lightly: nn.Sequential(*resnet.children()) by itself",
        dialects=("sequential",),
    ),
    Format(
        "lightly_teacher",
        "lightly-ai/lightly: the teacher",
        strip=("teacher_backbone.", "teacher."),
        dialects=("canonical", "sequential"),
        explicit_only=True,
    ),
    Format(
        "lightly_student",
        "lightly-ai/lightly: the student",
        strip=("student_backbone.", "student."),
        dialects=("canonical", "sequential"),
        explicit_only=True,
    ),
    Format(
        "lightly_momentum",
        "lightly-ai/lightly: the momentum (key) copy",
        aliases=("lightly_key",),
        strip=("backbone_momentum.", "key_backbone."),
        dialects=("canonical", "sequential"),
        explicit_only=True,
    ),
    Format(
        "dino",
        "facebookresearch/dino, training file: the teacher",
        aliases=("dino_teacher",),
        containers=("teacher",),
        strip=("backbone.",),
        ignore_prefixes=("head.",),
        forbidden_prefixes=_DINO_V2_AND_V3,
        dialects=("canonical", "vit"),
        families=("resnet", "vit"),
        arch_fields={"interpolation": "offset"},
    ),
    Format(
        "dino_student",
        "facebookresearch/dino, training file: the student",
        containers=("student",),
        strip=("backbone.",),
        ignore_prefixes=("head.",),
        forbidden_prefixes=_DINO_V2_AND_V3,
        dialects=("canonical", "vit"),
        families=("resnet", "vit"),
        arch_fields={"interpolation": "offset"},
        explicit_only=True,
    ),
    Format(
        "virtex",
        "kdexd/virtex",
        strip=("visual.cnn.",),
        ignore_prefixes=("visual.cnn.fc.", "textual.", "backward_textual."),
        families=("*",),
    ),
    Format(
        "detectron2_backbone",
        "facebookresearch/detectron2: a backbone written by one of its converters",
        dialects=("detectron2_backbone",),
        ignore_prefixes=("stem.fc.",),
        note="its input is assumed to be torchvision's, as for all known converters (MoCo's, "
        "PixPro's, …); use --format detectron2_backbone_caffe if the weights were Caffe2's",
    ),
    Format(
        "detectron2_backbone_caffe",
        "facebookresearch/detectron2: a backbone of Caffe2's weights, renamed",
        dialects=("detectron2_backbone",),
        ignore_prefixes=("stem.fc.",),
        input=CAFFE_BGR,
        arch_fields={"stride_in_1x1": True},
        explicit_only=True,
    ),
    Format(
        "detectron2",
        "facebookresearch/detectron2: a detector (FPN, C4 or DC5); chosen: its default input",
        aliases=("detectron2_detector", "detectron2_fpn", "detectron2_c4"),
        dialects=("detectron2_fpn", "detectron2_c4"),
        input=CAFFE_BGR,
        arch_fields={"stride_in_1x1": True},
        sidecars=("config.yaml",),
        must_state=RESNET_FACTS,
        alternatives=("detectron2_rgb",),
    ),
    Format(
        "detectron2_rgb",
        "facebookresearch/detectron2: a detector of a backbone in torchvision's style",
        dialects=("detectron2_fpn", "detectron2_c4"),
        sidecars=("config.yaml",),
        must_state=RESNET_FACTS,
        explicit_only=True,
    ),
    Format(
        "virtex_detector",
        "this package: a detector of another family than ResNet",
        containers=("model",),
        strip=("backbone.net.", "backbone.bottom_up.network."),
        families=("vit", "swin", "convnext", "timm_cnn"),
        required_prefixes=("backbone.net.", "backbone.bottom_up.network."),
        must_state=("normalization",),
        # its detectors do not contain ViTDet's own backbone
        only_if=lambda arch: getattr(arch, "implementation", "") != "ViTDet",
    ),
    Format(
        "caffe2_resnext",
        "facebookresearch/detectron2: FAIR's ResNeXt in Caffe2's names",
        containers=("blobs", "model", ""),
        dialects=("caffe2",),
        input=CAFFE_BGR_WITH_STD,
        only_if=lambda arch: arch.groups > 1,
    ),
    Format(
        "caffe2",
        "MSRA's and FAIR's ResNets in Caffe2's names",
        aliases=("msra",),
        containers=("blobs", "model", ""),
        dialects=("caffe2",),
        input=CAFFE_BGR,
        arch_fields={"stride_in_1x1": True},
        only_if=lambda arch: arch.groups == 1,
        note="batch norm folded into scale and shift gets mean 0 and variance 1 - eps",
    ),
    Format(
        "torchvision",
        "pytorch/vision, its training reference; any file in torchvision's plain names",
        sidecars=("config.json",),
        aliases=("dino_hub", "supervised"),
        ignore_prefixes=("fc.",),
        forbidden_entries=("state_dict_ema",),
    ),
    Format(
        "torchvision_caffe",
        "torchvision's names, Caffe's input: mmdetection's resnet50_caffe, and other conversions",
        aliases=("resnet_caffe",),
        ignore_prefixes=("fc.",),
        input=CAFFE_BGR,
        arch_fields={"stride_in_1x1": True},
        explicit_only=True,
    ),
    Format(
        "timm",
        "huggingface/pytorch-image-models (averaged weights before raw ones)",
        containers=("state_dict_ema", "model_ema", "state_dict", "model", ""),
        ignore_prefixes=("fc.",),
        sidecars=("config.json",),
    ),
    Format(
        "simclr",
        "google-research/simclr converted (tonylins/simclr-converter)",
        aliases=("simclr_converted",),
        ignore_prefixes=("fc.",),
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
        "torchvision_segmentation",
        "pytorch/vision: FCN or DeepLabv3",
        strip=("backbone.",),
        ignore_prefixes=("classifier.", "aux_classifier."),
        required_prefixes=("classifier.4.",),
        note="trained with stride 8 and dilation; with stride 32 it computes the same features at "
        "every fourth position",
    ),
    Format(
        "torchvision_detection",
        "pytorch/vision: a detector with FPN",
        strip=("backbone.body.",),
        ignore_prefixes=("backbone.fpn.", "rpn.", "roi_heads.", "head."),
    ),
    Format(
        "detr",
        "facebookresearch/detr",
        strip=("backbone.0.body.",),
        ignore_prefixes=(
            "transformer.",
            "class_embed.",
            "bbox_embed.",
            "query_embed.",
            "input_proj.",
        ),
    ),
    Format(
        "backbone_prefix",
        "other projects: under backbone.",
        strip=("backbone.",),
        forbidden_prefixes=("backbone.fc.2.",),
    ),
    Format("encoder_prefix", "other projects: under encoder.", strip=("encoder.",)),
)

for _row in _ROWS:
    register_format(_row)

from virtex.checkpoints import (  # noqa: E402  they register their rows
    convnext_formats,  # noqa: F401
    swin_formats,  # noqa: F401
    timm_formats,  # noqa: F401
    vit_formats,  # noqa: F401
)


def format_table() -> str:
    """Return the formats as text in the order they are tried: names, project, location, names."""
    lines = []
    for row in FORMATS.values():
        names = ", ".join((row.name, *row.aliases))
        lines.append(
            f"{names}\n    {row.project}{' (only with --format)' if row.explicit_only else ''}"
        )
        where = " or ".join(container or "the root" for container in row.containers)
        prefixes = " or ".join(prefix or "no prefix" for prefix in row.strip)
        lines.append(f"    in {where}; {prefixes}; {' or '.join(row.dialects)} names")
    lines.append("timm:NAME\n    timm's network of this name, such as timm:resnet50d.ra2_in1k")
    lines.append("prefix:PREFIX\n    canonical names under any other prefix")
    return "\n".join(lines)

"""Refuse Detectron2 settings that would have no effect, or that a run cannot use.

Detectron2 has one config for all its tools and models. A setting that nothing reads would be
recorded as an override although the result is that of the protocol.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from detectron2.config import CfgNode

from virtex.config import flatten, get_setting
from virtex.config.overrides import invalid_value
from virtex.data.segmentation import IGNORED
from virtex.detectron.compat import default_config
from virtex.detectron.loading import build_mapper
from virtex.detectron.semantic import ARCHITECTURE, is_semantic
from virtex.errors import UserError
from virtex.text import short_repr

# Settings, as patterns, that must keep Detectron2's default -> why.
UNSUPPORTED = {
    "CUDNN_BENCHMARK": "training always uses torch's default",
    "DATASETS.PRECOMPUTED_PROPOSAL_*": "detectors compute their own proposals",
    "DATASETS.PROPOSAL_FILES_*": "detectors compute their own proposals",
    "FLOAT32_PRECISION": "training always uses torch's default",
    "GLOBAL.HACK": "nothing reads it",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "rotated boxes are not supported",
    "MODEL.LOAD_PROPOSALS": "detectors compute their own proposals",
    "MODEL.PANOPTIC_FPN.*": "panoptic segmentation is not evaluated",
    "MODEL.RESNETS.DEFORM_*": "pretrained backbones have no deformable convolutions",
    "TEST.AUG.*": "test-time augmentation is not supported",
    "TEST.EXPECTED_RESULTS": "results are recorded, not compared with expected ones",
    "VERSION": "files of version 1 are converted while they are read",
}
# Settings -> the value required by semantic segmentation, whose images have no objects.
REQUIRED_BY_SEMANTIC = {
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.AUGMENTATION": "default",
    "MODEL.KEYPOINT_ON": False,
    "MODEL.MASK_ON": False,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": IGNORED,
}
# Settings that are read in data loading, training and evaluation only.
READ_LATER = (
    "MODEL.BACKBONE.FROZEN",
    *("DATALOADER.ASPECT_RATIO_GROUPING", "DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.SAMPLER_TRAIN", "DATASETS.TRAIN", "DATASETS.TEST"),
    *("MODEL.BACKBONE.COMPILE", "MODEL_EMA.ENABLED", "SOLVER.ACCUMULATE"),
    *("SOLVER.AMP.ENABLED", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.IMS_PER_BATCH"),
    *("SOLVER.REFERENCE_WORLD_SIZE", "TEST.EVAL_PERIOD", "TEST.PRECISE_BN.ENABLED"),
)
# More of them, as patterns, with the setting and the value that they need.
READ_LATER_IF = {
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": ("MODEL.KEYPOINT_ON", True),
    "TEST.KEYPOINT_OKS_SIGMAS": ("MODEL.KEYPOINT_ON", True),
    "DATALOADER.REPEAT_*": ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    "MODEL_EMA.DECAY": ("MODEL_EMA.ENABLED", True),
    "SOLVER.AMP.DTYPE": ("SOLVER.AMP.ENABLED", True),
    "SOLVER.CLIP_GRADIENTS.*": ("SOLVER.CLIP_GRADIENTS.ENABLED", True),
    "TEST.PRECISE_BN.NUM_ITER": ("TEST.PRECISE_BN.ENABLED", True),
}

# Settings of the backbone's training, which have no effect with MODEL.BACKBONE.FROZEN.
IGNORED_IF_FROZEN = (
    *("MODEL.BACKBONE.FREEZE_AT", "MODEL.NETWORK.CHECKPOINTING", "MODEL.NETWORK.DROP_PATH"),
    "SOLVER.LAYER_DECAY",
)


class RecordingConfig(CfgNode):
    """A copy of a config that records in ``read`` the keys whose values are read."""

    def __init__(self, cfg: CfgNode, read: set[str], prefix: str = ""):
        super().__init__()
        self.__dict__.update(_read=read, _prefix=prefix)
        for name, value in cfg.items():
            is_section = isinstance(value, CfgNode)
            self[name] = RecordingConfig(value, read, f"{prefix}{name}.") if is_section else value

    def __deepcopy__(self, memo: Any) -> "RecordingConfig":
        return RecordingConfig(self, self._read, self._prefix)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if not isinstance(value, CfgNode):
            self._read.add(self._prefix + name)
        return value


def validate_supported(cfg: CfgNode) -> None:
    """Check the settings that no run can use.

    Raises:
        UserError: naming the key.
    """
    defaults = flatten(default_config())
    for key, value in flatten(cfg).items():
        reason = next((why for name, why in UNSUPPORTED.items() if fnmatchcase(key, name)), None)
        if reason and value != defaults[key]:
            raise invalid_value(
                f"{key} must be {short_repr(defaults[key])}, not {short_repr(value)}: {reason}; "
                "remove the setting"
            )
    head, name = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NAME
    needed = (
        ("USE_FED_LOSS", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True", head.USE_SIGMOID_CE),
        ("USE_SIGMOID_CE", "MODEL.ROI_HEADS.NAME SigmoidROIHeads", name == "SigmoidROIHeads"),
    )
    for key, setting, is_set in needed:
        if head[key] and not is_set:
            raise invalid_value(f"MODEL.ROI_BOX_HEAD.{key} requires {setting}; set both or neither")
    if name == "SigmoidROIHeads" and not head.USE_SIGMOID_CE:
        raise invalid_value(
            f"MODEL.ROI_HEADS.NAME {name} requires MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True; set "
            "both or neither"
        )
    for key, value in REQUIRED_BY_SEMANTIC.items() if is_semantic(cfg) else ():
        if get_setting(cfg, key) != value:
            raise invalid_value(
                f"{key} must be {short_repr(value)} with MODEL.META_ARCHITECTURE {ARCHITECTURE}; "
                "remove the setting"
            )
    crop = cfg.INPUT.CROP
    highest = 1 if "relative" in crop.TYPE else float("inf")
    if crop.ENABLED and (len(crop.SIZE) != 2 or max(crop.SIZE) > highest):
        raise invalid_value(
            f"INPUT.CROP.SIZE must be height and width for INPUT.CROP.TYPE {crop.TYPE}"
            f"{', each at most 1' * (highest == 1)}, not {short_repr(list(crop.SIZE))}"
        )
    if crop.ENABLED and cfg.INPUT.AUGMENTATION != "default":
        raise invalid_value(
            f"INPUT.CROP.ENABLED must be False with INPUT.AUGMENTATION {cfg.INPUT.AUGMENTATION}, "
            "which also crops; remove one of them"
        )
    crops = crop.ENABLED or cfg.INPUT.AUGMENTATION != "default"
    if crops and cfg.MODEL.MASK_ON and find_spec("shapely") is None:
        key = (
            "INPUT.CROP.ENABLED" if crop.ENABLED else f"INPUT.AUGMENTATION {cfg.INPUT.AUGMENTATION}"
        )
        raise UserError(
            f"{key} requires the package shapely to crop masks; install it with pip install "
            "shapely, or train on boxes only with MODEL.MASK_ON False",
            code="environment.shapely",
        )


def validate_effects(cfg: RecordingConfig, overridden: Collection[str]) -> None:
    """Check that each override affects the run.

    Args:
        cfg: detector, optimizer and schedule have been built with it.

    Raises:
        UserError: Detectron2 rejects the settings of INPUT, or nothing reads an overridden key.
    """
    try:
        for is_train in (True, False):
            build_mapper(cfg, is_train)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"Detectron2 cannot build the augmentations of INPUT: {error}", code="config.input"
        ) from error
    for key in overridden:
        is_ignored = cfg.MODEL.BACKBONE.FROZEN and key in IGNORED_IF_FROZEN
        if is_ignored or (key not in cfg._read and not is_read_later(cfg, key)):
            raise UserError(
                f"{key} has no effect with the other settings of this run; remove the override",
                code="config.no_effect",
            )


def is_read_later(cfg: CfgNode, key: str) -> bool:
    return key in READ_LATER or any(
        fnmatchcase(key, pattern) and get_setting(cfg, needed) == value
        for pattern, (needed, value) in READ_LATER_IF.items()
    )

"""Validate Detectron2 settings before a run starts."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from virtex.config.overrides import coerce, flatten, invalid_value, scalars
from virtex.config.validation import (
    NON_NEGATIVE,
    POSITIVE,
    UNIT_ABOVE_0,
    UNIT_BELOW_1,
    Range,
    validate_values,
)
from virtex.detectron.augmentation import AUGMENTATIONS
from virtex.detectron.compat import default_config
from virtex.detectron.effects import validate_supported
from virtex.errors import UserError
from virtex.text import short_repr

# Settings decided by flags of the command.
FLAGS = {
    "OUTPUT_DIR": "--output-dir",
    "SEED": "--seed",
    "MODEL.DEVICE": "--num-gpus",
    "MODEL.NETWORK.ARCH": "--checkpoint",
    "MODEL.WEIGHTS": "--checkpoint",
}
RANGES: dict[str, Range] = {
    "SOLVER.IMS_PER_BATCH": POSITIVE,
    "SOLVER.ACCUMULATE": POSITIVE,
    "SOLVER.MAX_ITER": POSITIVE,
    "SOLVER.BASE_LR": POSITIVE,
    "DATALOADER.NUM_WORKERS": NON_NEGATIVE,
    "INPUT.CROP.SIZE": POSITIVE,
    "INPUT.LSJ.MAX_SCALE": POSITIVE,
    "INPUT.LSJ.MIN_SCALE": POSITIVE,
    "INPUT.LSJ.SIZE": POSITIVE,
    "INPUT.MIN_SIZE_TRAIN": NON_NEGATIVE,  # 0: not resized
    "INPUT.MIN_SIZE_TEST": NON_NEGATIVE,
    "INPUT.MAX_SIZE_TRAIN": POSITIVE,
    "INPUT.MAX_SIZE_TEST": POSITIVE,
    "TEST.PRECISE_BN.NUM_ITER": POSITIVE,
    "MODEL.NETWORK.DROP_PATH": UNIT_BELOW_1,
    "MODEL.VIT.WINDOW_SIZE": NON_NEGATIVE,
    "MODEL.VIT.GLOBAL_BLOCKS": POSITIVE,
    "MODEL.VIT.PATCH_SIZE": NON_NEGATIVE,
    "MODEL.VIT.SQUARE_PAD": NON_NEGATIVE,
    "MODEL.VIT.DEPTH": NON_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": NON_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": POSITIVE,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": NON_NEGATIVE,
    "SOLVER.LAYER_DECAY": UNIT_ABOVE_0,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": UNIT_ABOVE_0,
    "SOLVER.POLY_LR_POWER": POSITIVE,
    "SOLVER.POLY_LR_END": UNIT_BELOW_1,
    "MODEL_EMA.DECAY": UNIT_BELOW_1,
}
# Settings that may be None -> a value of their type otherwise.
OPTIONAL = {"SOLVER.WEIGHT_DECAY_BIAS": 0.0, "SOLVER.WEIGHT_DECAY_EMBED": 0.0}
BOX_LOSSES = ("smooth_l1", "giou")  # of both distributions
POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool")  # without rotated boxes
# Values that runs support. Detectron2 reports others late, or not at all.
CHOICES = {
    # seeded and resumable
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "INPUT.AUGMENTATION": ("default", *AUGMENTATIONS),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "RetinaNet", "SemanticSegmentor"),
    "MODEL.NETWORK.OUT_NORM": ("auto", "LN", "none"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "SOLVER.AMP.DTYPE": ("auto", "bfloat16", "float16"),
    "SOLVER.OPTIMIZER": ("SGD", "ADAMW"),
}


def validate_types(cfg: CfgNode) -> None:
    """Check types, list items and ranges against Detectron2's defaults.

    Raises:
        UserError: naming the key.
    """
    defaults = flatten(default_config())
    for key, value in flatten(cfg).items():
        if not (value is None and key in OPTIONAL):
            coerce(OPTIONAL.get(key, defaults.get(key)), value, key, nested=True)
        # Detectron2 rounds some floats to integers
        if any(isinstance(item, float) and abs(item) >= 2**63 for item in scalars(value)):
            raise invalid_value(f"{key} must be below 2**63, not {short_repr(value)}")
    validate_values(cfg, {}, RANGES)


def validate_run(cfg: CfgNode, overridden: Sequence[str], device: str) -> None:
    """Check what would fail late in a run, or be ignored by it.

    Args:
        overridden: the keys that the user set.
        device: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: naming the key.
    """
    for key, flag in FLAGS.items():
        if key in overridden:
            raise UserError(
                f"{key} is set by {flag}; remove the override", code="config.invalid_override"
            )
    validate_types(cfg)
    validate_values(cfg, CHOICES, {})
    if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16" and device == "cpu":
        raise UserError(
            "SOLVER.AMP.DTYPE must be auto or bfloat16 on the CPU; float16 requires a GPU",
            code="config.invalid_value",
        )
    if not all(isinstance(pattern, str) for pattern in cfg.SOLVER.NO_WEIGHT_DECAY):
        raise invalid_value(
            "SOLVER.NO_WEIGHT_DECAY must be a list of patterns of names, such as *norm*, not "
            f"{short_repr(cfg.SOLVER.NO_WEIGHT_DECAY)}"
        )
    jitter = cfg.INPUT.LSJ
    if jitter.MIN_SCALE > jitter.MAX_SCALE:
        raise invalid_value(
            f"INPUT.LSJ.MIN_SCALE must be at most INPUT.LSJ.MAX_SCALE ({jitter.MAX_SCALE:g}), not "
            f"{jitter.MIN_SCALE:g}"
        )
    validate_supported(cfg)

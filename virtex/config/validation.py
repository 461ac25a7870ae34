"""Check the values of settings before anything is built from them.

Pretraining and downstream configs share one table of choices and one of ranges; keys that a config
does not have are skipped.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from virtex.config.overrides import flatten, invalid_value
from virtex.text import escape, nearest, short_repr

# Values of MODEL.NAME: models that generate captions, that read them, and classifiers.
CAPTIONING_MODELS = ("virtex", "bicaptioning", "captioning")
TEXT_MODELS = (*CAPTIONING_MODELS, "masked_lm")
CLASSIFICATION_MODELS = ("token_classification", "multilabel_classification")

CHOICES: dict[str, tuple[str, ...]] = {
    "AMP_DTYPE": ("auto", "bfloat16", "float16"),
    "DATA.INTERPOLATION": ("bilinear", "bicubic"),
    "MODEL.NAME": (*TEXT_MODELS, *CLASSIFICATION_MODELS),
    "MODEL.DECODER.NAME": ("beam_search", "nucleus_sampling"),
    "OPTIM.OPTIMIZER_NAME": ("sgd", "adamw"),
    "OPTIM.LR_DECAY_NAME": ("none", "linear", "cosine", "multistep"),
}


@dataclass(frozen=True)
class Range:
    """A range of valid numbers: words for the error message, and a predicate."""

    words: str
    contains: Callable[[float], bool]


POSITIVE = Range("positive", lambda x: x > 0)
NON_NEGATIVE = Range("0 or more", lambda x: x >= 0)
UNIT = Range("between 0 and 1", lambda x: 0 <= x <= 1)
UNIT_BELOW_1 = Range("at least 0 and less than 1", lambda x: 0 <= x < 1)
UNIT_ABOVE_0 = Range("more than 0 and at most 1", lambda x: 0 < x <= 1)
UNIT_OPEN = Range("more than 0 and less than 1", lambda x: 0 < x < 1)
POSITIVE_INTEGER = Range("a positive integer", lambda x: type(x) is int and x > 0)

# The value, or each item of a list, must lie in the range; such a list must not be empty.
RANGES: dict[str, Range] = {
    "RANDOM_SEED": NON_NEGATIVE,
    "DATA.VOCAB_SIZE": POSITIVE,
    "DATA.UNK_INDEX": NON_NEGATIVE,
    "DATA.SOS_INDEX": NON_NEGATIVE,
    "DATA.EOS_INDEX": NON_NEGATIVE,
    "DATA.MASK_INDEX": NON_NEGATIVE,
    "DATA.IMAGE_RESIZE_SIZE": POSITIVE,
    "DATA.IMAGE_CROP_SIZE": POSITIVE,
    "DATA.CROP_SCALE": UNIT_ABOVE_0,
    "DATA.CROP_RATIO": POSITIVE,
    "DATA.AUGMENTATIONS": NON_NEGATIVE,
    "DATA.MAX_CAPTION_LENGTH": Range(  # [SOS], a token, [EOS]
        "between 3 and 10000", lambda x: 3 <= x <= 10000
    ),
    "DATA.USE_PERCENTAGE": Range("more than 0 and at most 100", lambda x: 0 < x <= 100),
    "DATA.MASKED_LM.MASK_PROPORTION": UNIT,
    "DATA.MASKED_LM.MASK_PROBABILITY": UNIT,
    "DATA.MASKED_LM.REPLACE_PROBABILITY": UNIT,
    "MODEL.VISUAL.FEATURE_SIZE": NON_NEGATIVE,
    "MODEL.TEXTUAL.DROPOUT": UNIT_BELOW_1,
    "MODEL.DECODER.BEAM_SIZE": POSITIVE,
    "MODEL.DECODER.PER_NODE_BEAM_SIZE": POSITIVE,
    "MODEL.DECODER.NUCLEUS_SIZE": UNIT_ABOVE_0,
    "MODEL.DECODER.MAX_DECODING_STEPS": POSITIVE,
    "OPTIM.SGD_MOMENTUM": UNIT_BELOW_1,
    "OPTIM.WEIGHT_DECAY": NON_NEGATIVE,
    "OPTIM.CLIP_GRAD_NORM": NON_NEGATIVE,
    "OPTIM.LOOKAHEAD.ALPHA": UNIT_ABOVE_0,
    "OPTIM.LOOKAHEAD.STEPS": POSITIVE,
    "OPTIM.BATCH_SIZE": POSITIVE,
    "OPTIM.CNN_LR": NON_NEGATIVE,
    "OPTIM.LR": NON_NEGATIVE,
    "OPTIM.LAYER_DECAY": UNIT_ABOVE_0,
    "OPTIM.NUM_ITERATIONS": NON_NEGATIVE,  # 0 saves the initialized model
    "OPTIM.NUM_EPOCHS": POSITIVE,
    "OPTIM.WARMUP_STEPS": NON_NEGATIVE,
    "OPTIM.WARMUP_EPOCHS": NON_NEGATIVE,
    "OPTIM.LR_GAMMA": NON_NEGATIVE,
    "SVM.COSTS": POSITIVE,
    "SVM.FOLDS": Range("2 or more", lambda x: x >= 2),
    "SVM.POSITIVE_WEIGHT": POSITIVE,
    "LOW_SHOT.SAMPLES": POSITIVE,
    "LOW_SHOT.COST": POSITIVE,
    "LOW_SHOT.SHOTS": POSITIVE_INTEGER,
    "LOW_SHOT.STRENGTH": POSITIVE,
    "LOGISTIC.NUM_STRENGTHS": POSITIVE,
    "KNN.NEIGHBORS": POSITIVE_INTEGER,
    "KNN.TEMPERATURE": POSITIVE,
    "PROBE.LRS": POSITIVE,
    "PROBE.WEIGHT_DECAYS": NON_NEGATIVE,
    "PROBE.MOMENTUM": UNIT_BELOW_1,
    "PROBE.BATCH_SIZE": POSITIVE,
    "PROBE.NUM_EPOCHS": POSITIVE,
    "PROBE.HELD_OUT": UNIT_OPEN,
}


@dataclass(frozen=True)
class TransformerSize:
    """The transformer that ``MODEL.TEXTUAL.NAME`` describes.

    Attributes:
        layers: number of decoder layers.
        hidden: size of embeddings and attention features.
        heads: attention heads; they divide ``hidden``.
        feedforward: size of the hidden layer of the feedforward block.
        norm_first: LayerNorm before each block (``transdec_prenorm``), not after it.
    """

    layers: int
    hidden: int
    heads: int
    feedforward: int
    norm_first: bool


_SIZE = "_".join(f"{letter}([1-9][0-9]{{0,6}})" for letter in "LHAF")
_TRANSFORMER = re.compile(f"transdec_(post|pre)norm::{_SIZE}")


def parse_textual_name(name: str) -> TransformerSize | None:
    """Parse ``transdec_postnorm::L1_H2048_A32_F8192`` and the like; None for ``"none"``.

    Raises:
        UserError: the name has another form, or its heads do not divide its hidden size.
    """
    if name == "none":
        return None
    match = _TRANSFORMER.fullmatch(name)
    if match is None:
        raise invalid_value(
            "MODEL.TEXTUAL.NAME must be none, or transdec_postnorm or transdec_prenorm with sizes "
            f"(transdec_postnorm::L1_H2048_A32_F8192), not '{escape(name)}'"
        )
    layers, hidden, heads, feedforward = map(int, match.groups()[1:])
    if hidden % heads:
        raise invalid_value(
            f"MODEL.TEXTUAL.NAME {name}: the hidden size (H) {hidden} must be divisible by the "
            f"number of attention heads (A), {heads}"
        )
    return TransformerSize(layers, hidden, heads, feedforward, match[1] == "pre")


def validate_pretraining(config: CfgNode) -> None:
    """Check a complete pretraining config.

    Raises:
        UserError: a value is invalid; the message gives its key, the value and valid ones.
    """
    validate_values(config)
    validate_no_decay(config)
    validate_masking(config)
    validate_special_tokens(config)
    validate_textual(config)
    validate_decoding(config)
    validate_schedule(config)


def validate_downstream(config: CfgNode) -> None:
    """Check the settings of a downstream task that is not a detector.

    Raises:
        UserError: a value is invalid; the message gives its key, the value and valid ones.
    """
    validate_values(config)
    if "DATA" in config:
        validate_crops(config.DATA)
    if "OPTIM" in config:
        validate_no_decay(config)
        validate_step_epochs(config.OPTIM)


def validate_values(
    config: CfgNode,
    choices: Mapping[str, Sequence[str]] = CHOICES,
    ranges: Mapping[str, Range] = RANGES,
) -> None:
    """Check each key alone: names against ``choices``, numbers against ``ranges``."""
    for key, value in flatten(config).items():
        if key in choices and value not in choices[key]:
            raise invalid_value(
                f"{key} must be one of {', '.join(choices[key])}, not '{escape(value)}'; "
                f"{nearest(value, choices[key])}"
            )
        items = value if isinstance(value, list) else [value]
        if key in ranges and not (
            items and all(type(x) in (int, float) and ranges[key].contains(x) for x in items)
        ):
            each = "a list of numbers, each " if isinstance(value, list) else ""
            raise invalid_value(f"{key} must be {each}{ranges[key].words}, not {short_repr(value)}")


def validate_masking(config: CfgNode) -> None:
    masking = config.DATA.MASKED_LM
    total = masking.MASK_PROBABILITY + masking.REPLACE_PROBABILITY
    if total > 1 + 1e-9:  # 0.7 + 0.3 may exceed 1 by a rounding error
        raise invalid_value(
            "DATA.MASKED_LM.MASK_PROBABILITY and REPLACE_PROBABILITY must sum to at most 1, "
            f"not {total:g}"
        )


def validate_special_tokens(config: CfgNode) -> None:
    if config.MODEL.NAME == "multilabel_classification":
        return  # the vocabulary consists of classes, not tokens
    data = config.DATA
    indices = {key: data[key] for key in ("UNK_INDEX", "SOS_INDEX", "EOS_INDEX", "MASK_INDEX")}
    if len(set(indices.values())) < len(indices):
        found = ", ".join(f"DATA.{key} {index}" for key, index in indices.items())
        raise invalid_value(f"the special tokens must have different ids, not {found}")
    for key, index in indices.items():
        if index >= data.VOCAB_SIZE:
            raise invalid_value(
                f"DATA.{key} must be less than DATA.VOCAB_SIZE {data.VOCAB_SIZE}, not {index}"
            )


def validate_textual(config: CfgNode) -> None:
    size, model = parse_textual_name(config.MODEL.TEXTUAL.NAME), config.MODEL.NAME
    if size is not None and model in CLASSIFICATION_MODELS:
        raise invalid_value(
            f"MODEL.TEXTUAL.NAME must be none for {model}, which has no transformer, not "
            f"{config.MODEL.TEXTUAL.NAME}"
        )
    if size is None and model not in CLASSIFICATION_MODELS:
        raise invalid_value(
            f"MODEL.TEXTUAL.NAME must describe a transformer for {model}, such as "
            "transdec_postnorm::L1_H2048_A32_F8192, not none"
        )


def validate_decoding(config: CfgNode) -> None:
    steps, length = config.MODEL.DECODER.MAX_DECODING_STEPS, config.DATA.MAX_CAPTION_LENGTH
    if config.MODEL.NAME in CAPTIONING_MODELS and steps > length:
        raise invalid_value(
            f"MODEL.DECODER.MAX_DECODING_STEPS must be at most DATA.MAX_CAPTION_LENGTH {length}, "
            f"the number of positions of the model, not {steps}"
        )


def validate_schedule(config: CfgNode) -> None:
    optim = config.OPTIM
    if optim.WARMUP_STEPS > optim.NUM_ITERATIONS:
        raise invalid_value(
            f"OPTIM.WARMUP_STEPS must be at most OPTIM.NUM_ITERATIONS {optim.NUM_ITERATIONS}, not "
            f"{optim.WARMUP_STEPS}"
        )
    if optim.LR_DECAY_NAME != "multistep":
        return
    steps = optim.LR_STEPS
    integers = all(type(step) is int for step in steps)
    if not steps or not integers or not is_ascending([optim.WARMUP_STEPS, *steps]):
        raise invalid_value(
            "OPTIM.LR_STEPS must be ascending integers above OPTIM.WARMUP_STEPS "
            f"{optim.WARMUP_STEPS} for multistep, not {short_repr(steps)}"
        )


def validate_no_decay(config: CfgNode) -> None:
    pattern = config.OPTIM.NO_DECAY
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise invalid_value(
            f"OPTIM.NO_DECAY must be a regular expression, not '{escape(pattern)}': "
            f"{escape(str(error))}"
        ) from error


def validate_crops(data: CfgNode) -> None:
    if data.IMAGE_CROP_SIZE > data.IMAGE_RESIZE_SIZE:
        raise invalid_value(
            "DATA.IMAGE_CROP_SIZE must be at most DATA.IMAGE_RESIZE_SIZE "
            f"{data.IMAGE_RESIZE_SIZE}, not {data.IMAGE_CROP_SIZE}"
        )
    for key in ("CROP_SCALE", "CROP_RATIO"):
        limits = data.get(key, [1.0, 1.0])
        if len(limits) != 2 or limits[0] > limits[1]:
            raise invalid_value(f"DATA.{key} must be two ascending numbers, not {limits}")


def validate_step_epochs(optim: CfgNode) -> None:
    steps = optim.LR_STEP_EPOCHS
    if not all(type(step) in (int, float) for step in steps) or not is_ascending([0, *steps]):
        raise invalid_value(
            f"OPTIM.LR_STEP_EPOCHS must be ascending numbers above 0, not {short_repr(steps)}"
        )
    if optim.LR_DECAY_NAME == "multistep" and not (steps and steps[-1] < optim.NUM_EPOCHS):
        raise invalid_value(
            "OPTIM.LR_STEP_EPOCHS must be numbers below OPTIM.NUM_EPOCHS "
            f"{optim.NUM_EPOCHS} for multistep, not {short_repr(steps)}"
        )


def is_ascending(numbers: Sequence[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))

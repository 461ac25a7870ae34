"""What settings must be, so that a run does not fail late: a table of choices, one of limits."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from virtex.config.defaults import get_setting
from virtex.config.reading import nearest, shown
from virtex.errors import UserError
from virtex.quoting import quoted

# What MODEL.NAME can be: models that write captions, all that read them, and classifiers.
CAPTIONING_MODELS = ("virtex", "bicaptioning", "captioning")
TEXT_MODELS = (*CAPTIONING_MODELS, "masked_lm")
CLASSIFICATION_MODELS = ("token_classification", "multilabel_classification")


@dataclass(frozen=True)
class TransformerSize:
    """What ``MODEL.TEXTUAL.NAME`` says of the transformer.

    Attributes:
        layers: number of decoder layers.
        hidden: size of embeddings and of attention features.
        heads: attention heads; they share ``hidden`` evenly.
        feedforward: size of the layer inside the feedforward block.
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
    """Read ``transdec_postnorm::L1_H2048_A32_F8192`` and its like; None for ``"none"``.

    Raises:
        UserError: the name is of another form, or its heads do not divide its hidden size.
    """
    if name == "none":
        return None
    match = _TRANSFORMER.fullmatch(name)
    if match is None:
        raise UserError(
            f"MODEL.TEXTUAL.NAME is '{quoted(name)}'; it can be none, or transdec_postnorm or "
            "transdec_prenorm with sizes, such as transdec_postnorm::L1_H2048_A32_F8192"
        )
    layers, hidden, heads, feedforward = map(int, match.groups()[1:])
    if hidden % heads:
        raise UserError(
            f"MODEL.TEXTUAL.NAME is {name!r}; its {heads} attention heads (A) cannot share its "
            f"hidden size (H) of {hidden} evenly"
        )
    return TransformerSize(layers, hidden, heads, feedforward, match[1] == "pre")


CHOICES: dict[str, tuple[str, ...]] = {
    "AMP_DTYPE": ("auto", "bfloat16", "float16"),
    "MODEL.NAME": (*TEXT_MODELS, *CLASSIFICATION_MODELS),
    "MODEL.DECODER.NAME": ("beam_search", "nucleus_sampling"),
    "OPTIM.OPTIMIZER_NAME": ("sgd", "adamw"),
    "OPTIM.LR_DECAY_NAME": ("none", "linear", "cosine", "multistep"),
}


@dataclass(frozen=True)
class Limit:
    """What a number can be, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Limit("a positive number", lambda value: value > 0)
NOT_NEGATIVE = Limit("0 or more", lambda value: value >= 0)
SHARE = Limit("between 0 and 1", lambda value: 0 <= value <= 1)
SHARE_BELOW_1 = Limit("at least 0 and less than 1", lambda value: 0 <= value < 1)
SHARE_ABOVE_0 = Limit("more than 0 and at most 1", lambda value: 0 < value <= 1)

LIMITS: dict[str, Limit] = {
    "RANDOM_SEED": NOT_NEGATIVE,
    "DATA.VOCAB_SIZE": POSITIVE,
    "DATA.UNK_INDEX": NOT_NEGATIVE,
    "DATA.SOS_INDEX": NOT_NEGATIVE,
    "DATA.EOS_INDEX": NOT_NEGATIVE,
    "DATA.MASK_INDEX": NOT_NEGATIVE,
    "DATA.IMAGE_CROP_SIZE": POSITIVE,
    "DATA.MAX_CAPTION_LENGTH": Limit(
        "from 3 ([SOS], a token, [EOS]) to 10000", lambda value: 3 <= value <= 10000
    ),
    "DATA.USE_PERCENTAGE": Limit("more than 0 and at most 100", lambda value: 0 < value <= 100),
    "DATA.MASKED_LM.MASK_PROPORTION": SHARE,
    "DATA.MASKED_LM.MASK_PROBABILITY": SHARE,
    "DATA.MASKED_LM.REPLACE_PROBABILITY": SHARE,
    "MODEL.VISUAL.FEATURE_SIZE": NOT_NEGATIVE,
    "MODEL.TEXTUAL.DROPOUT": SHARE_BELOW_1,
    "MODEL.DECODER.BEAM_SIZE": POSITIVE,
    "MODEL.DECODER.PER_NODE_BEAM_SIZE": POSITIVE,
    "MODEL.DECODER.NUCLEUS_SIZE": SHARE_ABOVE_0,
    "MODEL.DECODER.MAX_DECODING_STEPS": POSITIVE,
    "OPTIM.SGD_MOMENTUM": SHARE_BELOW_1,
    "OPTIM.WEIGHT_DECAY": NOT_NEGATIVE,
    "OPTIM.CLIP_GRAD_NORM": NOT_NEGATIVE,
    "OPTIM.LOOKAHEAD.ALPHA": SHARE_ABOVE_0,
    "OPTIM.LOOKAHEAD.STEPS": POSITIVE,
    "OPTIM.BATCH_SIZE": POSITIVE,
    "OPTIM.CNN_LR": NOT_NEGATIVE,
    "OPTIM.LR": NOT_NEGATIVE,
    "OPTIM.NUM_ITERATIONS": NOT_NEGATIVE,  # 0: the model as it is before its training
    "OPTIM.WARMUP_STEPS": NOT_NEGATIVE,
    "OPTIM.LR_GAMMA": NOT_NEGATIVE,
}


def check_config(config: CfgNode) -> None:
    """Refuse values that cannot work, before anything is built from them.

    Raises:
        UserError: naming the key, its value and what it can be.
    """
    for check in CHECKS:
        check(config)


def check_choices(config: CfgNode, table: Mapping[str, Sequence[str]] = CHOICES) -> None:
    """Each key of ``table`` has one of its values."""
    for key, choices in table.items():
        value = get_setting(config, key)
        if value not in choices:
            raise UserError(
                f"{key} is '{quoted(value)}'; it can be {', '.join(choices)}; "
                f"{nearest(value, choices)}"
            )


def check_limits(config: CfgNode, table: Mapping[str, Limit] = LIMITS) -> None:
    """Each key of ``table`` is a number within its limit, or a list of such numbers."""
    for key, limit in table.items():
        value = get_setting(config, key)
        if isinstance(value, list):
            numbers = all(type(item) in (int, float) and limit.holds(item) for item in value)
            if not (value and numbers):
                raise UserError(f"{key} is {shown(value)}; each of its items must be {limit.words}")
        elif not limit.holds(value):
            raise UserError(f"{key} is {value}; it must be {limit.words}")


def check_transforms(config: CfgNode) -> None:
    for key in ("DATA.IMAGE_TRANSFORM_TRAIN", "DATA.IMAGE_TRANSFORM_VAL"):
        names = get_setting(config, key)
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"{key} must be a list of transform names, not {shown(names)}")


def check_masking(config: CfgNode) -> None:
    masking = config.DATA.MASKED_LM
    total = masking.MASK_PROBABILITY + masking.REPLACE_PROBABILITY
    if total > 1 + 1e-9:  # sums such as 0.7 + 0.3 may miss 1 by a rounding error
        raise UserError(
            "DATA.MASKED_LM.MASK_PROBABILITY and REPLACE_PROBABILITY are shares of the same "
            f"tokens and must not sum to more than 1; they sum to {total:g}"
        )


def check_special_tokens(config: CfgNode) -> None:
    if config.MODEL.NAME == "multilabel_classification":
        return  # it has classes, no tokens
    data = config.DATA
    indices = {key: data[key] for key in ("UNK_INDEX", "SOS_INDEX", "EOS_INDEX", "MASK_INDEX")}
    if len(set(indices.values())) < len(indices):
        said = ", ".join(f"{key} {index}" for key, index in indices.items())
        raise UserError(f"the special tokens of DATA must differ; they are {said}")
    for key, index in indices.items():
        if index >= data.VOCAB_SIZE:
            raise UserError(
                f"DATA.{key} is {index}; it must be less than DATA.VOCAB_SIZE, {data.VOCAB_SIZE}"
            )


def check_textual(config: CfgNode) -> None:
    size, model = parse_textual_name(config.MODEL.TEXTUAL.NAME), config.MODEL.NAME
    if size is not None and model in CLASSIFICATION_MODELS:
        raise UserError(
            f"MODEL.TEXTUAL.NAME is {config.MODEL.TEXTUAL.NAME!r}; {model} has no transformer: "
            "set it to none"
        )
    if size is None and model not in CLASSIFICATION_MODELS:
        raise UserError(
            f"MODEL.TEXTUAL.NAME is 'none'; {model} needs a transformer, such as "
            "transdec_postnorm::L1_H2048_A32_F8192"
        )


def check_decoding(config: CfgNode) -> None:
    steps, length = config.MODEL.DECODER.MAX_DECODING_STEPS, config.DATA.MAX_CAPTION_LENGTH
    if config.MODEL.NAME in CAPTIONING_MODELS and steps > length:
        raise UserError(
            f"MODEL.DECODER.MAX_DECODING_STEPS is {steps}; it cannot be more than "
            f"DATA.MAX_CAPTION_LENGTH, {length}, the positions the model knows"
        )


def check_schedule(config: CfgNode) -> None:
    optim = config.OPTIM
    if optim.WARMUP_STEPS > optim.NUM_ITERATIONS:
        raise UserError(
            f"OPTIM.WARMUP_STEPS is {optim.WARMUP_STEPS}; it cannot be more than "
            f"OPTIM.NUM_ITERATIONS, {optim.NUM_ITERATIONS}"
        )
    if optim.LR_DECAY_NAME != "multistep":
        return
    steps = optim.LR_STEPS
    whole = all(type(step) is int for step in steps)
    if not steps or not whole or any(a >= b for a, b in itertools.pairwise(steps)):
        raise UserError(
            f"OPTIM.LR_STEPS is {shown(steps)}; multistep needs ascending whole numbers there"
        )
    if steps[0] <= optim.WARMUP_STEPS:
        raise UserError(
            f"OPTIM.LR_STEPS begins at {steps[0]}; it must begin after OPTIM.WARMUP_STEPS, "
            f"{optim.WARMUP_STEPS}"
        )


def check_no_decay(config: CfgNode) -> None:
    try:
        re.compile(config.OPTIM.NO_DECAY)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"OPTIM.NO_DECAY is '{quoted(config.OPTIM.NO_DECAY)}', which is no regular expression: "
            f"{quoted(str(error))}"
        ) from error


CHECKS: tuple[Callable[[CfgNode], None], ...] = (
    *(check_choices, check_limits, check_transforms, check_masking, check_special_tokens),
    *(check_textual, check_decoding, check_schedule, check_no_decay),
)

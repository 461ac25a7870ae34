"""Keys and names of earlier versions of VirTex, and what they are now."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OldKey:
    """A key of an earlier VirTex.

    Attributes:
        now: the key that took its place; None: nothing did.
        note: what to know of it, for the log.
        convert: its value -> the value of ``now``.
    """

    now: str | None
    note: str
    convert: Callable[[Any], Any] = lambda value: value


def _any_level_but_0(level: Any) -> Any:
    # what is no level is left to fail as a value of AMP
    return level != 0 if type(level) is int else level


# FP16_OPT and TOKENIZER_VOCAB are of v0.9; the flat Lookahead keys were there up to v1.0.
OLD_KEYS: dict[str, OldKey] = {
    "FP16_OPT": OldKey("AMP", "Apex's level is AMP now: False for 0, else True", _any_level_but_0),
    "DATA.TOKENIZER_VOCAB": OldKey(None, "not needed: the tokenizer model holds its vocabulary"),
    "OPTIM.USE_LOOKAHEAD": OldKey("OPTIM.LOOKAHEAD.USE", "is OPTIM.LOOKAHEAD.USE now"),
    "OPTIM.LOOKAHEAD_ALPHA": OldKey("OPTIM.LOOKAHEAD.ALPHA", "is OPTIM.LOOKAHEAD.ALPHA now"),
    "OPTIM.LOOKAHEAD_STEPS": OldKey("OPTIM.LOOKAHEAD.STEPS", "is OPTIM.LOOKAHEAD.STEPS now"),
}

# key -> what its values began with in an earlier VirTex -> what they begin with now
OLD_NAMES: dict[str, dict[str, str]] = {
    "MODEL.TEXTUAL.NAME": {
        "transformer_postnorm::": "transdec_postnorm::",
        "transformer_prenorm::": "transdec_prenorm::",
    },
    # v0.9 spelled it in a way that torchvision never did
    "MODEL.VISUAL.NAME": {"torchvision::wide_resnet50_2x": "torchvision::wide_resnet50_2"},
}

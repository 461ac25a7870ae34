"""Keys and names of earlier versions of VirTex, and their replacements."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OldKey:
    """A key of an earlier VirTex.

    Attributes:
        replacement: the new key; None if the old one is ignored.
        note: for the log.
        convert: old value -> value of ``replacement``.
    """

    replacement: str | None
    note: str
    convert: Callable[[Any], Any] = lambda value: value


def is_mixed_precision(level: Any) -> Any:
    # other types are kept, and rejected as values of AMP
    return level != 0 if type(level) is int else level


# FP16_OPT and TOKENIZER_VOCAB: v0.9. The flat Lookahead keys: up to v1.0.
OLD_KEYS: dict[str, OldKey] = {
    "FP16_OPT": OldKey(
        "AMP", "Apex's level became AMP: False for 0, else True", is_mixed_precision
    ),
    "DATA.TOKENIZER_VOCAB": OldKey(None, "ignored: the tokenizer model contains its vocabulary"),
    "OPTIM.USE_LOOKAHEAD": OldKey("OPTIM.LOOKAHEAD.USE", "it is now OPTIM.LOOKAHEAD.USE"),
    "OPTIM.LOOKAHEAD_ALPHA": OldKey("OPTIM.LOOKAHEAD.ALPHA", "it is now OPTIM.LOOKAHEAD.ALPHA"),
    "OPTIM.LOOKAHEAD_STEPS": OldKey("OPTIM.LOOKAHEAD.STEPS", "it is now OPTIM.LOOKAHEAD.STEPS"),
}

# key -> old prefix of its values -> new prefix
OLD_NAMES: dict[str, dict[str, str]] = {
    "MODEL.TEXTUAL.NAME": {
        "transformer_postnorm::": "transdec_postnorm::",
        "transformer_prenorm::": "transdec_prenorm::",
    },
    # v0.9's own spelling, which torchvision never had
    "MODEL.VISUAL.NAME": {"torchvision::wide_resnet50_2x": "torchvision::wide_resnet50_2"},
}

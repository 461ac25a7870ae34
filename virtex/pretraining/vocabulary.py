"""The vocabulary and the data paths of a pretraining config."""

from pathlib import Path

from fvcore.common.config import CfgNode

from virtex.config import get_setting, with_settings
from virtex.data.tokenizer import Tokenizer
from virtex.errors import UserError

TOKENIZER = "tokenizer.model"  # the file in the folder of a run
PATH_KEYS = ("DATA.ROOT", "DATA.TOKENIZER_MODEL")


def open_tokenizer(config: CfgNode) -> Tokenizer:
    """Open the vocabulary of a config.

    Raises:
        UserError: it is missing (the message gives the command to train it) or invalid.
    """
    data = config.DATA
    path = Path(data.TOKENIZER_MODEL)
    if not path.exists():
        raise UserError(
            f"vocabulary not found: {path}; train one with: {tokenizer_command(data)} (a small "
            "corpus needs a smaller DATA.VOCAB_SIZE), or set DATA.TOKENIZER_MODEL FILE",
            "tokenizer.not_found",
        )
    return Tokenizer(path)


def tokenizer_command(data: CfgNode) -> str:
    """Return the command that trains the vocabulary of the section ``DATA`` of a config."""
    return (
        f"python -m virtex.data.tokenizer --captions {data.ROOT}/annotations/"
        f"captions_train2017.json --vocab-size {data.VOCAB_SIZE} --output {data.TOKENIZER_MODEL}"
    )


def replace_data_root(config: CfgNode, data_root: str | None) -> CfgNode:
    """Replace the leading ``datasets/`` of the config's paths by ``data_root``."""
    paths = {key: Path(get_setting(config, key)) for key in PATH_KEYS}
    return with_settings(
        config,
        {
            key: str(Path(data_root, *path.parts[1:]))
            for key, path in paths.items()
            if data_root is not None and path.parts[:1] == ("datasets",)
        },
    )


def validate_vocabulary(tokenizer: Tokenizer, data: CfgNode) -> None:
    """Check a vocabulary against the section ``DATA`` of a config.

    Raises:
        UserError: it has more tokens, or special tokens with other ids.
    """
    if len(tokenizer) > data.VOCAB_SIZE:
        raise UserError(
            f"the vocabulary {tokenizer.path} must have at most DATA.VOCAB_SIZE {data.VOCAB_SIZE} "
            f"tokens, not {len(tokenizer)}; set DATA.VOCAB_SIZE {len(tokenizer)}, or train a "
            f"vocabulary with --vocab-size {data.VOCAB_SIZE}",
            code="tokenizer.mismatch",
        )
    wanted = {"UNK": tokenizer.pad_id, "SOS": tokenizer.sos_id}
    wanted |= {"EOS": tokenizer.eos_id, "MASK": tokenizer.mask_id}
    for name, number in wanted.items():
        if data[f"{name}_INDEX"] != number:
            raise UserError(
                f"DATA.{name}_INDEX must be {number}, the id of that token in the vocabulary "
                f"{tokenizer.path}, not {data[f'{name}_INDEX']}; set DATA.{name}_INDEX {number}",
                code="tokenizer.mismatch",
            )

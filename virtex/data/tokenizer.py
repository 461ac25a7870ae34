"""Train a SentencePiece vocabulary and tokenize captions with it.

    python -m virtex.data.tokenizer --vocab-size 10000 --output datasets/vocab/coco_10k.model \\
        --captions datasets/coco/annotations/captions_train2017.json
    python -m virtex.data.tokenizer --vocab-size 5000 --output vocab/two.model \\
        --captions captions_train2017.json more_captions.txt

A .json file contains COCO captions, a .txt file one caption per line. Training reads
coco_10k.model; coco_10k.vocab, in the same folder, lists the tokens and their scores for
inspection. The output is deterministic: the same captions give the same bytes.
"""

import argparse
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from virtex.cli import positive_int, run_tool, tool_parser
from virtex.data.sentencepiece_model import is_complete_model
from virtex.errors import UserError
from virtex.files import read_file, replace_file

SPECIAL_TOKENS = ("<unk>", "[SOS]", "[EOS]", "[MASK]")  # the position is the id
PAD = UNKNOWN = 0  # the published vocabulary uses one id for both
SOS, EOS, MASK = 1, 2, 3
MAX_CAPTION_LENGTH = 30  # tokens; longer captions are truncated by the published models
HOW_TO_TRAIN = (
    "train one with: python -m virtex.data.tokenizer --captions "
    "datasets/coco/annotations/captions_train2017.json --vocab-size 10000 --output"
)


def normalize_caption(text: str) -> str:
    """Return ``text`` in lower case, without accents, with single spaces.

    Applies NFKD, drops combining marks, and replaces line breaks and tabs by spaces. Idempotent.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    # JSON can contain unpaired surrogates, which sentencepiece rejects
    valid = plain.encode("utf-8", "ignore").decode("utf-8")
    return " ".join(valid.lower().split())


class Tokenizer:
    """A SentencePiece vocabulary. Can be pickled, and then no longer needs its file.

    Attributes:
        path: the file it was read from.
        sha256: of the content of the file.
        pad_id: 0, also the id of unknown tokens.
        sos_id, eos_id, mask_id: 1, 2 and 3.
    """

    pad_id, sos_id, eos_id, mask_id = PAD, SOS, EOS, MASK

    def __init__(self, path: str | Path):
        """
        Raises:
            UserError: the file is missing, is not a SentencePiece model, is truncated, or has
                special tokens with different ids.
        """
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        try:
            content = read_file(self.path)
            self.sha256 = hashlib.sha256(content).hexdigest()
        except FileNotFoundError as error:
            raise UserError(
                f"vocabulary not found: {self.path}; {HOW_TO_TRAIN} {self.path}",
                "tokenizer.not_found",
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot read the vocabulary {self.path}: {error.strerror}", "tokenizer.unreadable"
            ) from error
        if not is_complete_model(content):
            raise UserError(
                f"{self.path} is not a SentencePiece model, or it is truncated; copy it again, or "
                f"{HOW_TO_TRAIN} NEW.model",
                "tokenizer.invalid",
            )
        try:
            self._processor = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise UserError(
                f"{self.path} is not a SentencePiece model; name another file, or "
                f"{HOW_TO_TRAIN} NEW.model",
                "tokenizer.invalid",
            ) from error
        self._check_special_tokens()

    def _check_special_tokens(self) -> None:
        try:
            pieces = [self.id_to_piece(i) for i in range(len(self))]
        except UnicodeDecodeError as error:  # would otherwise be raised when a caption is decoded
            raise UserError(
                f"the vocabulary {self.path} contains a token that is not valid UTF-8; copy it "
                f"again, or {HOW_TO_TRAIN} NEW.model",
                "tokenizer.invalid",
            ) from error
        found = tuple(pieces[:4])
        if found != SPECIAL_TOKENS or self._processor.unk_id() != UNKNOWN:
            raise UserError(
                f"tokens 0 to 3 of the vocabulary {self.path} must be "
                f"{', '.join(SPECIAL_TOKENS)}, not {', '.join(found)}; {HOW_TO_TRAIN} NEW.model",
                "tokenizer.special_tokens",
            )

    def __len__(self) -> int:
        """Return the number of tokens, including special ones."""
        return self._processor.get_piece_size()

    def id_to_piece(self, index: int) -> str:
        """Return the token with an id; "▁" in it stands for a space.

        Raises:
            IndexError: the vocabulary has no such id.
        """
        return self._processor.id_to_piece(index)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the normalized text without [SOS] and [EOS]; 0 for unknown tokens."""
        return self._processor.encode(normalize_caption(text))

    def encode_caption(self, text: str, max_length: int) -> list[int]:
        """Return ``[SOS, …, EOS]`` with at most ``max_length`` ids.

        Longer captions are truncated before [EOS], so that the model learns where captions end.

        Raises:
            ValueError: ``max_length`` is below 2.
        """
        if max_length < 2:
            raise ValueError(f"[SOS] and [EOS] do not fit into {max_length} tokens")
        return [SOS, *self.encode(text)[: max_length - 2], EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``.

        Skips special tokens and ids outside of the vocabulary: a model may have more outputs than
        the vocabulary has tokens.
        """
        return self._processor.decode([int(i) for i in ids if MASK < i < len(self)])


def train_tokenizer(captions: Iterable[str], vocab_size: int, output: Path) -> Tokenizer:
    """Train a vocabulary (byte pair encoding) and write it to ``output``, creating its folder.

    Also writes the list of its tokens, with the suffix .vocab.

    Args:
        captions: raw captions; they are normalized here.
        vocab_size: number of tokens, including the 4 special ones.

    Raises:
        UserError: there are no captions, they do not allow this ``vocab_size``, or ``output``
            cannot be written.
    """
    output = Path(output)
    if output.suffix == ".vocab":
        raise UserError(
            f"--output {output} has the suffix of the list of tokens; use .model instead",
            "arguments.output",
        )
    lines = [line for line in map(normalize_caption, captions) if line]
    if not lines:
        raise UserError(
            "no captions to train a vocabulary on; name files that contain captions",
            "data.empty",
        )
    model = _train_model(lines, vocab_size)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(output, lambda file: file.write(model))
        tokenizer = Tokenizer(output)
        replace_file(
            output.with_suffix(".vocab"), lambda file: file.write(_format_vocab(tokenizer))
        )
    except OSError as error:
        raise UserError(
            f"cannot write the vocabulary {output}: {error.strerror}; free some space, or name "
            "another --output",
            "arguments.output",
        ) from error
    return tokenizer


def _train_model(lines: list[str], vocab_size: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=max(vocab_size, 1),  # its error for 0 does not name the smallest size
            model_type="bpe",
            character_coverage=1.0,
            unk_id=UNKNOWN,
            pad_id=-1,
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(SPECIAL_TOKENS[1:]),
            num_threads=1,  # the number is stored in the model
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise _parse_size_error(vocab_size, str(error)) or UserError(
            f"SentencePiece cannot train a vocabulary of {vocab_size} tokens on these captions: "
            f"{error}",
            "tokenizer.vocab_size",
        ) from error
    return model.getvalue()


def _parse_size_error(vocab_size: int, message: str) -> UserError | None:
    """Translate sentencepiece's message about an impossible ``vocab_size``; None for others."""
    limits = (
        (r"Please set it to a value <= (\d+)", "at most", "the captions give no more tokens"),
        (r"\d+ vs (\d+)\.", "at least", "special tokens and characters need as many"),
    )
    for pattern, bound, reason in limits:
        if found := re.search(pattern, message):
            return UserError(
                f"--vocab-size must be {bound} {found[1]}, not {vocab_size}: {reason}",
                "tokenizer.vocab_size",
            )
    return None


def _format_vocab(tokenizer: Tokenizer) -> bytes:
    """Format one token and score per line, as sentencepiece's command does."""
    score = tokenizer._processor.get_score
    lines = (f"{tokenizer.id_to_piece(i)}\t{score(i):g}\n" for i in range(len(tokenizer)))
    return "".join(lines).encode()


def read_caption_files(paths: Iterable[Path]) -> list[str]:
    """Read the captions of COCO JSON files and of .txt files with one caption per line.

    Raises:
        UserError: a file is missing, has another suffix, or contains no captions.
    """
    return list(chain.from_iterable(_read_captions(Path(path)) for path in paths))


def _read_captions(path: Path) -> list[str]:
    from virtex.data.captions import caption_annotations

    if path.suffix == ".json":
        return [annotation["caption"] for annotation in caption_annotations(path)]
    if path.suffix != ".txt":
        raise UserError(
            f"captions must be a .json (COCO) or .txt file (one caption per line), not {path}",
            "data.caption_file",
        )
    try:
        return [line for line in read_file(path).decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read captions from {path}: {error}", "data.unreadable") from error


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--captions",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".json (COCO) or .txt",
    )
    parser.add_argument(
        "--vocab-size",
        type=positive_int,
        default=10000,
        metavar="N",
        help="number of tokens (default: 10000)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.model", help="model to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise UserError(
            f"--output {args.output} already exists; use --overwrite to replace it",
            "arguments.output",
        )
    captions = read_caption_files(args.captions)
    tokenizer = train_tokenizer(captions, args.vocab_size, args.output)
    num_long = sum(len(tokenizer.encode(caption)) + 2 > MAX_CAPTION_LENGTH for caption in captions)
    percentage = 100 * num_long / len(captions)
    example = " ".join(tokenizer.id_to_piece(i) for i in tokenizer.encode(captions[0]))
    print(f"vocabulary: {len(tokenizer)} tokens from {len(captions)} captions")
    print(f"written:    {args.output} and {args.output.with_suffix('.vocab').name}")
    print(f"example:    {captions[0].strip()!r} -> {example}")
    print(f"longer than {MAX_CAPTION_LENGTH} tokens with [SOS] and [EOS]: {percentage:.2f}%")


if __name__ == "__main__":
    run_tool(main, build_parser())

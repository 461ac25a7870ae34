"""Captions as token ids: a sentencepiece vocabulary, trained once and used the same way ever after.

    python -m virtex.data.tokenizer --vocab-size 10000 --output datasets/vocab/coco_10k.model \\
        --captions datasets/coco/annotations/captions_train2017.json
    python -m virtex.data.tokenizer --vocab-size 5000 --output vocab/two.model \\
        --captions captions_train2017.json more_captions.txt

A .json file holds COCO captions, a .txt file one caption a line. Beside coco_10k.model, which
training reads, coco_10k.vocab lists the tokens and their scores to be looked at. The same
captions always give the same bytes.
"""

import argparse
import io
import re
import unicodedata
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from virtex.cli import positive_int, run_tool, tool_parser
from virtex.data.sentencepiece_model import is_whole_model
from virtex.errors import UserError
from virtex.files import read_file, replace_file

SPECIAL_TOKENS = ("<unk>", "[SOS]", "[EOS]", "[MASK]")  # their places are their ids
PAD = UNKNOWN = 0  # one id for both, as in the published vocabulary
SOS, EOS, MASK = 1, 2, 3
SHOWN_LENGTH = 30  # tokens of a caption that the published models see at most
HOW_TO_TRAIN = (
    "train one with: python -m virtex.data.tokenizer --captions "
    "datasets/coco/annotations/captions_train2017.json --vocab-size 10000 --output"
)


def normalize_caption(text: str) -> str:
    """``text`` as the vocabulary sees it: lower case, no accents, single spaces.

    Compatibility forms are decomposed (NFKD), combining marks dropped; line breaks and tabs
    become spaces. Done twice it changes nothing more.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    # JSON can hold halves of characters, which sentencepiece does not take
    whole = plain.encode("utf-8", "ignore").decode("utf-8")
    return " ".join(whole.lower().split())


class Tokenizer:
    """A sentencepiece vocabulary. It can be pickled, and then needs its file no more.

    Attributes:
        path: the file it was read from.
        pad_id: 0, also the id of whatever the vocabulary does not know.
        sos_id, eos_id, mask_id: 1, 2 and 3.
    """

    pad_id, sos_id, eos_id, mask_id = PAD, SOS, EOS, MASK

    def __init__(self, path: str | Path):
        """
        Raises:
            UserError: no such file; no sentencepiece model, or not a whole one; special tokens
                with other ids than here.
        """
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        try:
            content = read_file(self.path)
        except FileNotFoundError as error:
            raise UserError(
                f"there is no vocabulary {self.path}; {HOW_TO_TRAIN} {self.path}"
            ) from error
        except OSError as error:
            raise UserError(f"cannot read the vocabulary {self.path}: {error.strerror}") from error
        if not is_whole_model(content):
            raise UserError(
                f"{self.path} is not a sentencepiece model, or not a whole one; copy it again, "
                f"or {HOW_TO_TRAIN} NEW.model"
            )
        try:
            self._processor = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise UserError(
                f"{self.path} is not a sentencepiece model; give one, or {HOW_TO_TRAIN} NEW.model"
            ) from error
        self._check_special_tokens()

    def _check_special_tokens(self) -> None:
        try:
            pieces = [self.piece(number) for number in range(len(self))]
        except UnicodeDecodeError as error:  # it would come when a caption is decoded
            raise UserError(
                f"the vocabulary {self.path} holds a token that is no text; copy it again, or "
                f"{HOW_TO_TRAIN} NEW.model"
            ) from error
        found = tuple(pieces[:4])
        if found != SPECIAL_TOKENS or self._processor.unk_id() != UNKNOWN:
            raise UserError(
                f"the vocabulary {self.path} is foreign: its tokens 0 to 3 are {', '.join(found)}, "
                f"but {', '.join(SPECIAL_TOKENS)} are needed; {HOW_TO_TRAIN} NEW.model"
            )

    def __len__(self) -> int:
        """Number of tokens, special ones included."""
        return self._processor.get_piece_size()

    def piece(self, number: int) -> str:
        """The token of an id; "▁" in it stands for a space. Raises IndexError beyond the last."""
        return self._processor.id_to_piece(number)

    def encode(self, text: str) -> list[int]:
        """Ids of the normalized text, without [SOS] and [EOS]; 0 for what is unknown."""
        return self._processor.encode(normalize_caption(text))

    def encode_caption(self, text: str, max_length: int) -> list[int]:
        """``[SOS, …, EOS]`` with ``max_length`` ids at most.

        Of a longer caption the last words are left out, never [EOS]: a model that is not shown
        where captions end does not learn to end one. Raises ValueError for a length below 2.
        """
        if max_length < 2:
            raise ValueError(f"[SOS] and [EOS] do not fit into {max_length} tokens")
        return [SOS, *self.encode(text)[: max_length - 2], EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, special tokens left out.

        So are ids beyond the vocabulary: a model may have more outputs than there are tokens.
        """
        return self._processor.decode([int(i) for i in ids if MASK < i < len(self)])


def train_tokenizer(captions: Iterable[str], vocab_size: int, output: Path) -> Tokenizer:
    """Learn a vocabulary (byte pair encoding) and write it to ``output``, its folders included.

    A list of its tokens is written beside it with the suffix .vocab.

    Args:
        captions: as they are; they are normalized here.
        vocab_size: number of tokens, the 4 special ones included.

    Raises:
        UserError: no caption; a size these captions do not allow; ``output`` cannot be written.
    """
    output = Path(output)
    if output.suffix == ".vocab":
        raise UserError(f"{output} is the name for the list of tokens; name the output ….model")
    lines = [line for line in map(normalize_caption, captions) if line]
    if not lines:
        raise UserError("there is no caption to train a vocabulary on; give files that hold some")
    model = _learn(lines, vocab_size)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(output, lambda file: file.write(model))
        tokenizer = Tokenizer(output)
        replace_file(output.with_suffix(".vocab"), lambda file: file.write(_listing(tokenizer)))
    except OSError as error:
        raise UserError(
            f"cannot write the vocabulary {output}: {error.strerror}; make room there, or name "
            "another --output"
        ) from error
    return tokenizer


def _learn(lines: list[str], vocab_size: int) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=max(vocab_size, 1),  # of 0 it does not say what it needs
            model_type="bpe",
            character_coverage=1.0,
            unk_id=UNKNOWN,
            pad_id=-1,
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(SPECIAL_TOKENS[1:]),
            num_threads=1,  # it is written into the file
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise _size_error(vocab_size, str(error)) or UserError(
            f"sentencepiece cannot learn {vocab_size} tokens from these captions: {error}"
        ) from error
    return model.getvalue()


def _size_error(vocab_size: int, message: str) -> UserError | None:
    """What sentencepiece says of a size that cannot be had, in plain words."""
    limits = (
        (
            r"Please set it to a value <= (\d+)",
            "too large",
            "these captions give {} tokens at most",
        ),
        (r"\d+ vs (\d+)\.", "too small", "the special tokens and characters alone are {}"),
    )
    for pattern, verdict, reason in limits:
        if found := re.search(pattern, message):
            limit = found[1]
            return UserError(
                f"a vocabulary of {vocab_size} is {verdict}: {reason.format(limit)}; "
                f"give --vocab-size {limit} or {'less' if verdict == 'too large' else 'more'}"
            )
    return None


def _listing(tokenizer: Tokenizer) -> bytes:
    """One token a line with its score, as sentencepiece itself writes it."""
    score = tokenizer._processor.get_score
    return "".join(f"{tokenizer.piece(i)}\t{score(i):g}\n" for i in range(len(tokenizer))).encode()


def read_caption_files(paths: Iterable[Path]) -> list[str]:
    """The captions of COCO JSON files and of .txt files with one a line.

    Raises:
        UserError: a file is missing, of another kind, or without captions.
    """
    return list(chain.from_iterable(_captions_of(Path(path)) for path in paths))


def _captions_of(path: Path) -> list[str]:
    from virtex.data.captions import caption_annotations

    if path.suffix == ".json":
        return [annotation["caption"] for annotation in caption_annotations(path)]
    if path.suffix != ".txt":
        raise UserError(f"{path}: captions are read from .json (COCO) and .txt files (one a line)")
    try:
        return [line for line in read_file(path).decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read captions from {path}: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--captions", type=Path, nargs="+", required=True, metavar="FILE", help=".json or .txt"
    )
    parser.add_argument(
        "--vocab-size",
        type=positive_int,
        default=10000,
        metavar="N",
        help="tokens (default: 10000)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.model", help="file to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists; give --overwrite to replace it")
    captions = read_caption_files(args.captions)
    tokenizer = train_tokenizer(captions, args.vocab_size, args.output)
    long = sum(len(tokenizer.encode(caption)) + 2 > SHOWN_LENGTH for caption in captions)
    example = " ".join(tokenizer.piece(i) for i in tokenizer.encode(captions[0]))
    print(f"vocabulary: {len(tokenizer)} tokens of {len(captions)} captions")
    print(f"written:    {args.output} and {args.output.with_suffix('.vocab').name}")
    print(f"example:    {captions[0].strip()!r} -> {example}")
    print(f"longer than {SHOWN_LENGTH} tokens with [SOS] and [EOS]: {long / len(captions):.2%}")


if __name__ == "__main__":
    run_tool(main, build_parser())

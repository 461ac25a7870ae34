"""Training, validating and using a vocabulary."""

import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from tests.errors import assert_invalid_input, raises_code
from virtex.data.tokenizer import (
    Tokenizer,
    build_parser,
    main,
    normalize_caption,
    read_caption_files,
    train_tokenizer,
)
from virtex.errors import UserError

CAPTIONS = [
    "A man riding a wave on top of a surfboard.",
    "A café table with\ttwo cups of coffee.",
    "The bright red bus is left of the stop sign.",
    "Zebras grazing near a RIVER\nin the afternoon.",
    "Two dogs play with a frisbee on the beach.",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(CAPTIONS, 90, tmp_path_factory.mktemp("vocab") / "small.model")


def foreign_model(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=model, minloglevel=2, **options
    )
    return model.getvalue()


# Normalization -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A Man", "a man"),
        ("Café Zoë", "cafe zoe"),
        ("  two\twords\n of\u00a0text ", "two words of text"),
        ("ﬁve", "five"),
        ("a brand™", "a brandtm"),
        ("İstanbul", "istanbul"),
        ("half a \ud83d character", "half a character"),
        ("", ""),
    ],
)
def test_normalize_caption(text, plain):
    assert normalize_caption(text) == plain
    assert normalize_caption(plain) == plain


@pytest.mark.parametrize("text", ["A CAFÉ TABLE", "a cafe\ttable", "a  cafe\ntable "])
def test_encode_normalizes_text(tokenizer, text):
    assert tokenizer.encode(text) == tokenizer.encode("a cafe table")
    assert tokenizer.pad_id not in tokenizer.encode(text)


def test_vocabulary_is_normalized(tokenizer):
    pieces = "".join(tokenizer.id_to_piece(i) for i in range(4, len(tokenizer)))
    assert pieces == normalize_caption(pieces)


# Use ---------------------------------------------------------------------------------------------


def test_special_token_ids(tokenizer):
    assert [tokenizer.id_to_piece(i) for i in range(4)] == ["<unk>", "[SOS]", "[EOS]", "[MASK]"]
    assert (tokenizer.pad_id, tokenizer.sos_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 1, 2, 3)


def test_vocabulary_has_requested_size(tokenizer):
    assert len(tokenizer) == 90


def test_decode_inverts_encode(tokenizer):
    for caption in CAPTIONS:
        assert tokenizer.decode(tokenizer.encode(caption)) == normalize_caption(caption)


def test_decode_skips_special_and_invalid_ids(tokenizer):
    ids = tokenizer.encode("two dogs")
    assert tokenizer.decode([1, *ids[:2], 3, *ids[2:], 2, 0, 0, len(tokenizer), -1]) == "two dogs"


def test_unknown_characters_have_id_0(tokenizer):
    assert 0 in tokenizer.encode("東")


def test_special_tokens_in_text_are_plain_text(tokenizer):
    assert not {1, 2, 3} & set(tokenizer.encode("[EOS] [MASK]"))


def test_encode_caption_adds_sos_and_eos(tokenizer):
    ids = tokenizer.encode_caption("two dogs", 30)
    assert ids == [1, *tokenizer.encode("two dogs"), 2]


@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_truncated_caption_keeps_eos(tokenizer, length):
    ids = tokenizer.encode_caption(CAPTIONS[0], length)
    assert len(ids) == length
    assert ids == [1, *tokenizer.encode(CAPTIONS[0])[: length - 2], 2]


def test_caption_of_maximum_length_is_not_truncated(tokenizer):
    ids = tokenizer.encode(CAPTIONS[0])
    assert tokenizer.encode_caption(CAPTIONS[0], len(ids) + 2) == [1, *ids, 2]


def test_empty_caption_is_sos_and_eos(tokenizer):
    assert tokenizer.encode_caption(" \n", 30) == [1, 2]


def test_max_length_must_fit_sos_and_eos(tokenizer):
    with pytest.raises(ValueError, match="1 tokens"):
        tokenizer.encode_caption("two dogs", 1)


def test_pickled_tokenizer_does_not_need_its_file(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 60, tmp_path / "gone.model")
    (tmp_path / "gone.model").unlink()
    there = pickle.loads(pickle.dumps(tokenizer))
    assert there.encode_caption(CAPTIONS[1], 12) == tokenizer.encode_caption(CAPTIONS[1], 12)


# Training ----------------------------------------------------------------------------------------


def test_training_is_deterministic(tmp_path, tokenizer):
    train_tokenizer(iter(CAPTIONS), 90, tmp_path / "deep" / "again.model")
    again = (tmp_path / "deep" / "again.model").read_bytes()
    assert again == tokenizer.path.read_bytes()


def test_vocab_file_lists_tokens_and_scores(tokenizer):
    lines = tokenizer.path.with_suffix(".vocab").read_text("utf-8").split("\n")[:-1]
    assert [line.split("\t")[0] for line in lines] == [tokenizer.id_to_piece(i) for i in range(90)]
    assert lines[0] == "<unk>\t0"


def test_training_leaves_no_other_files(tokenizer):
    assert {path.name for path in tokenizer.path.parent.iterdir()} == {
        "small.model",
        "small.vocab",
    }


@pytest.mark.parametrize(("size", "step"), [(5000, 1), (10, -1), (0, -1)])
def test_invalid_size_error_names_the_limit(tmp_path, size, step):
    with raises_code("tokenizer.vocab_size", size) as caught:
        train_tokenizer(CAPTIONS, size, tmp_path / "a.model")
    limit = int(re.search(r"must be at (?:most|least) (\d+)", str(caught.value))[1])
    assert len(train_tokenizer(CAPTIONS, limit, tmp_path / "a.model")) == limit
    with raises_code("tokenizer.vocab_size"):
        train_tokenizer(CAPTIONS, limit + step, tmp_path / "a.model")


@pytest.mark.parametrize("captions", [[], ["", " \n"]])
def test_training_requires_captions(tmp_path, captions):
    with raises_code("data.empty"):
        train_tokenizer(captions, 50, tmp_path / "a.model")
    assert not list(tmp_path.iterdir())


def test_output_cannot_have_suffix_vocab(tmp_path):
    with raises_code("arguments.output", "a.vocab"):
        train_tokenizer(CAPTIONS, 60, tmp_path / "a.vocab")


# Invalid vocabularies ----------------------------------------------------------------------------


def test_missing_vocabulary(tmp_path):
    with raises_code("tokenizer.not_found", tmp_path / "none.model", "virtex.data.tokenizer"):
        Tokenizer(tmp_path / "none.model")


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x0a", b"\x80" * 30])
def test_invalid_model(tmp_path, content):
    (tmp_path / "a.model").write_bytes(content)
    with raises_code("tokenizer.invalid", tmp_path / "a.model"):
        Tokenizer(tmp_path / "a.model")


def test_truncated_model(tmp_path, tokenizer):
    whole = tokenizer.path.read_bytes()
    file = tmp_path / "cut.model"
    for length in [*range(0, 2000), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError):
            Tokenizer(file)


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 60, "model_type": "bpe"},
        {
            "vocab_size": 60,
            "model_type": "bpe",
            "bos_id": -1,
            "eos_id": -1,
            "control_symbols": ["[EOS]", "[SOS]", "[MASK]"],
        },
    ],
)
def test_other_special_tokens_are_rejected(tmp_path, options):
    (tmp_path / "foreign.model").write_bytes(foreign_model(**options))
    with raises_code("tokenizer.special_tokens", tmp_path / "foreign.model"):
        Tokenizer(tmp_path / "foreign.model")


def test_model_trained_as_published_is_accepted(tmp_path):
    published = foreign_model(
        vocab_size=70,
        model_type="bpe",
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[SOS]", "[EOS]", "[MASK]"],
    )
    (tmp_path / "published.model").write_bytes(published)
    assert len(Tokenizer(tmp_path / "published.model")) == 70


# The tool ----------------------------------------------------------------------------------------


@pytest.fixture
def caption_files(tmp_path) -> list[Path]:
    content = {"images": [], "annotations": [{"caption": text} for text in CAPTIONS[:3]]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "more.txt").write_text(f"A boat\n\n{CAPTIONS[4]}\n")
    return [tmp_path / "coco.json", tmp_path / "more.txt"]


def test_read_caption_files(caption_files):
    assert read_caption_files(caption_files) == [*CAPTIONS[:3], "A boat", CAPTIONS[4]]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.json", "[]", "data.annotations"),
        ("a.json", '{"annotations": [{"id": 1}]}', "data.annotations"),
        ("a.json", '{"annotations": [{"caption": 7}]}', "data.annotations"),
        ("a.csv", "a caption", "data.caption_file"),
    ],
)
def test_invalid_caption_files(tmp_path, name, content, code):
    (tmp_path / name).write_text(content)
    with raises_code(code, tmp_path / name):
        read_caption_files([tmp_path / name])


def test_tool_trains_a_vocabulary(tmp_path, caption_files, capsys):
    output = tmp_path / "vocab" / "tool.model"
    arguments = ["--captions", *map(str, caption_files), "--vocab-size", "80"]
    main(build_parser().parse_args([*arguments, "--output", str(output)]))
    assert len(Tokenizer(output)) == 80
    assert str(output) in capsys.readouterr().out


def test_tool_requires_overwrite(tmp_path, caption_files):
    output = tmp_path / "old.model"
    output.write_text("old")
    arguments = ["--captions", *map(str, caption_files), "--vocab-size", "80"]
    arguments += ["--output", str(output)]
    with raises_code("arguments.output", output, "--overwrite"):
        main(build_parser().parse_args(arguments))
    assert output.read_text() == "old"
    main(build_parser().parse_args([*arguments, "--overwrite"]))
    assert len(Tokenizer(output)) == 80


def test_tool_reports_invalid_input(tmp_path):
    command = [sys.executable, "-m", "virtex.data.tokenizer", "--captions", "none.json"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "a.model")], capture_output=True, text=True
    )
    assert_invalid_input(done, "data.missing", "none.json")


def test_help_imports_no_heavy_packages():
    code = (
        "import sys, virtex.data.tokenizer as t; t.build_parser().format_help(); "
        "print({'torch', 'sentencepiece'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

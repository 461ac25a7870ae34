"""A vocabulary is trained once, refused where it is not ours, and used as it was trained."""

import io
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

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
def test_captions_are_lower_case_without_accents_and_with_single_spaces(text, plain):
    assert normalize_caption(text) == plain
    assert normalize_caption(plain) == plain


@pytest.mark.parametrize("text", ["A CAFÉ TABLE", "a cafe\ttable", "a  cafe\ntable "])
def test_text_is_normalized_in_use_as_in_training(tokenizer, text):
    assert tokenizer.encode(text) == tokenizer.encode("a cafe table")
    assert tokenizer.pad_id not in tokenizer.encode(text)


def test_the_vocabulary_holds_no_upper_case_and_no_accents(tokenizer):
    pieces = "".join(tokenizer.piece(i) for i in range(4, len(tokenizer)))
    assert pieces == normalize_caption(pieces)


# Use ---------------------------------------------------------------------------------------------


def test_special_tokens_have_the_published_ids(tokenizer):
    assert [tokenizer.piece(i) for i in range(4)] == ["<unk>", "[SOS]", "[EOS]", "[MASK]"]
    assert (tokenizer.pad_id, tokenizer.sos_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 1, 2, 3)


def test_the_size_is_the_one_asked_for(tokenizer):
    assert len(tokenizer) == 90


def test_decoding_gives_the_normalized_caption_back(tokenizer):
    for caption in CAPTIONS:
        assert tokenizer.decode(tokenizer.encode(caption)) == normalize_caption(caption)


def test_decoding_leaves_out_special_tokens_and_ids_beyond_the_vocabulary(tokenizer):
    ids = tokenizer.encode("two dogs")
    assert tokenizer.decode([1, *ids[:2], 3, *ids[2:], 2, 0, 0, len(tokenizer), -1]) == "two dogs"


def test_unknown_characters_become_the_id_0(tokenizer):
    assert 0 in tokenizer.encode("東")


def test_special_tokens_written_in_a_caption_are_plain_text(tokenizer):
    assert not {1, 2, 3} & set(tokenizer.encode("[EOS] [MASK]"))


def test_a_caption_stands_between_sos_and_eos(tokenizer):
    ids = tokenizer.encode_caption("two dogs", 30)
    assert ids == [1, *tokenizer.encode("two dogs"), 2]


@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_a_caption_that_is_cut_keeps_its_eos(tokenizer, length):
    ids = tokenizer.encode_caption(CAPTIONS[0], length)
    assert len(ids) == length
    assert ids == [1, *tokenizer.encode(CAPTIONS[0])[: length - 2], 2]


def test_a_caption_that_just_fits_is_whole(tokenizer):
    ids = tokenizer.encode(CAPTIONS[0])
    assert tokenizer.encode_caption(CAPTIONS[0], len(ids) + 2) == [1, *ids, 2]


def test_an_empty_caption_has_sos_and_eos_alone(tokenizer):
    assert tokenizer.encode_caption(" \n", 30) == [1, 2]


def test_there_is_no_caption_without_room_for_sos_and_eos(tokenizer):
    with pytest.raises(ValueError, match="1 tokens"):
        tokenizer.encode_caption("two dogs", 1)


def test_a_spawned_process_has_the_same_tokenizer_though_the_file_is_gone(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 60, tmp_path / "gone.model")
    (tmp_path / "gone.model").unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ids = pool.apply(tokenizer.encode_caption, (CAPTIONS[1], 12))
    assert ids == tokenizer.encode_caption(CAPTIONS[1], 12)


# Training ----------------------------------------------------------------------------------------


def test_the_same_captions_give_the_same_bytes(tmp_path, tokenizer):
    train_tokenizer(iter(CAPTIONS), 90, tmp_path / "deep" / "again.model")
    again = (tmp_path / "deep" / "again.model").read_bytes()
    assert again == tokenizer.path.read_bytes()


def test_tokens_and_scores_are_listed_beside_the_model(tokenizer):
    lines = tokenizer.path.with_suffix(".vocab").read_text("utf-8").split("\n")[:-1]
    assert [line.split("\t")[0] for line in lines] == [tokenizer.piece(i) for i in range(90)]
    assert lines[0] == "<unk>\t0"


def test_nothing_else_is_left_in_the_folder(tokenizer):
    assert {path.name for path in tokenizer.path.parent.iterdir()} == {
        "small.model",
        "small.vocab",
    }


def test_a_size_too_large_tells_the_largest(tmp_path):
    with pytest.raises(UserError, match=r"5000 is too large.*give --vocab-size (\d+) or less") as e:
        train_tokenizer(CAPTIONS, 5000, tmp_path / "a.model")
    largest = int(str(e.value).split()[-3])
    assert len(train_tokenizer(CAPTIONS, largest, tmp_path / "a.model")) == largest
    with pytest.raises(UserError):
        train_tokenizer(CAPTIONS, largest + 1, tmp_path / "a.model")


@pytest.mark.parametrize("size", [10, 0])
def test_a_size_too_small_tells_the_smallest(tmp_path, size):
    with pytest.raises(UserError, match=f"{size} is too small.*give --vocab-size .* or more") as e:
        train_tokenizer(CAPTIONS, size, tmp_path / "a.model")
    smallest = int(str(e.value).split()[-3])
    assert len(train_tokenizer(CAPTIONS, smallest, tmp_path / "a.model")) == smallest
    with pytest.raises(UserError):
        train_tokenizer(CAPTIONS, smallest - 1, tmp_path / "a.model")


@pytest.mark.parametrize("captions", [[], ["", " \n"]])
def test_without_captions_there_is_no_vocabulary(tmp_path, captions):
    with pytest.raises(UserError, match="no caption"):
        train_tokenizer(captions, 50, tmp_path / "a.model")
    assert not list(tmp_path.iterdir())


def test_the_model_cannot_have_the_name_of_its_own_listing(tmp_path):
    with pytest.raises(UserError, match=r"\.model"):
        train_tokenizer(CAPTIONS, 60, tmp_path / "a.vocab")


# What is no vocabulary of ours -------------------------------------------------------------------


def test_a_missing_vocabulary_tells_how_to_train_one(tmp_path):
    with pytest.raises(UserError, match=r"python -m virtex\.data\.tokenizer .*none\.model"):
        Tokenizer(tmp_path / "none.model")


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x0a", b"\x80" * 30])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.model").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.model is not a sentencepiece model"):
        Tokenizer(tmp_path / "a.model")


def test_a_model_cut_anywhere_is_refused(tmp_path, tokenizer):
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
def test_a_model_with_other_special_tokens_is_foreign(tmp_path, options):
    (tmp_path / "foreign.model").write_bytes(foreign_model(**options))
    with pytest.raises(UserError, match=r"foreign\.model is foreign: its tokens 0 to 3 are"):
        Tokenizer(tmp_path / "foreign.model")


def test_a_model_trained_the_published_way_is_taken(tmp_path):
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


def test_captions_are_read_from_coco_and_text_files(caption_files):
    assert read_caption_files(caption_files) == [*CAPTIONS[:3], "A boat", CAPTIONS[4]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[]", "no list annotations"),
        ("a.json", '{"annotations": [{"id": 1}]}', r"annotations\[0\]: caption: "),
        ("a.json", '{"annotations": [{"caption": 7}]}', "found 7"),
        ("a.csv", "a caption", r"from \.json .* and \.txt"),
    ],
)
def test_files_without_captions_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read_caption_files([tmp_path / name])
    assert str(tmp_path / name) in str(error.value)


def test_the_tool_trains_a_vocabulary_and_tells_of_it(tmp_path, caption_files, capsys):
    output = tmp_path / "vocab" / "tool.model"
    arguments = ["--captions", *map(str, caption_files), "--vocab-size", "80"]
    main(build_parser().parse_args([*arguments, "--output", str(output)]))
    told = capsys.readouterr().out
    assert len(Tokenizer(output)) == 80
    assert "80 tokens of 5 captions" in told
    assert str(output) in told
    assert "'A man riding" in told
    assert "longer than 30 tokens with [SOS] and [EOS]: " in told


def test_the_tool_replaces_a_vocabulary_only_when_told_to(tmp_path, caption_files):
    output = tmp_path / "old.model"
    output.write_text("old")
    arguments = ["--captions", *map(str, caption_files), "--vocab-size", "80"]
    arguments += ["--output", str(output)]
    with pytest.raises(UserError, match="--overwrite"):
        main(build_parser().parse_args(arguments))
    assert output.read_text() == "old"
    main(build_parser().parse_args([*arguments, "--overwrite"]))
    assert len(Tokenizer(output)) == 80


def test_what_must_be_mended_is_one_sentence_and_status_2(tmp_path):
    command = [sys.executable, "-m", "virtex.data.tokenizer", "--captions", "none.json"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "a.model")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "[data.missing]" in done.stderr


def test_help_needs_neither_torch_nor_sentencepiece():
    code = (
        "import sys, virtex.data.tokenizer as t; t.build_parser().format_help(); "
        "print({'torch', 'sentencepiece'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

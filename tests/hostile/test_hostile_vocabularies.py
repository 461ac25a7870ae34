"""Damaged vocabularies and caption files.

sentencepiece is C++, where a damaged file may crash the process, so each file is read in a fork.
"""

import os
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.errors import raises_code
from tests.hostile.data_mutations import broken, file_of
from tests.hostile.data_runs import guarded, outcome, require_plain, run
from virtex.data import tokenizer
from virtex.data.tokenizer import Tokenizer, train_tokenizer

CAPTIONS = [f"a {color} {thing} on the left" for color in ("red", "blue") for thing in ("cat",)]
FILE = {
    "images": [{"id": 1, "file_name": "1.jpg"}],
    "annotations": [{"id": n, "image_id": 1, "caption": text} for n, text in enumerate(CAPTIONS)],
}


BYTE = st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("vocabularies")
    (top / "outside").mkdir()
    (top / "vocab").mkdir()
    train_tokenizer(CAPTIONS, 24, top / "sound.model")
    return top


@pytest.fixture(scope="module")
def sound(folder):
    return (folder / "sound.model").read_bytes()


def exit_status_of_fork(read):
    """Call ``read`` in a child process and return its exit status: 0 if it returns."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            read()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def use_tokenizer(path):
    vocabulary = Tokenizer(path)
    ids = vocabulary.encode_caption("a red cat \N{SNOWMAN}", 30)
    assert ids[0] == 1
    vocabulary.decode([*ids, 0, 10**9])
    [vocabulary.id_to_piece(number) for number in range(len(vocabulary))]


def assert_no_crash(folder, content):
    path = folder / "vocab/a.model"
    path.write_bytes(content)
    with guarded(folder / "outside"):
        assert exit_status_of_fork(partial(outcome, partial(use_tokenizer, path), path)) == 0


@given(st.data())
@pytest.mark.timeout(3000)
def test_damaged_vocabulary(folder, sound, data):
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(
            st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))
        )
    if data.draw(st.integers(0, 3)) == 0:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    assert_no_crash(folder, bytes(content))


def test_token_of_invalid_utf8_is_rejected(folder, sound):
    path = folder / "vocab/a.model"
    path.write_bytes(sound.replace("\u2581a".encode(), b"\xe2\x01\x81a", 1))
    with raises_code("tokenizer.invalid"):
        Tokenizer(path)


@given(st.binary(max_size=200))
@example(b"\x0a\x01x" * 200_000)
@example(b"\x80" * 1_000_000)
def test_random_bytes_as_vocabulary(folder, content):
    assert_no_crash(folder, content)


@given(st.one_of(file_of(FILE), broken("\n".join(CAPTIONS))), st.sampled_from([".json", ".txt"]))
@pytest.mark.timeout(3000)
def test_damaged_captions(folder, content, suffix):
    captions, output = folder / f"captions{suffix}", folder / "vocab/new.model"
    captions.write_bytes(content)
    for file in (output, output.with_suffix(".vocab")):
        file.unlink(missing_ok=True)
    with guarded(folder / "outside"):
        status, _, err = run(
            tokenizer, "--captions", captions, "--vocab-size", "24", "--output", output
        )
    require_plain(status, err, captions, "captions", "--vocab-size")
    assert output.exists() == (status == 0)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_vocabulary_is_not_a_regular_file(tmp_path, kind):
    make = {
        "pipe": lambda path: os.mkfifo(path),
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }
    make[kind](tmp_path / "a.model")
    assert not outcome(partial(Tokenizer, tmp_path / "a.model"), tmp_path / "a.model")

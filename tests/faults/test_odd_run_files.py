"""Files in a run's folder with any content are read, or reported with their path."""

import json
import random
from types import SimpleNamespace

import pytest

from virtex.captioning.generation import load_captions
from virtex.engine.checkpoints import last_checkpoint
from virtex.engine.progress import lines_at, read_metrics, truncate_metrics
from virtex.errors import UserError
from virtex.evaluate_all.records import read_options
from virtex.files import read_manifests
from virtex.records import read_record
from virtex.run_folder import check_same_run, read_run_file


class Images:
    ids = ("a", 7)

    def __len__(self):
        return len(self.ids)


def read_metrics_files(folder):
    truncate_metrics(folder / "metrics.json", 1)
    return lines_at(folder / "metrics.json", 0)


def run_options(folder):
    return read_options(SimpleNamespace(log=folder / "options.log"))


def read_run(folder):
    check_same_run(folder, {"seed": 0})
    return read_run_file(folder)


READERS = {
    "run.json": read_run,
    "result.json": lambda folder: read_record(folder / "result.json"),
    "options.json": run_options,
    "captions.json": lambda folder: load_captions(folder, Images()),
    "captions.partial.jsonl": lambda folder: load_captions(folder, Images()),
    "captions.partial.rank3.jsonl": lambda folder: load_captions(folder, Images()),
    "metrics.json": read_metrics_files,
    "last_checkpoint": last_checkpoint,
    ".manifest.jsonl": read_manifests,
}
VALID = (
    {"version": 2, "identity": {"seed": 0}, "deviations": [], "changes": []},
    {"iteration": 0, "loss": 1.5},
    {"image_id": 7, "caption": "a dog"},
    [0, "a dog"],
    "model_final.pth",
)
ODD = (5, -1, 10**30, 1e999, None, True, "", "../x", "\udce9", [], [1], {}, [[]], {"a": {"b": []}})
WHOLE = (b"", b"\xe9", b"\0", b"[" * 100_000, b"1" * 5000, b'{"a":' * 50_000, b"NaN", b"\xff\xfe[")


def mutate(value, rng):
    """Replace a random part of JSON, or all of it, by an odd value."""
    if rng.random() < 0.3 or not value or not isinstance(value, list | dict):
        return rng.choice(ODD)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy = type(value)(value)
    copy[key] = mutate(copy[key], rng)
    return copy


def contents(rng):
    """Return one file: JSON, a list of it, or lines of it, perhaps with broken bytes."""
    if rng.random() < 0.1:
        return rng.choice(WHOLE)
    values = [mutate(rng.choice(VALID), rng) for _ in range(rng.randint(1, 3))]
    texts = [json.dumps(value) for value in values]
    text = rng.choice([texts[0], f"[{', '.join(texts)}]", "\n".join(texts)]).encode()
    if rng.random() < 0.2:
        place = rng.randrange(len(text))
        text = text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]
    return text[: rng.randrange(len(text))] if rng.random() < 0.2 else text


def assert_read_or_reported(path, content):
    path.write_bytes(content)
    try:
        READERS[path.name](path.parent)
    except UserError as error:
        assert str(path.parent) in str(error), error
    for other in path.parent.iterdir():
        other.unlink()


@pytest.mark.parametrize("name", READERS)
def test_any_content_is_read_or_reported(tmp_path, name, cases=60):
    rng = random.Random(0)
    for content in (*WHOLE, *(contents(rng) for _ in range(cases))):
        assert_read_or_reported(tmp_path / name, content)


def test_valid_lines_between_invalid_ones_are_read(tmp_path):
    lines = [b'{"iteration": 0, "loss": 1.5}', b"5", b"\xe9", b'{"iteration": "a"}', b'{"loss": 1}']
    (tmp_path / "metrics.json").write_bytes(b"\n".join([*lines, b'{"iteration": 1}', b""]))
    assert [numbers["iteration"] for _, numbers in read_metrics(tmp_path / "metrics.json")] == [
        0,
        1,
    ]
    (tmp_path / "captions.partial.jsonl").write_bytes(b'5\n[0, "a"]\n[1]\n[9, "b"]\n[1, "c"]')
    assert load_captions(tmp_path, Images()) == {0: "a", 1: "c"}

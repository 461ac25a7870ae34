"""What a killed process left in its folders is whole; what a finished one left is the same.

Two tables by the names of files, of which the first pattern that fits counts: ``WHOLE`` opens a
file as its reader would, ``CONTENT`` says what of it does not depend on interruptions.
"""

import csv
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from tests.run_states import assert_equal
from virtex.checkpoints.hashing import sha256_of
from virtex.data.tokenizer import Tokenizer

# Such a name says that a file is not whole; none is left once the run is finished.
UNFINISHED = (".*", "*.unfinished", "tmp*", "*.part", "*.part.json", "partial-*")
UNFINISHED += ("captions.partial*",)
# Written line by line by whoever runs, and never read by a run.
JOURNALS = ("log.txt*", "events.out.tfevents.*", "*.log")
LOCKS = ("?*.lock",)  # of no meaning while nobody holds them


def fits(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a file, or a folder that it is in, has such a name."""
    return any(fnmatch(part, pattern) for part in path.parts for pattern in patterns)


def files_below(place: Path) -> dict[Path, Path]:
    """Path below ``place`` -> path, of every file but journals and locks."""
    found = {path.relative_to(place): path for path in place.rglob("*") if not path.is_dir()}
    return {name: path for name, path in found.items() if not fits(name, (*JOURNALS, *LOCKS))}


# --- whole ---------------------------------------------------------------------------------------


def whole_lines(path: Path) -> None:
    """A JSON object a line; the process may have been killed within the last one."""
    for line in path.read_text().splitlines()[:-1]:
        json.loads(line)


def whole_csv(path: Path) -> None:
    assert path.read_text().endswith("\n")
    with open(path, newline="") as file:
        assert len({len(row) for row in csv.reader(file)}) == 1


def whole_features(path: Path) -> None:
    entry = json.loads(path.with_name("entry.json").read_text())
    features = np.load(path)
    assert list(features.shape) == entry["shape"] and np.isfinite(features).all()


def whole_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def whole_pin(path: Path) -> None:
    pinned, name = path.read_text().split()
    assert name == path.stem and pinned == sha256_of(path.with_name(name))


def whole_page(path: Path) -> None:
    assert path.read_text().rstrip().endswith("</html>")


def whole_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text())


def names_a_checkpoint(path: Path) -> None:
    assert path.with_name(path.read_text()).is_file()


WHOLE = {
    "metrics.json": whole_lines,
    "*.json": lambda path: json.loads(path.read_text()),
    "*.pth": lambda path: torch.load(path, weights_only=True),
    "*.csv": whole_csv,
    "*.npy": whole_features,
    "*.jpg": whole_image,
    "*.png": whole_image,
    "*.html": whole_page,
    "*.md": lambda path: None,
    "*.yaml": whole_yaml,
    "*.sha256": whole_pin,
    "last_checkpoint": names_a_checkpoint,
    "tokenizer.model": Tokenizer,
}


def assert_whole(place: Path) -> None:
    """Every file with the name of something finished can be read to its end."""
    for name, path in files_below(place).items():
        if not fits(name, UNFINISHED):
            check = next(check for pattern, check in WHOLE.items() if fnmatch(name.name, pattern))
            try:
                check(path)
            except Exception as error:
                raise AssertionError(f"{name} is torn: {error!r}") from error


# --- the same ------------------------------------------------------------------------------------

DATE = re.compile(r"\d{4}-\d\d-\d\dT[\d:+]+")
OF_THE_TIME = re.compile(
    r".*per_second|.*seconds|time|data_time|rank_data_time"
    # medians over the iterations that one process of Detectron2 has seen
    r"|total_loss|loss_.*|(fast_rcnn|mask_rcnn|rpn|roi_head)/.*"
)


def record(path: Path):
    """Without times, dates, and the state of this checkout."""
    found = json.loads(path.read_text())
    environment = found.get("environment", {}) | {"git_revision": None}
    return found | {"environment": environment, "timing": None, "created": None}


def lines(path: Path):
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not OF_THE_TIME.fullmatch(k)} for line in whole]


def checkpoint(path: Path):
    return {k: v for k, v in torch.load(path, weights_only=True).items() if k != "stopwatch"}


def settings(path: Path):
    """The number of workers is the machine's affair."""
    return [line for line in path.read_text().splitlines() if "NUM_WORKERS" not in line]


def page(path: Path):
    """Records tell when they were made."""
    return DATE.sub("", path.read_text())


CONTENT = {
    "result.json": record,
    "pretraining.json": record,
    "metrics.json": lines,
    "*.pth": checkpoint,
    "config.yaml": settings,
    "*.html": page,
    "*": Path.read_bytes,
}


def assert_same(place: Path, undisturbed: Path) -> None:
    """The same files with the same content, and nothing unfinished."""
    found, expected = files_below(place), files_below(undisturbed)
    left, lost = found.keys() - expected.keys(), expected.keys() - found.keys()
    assert not left and not lost, f"left over {sorted(left)}, lost {sorted(lost)}"
    assert not [name for name in found if fits(name, UNFINISHED)]
    for name in found:
        content = next(c for pattern, c in CONTENT.items() if fnmatch(name.name, pattern))
        assert_equal(content(found[name]), content(expected[name]), str(name))


def assert_features_right(place: Path, undisturbed: Path) -> None:
    """Whoever reads the cache meanwhile finds what belongs there."""
    for path in place.glob("features/*/features.npy"):
        if not fits(path.relative_to(place), ("partial-*",)):
            there = undisturbed / path.relative_to(place)
            assert path.read_bytes() == there.read_bytes(), path

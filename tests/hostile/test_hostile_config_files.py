"""YAML files of unknown origin load, or raise a UserError."""

import os

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.errors import raises_code
from tests.hostile.checkpoint_runs import nothing_happens
from tests.hostile.odd_settings import (
    CANARY,
    CODE,
    DETECTORS,
    NUMBERS,
    ODD_KEYS,
    PRETRAINING,
    VALUES,
    WORDS,
    keys,
    settled,
)
from virtex.config import load_config
from virtex.detectron.settings import build_settings
from virtex.tasks.detection import protocol_from_config

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

TAGS = (
    *("!!python/object/apply:os.system [touch canary]", "!!python/name:os.system ''", "!!map 1"),
    *("!!python/object/new:os.system [touch canary]", "!!python/module:os ''", "!!binary '==='"),
    *("!!python/object/apply:eval [\"open('canary', 'w')\"]", "!!python/tuple [1]", "!!int x"),
    *(
        "!!python/object:subprocess.Popen {args: [touch, canary]}",
        "!x 1",
        "!!set {a, b}",
        "!!float",
    ),
    *("!!timestamp 9999-99-99", "2001-01-01", "1:1:1:1", "!!omap [a: 1]", "!!str", "!!null x"),
)
SCALARS = st.one_of(
    st.sampled_from(TAGS),
    VALUES.map(lambda value: yaml.safe_dump(value, width=10**9).partition("\n")[0]),
    st.sampled_from([number for number in NUMBERS if len(number) < 9000]),
    st.sampled_from(
        ["~", "*a", "&a x", "&a [*a]", "&a {x: *a}", "[1, 2]", "{a: {b: 1}}", "|", "'"]
    ),
    st.sampled_from(
        ["[" * 5000, "{a: " * 3000, "? [a]\n: b", "x" * 300_000, "*" * 9, "\t", "@", "%"]
    ),
)


@st.composite
def trees(draw, known):
    """Lines of a config: keys in sections, as trees and, wrongly, as dotted names."""
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        key, value = draw(keys(known)), draw(SCALARS)
        if draw(st.booleans()):
            *sections, key = key.split(".")
            opened = "".join(f"{section}: {{" for section in sections)
            lines.append(f"{opened}{key}: {value}{'}' * len(sections)}")
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


BASES = st.sampled_from(
    [
        *("", "_BASE_: config.yaml", "_BASE_: [config.yaml, config.yaml]", "_BASE_: absent.yaml"),
        *(
            "_BASE_: http://127.0.0.1:9/x.yaml",
            "_BASE_: https://localhost:9/x",
            "_BASE_: /etc/passwd",
        ),
        *("_BASE_: ../../../../../../etc/passwd", "_BASE_: ~/.bashrc", "_BASE_: [1]", "_BASE_: {}"),
        *("_BASE_: /dev/zero", "_BASE_: /dev/stdin", '_BASE_: "\\0"', "_BASE_: ['']", "_BASE_: ~"),
        *(
            "_BASE_: file:///etc/passwd",
            "_BASE_: detectron2://x",
            "_BASE_: bicaptioning_R_50_L1_H2048",
        ),
        *("_BASE_: " + "x" * 5000, "_BASE_: other.yaml", "_BASE_: [other.yaml, other.yaml]"),
    ]
)
LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    ]
)
MERGES = "\n".join(
    ["a: &a {x: 1, y: 2}"]
    + [
        f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}"
        for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    ]
)
HOSTILE_FILES = (
    *(LAUGHS, MERGES, LAUGHS + "\nOPTIM: {LR_STEPS: *k}\nSOLVER: {STEPS: *k}\n", "&a [*a]", "- 1"),
    *("x: " + "[" * 100_000, "x: 0x" + "f" * 200_000, "# " + "x" * 300_000, "---\n---\n", "\0", ""),
    *("OPTIM: {LR_STEPS: &a [*a]}\nSOLVER: {STEPS: &b [*b]}", "VERSION: 1", "VERSION: [1]"),
    *(
        "VERSION: 0",
        "VERSION: .nan",
        "VERSION: -1",
        "VERSION: 3",
        "MODEL: 5",
        "MODEL: []",
        "1: {2: 3}",
    ),
    *(
        "SOLVER: {IMS_PER_BATCH: 0}",
        "SOLVER: {IMS_PER_BATCH: ~}",
        "SOLVER: {MAX_ITER: ~, STEPS: ~}",
    ),
    *(
        "MODEL: {WEIGHTS: ~}",
        "OPTIM: {BATCH_SIZE: 0x" + "f" * 9000 + "}",
        "SOLVER: {STEPS: [a, {}]}",
    ),
)
BINARY = st.binary(max_size=60)


def files(known):
    whole = st.builds(lambda base, tree: f"{base}\n{tree}\n", BASES, trees(known))
    return st.one_of(
        whole.map(lambda text: text.encode("utf-8", "surrogatepass")),
        whole.map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(HOSTILE_FILES).map(str.encode),
        BINARY,
    )


def each_hostile_file(test):
    for text in HOSTILE_FILES:
        test = example(text.encode(), b"")(test)
    return test


def written(settings_folder, content, other):
    (settings_folder / "other.yaml").write_bytes(other)
    (settings_folder / "config.yaml").write_bytes(content)
    return str(settings_folder / "config.yaml")


@given(files(PRETRAINING), files(PRETRAINING))
@each_hostile_file
def test_pretraining_config_files(settings_folder, content, other):
    path = written(settings_folder, content, other)
    settled(lambda: load_config(path))


@given(files(DETECTORS), files(DETECTORS))
@each_hostile_file
def test_detector_config_files(settings_folder, content, other):
    path = written(settings_folder, content, other)
    settled(lambda: build_settings(protocol_from_config(path), [], 1, "cpu").deviations())


@given(
    st.one_of(
        st.sampled_from([*WORDS, *CODE, *ODD_KEYS, "a\0b", "x" * 300, "http://x/y.yaml"]), st.text()
    )
)
@example("~\0")
def test_config_names(settings_folder, name):
    settled(lambda: load_config(name))
    settled(lambda: build_settings(protocol_from_config(name), [], 1, "cpu"))


# Regressions found by these tests ----------------------------------------------------------------


@pytest.mark.parametrize("read", [load_config, lambda path: build_settings(
    protocol_from_config(path), [], 1, "cpu")], ids=["pretraining", "detector"])  # fmt: skip
@pytest.mark.parametrize("tag", [tag for tag in TAGS if "python" in tag and "tuple" not in tag])
def test_tags_are_not_executed(tag, read, settings_folder):
    path = written(settings_folder, f"x: {tag}\n".encode(), b"")
    with nothing_happens(), raises_code("config.unreadable", "line 1"):
        read(path)
    assert not os.path.exists(CANARY)


def test_retinanet_expression():
    protocol = protocol_from_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    sizes = build_settings(protocol, [], 1, "cpu").cfg.MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]


def test_base_is_not_downloaded(settings_folder):
    path = written(settings_folder, b"_BASE_: http://127.0.0.1:9/x.yaml", b"")
    with nothing_happens(), raises_code("config.not_found", "_BASE_"):
        build_settings(protocol_from_config(path), [], 1, "cpu")


@pytest.mark.parametrize("levels", [2, 60])
def test_repeated_bases(levels, settings_folder):
    for n in range(levels):
        base = f"_BASE_: [level{n + 1}.yaml, level{n + 1}.yaml]\n" if n < levels - 1 else ""
        (settings_folder / f"level{n}.yaml").write_text(f"{base}SOLVER: {{BASE_LR: 0.5}}\n")
    settings = settled(
        lambda: build_settings(
            protocol_from_config(str(settings_folder / "level0.yaml")), [], 1, "cpu"
        )
    )
    assert (settings is None) is (levels == 60)

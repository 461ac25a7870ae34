"""KEY VALUE pairs and YAML files of unknown origin become settings, or are told in a sentence."""

import os

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.checkpoint_runs import nothing_happens
from tests.hostile.data_runs import run
from virtex import pretrain
from virtex.config import default_config, leaves, load_config, packaged_configs, save_config
from virtex.detectron.keys import walk
from virtex.detectron.protocols import packaged_protocol, protocol_from_config
from virtex.detectron.settings import build_settings
from virtex.detectron.settings import load_config as detectron_config
from virtex.errors import UserError
from virtex.evaluation import protocols as probes

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

CANARY = "canary"
TASKS = [(task, name) for task, named in probes.PROTOCOLS.items() for name in named]
DETECTION = [("coco", "2x"), ("coco", "toy"), ("lvis", "2x"), ("voc", "24k"), ("voc", "toy")]
PRETRAINING = [key for key, _ in leaves(default_config())]
PROBES = sorted(
    {key for task, name in TASKS for key, _ in leaves(
        probes.load_settings(probes.packaged_protocol(task, name))[0]
    )}
)  # fmt: skip
DETECTORS = [key for key, _ in walk(detectron_config(packaged_protocol("coco", "2x")))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


NUMBERS = (
    *("0", "1", "-1", "2", "3", "0.5", "-0.0", "1.0", "1e-300", "1e308", "1e999", "nan", "inf"),
    *(str(2**31), str(2**53 + 1), str(2**63 - 1), str(2**63), "9" * 4000, "9" * 5000, "1_000"),
    *("0x" + "f" * 20_000, "0b1", "1j", "True", "False", "None", "-None", "1.", ".1", "٣"),
)
LISTS = (
    *(
        "()",
        "[]",
        "(1,)",
        "[1, 2]",
        "(2, 1)",
        "[0.5]",
        "['a']",
        "('a', 1)",
        "[None]",
        "[[1]]",
        "[1",
    ),
    *("(1, (2, (3,)))", "{}", "{'a': 1}", "{1, 2}", "{[]: 1}", "b'x'", "[nan]", "[1e999]", "(-1,)"),
    *("[" * 30_000, "(" * 90 + ")" * 90, "-" * 30_000 + "1", "[0x" + "f" * 20_000 + "]", "[True]"),
)
CODE = (
    *(
        "__import__('os').system('touch canary')",
        "open('canary', 'w')",
        "().__class__",
        "lambda: 1",
    ),
    *("!!python/object/apply:os.system [touch canary]", "${HOME}", "$(touch canary)", "`touch x`"),
    *("{x for x in ()}", "f'{1}'", "*", "x=1", "import os", "{{}}", "%s%n", "{0.__class__}"),
)
WORDS = (
    *(
        "",
        " ",
        "x",
        "sgd",
        "SGD",
        "cosine",
        "multistep",
        "none",
        "virtex",
        "masked_lm",
        "captioning",
    ),
    *(
        "token_classification",
        "multilabel_classification",
        "beam_search",
        "bfloat16",
        "SyncBN",
        "BN",
    ),
    *(
        "transdec_postnorm::L1_H2048_A32_F8192",
        "transdec_prenorm::L9_H7_A3_F1",
        "::",
        "L1_H0_A0_F0",
    ),
    *("transdec_postnorm::L9999999_H9999999_A9999999_F9999999", "torchvision::resnet50", "../x"),
    *("torchvision::", "/etc/passwd", "\x1b[31mred", "a\nb", "\ud800", "\u202e", "x" * 90_000),
    *("(a+)+$", "(" * 3000, "[", "a{99999}{99999}", "(?P<", "\\", "TrainingSampler", "cpu", "cuda"),
    *("WarmupCosineLR", "build_resnet_backbone", "GeneralizedRCNN", "res5", "('res2', 'res9')"),
)
VALUES = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(LISTS),
    st.sampled_from(CODE),
    st.sampled_from(WORDS),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(repr),
)
ODD_KEYS = (
    *("", ".", "..", "OPTIM", "OPTIM.", ".LR", "SOLVER", "MODEL.ROI_HEADS", "__class__", "clone"),
    *(
        "OPTIM.__class__",
        "OPTIM.__dict__.x",
        "MODEL.merge_from_file",
        "_BASE_",
        "VERSION",
        "a" * 9999,
    ),
    *(
        "OPTIM.LR.x",
        "optim.lr",
        "\x1b[31m",
        "a\nb",
        "\ud800",
        "SOLVER.BASE_LR ",
        "0",
        "True",
        "None",
    ),
    *("FP16_OPT", "OPTIM.USE_LOOKAHEAD", "DATA.TOKENIZER_VOCAB", "OPTIM.LOOKAHEAD_ALPHA"),
)


def keys(known):
    """Keys that there are, most of the time, near misses, and others."""
    near = st.tuples(
        st.sampled_from(known), st.integers(0, 40), st.sampled_from(["", "_", "X", "."])
    )
    return st.one_of(
        st.sampled_from(known),
        st.sampled_from(known),
        near.map(lambda found: found[0][: found[1]] + found[2] + found[0][found[1] + 1 :]),
        st.sampled_from(ODD_KEYS),
    )


def overrides(known):
    pairs = st.lists(st.tuples(keys(known), VALUES), min_size=1, max_size=4)
    flat = pairs.map(lambda found: [part for pair in found for part in pair])
    return st.one_of(flat, flat, flat, flat.map(lambda found: found[:-1]))


def settled(read):
    """What ``read()`` gives, or None after a sentence."""
    with nothing_happens():
        try:
            return read()
        except UserError as error:
            require_sentence(str(error))
        finally:
            assert not os.path.exists(CANARY)
    return None


def require_sentence(said):
    assert said and len(said) < 3000
    assert all(character.isprintable() for character in said.strip()), said


# KEY VALUE -----------------------------------------------------------------------------------


@given(overrides(PRETRAINING), st.sampled_from(sorted(packaged_configs())))
@example(["OPTIM.BATCH_SIZE", "0x" + "f" * 20_000], "bicaptioning_R_50_L1_H2048")
@example(["x" * 200_000, "1"], "bicaptioning_R_50_L1_H2048")
def test_overrides_of_a_pretraining(folder, pairs, name):
    config = settled(lambda: load_config(name, pairs))
    if config is not None:  # what was taken is written, and read back as it is
        save_config(config, folder / "config.yaml")
        assert load_config(str(folder / "config.yaml")) == config


@given(overrides(PRETRAINING))
def test_the_pretraining_tool_prints_its_settings_or_a_sentence(folder, pairs):
    with nothing_happens():
        status, _, err = run(
            pretrain, "--config", "bicaptioning_R_50_L1_H2048", "--print-config", *pairs
        )
    assert status in (0, 2) and bool(err) is (status == 2)
    assert "Traceback" not in err and "error: " in (err or "error: ")
    assert not os.path.exists(CANARY)


@given(overrides(PROBES), st.sampled_from(TASKS))
def test_overrides_of_a_probe(folder, pairs, task):
    settled(lambda: probes.load_settings(probes.packaged_protocol(*task), pairs))


@given(overrides(DETECTORS), st.sampled_from(DETECTION), st.sampled_from([1, 2, 8, 64]))
@example(["SOLVER.MAX_ITER", "None"], ("coco", "2x"), 1)
@example(["SOLVER.STEPS", "['a']"], ("coco", "2x"), 1)
@example(["SOLVER.STEPS", "[" * 30_000], ("coco", "2x"), 1)
@example(["MODEL.PIXEL_MEAN", "{[]: 1}"], ("coco", "2x"), 1)
def test_overrides_of_a_detector(folder, pairs, task, processes):
    settings = settled(lambda: build_settings(packaged_protocol(*task), pairs, processes, "cpu"))
    if settings is not None:
        settings.departures()
        assert yaml.safe_load(settings.cfg.dump())


# YAML files ----------------------------------------------------------------------------------

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


def written(folder, content, other):
    (folder / "other.yaml").write_bytes(other)
    (folder / "config.yaml").write_bytes(content)
    return str(folder / "config.yaml")


@given(files(PRETRAINING), files(PRETRAINING))
@each_hostile_file
def test_config_files_of_a_pretraining(folder, content, other):
    path = written(folder, content, other)
    settled(lambda: load_config(path))


@given(files(DETECTORS), files(DETECTORS))
@each_hostile_file
def test_config_files_of_a_detector(folder, content, other):
    path = written(folder, content, other)
    settled(lambda: build_settings(protocol_from_config(path), [], 1, "cpu").departures())


@given(
    st.one_of(
        st.sampled_from([*WORDS, *CODE, *ODD_KEYS, "a\0b", "x" * 300, "http://x/y.yaml"]), st.text()
    )
)
@example("~\0")
def test_names_of_configs(folder, name):
    settled(lambda: load_config(name))
    settled(lambda: build_settings(protocol_from_config(name), [], 1, "cpu"))


# What the cases found, kept ----------------------------------------------------------------------


@pytest.mark.parametrize("read", [load_config, lambda path: build_settings(
    protocol_from_config(path), [], 1, "cpu")], ids=["pretraining", "detector"])  # fmt: skip
@pytest.mark.parametrize("tag", [tag for tag in TAGS if "python" in tag and "tuple" not in tag])
def test_code_in_a_config_is_not_run(tag, read, folder):
    path = written(folder, f"x: {tag}\n".encode(), b"")
    with nothing_happens(), pytest.raises(UserError, match="not YAML with plain values in line 1"):
        read(path)
    assert not os.path.exists(CANARY)


def test_the_expression_in_detectron2s_own_retinanet_gives_its_numbers():
    protocol = protocol_from_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    sizes = build_settings(protocol, [], 1, "cpu").cfg.MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]


def test_a_detectors_config_is_not_fetched_from_the_web(folder):
    path = written(folder, b"_BASE_: http://127.0.0.1:9/x.yaml", b"")
    with nothing_happens(), pytest.raises(UserError, match="_BASE_: there is no file"):
        build_settings(protocol_from_config(path), [], 1, "cpu")


@pytest.mark.parametrize("levels", [2, 60])
def test_files_that_are_based_on_others_many_times_are_read_once(levels, folder):
    for n in range(levels):
        base = f"_BASE_: [level{n + 1}.yaml, level{n + 1}.yaml]\n" if n < levels - 1 else ""
        (folder / f"level{n}.yaml").write_text(f"{base}SOLVER: {{BASE_LR: 0.5}}\n")
    settings = settled(
        lambda: build_settings(protocol_from_config(str(folder / "level0.yaml")), [], 1, "cpu")
    )
    assert (settings is None) is (levels == 60)

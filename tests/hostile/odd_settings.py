"""Settings of unknown origin: known and unknown keys, values of every kind."""

import os

from hypothesis import strategies as st

from tests.hostile.checkpoint_runs import nothing_happens
from virtex.config import default_config, flatten
from virtex.detectron.settings import load_config as detectron_config
from virtex.errors import UserError
from virtex.probes import settings as probes
from virtex.tasks import TASKS as REGISTRY
from virtex.tasks import packaged_protocol

CANARY = "canary"
TASKS = [
    (task, name)
    for task, entry in REGISTRY.items()
    if entry.command != "detectron2_transfer"
    for name in entry.protocols
]
DETECTION = [("coco", "2x"), ("coco", "toy"), ("lvis", "2x"), ("voc", "24k"), ("voc", "toy")]
PRETRAINING = list(flatten(default_config()))
PROBES = sorted(
    {key for task, name in TASKS for key in flatten(
        probes.load_settings(packaged_protocol(task, name))[0]
    )}
)  # fmt: skip
DETECTORS = sorted(flatten(detectron_config(packaged_protocol("coco", "2x"))))

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
    """Known keys, most of the time, near misses, and others."""
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
    """Return ``read()``, or None where it raises a UserError."""
    with nothing_happens():
        try:
            return read()
        except UserError as error:
            require_sentence(str(error))
        finally:
            assert not os.path.exists(CANARY)
    return None


def require_sentence(message):
    assert message and len(message) < 3000
    assert all(character.isprintable() for character in message.strip()), message

"""Checkpoints that open and hold what no training writes: odd tensors, names, nests, inputs."""

import argparse
import collections
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.checkpoints import checkpoint_writers as writers
from tests.hostile.checkpoint_runs import inspected, nothing_happens
from tests.hostile.hostile_pickles import storages
from virtex.backbones.resnet import ResNetArch, build_resnet
from virtex.checkpoints import load_backbone
from virtex.errors import UserError

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

WHOLE = writers.moved(writers.randomized("resnet18"))
NAMES = list(WHOLE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("contents") / "model.pth"


def sparse(shape):
    return torch.sparse_coo_tensor(torch.zeros(len(shape), 1, dtype=torch.long), [1.0], shape)


# Shape -> a tensor or an array of it, of every kind that torch and numpy can save.
KINDS = {
    "double": lambda shape: torch.zeros((), dtype=torch.double).expand(shape),
    "half": lambda shape: torch.ones((), dtype=torch.half).expand(shape),
    "bfloat16": lambda shape: torch.ones((), dtype=torch.bfloat16).expand(shape),
    "float8": lambda shape: torch.ones(()).to(torch.float8_e4m3fn).expand(shape),
    "float8 of exponents": lambda shape: torch.ones(()).to(torch.float8_e8m0fnu).expand(shape),
    "integers": lambda shape: torch.ones((), dtype=torch.int64).expand(shape),
    "uint64": lambda shape: torch.full((), 2**63, dtype=torch.uint64).expand(shape),
    "truths": lambda shape: torch.ones((), dtype=torch.bool).expand(shape),
    "complex": lambda shape: torch.ones((), dtype=torch.complex64).expand(shape),
    "conjugate": lambda shape: torch.ones((), dtype=torch.complex64).conj().expand(shape),
    "sparse": sparse,
    "of no data": lambda shape: torch.ones(shape, device="meta"),
    "a parameter": lambda shape: torch.nn.Parameter(torch.ones(()).expand(shape)),
    "not a number": lambda shape: torch.full((), float("nan")).expand(shape),
    "infinite": lambda shape: torch.full((), float("-inf")).expand(shape),
    "too large": lambda shape: torch.full((), 1e300, dtype=torch.double).expand(shape),
    "empty": lambda shape: torch.ones(0),
    "a scalar": lambda shape: torch.ones(()),
    "vast": lambda shape: torch.ones(()).expand(2**31, 2**31),
    "of thirty dimensions": lambda shape: torch.ones([1] * 30),
    "text": lambda shape: "conv",
    "nothing": lambda shape: None,
    "a list": lambda shape: [1.0, 2.0],
    "a number": lambda shape: 10**400,
    "an array": lambda shape: np.broadcast_to(np.float32(1), shape),
    "an array of long doubles": lambda shape: np.ones([min(n, 2) for n in shape], np.longdouble),
    "an array of bytes in another order": lambda shape: np.ones([min(n, 2) for n in shape], ">f4"),
    "an array of text": lambda shape: np.array(["a", "b"]),
    "an array of objects": lambda shape: np.array([None, "x"], dtype=object),
    "a structured array": lambda shape: np.zeros(2, "f4,i4"),
    "dates": lambda shape: np.zeros(2, "M8[s]"),
    "a number of numpy": lambda shape: np.float32(1),
}
KEYS = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(
        [
            *(
                "",
                ".",
                "..",
                "." * 1_000_000,
                "a" * 1_000_000,
                "\x1b[31mred\x1b[0m",
                "a\nb",
                "\r\0",
            ),
            *("\u202egnp", "layer1.\u0663.conv1.weight", f"layer1.{'9' * 250}.conv1.weight"),
            *("layer1.99999.conv1.weight", "layer5.0.conv1.weight", "conv1.0.weight", "cls_token"),
            *("module." * 100_000, "module." * 40 + "conv1.weight", "fc.weight", "layer1.0.conv1"),
            *("layer1.0.conv3.weight", "layer1.0.conv2_offset.weight", "attnpool.c_proj.weight"),
            *(0, 1.5, None, True, b"conv1.weight", ("a", 1), float("nan"), 10**400),
        ]
    ),
)


@st.composite
def odd_state_dicts(draw):
    """A backbone's, with a few tensors of other kinds, shapes and names."""
    weights, said = dict(WHOLE), []
    for _ in range(draw(st.integers(1, 4))):
        name, kind = draw(st.sampled_from(NAMES)), draw(st.sampled_from(sorted(KINDS)))
        key = draw(KEYS) if draw(st.booleans()) else name
        weights[key] = KINDS[kind](tuple(WHOLE[name].shape))
        said.append((repr(key)[:80] if type(key) is not int else "a number", kind))
        if draw(st.integers(0, 3)) == 0:
            gone = draw(st.sampled_from(NAMES))
            weights.pop(gone, None)
            said.append((gone, "missing"))
    return Case(weights, said)


class Case:
    """Content for a file, which a failing test describes instead of printing its tensors."""

    def __init__(self, content, said):
        self.content, self.said = content, said

    def __repr__(self):
        return f"Case of {self.said}"


SPECS = st.one_of(
    st.sampled_from(
        [None, 0, "RGB", "BGR", "\x1b", [], {}, True, 10**400, float("nan"), float("inf"), -1.0]
    ),
    st.lists(
        st.sampled_from([0, 1.0, -1, float("nan"), float("inf"), 10**400, "x", None]), max_size=4
    ),
    st.just((0.5, 0.5, 0.5)),
    st.just(torch.ones(3)),
    st.just(np.ones(3)),
)
ENTRIES = st.one_of(
    SPECS,
    st.fixed_dictionaries(
        {"stride_in_1x1": SPECS},
        optional={
            "input": st.dictionaries(
                st.sampled_from(["channel_order", "mean", "std", "scale", "more", 5]), SPECS
            ),
        },
    ),
)


@st.composite
def contents(draw):
    """A state_dict in a container, with a training's other things beside it."""
    case = draw(odd_state_dicts())
    weights, said = case.content, case.said
    container = draw(st.sampled_from(["", "state_dict", "model", "teacher", "a.b.c.d.e.f.g"]))
    content = {"epoch": 1, "args": argparse.Namespace(lr=1), **(weights if not container else {})}
    inner = content
    for part in container.split(".") if container else ():
        inner[part] = weights if part == container.rpartition(".")[2] else {}
        inner = inner[part]
    if draw(st.booleans()):
        content["virtex_backbone"] = entry = draw(ENTRIES)
        said.append(f"entry {type(entry).__name__}")
    nest = draw(st.integers(0, 7))
    if nest == 0:
        content["itself"] = content
    elif nest == 1:
        content |= {f"copy{n}": content for n in range(50)}
    elif nest == 2:
        laugh = weights
        for _ in range(50):
            laugh = {f"l{n}": laugh for n in range(10)}
        content["laugh"] = laugh
    elif nest == 3:
        deep = {}
        for _ in range(200):
            deep = {"d": deep}
        content["deep"] = deep
    elif nest == 4:
        content = collections.OrderedDict(content)
    elif nest == 5:
        content = draw(st.sampled_from([[content], (content,), {0: content}, {}, [], None, "x", 1]))
    return Case(content, [*said, container, f"nest {nest}"])


@given(contents())
def test_odd_contents(path, case):
    inspected(path, storages(case.content))


@given(
    odd_state_dicts(), st.sampled_from(("auto", "torchvision", "moco", "prefix:", "prefix:\x1b"))
)
def test_odd_contents_with_a_format(path, case, name):
    inspected(path, storages(case.content), "--format", name)


@st.composite
def odd_arrays(draw):
    """What Detectron2's and Caffe2's pickles may hold, of few numbers."""
    write = draw(st.sampled_from([writers.detectron2_backbone, writers.caffe2]))
    small = {key: torch.ones([min(n, 2) for n in value.shape]) for key, value in WHOLE.items()}
    small["conv1.weight"] = torch.ones(64, 3, 7, 7)
    content = write(small)
    weights = content.get("model", content)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([kind for kind in sorted(KINDS) if "a" in kind.split()[:1][0]]))
        value = KINDS[kind]((2, 2))
        value = value if not isinstance(value, torch.Tensor) else np.ones(2)
        weights[draw(st.one_of(KEYS, st.sampled_from(sorted(weights, key=str))))] = value
    return content


@given(odd_arrays(), st.integers(0, 5))
def test_odd_arrays_in_numpy_pickles(path, content, protocol):
    inspected(path, pickle.dumps(content, protocol=protocol))


YAML = st.recursive(
    st.sampled_from(
        ["RGB", "BGR", "0.5", "-1", ".nan", ".inf", "''", "True", "~", "9" * 5000, "x"]
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=6,
)
FILLED = (
    "{{INPUT: {{FORMAT: {}}}, "
    "MODEL: {{PIXEL_MEAN: {}, PIXEL_STD: {}, RESNETS: {{STRIDE_IN_1X1: {}}}}}}}"
)
LACKING = {key: value for key, value in WHOLE.items() if key != "bn1.weight"}
DETECTOR = storages(writers.detectron2_fpn(LACKING))  # its config is read before that is told


@given(
    st.one_of(
        st.builds(FILLED.format, YAML, YAML, YAML, YAML),
        st.builds(FILLED.format, st.just("BGR"), st.just("[1, 2, 3]"), YAML, YAML),
        st.text(max_size=50),
        st.binary(max_size=50).map(lambda data: data.decode("latin1")),
    )
)
@example("a: !!python/object/apply:os.system [touch canary]")
@example("&a [*a]")
@example("[" * 100_000)
@example("INPUT: {FORMAT: " + "x" * 300_000 + "}")
def test_odd_configs_beside_a_detector(path, text):
    config = path.with_name("config.yaml")
    config.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        inspected(path, DETECTOR)
    finally:
        config.unlink()


NAMES_OF_CHECKPOINTS = st.sampled_from(
    [
        *(
            "",
            "~",
            "~\0",
            "a\0b",
            "\x1b[31mred",
            "a\nb",
            "\ud800",
            "x" * 100_000,
            "..",
            "/dev/null",
        ),
        *(
            "/dev/zero",
            "/proc/self/mem",
            "file:///etc/passwd",
            "random:",
            "random:resnet18?seed=-1",
        ),
        *(
            "random:../../x",
            "random:resnet18?seed=\x1b",
            "torchvision://",
            "torchvision://\x1b?a=b",
        ),
        *("virtex://", "virtex://../../etc/passwd", "virtex://\x1b[31m", "s3://bucket/x", "$(id)"),
    ]
)


@given(st.one_of(NAMES_OF_CHECKPOINTS, st.text(max_size=20)), st.one_of(st.just("auto"), KEYS))
def test_odd_names_of_checkpoints_and_formats(path, name, form):
    with nothing_happens(), pytest.raises(UserError) as told:
        load_backbone(name, str(form)[:99_999] if type(form) is not int else "auto")
    assert all(character.isprintable() for character in str(told.value))
    assert len(str(told.value)) < 3000


# Cases found earlier ----------------------------------------------------------------------


def assert_fails(path, content, code, *named):
    status, err = inspected(path, storages(content))
    assert status == 2 and all(name in err for name in (f"[{code}]", *named)), err


def test_content_that_contains_itself(path):
    content = {"state_dict": dict(WHOLE)}
    content["itself"] = content
    assert inspected(path, storages(content))[0] == 0


def test_control_characters_are_escaped(path):
    content = {**WHOLE, "\x1b[2J\n": torch.ones(2)}
    assert_fails(path, content, "checkpoint.unreadable", r"'\x1b[2J\n'")


def test_small_file_of_a_huge_network_is_refused(path):
    """A bottleneck 3200 channels wide, in a file of kilobytes: 1.6 GB."""
    with torch.device("meta"):
        network = build_resnet(ResNetArch(50, "bottleneck", width_per_group=3200))
    vast = {
        name: torch.ones(()).expand(tensor.shape) for name, tensor in network.state_dict().items()
    }
    assert_fails(path, vast, "checkpoint.unreadable")


@pytest.mark.parametrize("kind", ["integers", "uint64", "not a number", "vast", "empty", "sparse"])
def test_odd_batch_counters_are_ignored(kind, path):
    name = "layer1.0.bn1.num_batches_tracked"
    path.write_bytes(storages({**WHOLE, name: KINDS[kind](())}))
    assert load_backbone(path).state_dict[name] == (1 if kind == "integers" else 0)


def test_entry_that_is_a_tensor(path):
    content = {"model": writers.virtex(WHOLE)["model"], "virtex_backbone": torch.ones(3)}
    assert_fails(path, content, "checkpoint.invalid_input_spec", "Tensor")


def test_invalid_input_entry(path):
    said = {"input": {"channel_order": "RGB", "mean": [float("nan")] * 3, "std": [1, 1, 1]}}
    content = {
        "model": writers.virtex(WHOLE)["model"],
        "virtex_backbone": said | {"stride_in_1x1": False},
    }
    assert_fails(path, content, "checkpoint.invalid_input_spec", "mean, std and scale")

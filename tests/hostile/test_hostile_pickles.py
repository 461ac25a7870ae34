"""Pickles that would run code, lie or take all memory, in every container that holds pickles."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile import hostile_pickles as hostile
from tests.hostile.checkpoint_runs import inspected, nothing_happens
from tests.hostile.hostile_pickles import ATTACKS, CONTAINERS, RUNNING
from virtex.checkpoints import CheckpointError, load_backbone

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

BESIDE = hostile.mapping(
    (hostile.text("layer1.0.conv1.weight"), hostile.tensor()),
    (hostile.text("layer2.0.conv1.weight"), hostile.tensor(offset=1, size=(3,), stride=(1,))),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the attacks would leave their marks, and find code of their own."""
    folder = tmp_path_factory.mktemp("pickles")
    before = os.getcwd()
    os.chdir(folder)
    (folder / "attack.py").write_text(hostile.OPEN)
    yield folder
    os.chdir(before)


def told(folder, data, *flags):
    status, err = inspected(folder / "model.pth", data, *flags)
    assert not (folder / hostile.CANARY).exists()
    assert status == 2
    return err


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("attack", RUNNING)
def test_code_in_a_pickle_is_refused(attack, container, folder):
    pickled = hostile.with_attack(RUNNING[attack], b"N", 0)
    told(folder, CONTAINERS[container](pickled))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("attack", [*hostile.LYING, *hostile.TAKING])
def test_a_lie_in_a_pickle_takes_neither_memory_nor_time(attack, container, folder):
    pickled = hostile.with_attack(ATTACKS[attack], b"N", 0)
    told(folder, CONTAINERS[container](pickled))


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_flag_is_the_only_way_to_run_it(container, folder):
    data = CONTAINERS[container](hostile.with_attack(RUNNING["eval"], b"N", 0))
    path = folder / "model.pth"
    path.write_bytes(data)
    with (
        nothing_happens(),
        pytest.raises(CheckpointError, match=r"builtins\.eval; .*--trust-pickle"),
    ):
        load_backbone(path)
    assert not (folder / hostile.CANARY).exists()
    with pytest.raises(CheckpointError):
        load_backbone(path, trust_pickle=True)
    assert (folder / hostile.CANARY).exists()
    (folder / hostile.CANARY).unlink()


@given(
    st.sampled_from(sorted(ATTACKS)),
    st.sampled_from(sorted(CONTAINERS)),
    st.integers(0, 3),
    st.sampled_from((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"")),
    st.booleans(),
)
def test_an_attack_anywhere_in_a_checkpoint(folder, attack, container, where, protocol, twice):
    pickled = hostile.with_attack(ATTACKS[attack], BESIDE, where)
    if twice:
        pickled = hostile.with_attack(pickled[2:-1], BESIDE, where)
    told(folder, CONTAINERS[container](protocol + pickled[2:]))


# Pickles that nobody wrote ---------------------------------------------------------------------

NAMES = [
    *(hostile.name("builtins", n) for n in ("bytearray", "set", "complex", "dict", "list", "str")),
    *(hostile.name("collections", n) for n in ("OrderedDict", "Counter", "defaultdict")),
    *(hostile.name("torch", n) for n in ("Tensor", "FloatTensor", "Size", "device", "float32")),
    *(
        hostile.name("torch._utils", f"_rebuild_{n}")
        for n in ("tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor", "sparse_tensor")
    ),
    *(
        hostile.name("torch._utils", f"_rebuild_{n}")
        for n in ("meta_tensor_no_storage", "device_tensor_from_numpy", "parameter_with_state")
    ),
    hostile.name("torch._tensor", "_rebuild_from_type_v2"),
    hostile.name("torch.nn.parameter", "Parameter"),
    hostile.name("torch.serialization", "_get_layout"),
    hostile.name("argparse", "Namespace"),
    hostile.name("pathlib", "PosixPath"),
    hostile.name("_codecs", "encode"),
    hostile.name("numpy.core.numeric", "_frombuffer"),
    hostile.name("numpy.core.multiarray", "scalar"),
    *(
        hostile.RECONSTRUCT,
        hostile.NDARRAY,
        hostile.DTYPE,
        hostile.name("numpy.dtypes", "Int8DType"),
    ),
]
VALUES = [
    *(b"N", b"\x88", b"K\x00", b"K\x01", b"J\xff\xff\xff\xff", hostile.number(2**63), b")"),
    *(b"]", b"}", b"\x8f", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00", hostile.text(""), b"C\x04AAAA"),
    *(
        hostile.text("storage"),
        hostile.text("latin1"),
        hostile.text("cuda"),
        hostile.text("\x1b[31m"),
    ),
    *(hostile.F4, hostile.storage(), hostile.tensor(), hostile.ORDERED, hostile.LATIN_B),
    *(hostile.dtype_of("O8"), hostile.array(b"K\x01\x85", hostile.F4, b"C\x04AAAA")),
]
OPCODES = [
    *(b"R", b"R", b"R", b"b", b"\x81", b"\x92", b"t", b"(", b"\x85", b"\x86", b"\x87", b"l", b"d"),
    *(b"a", b"e", b"s", b"u", b"\x90", b"\x91", b"0", b"1", b"2", b"q\x00", b"h\x00", b"q\x01"),
    *(b"h\x01", b"\x94", b"Q", b"o", b"\x93", b"\x97", b"\x98", b"\x82\x01", b"P0\n", b"(t"),
]
PROGRAMS = st.lists(
    st.one_of(st.sampled_from(NAMES), st.sampled_from(VALUES), st.sampled_from(OPCODES)),
    max_size=30,
).map(b"".join)


@given(PROGRAMS, st.sampled_from(sorted(CONTAINERS)), st.integers(0, 3))
def test_instructions_in_any_order(folder, program, container, where):
    inspected(
        folder / "model.pth",
        CONTAINERS[container](hostile.with_attack(program, BESIDE, where)),
    )


def calls(inner):
    return st.one_of(
        st.builds(hostile.call, st.sampled_from(NAMES), inner, inner),
        st.builds(hostile.call, st.sampled_from(NAMES), inner, inner, inner, inner),
        st.builds(hostile.built, inner, inner),
        st.builds(hostile.items, inner, inner),
        st.builds(hostile.several, inner, inner, inner),
        st.builds(lambda key, value: hostile.mapping((key, value)), inner, inner),
    )


@given(
    st.recursive(st.sampled_from([*VALUES, *NAMES]), calls, max_leaves=12),
    st.sampled_from(sorted(CONTAINERS)),
    st.integers(0, 3),
)
@example(hostile.call(hostile.name("torch", "Size"), hostile.items(b"N")), "zip", 2)
def test_calls_of_harmless_names_with_any_arguments(folder, value, container, where):
    inspected(
        folder / "model.pth", CONTAINERS[container](hostile.with_attack(value, BESIDE, where))
    )

"""Pickles that would run code, hang, or lie about the bytes of the file."""

import os
import struct
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoints import checkpoint_writers as writers
from tests.errors import raises_code
from tests.hostile import hostile_pickles as hostile
from tests.hostile.checkpoint_runs import inspected
from tests.hostile.hostile_pickles import CONTAINERS, RUNNING
from tests.selection import whole_only
from virtex.checkpoints import containers, load_backbone, open_checkpoint
from virtex.files import sha256_of

BESIDE = hostile.mapping(
    (hostile.text("layer1.0.conv1.weight"), hostile.tensor()),
    (hostile.text("layer2.0.conv1.weight"), hostile.tensor(offset=1, size=(3,), stride=(1,))),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the attacks would create a file, and find code of their own."""
    folder = tmp_path_factory.mktemp("pickles")
    before = os.getcwd()
    os.chdir(folder)
    (folder / "attack.py").write_text(hostile.OPEN)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize(
    ("container", "position"),
    [
        *((container, 0) for container in CONTAINERS),
        *whole_only(*(("zip", n) for n in range(1, 4))),
    ],
)
def test_code_in_a_pickle_does_not_run(container, position, folder):
    for attack in RUNNING.values():
        pickled = hostile.with_attack(attack, BESIDE, position)
        status, err = inspected(folder / "model.pth", CONTAINERS[container](pickled))
        assert status == 2 and "[checkpoint." in err
        assert not any((parent / hostile.CANARY).exists() for parent in (folder, Path("/")))


# Small files that take minutes or gigabytes -----------------------------------------------------

LONG = b"(" + b"K\x01" * 200_000 + b"tq\x000"  # a tuple, kept in the memo
LIST = hostile.name("builtins", "list") + b"q\x010"
INTEGER = hostile.number(1 << 4_000_000) + b"q\x000"
SAME_HASH = [hostile.number(n * sys.hash_info.modulus) for n in range(60_000)]
HANGS = {
    "tuple as a key": LONG + b"}(" + b"h\x00N" * 300_000 + b"u",
    "integer as a key": INTEGER + b"}(" + b"h\x00N" * 300_000 + b"u",
    "keys of one hash": b"}(" + b"N".join(SAME_HASH) + b"Nu",
    "copies of a tuple": LONG + LIST + b"h\x01h\x00\x85R0" * 300_000 + b"N",
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", HANGS)
def test_pickle_that_hangs(kind, container, path, monkeypatch):
    monkeypatch.setattr(containers, "MIN_SECONDS", 1)
    path.write_bytes(CONTAINERS[container](b"\x80\x02" + HANGS[kind] + b"."))
    with raises_code("checkpoint.unreadable", path, "more than 1 s"):
        open_checkpoint(path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_pickle_that_takes_gigabytes(container, path, monkeypatch):
    monkeypatch.setattr(containers, "MIN_MEMORY", 64 << 20)
    copies = LONG + LIST + b"](" + b"h\x01h\x00\x85R" * 10_000 + b"e"
    path.write_bytes(CONTAINERS[container](b"\x80\x02" + copies + b"."))
    with raises_code("checkpoint.unreadable", path, "MiB"):
        open_checkpoint(path)


# Pickles that contradict the rest of their file --------------------------------------------------


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize(
    "tensor",
    [
        hostile.tensor(key="1"),  # whose data the file does not contain
        hostile.tensor(elements=5),
        hostile.tensor(elements=1 << 61),
        hostile.tensor(size=(2, 3)),
        hostile.tensor(offset=1),
        hostile.tensor(offset=-1),
        hostile.tensor(stride=(1 << 62, 1)),
        hostile.tensor(kind="DoubleStorage"),
    ],
)
def test_tensor_that_is_not_in_the_file(tensor, container, path):
    weights = hostile.mapping((hostile.text("a"), hostile.tensor()), (hostile.text("b"), tensor))
    path.write_bytes(CONTAINERS[container](b"\x80\x02" + weights + b"."))
    with raises_code("checkpoint.unreadable", path, "damaged"):
        open_checkpoint(path)


@pytest.mark.parametrize("size", [2, 1 << 31])
def test_array_whose_dtype_contradicts_itself(size, path):
    """numpy would read and write beyond the array, or allocate gigabytes."""
    state = (b"K\x03", hostile.text("<"), hostile.NO_FIELDS, hostile.number(size) * 2, b"K\x00")
    lying = hostile.array(b"K\x02\x85", hostile.dtype_of("f4", *state), b"C\x08" + bytes(8))
    path.write_bytes(b"\x80\x04" + hostile.mapping((hostile.text("a"), lying)) + b".")
    assert open_checkpoint(path).content["a"].tolist() == [0.0, 0.0]


def test_zip_file_of_two_directories(path):
    """Python finds the directory before the end record, torch the one at the offset in it."""
    first, second = (
        hostile.in_zip(b"\x80\x02" + hostile.mapping((hostile.text(name), hostile.tensor())) + b".")
        for name in ("first", "second")
    )
    both = bytearray(first + second)
    end = struct.Struct("<4s4H2LH")
    fields = list(end.unpack(first[-end.size :]))
    end.pack_into(both, len(both) - end.size, *fields)
    path.write_bytes(both)
    assert list(torch.load(path, weights_only=True)) == ["first"]
    with raises_code("checkpoint.unreadable", path, "first entry"):
        open_checkpoint(path)


def test_tensors_that_a_backbone_does_not_need(path):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    odd = [
        nested,
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
    ]
    torch.save({"odd": odd, "state_dict": writers.randomized("resnet18")}, path)
    assert load_backbone(path).arch.name == "resnet18"


# Files that change while they are read ----------------------------------------------------------


@pytest.mark.parametrize("replace", [True, False], ids=["replaced", "truncated"])
def test_content_and_hash_are_of_the_same_bytes(replace, path, monkeypatch):
    torch.save({"a": torch.ones(4)}, path)
    sha256 = sha256_of(path)

    def kind_of(*arguments):
        if replace:
            path.unlink()
        path.write_bytes(b"")
        return identify(*arguments)

    identify = containers._kind_of
    monkeypatch.setattr(containers, "_kind_of", kind_of)
    opened = open_checkpoint(path)
    assert opened.content["a"].tolist() == [1.0] * 4
    assert opened.sha256 == sha256 and path.read_bytes() == b""

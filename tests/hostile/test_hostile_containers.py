"""Checkpoints of every container, changed as bytes: a sentence, or still a checkpoint."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as as_safetensors

from tests.checkpoints import checkpoint_writers as writers
from tests.hostile.checkpoint_mutations import (
    changed_bytes,
    changed_entries,
    entries_of,
    lying_directory,
    zipped,
)
from tests.hostile.checkpoint_runs import inspected
from tests.hostile.hostile_pickles import storages

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for

WHOLE = writers.moved(writers.randomized("resnet18"))  # each tensor is one number, stored once
# Tensors of a network's names and of no network's shapes: such files are read, and not complete.
SMALL = {
    key: torch.ones(value.shape if key == "conv1.weight" else [min(n, 2) for n in value.shape])
    for key, value in WHOLE.items()
}


def legacy(content):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def npz(state_dict):
    file = io.BytesIO()
    np.savez(file, **{key: value.numpy() for key, value in state_dict.items()})
    return file.getvalue()


def compressed(data):
    return zipped(entries_of(data), zipfile.ZIP_DEFLATED)


TORCH = writers.virtex(WHOLE)
ARRAYS = writers.detectron2_backbone(SMALL)
FILES = {
    "zip": storages(TORCH),
    "compressed zip": compressed(storages(SMALL)),
    "legacy": legacy(TORCH),
    "pickle of protocol 2": pickle.dumps(ARRAYS, protocol=2),
    "pickle of protocol 4": pickle.dumps(ARRAYS, protocol=4),
    "pickle of protocol 5": pickle.dumps(writers.caffe2(SMALL), protocol=5),
    "safetensors": as_safetensors(SMALL),
    "npz": npz(SMALL),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("containers") / "model.pth"


@pytest.mark.parametrize("container", FILES)
def test_files_are_valid_before_they_are_changed(container, path):
    status, err = inspected(path, FILES[container])
    whole = container in ("zip", "legacy")
    assert status == (0 if whole else 2)
    assert ("[checkpoint.incomplete]" in err) is not whole


@pytest.mark.parametrize("container", FILES)
@given(data=st.data())
def test_changed_bytes(path, container, data):
    inspected(path, data.draw(changed_bytes(FILES[container])))


@given(data=st.data())
def test_zip_files_with_a_changed_directory(path, data):
    inspected(path, data.draw(lying_directory(FILES["zip"])))


@given(data=st.data())
def test_compressed_zip_files_with_a_changed_directory(path, data):
    inspected(path, data.draw(lying_directory(FILES["compressed zip"])))


@given(data=st.data())
def test_zip_files_with_other_entries(path, data):
    inspected(path, data.draw(changed_entries(FILES["zip"])))


@given(st.binary(max_size=200), st.sampled_from([b"\0", b"PK\x03\x04"]))
def test_random_bytes(path, content, head):
    inspected(path, head + content)


# Safetensors: a length, a header in JSON, data ------------------------------------------------

NUMBERS = (0, 1, -1, 0.5, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, None, "1", [], {}, True)
DTYPES = (
    *("F32", "F16", "BF16", "F64", "I64", "BOOL", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"),
    *("C64", "F6_E2M3", "U64", "", "f32", "\x1b[31m", None, 1),
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(DTYPES),
        "shape": st.one_of(
            st.lists(st.sampled_from(NUMBERS), max_size=5),
            st.sampled_from(((64, 3, 7, 7), (0,), (2**40, 0), (), 5)),
        ),
        "data_offsets": st.one_of(
            st.lists(st.sampled_from(NUMBERS), max_size=3), st.just([0, 8]), st.just([0, 37632])
        ),
        "more": st.sampled_from(NUMBERS),
    },
)
KEYS = st.sampled_from(
    [*list(SMALL)[:8], "__metadata__", "", "a" * 70_000, "\x1b[31m\n", "\ud800", "conv1.weight"]
)


@given(st.dictionaries(KEYS, st.one_of(TENSOR, st.sampled_from(NUMBERS)), max_size=5), st.data())
def test_safetensors_with_random_headers(path, header, data):
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text)] * 6 + [0, 1, len(text) + 1, 2**31, 2**63, 99]))
    body = data.draw(st.sampled_from([b"", b"\0" * 8, b"\xff" * 8, b"\0" * 37632]))
    inspected(path, length.to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("opening", ['{"a":', "[", '{"__metadata__":{"a":'])
def test_safetensors_with_nested_headers(opening, path):
    text = b'{"b":' + opening.encode() * 1_000_000
    inspected(path, len(text).to_bytes(8, "little") + text)


# What the changes found, kept --------------------------------------------------------------------


def assert_unreadable(path, data):
    status, err = inspected(path, data)
    assert status == 2 and "[checkpoint.unreadable]" in err, err


def test_changed_weight_is_found_by_the_checksum(path):
    data = FILES["zip"]
    at = data.index(b"\0\0\0@", 60_000 if len(data) > 60_000 else 0)  # a 2.0
    assert_unreadable(path, data[:at] + b"\0\0\x10@" + data[at + 4 :])


def test_compressed_file_has_the_same_weights(path):
    from virtex.checkpoints import load_backbone

    path.write_bytes(compressed(FILES["zip"]))
    loaded = load_backbone(path).state_dict
    assert all(torch.equal(loaded[key], WHOLE[key]) for key in loaded if "tracked" not in key)


def test_file_that_unpacks_to_gigabytes_is_refused(path):
    entries = dict(entries_of(FILES["zip"]))
    name = next(name for name in entries if name.endswith("/data/0"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            with archive.open(entry, "w") as file:
                file.write(entries[entry])
                for _ in range(600 if entry == name else 0):
                    file.write(bytes(1 << 20))
    assert_unreadable(path, path.read_bytes())


def test_byte_order_of_another_machine(path):
    entries = dict(entries_of(FILES["zip"]))
    name = next(name for name in entries if name.endswith("/byteorder"))
    entries[name] = b"big"
    inspected(path, zipped(list(entries.items())))


def test_safetensors_with_one_name_twice(path):
    data = FILES["safetensors"].replace(b'"bn1.bias"', b'"bn1.mean"')
    assert_unreadable(path, data.replace(b'"bn1.weight"', b'"bn1.mean"  '))

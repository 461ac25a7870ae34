"""A file that cannot be opened is reported, and none runs code unless it is trusted."""

import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.errors import raises_code
from virtex.checkpoints import containers, load_backbone, open_checkpoint, resolve
from virtex.files import sha256_of

WEIGHTS = {"a.weight": torch.arange(3000.0), "b.bias": torch.zeros(3)}


def assert_unreadable(path, *named):
    with raises_code("checkpoint.unreadable", path, *named) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


def saved(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def tar_archive(first):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", encoding="latin1", format=tarfile.GNU_FORMAT) as tar:
        for name in (first, "storages", "tensors", "pickle", "../outside"):
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def legacy_magic():
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()[:24].decode("latin1")


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_missing_file_and_folder(name, tmp_path):
    with raises_code("checkpoint.not_found", tmp_path):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in", "web page"),
        (b"<HTML><head><title>404", "web page"),
        (b"loss: 0.3\nTraining done.\n" * 99, "text file"),
        ("Größe: 5 µm\n".encode() * 999, "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "00 01 02 03"),
        (tar_archive("../outside"), "tar archive"),
        # torch would unpack tar archives of its first versions into a folder
        (tar_archive(legacy_magic()), "tar archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_another_kind(content, description, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert_unreadable(path, description)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_truncated_files(kind, kept, tmp_path):
    path = tmp_path / "model"
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"conv1_w": np.zeros(1000)}, protocol=2))
    else:
        saved(path, WEIGHTS, kind == "legacy")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert_unreadable(path, "truncated or damaged")


def test_safetensors_with_an_invalid_header(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    assert_unreadable(path)


def test_zip_file_of_something_else(tmp_path):
    path = tmp_path / "dataset.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", b"...")
    assert_unreadable(path, "images/1.jpg")


def test_torchscript_archive_is_read_without_its_code(tmp_path):
    path = tmp_path / "RN50.pt"
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).half()
    torch.jit.save(torch.jit.script(network), path)
    opened = open_checkpoint(path)
    assert not opened.flat and opened.content.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(opened.content[name], tensor)


def test_torchscript_module_that_contains_itself(tmp_path):
    path = tmp_path / "loop.pt"
    pickled = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("loop/data.pkl", pickled)
        archive.writestr("loop/constants.pkl", b"\x80\x02).")
    assert_unreadable(path, "RecursionError")


class Malicious:
    """Unpickles by running a command that creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "0", "2", "4"])
def test_code_in_a_pickle_runs_only_if_trusted(kind, tmp_path):
    path, marker = tmp_path / "model.pth", tmp_path / "marker"
    content = {"state_dict": WEIGHTS, "hook": Malicious(marker)}
    if kind in ("zip", "legacy"):
        saved(path, content, legacy=kind == "legacy")
    else:
        path.write_bytes(pickle.dumps({"hook": Malicious(marker)}, protocol=int(kind)))
    name = f"{os.system.__module__}.system"
    with raises_code("checkpoint.unsafe_pickle", path, name, "--trust-pickle"):
        open_checkpoint(path)
    assert not marker.exists()
    open_checkpoint(path, trust_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_whole_network_needs_trust(legacy, here):
    import torchvision

    path = saved(here / "model.pth", torchvision.models.resnet18(), legacy)
    with raises_code("checkpoint.unsafe_pickle", path, "torchvision.models.resnet.ResNet"):
        load_backbone(path)
    assert load_backbone(path, trust_pickle=True).arch.name == "resnet18"


def test_trusted_pickle_of_a_missing_package(tmp_path, monkeypatch):
    package = types.ModuleType("acme_vision")
    package.Config = type("Config", (), {"__module__": "acme_vision"})
    monkeypatch.setitem(sys.modules, "acme_vision", package)
    path = saved(tmp_path / "model.pth", {"config": package.Config()})
    monkeypatch.delitem(sys.modules, "acme_vision")
    with raises_code("checkpoint.unsafe_pickle", "acme_vision.Config"):
        open_checkpoint(path)
    with raises_code("checkpoint.missing_package", "'acme_vision'"):
        open_checkpoint(path, trust_pickle=True)


def test_jax_pickle(tmp_path):
    path = tmp_path / "byol.pkl"
    path.write_bytes(b"\x80\x02cjaxlib.xla\nDeviceArray\n)\x81.")
    with raises_code("checkpoint.unsafe_pickle", "jaxlib.xla.DeviceArray", "JAX"):
        open_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_common_objects_beside_the_weights_open(legacy, tmp_path):
    import argparse
    import collections
    import pathlib

    content = {
        "state_dict": collections.OrderedDict(WEIGHTS),
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("runs") / "1"),
        "meters": collections.defaultdict(list, {"loss": [1.0]}),
        "best": np.float64(0.7),
        "history": np.arange(5, dtype=np.float32),
        "seen": {1, 2},
    }
    opened = open_checkpoint(saved(tmp_path / "model.pth", content, legacy))
    loaded = opened.content
    assert not opened.flat
    assert loaded["args"] == {"lr": 0.1, "output": "runs/1"} and loaded["best"] == 0.7
    assert loaded["meters"] == {"loss": [1.0]}
    assert torch.equal(loaded["state_dict"]["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_pickles_of_every_protocol(protocol, tmp_path):
    path = tmp_path / "model.pkl"
    content = {"conv1_w": np.arange(6.0).reshape(2, 3), "lr": np.float32(0.5), "n": [1, (2, "x")]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = open_checkpoint(path).content
    assert np.array_equal(loaded["conv1_w"], content["conv1_w"])
    assert loaded["lr"] == 0.5 and loaded["n"] == [1, (2, "x")]


def test_numpy_pickle_of_python_2(tmp_path):
    """Strings, of the array's data too, are bytes; numpy's module has its old name."""
    data = np.array([1.0, -2.0], "<f4").tobytes()
    pickled = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(data)])
        + data
        + b"tbs."
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickled)
    assert open_checkpoint(path).content["conv1_w"].tolist() == [1.0, -2.0]


def test_safetensors_are_flat(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    opened = open_checkpoint(path)
    assert opened.flat and torch.equal(opened.content["a.weight"], WEIGHTS["a.weight"])


def test_hash_of_the_whole_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_of(path) == "f4096a131e7e6ebfa7a512b5c299e13b065df34d15624ee1202ab394cc4d7e90"


@pytest.mark.parametrize("kept", [0, 8, None], ids=["empty", "short", "missing"])
def test_storage_larger_than_its_entry(tmp_path, kept):
    whole, path = tmp_path / "whole.pth", tmp_path / "short.pth"
    torch.save({"a": torch.ones(64), "b": torch.zeros(64)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/data/0"):
                if kept is None:
                    continue
                content = content[:kept]
            new.writestr(entry.filename, content)
    assert torch.equal(open_checkpoint(whole).content["a"], torch.ones(64))
    with raises_code("checkpoint.unreadable", path):
        open_checkpoint(path)


ARRAYS = {
    "params/img/embedding/kernel": np.arange(12, dtype=np.float32).reshape(2, 2, 1, 3),
    "step": np.int64(7),
    "transposed": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["a", "b"]),
    "empty": np.zeros((0, 3), np.float16),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tmp_path):
    path = tmp_path / "weights.npz"
    save(path, **ARRAYS)
    opened = open_checkpoint(path)
    assert opened.flat and opened.content.keys() == ARRAYS.keys()
    assert opened.content["names"] is None  # text
    for name in ARRAYS.keys() - {"names"}:
        assert opened.content[name].dtype == ARRAYS[name].dtype
        assert np.array_equal(opened.content[name], ARRAYS[name])


def test_bfloat16_of_jax_in_npz(tmp_path):
    """numpy stores JAX's bfloat16 as two bytes of an unknown type."""
    path, values = tmp_path / "weights.npz", torch.tensor([[1.0, -2.5, 3e38]]).bfloat16()
    np.savez(path, w=values.view(torch.int16).numpy().view("V2"))
    assert torch.equal(open_checkpoint(path).content["w"], values)


def test_objects_in_npz_are_not_unpickled(tmp_path):
    path, marker = tmp_path / "weights.npz", tmp_path / "marker"
    np.savez(path, hook=np.array([Malicious(marker)], dtype=object), w=np.ones(3))
    assert open_checkpoint(path, trust_pickle=True).content["hook"] is None
    assert not marker.exists()


def test_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MIN_MEMORY", 32 << 20)
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, w=np.zeros(64 << 20, np.uint8))
    assert path.stat().st_size < 1 << 20
    assert_unreadable(path)


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((4,), "<f4"), ((10**18,), "<f4"), ((-1,), "<f4"), (("x",), "<f4"), ((2,), "|V2")],
)
def test_npz_with_fewer_bytes_than_its_header_states(shape, descr, tmp_path):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}\n".encode()
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        archive.writestr("w.npy", start + header + b"\0\0\0")
    assert_unreadable(path, "truncated or damaged")


def sharded(folder):
    """Two files and their index, as Hugging Face's ``save_pretrained`` writes them."""
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, (key, tensor) in zip(names, WEIGHTS.items(), strict=True):
        save_file({key: tensor}, folder / name)
    index = {
        "metadata": {"total_size": 12012},
        "weight_map": dict(zip(WEIGHTS, names, strict=True)),
    }
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2))
    return path


def test_sharded_safetensors(tmp_path):
    path = sharded(tmp_path)
    opened = open_checkpoint(path)
    assert opened.flat and opened.content.keys() == WEIGHTS.keys()
    assert torch.equal(opened.content["a.weight"], WEIGHTS["a.weight"])
    whole = b"".join(file.read_bytes() for file in [path, *sorted(tmp_path.glob("*.safetensors"))])
    assert opened.size == len(whole)
    assert opened.sha256 == hashlib.sha256(whole).hexdigest()
    assert resolve(tmp_path) == str(path)


def test_sharded_torch_files(tmp_path):
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    for name, (key, tensor) in zip(names, WEIGHTS.items(), strict=True):
        saved(tmp_path / name, {key: tensor})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(WEIGHTS, names, strict=True))}))
    opened = open_checkpoint(index)
    assert not opened.flat and torch.equal(opened.content["a.weight"], WEIGHTS["a.weight"])
    with raises_code("checkpoint.sharded", index):
        open_checkpoint(tmp_path / names[0])


def test_missing_shard(tmp_path):
    path = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with raises_code("checkpoint.not_found", "model-00002-of-00002.safetensors"):
        open_checkpoint(path)


@pytest.mark.parametrize("change", ["index", "shard"])
def test_index_and_shards_that_differ(change, tmp_path):
    path = sharded(tmp_path)
    if change == "index":
        path.write_text(path.read_text().replace("b.bias", "other.bias"))
    else:
        save_file({"extra": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    with raises_code("checkpoint.incomplete", path):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": "../x.safetensors"}}'],
)
def test_invalid_index(content, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    assert_unreadable(path)


def test_one_shard_names_the_index(tmp_path):
    index = sharded(tmp_path)
    with raises_code("checkpoint.sharded", index):
        open_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    only = tmp_path / "model-00001-of-00001.safetensors"
    save_file(WEIGHTS, only)
    assert open_checkpoint(only).content.keys() == WEIGHTS.keys()


@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoint_is_refused_with_the_command_that_merges_it(tmp_path):
    import torch.distributed.checkpoint
    from torch.distributed.checkpoint import format_utils

    folder = tmp_path / "sharded_teacher_checkpoint"
    torch.distributed.checkpoint.save({"teacher": WEIGHTS}, checkpoint_id=folder, no_dist=True)
    for path in (folder, folder / ".metadata", folder / "__0_0.distcp"):
        with raises_code("checkpoint.sharded", f"format_utils dcp_to_torch {folder}"):
            open_checkpoint(path)
    assert format_utils.__spec__.name == "torch.distributed.checkpoint.format_utils"
    format_utils.dcp_to_torch_save(folder, tmp_path / "merged.pth")
    merged = open_checkpoint(tmp_path / "merged.pth").content["teacher"]
    assert torch.equal(merged["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.filterwarnings("ignore")
def test_shards_of_one_process_are_refused(tmp_path):
    """FSDP's LOCAL_STATE_DICT, as in DINOv2's ``model_0000999.rank_0.pth``."""
    from torch.distributed._shard import sharded_tensor

    path = tmp_path / "model_0000999.rank_0.pth"
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        metadata = sharded_tensor.ShardMetadata([0], [3000], "rank:0/cpu")
        shard = sharded_tensor.Shard(WEIGHTS["a.weight"], metadata)
        tensor = sharded_tensor.init_from_local_shards([shard], 3000)
        torch.save({"model": {"a.weight": tensor}}, path)
    finally:
        torch.distributed.destroy_process_group()
    with raises_code("checkpoint.sharded", path, "dcp_to_torch"):
        open_checkpoint(path)

"""A file that cannot be opened says why in one sentence, and none runs code unasked."""

import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from virtex.checkpoints import CheckpointError, open_checkpoint, sha256_of
from virtex.checkpoints.reading import with_state_dicts

WEIGHTS = {"a.weight": torch.arange(3000.0), "b.bias": torch.zeros(3)}


def told(path, trust_pickle=False):
    """The one sentence that opening this path ends in."""
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path, trust_pickle)
    sentence = str(error.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def saved(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


# Files that are no checkpoints, or not whole ones ----------------------------------------------


def test_no_such_file(tmp_path):
    assert "there is no file" in told(tmp_path / "absent.pth")


def test_a_folder(tmp_path):
    assert "is a folder: give the checkpoint file in it" in told(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in", "is a web page"),
        (b"<HTML><head><title>404", "is a web page"),
        (b"loss: 0.3\nTraining done.\n" * 99, "is a text file"),
        ("Größe: 5 µm\n".encode() * 999, "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "begins with the bytes 00 01 02 03"),
    ],
)
def test_a_file_that_is_something_else(content, sentence, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert sentence in told(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_a_torch_file_that_is_cut_off(legacy, kept, tmp_path):
    path = saved(tmp_path / "model.pth", WEIGHTS, legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "is cut off or damaged" in told(path)


def test_a_numpy_pickle_that_is_cut_off(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros(1000)}, protocol=2)[:-900])
    assert "is cut off or damaged" in told(path)


@pytest.mark.parametrize("kept", [20, 200, 5000])
def test_safetensors_that_are_cut_off(kept, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "is cut off or damaged" in told(path)


def test_safetensors_whose_header_lies(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    assert "is cut off or damaged" in told(path)


def test_a_zip_file_of_something_else(tmp_path):
    path = tmp_path / "dataset.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", b"...")
    assert "is a zip file but no checkpoint (it holds images/1.jpg)" in told(path)


def test_a_torchscript_archive(tmp_path):
    path = tmp_path / "RN50.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "is a TorchScript archive" in told(path)


# Pickles that want more than weights -----------------------------------------------------------


class Malice:
    """Unpickles by running a command that leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def malicious(kind, path, mark):
    content = {"state_dict": WEIGHTS, "hook": Malice(mark)}
    if kind in ("zip", "legacy"):
        return saved(path, content, legacy=kind == "legacy")
    path.write_bytes(pickle.dumps({"hook": Malice(mark)}, protocol=int(kind)))
    return path


@pytest.mark.parametrize("kind", ["zip", "legacy", "0", "2", "4"])
def test_a_malicious_pickle_does_nothing_and_is_told_by_name(kind, tmp_path):
    mark = tmp_path / "mark"
    path = malicious(kind, tmp_path / "model.pth", mark)
    sentence = told(path)
    assert f"namely {os.system.__module__}.system; " in sentence
    assert "--trust-pickle" in sentence
    assert not mark.exists()


def test_the_flag_that_trusts_it_runs_it(tmp_path):
    mark = tmp_path / "mark"
    open_checkpoint(malicious("zip", tmp_path / "model.pth", mark), trust_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_all_names_a_pickle_asks_for_are_told(legacy, tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    sentence = told(saved(tmp_path / "model.pth", network, legacy))
    for name in ("container.Sequential", "linear.Linear", "activation.ReLU"):
        assert f"torch.nn.modules.{name}" in sentence
    assert "OrderedDict" not in sentence and "_rebuild" not in sentence


def test_a_whole_network_that_is_trusted_gives_its_weights(here):
    import torchvision

    from virtex.checkpoints import load_backbone

    path = saved(here / "model.pth", torchvision.models.resnet18())
    assert load_backbone(str(path), trust_pickle=True).arch.name == "resnet18"


def test_each_of_several_trusted_networks_keeps_its_own_weights(tmp_path):
    """Their state_dicts are made one after the other, each where the last one was in memory."""
    networks = {name: torch.nn.Linear(1, 1) for name in ("student", "teacher", "third")}
    for number, network in enumerate(networks.values()):
        torch.nn.init.constant_(network.weight, number)
    content, _ = open_checkpoint(saved(tmp_path / "model.pth", networks), trust_pickle=True)
    content = with_state_dicts(content)
    found = [float(content[name]["weight"]) for name in networks]
    assert found == [0.0, 1.0, 2.0]


def test_a_trusted_pickle_of_a_missing_package_names_it(tmp_path, monkeypatch):
    package = types.ModuleType("acme_vision")
    package.Config = type("Config", (), {"__module__": "acme_vision"})
    monkeypatch.setitem(sys.modules, "acme_vision", package)
    path = saved(tmp_path / "model.pth", {"config": package.Config()})
    monkeypatch.delitem(sys.modules, "acme_vision")
    assert "namely acme_vision.Config; " in told(path)
    assert "the Python package 'acme_vision' is installed" in told(path, trust_pickle=True)


def test_jax_checkpoints_are_told_what_they_are(tmp_path):
    path = tmp_path / "byol.pkl"
    path.write_bytes(b"\x80\x02cjaxlib.xla\nDeviceArray\n)\x81.")
    assert "namely jaxlib.xla.DeviceArray" in told(path)
    assert "SAME" in told(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_training_scripts_keep_beside_their_weights_is_no_danger(legacy, tmp_path):
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
    loaded, flat = open_checkpoint(saved(tmp_path / "model.pth", content, legacy))
    assert not flat
    assert loaded["args"] == content["args"] and loaded["best"] == 0.7
    assert loaded["meters"] == {"loss": [1.0]}
    assert torch.equal(loaded["state_dict"]["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_numpy_pickle_of_any_protocol_opens(protocol, tmp_path):
    path = tmp_path / "model.pkl"
    content = {"conv1_w": np.arange(6.0).reshape(2, 3), "lr": np.float32(0.5), "n": [1, (2, "x")]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded, _ = open_checkpoint(path)
    assert np.array_equal(loaded["conv1_w"], content["conv1_w"])
    assert loaded["lr"] == 0.5 and loaded["n"] == [1, (2, "x")]


def test_a_numpy_pickle_of_python_2_opens(tmp_path):
    """Its strings are bytes, of the array's data too, and numpy's module has its old name."""
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
    assert open_checkpoint(path)[0]["conv1_w"].tolist() == [1.0, -2.0]


def test_safetensors_are_flat(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    loaded, flat = open_checkpoint(path)
    assert flat and torch.equal(loaded["a.weight"], WEIGHTS["a.weight"])


def test_the_hash_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_of(path) == "f4096a131e7e6ebfa7a512b5c299e13b065df34d15624ee1202ab394cc4d7e90"

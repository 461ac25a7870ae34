"""``hf://`` and ``timm://``: a local server answers as the Hugging Face Hub, in new processes."""

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch

from tests.checkpoints.hub_server import COMMIT, start_hub
from tests.errors import assert_invalid_input, raises_code
from virtex.checkpoints import load_backbone, resolve
from virtex.checkpoints.hub import find_weights

# huggingface_hub reads its settings when it is imported: names are loaded in a new process
LOAD = """
import json, sys
from virtex.checkpoints.loading import inspect_checkpoint
from virtex.checkpoints.sources import resolve_source
from virtex.errors import UserError
for name in sys.argv[1:]:
    try:
        if name.startswith("resolve "):
            found = {"path": resolve_source(name.removeprefix("resolve ")).path}
        else:
            found = inspect_checkpoint(name).as_dict()
        print(json.dumps(found))
    except UserError as error:
        print(json.dumps({"code": error.code, "problem": str(error)}))
"""
MODEL = "test_efficientnet"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    torch.manual_seed(0)
    tensors = timm.create_model(MODEL).state_dict()
    weights = safetensors.torch.save(tensors)
    half = {name: value for name, value in tensors.items() if name.startswith("blocks.")}
    parts = {
        "model-00001-of-00002.safetensors": half,
        "model-00002-of-00002.safetensors": {n: t for n, t in tensors.items() if n not in half},
    }
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    path = tmp_path_factory.mktemp("hub") / "m.pth"
    torch.save({"arch": MODEL, "state_dict": tensors}, path)
    config = json.dumps(
        {"architecture": MODEL, "pretrained_cfg": {"mean": [0.1] * 3, "std": [1] * 3}}
    )
    served, server = start_hub()
    served.repositories = {
        "timm/test_efficientnet.r160_in1k": {"model.safetensors": weights},
        "org/model": {
            "README.md": b"",
            "config.json": config.encode(),
            "pytorch_model.bin": b"not preferred",
            "model.safetensors": weights,
        },
        "org/sharded": {
            "config.json": config.encode(),
            "model.safetensors.index.json": json.dumps(index).encode(),
            **{file: safetensors.torch.save(part) for file, part in parts.items()},
        },
        "org/single": {"folder/trained.pth": path.read_bytes()},
        "org/several": {"a.pth": b"1", "b.pth": b"2", "README.md": b""},
        "org/none": {"README.md": b""},
        "org/bad_index": {"model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'},
        "org/corrupt": {"corrupt.safetensors": weights},
        "org/gated": (403, "GatedRepo"),
        "org/private": (401, "RepoNotFound"),
        "org/broken": (500, ""),
    }
    served.corrupt = ("corrupt.safetensors",)
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home, hub):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    return kept | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "FVCORE_CACHE": str(home / "cache"),
        "NO_PROXY": "127.0.0.1,localhost",
    }


def load(environment, names):
    """Return what is known about each name; its error's code and message."""
    process = subprocess.run(
        [sys.executable, "-c", LOAD, *names], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return dict(zip(names, map(json.loads, process.stdout.splitlines()), strict=True))


LOADED = (
    "hf://org/model",
    "hf://org/model@v1",
    "hf://org/model@refs%2Fpr%2F1/model.safetensors",
    "hf://org/single",
    "timm://test_efficientnet",
)
SHARDED = "resolve hf://org/sharded"
REFUSED = {
    "hf://org/gated": ("checkpoint.access_denied", "HF_TOKEN"),
    "hf://org/private": ("checkpoint.not_found", "org/private"),
    "hf://org/broken": ("checkpoint.download_failed", "org/broken"),
    "hf://org/model@v9": ("checkpoint.not_found", "v9"),
    "hf://org/model/absent.bin": ("checkpoint.not_found", "absent.bin"),
    "hf://org/several": ("checkpoint.not_found", "a.pth, b.pth"),
    "hf://org/none": ("checkpoint.not_found", "README.md"),
    "hf://org/bad_index": ("checkpoint.unreadable", "index.json"),
    "hf://org/corrupt": ("checkpoint.hash_mismatch", "sha256"),
    "hf://model": ("checkpoint.invalid_name", "hf://model"),
    "hf://org/model@a b": ("checkpoint.invalid_name", "hf://org/model@a b"),
}


@pytest.fixture(scope="module")
def answers(environment):
    return load(environment, (*LOADED, SHARDED, *REFUSED))


@pytest.fixture(scope="module")
def loaded(answers):
    return {name: answers[name] for name in (*LOADED, SHARDED)}


def test_weights_are_downloaded_at_a_commit(loaded, hub, home):
    for name in LOADED:
        assert loaded[name]["complete"], loaded[name]["problem"]
        assert COMMIT in " ".join(loaded[name]["notes"])
        assert loaded[name]["path"].startswith(str(home / "hub"))
    assert {loaded[name]["sha256"] for name in LOADED[:3]} == {loaded[LOADED[0]]["sha256"]}
    assert loaded["hf://org/model"]["input"]["mean"] == [0.1] * 3  # of its config.json
    assert loaded["hf://org/single"]["path"].endswith("folder/trained.pth")
    assert not any("pytorch_model.bin" in request for request in hub.asked)


def test_weights_of_timm_have_its_input(loaded):
    found = loaded["timm://test_efficientnet"]
    assert (found["format"], found["arch"]["name"]) == (f"timm:{MODEL}.r160_in1k", MODEL)
    assert found["input"]["mean"] == [0.485, 0.456, 0.406]
    assert any("160x160" in note and "bicubic" in note for note in found["notes"])


def test_all_shards_are_downloaded(loaded, hub):
    path = loaded[SHARDED]["path"]
    assert path.endswith("model.safetensors.index.json")
    files = hub.repositories["org/sharded"]
    assert {*os.listdir(os.path.dirname(path))} == files.keys()


def assert_cache_is_used(environment, loaded):
    names = [f"resolve {name.removeprefix('resolve ')}" for name in (*loaded, "hf://org/other")]
    *found, other = load(environment, names).values()
    assert [item["path"] for item in found] == [item["path"] for item in loaded.values()]
    assert other["code"] == "checkpoint.download_failed"


def test_cache_is_used_without_a_connection(loaded, environment, hub):
    asked = len(hub.asked)
    assert_cache_is_used(environment | {"HF_HUB_OFFLINE": "1"}, loaded)
    assert len(hub.asked) == asked


@pytest.mark.whole
def test_cache_is_used_if_the_hub_is_not_reachable(loaded, environment):
    assert_cache_is_used(environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}, loaded)


@pytest.mark.whole
def test_gated_repository_is_invalid_input(environment):
    process = subprocess.run(
        [sys.executable, "-m", "virtex", "inspect", "hf://org/gated"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert_invalid_input(process, "checkpoint.access_denied", "org/gated")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("timm://resnet51", "resnet50"),
        ("timm://resnet50.in99k", "a1_in1k"),
        ("timm://test_coatnet", "test_coatnet"),
    ],
)
def test_invalid_names_of_timm(name, named):
    with raises_code("checkpoint.invalid_name", name, named):
        resolve(name)


def test_weights_of_timm():
    assert find_weights("timm://resnet50").hf_hub_id == "timm/resnet50.a1_in1k"
    assert find_weights("timm://resnet50.tv_in1k").hf_hub_id == "timm/resnet50.tv_in1k"


@pytest.mark.parametrize(
    ("name", "family"),
    [("tf_mobilenetv3_small_minimal_100", "timm_cnn"), ("vit_tiny_patch16_224", "vit")],
)
def test_random_networks_of_timm(name, family, here):
    backbone = load_backbone(f"random:{name}?seed=3")
    torch.manual_seed(3)
    expected = timm.create_model(name).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in backbone.state_dict.items())
    assert (backbone.arch.family, backbone.input.mean) == (family, (0.5, 0.5, 0.5))
    assert resolve(f"random:{name}?seed=3") == backbone.source.path

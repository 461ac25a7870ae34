"""Names of checkpoints: local paths, the web, the zoo, torchvision's weights, random networks."""

import json

import pytest
import torch
import torchvision

from tests.checkpoints.fault_server import Answer
from tests.errors import raises_code
from virtex.checkpoints import (
    InputSpec,
    Resolved,
    load_backbone,
    register_source,
    resolve,
    sources,
)
from virtex.errors import UserError
from virtex.files import sha256_of


def test_local_path(tmp_path):
    (tmp_path / "model.pth").touch()
    assert resolve(tmp_path / "model.pth") == str(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["absent.pth", "\x1b[2J.pth", "s3://bucket/model.pth"])
def test_name_that_is_not_found(name):
    with raises_code("checkpoint.not_found"):
        resolve(name)


def test_url_is_downloaded_once_for_each_host(server):
    url = server.serve("/model.pth", b"weights")
    path = resolve(url)
    server.serve("/model.pth", b"changed")
    assert resolve(url) == path
    with open(path, "rb") as file:
        assert file.read() == b"weights"
    assert resolve(url.replace("127.0.0.1", "localhost")) != path


def test_failed_download_is_reported(server):
    with raises_code("checkpoint.download_failed", f"{server.address}/absent.pth", "404"):
        resolve(f"{server.address}/absent.pth")


def test_secrets_of_urls_are_not_shown(server, here, caplog):
    torch.save(torchvision.models.resnet18().state_dict(), here / "m.pth")
    url = server.serve("/m.pth?token=hidden", (here / "m.pth").read_bytes(), Answer(503), Answer())
    url = url.replace("//", "//me:hidden@")
    backbone = load_backbone(url)
    assert backbone.source.requested.endswith("/m.pth?token=…")
    assert resolve(backbone.source.reopen_name) == backbone.source.path
    for broken in (url.replace("m.pth", "absent.pth"), url.replace("http", "ftp")):
        with pytest.raises(UserError) as error:
            load_backbone(broken)
        assert "hidden" not in str(error.value)
    assert "hidden" not in json.dumps(backbone.record()) + caplog.text
    assert "503" in caplog.text


@pytest.fixture
def zoo_entry(server, here, monkeypatch):
    """Add an entry ``my/model``, a ResNet-18, with further YAML."""
    torch.save(torchvision.models.resnet18().state_dict(), here / "m.pth")
    url = server.serve("/m.pth", (here / "m.pth").read_bytes())
    monkeypatch.setenv("VIRTEX_ZOO", str(here / "zoo.yaml"))

    def write(further):
        urls = f"[{server.address}/gone.pth, {url}]"
        (here / "zoo.yaml").write_text(f"models: {{my/model: {{urls: {urls}, {further}}}}}")

    return write


def test_zoo_entry_is_downloaded_once_and_verified(zoo_entry, server, here):
    zoo_entry(f"arch: resnet18, sha256: '{sha256_of(here / 'm.pth')}'")
    backbone = load_backbone("virtex://my/model")
    assert backbone.source.requested == "virtex://my/model"
    assert load_backbone("virtex://my/model").source.path == backbone.source.path
    assert [path for path, _ in server.asked] == ["/gone.pth", "/m.pth"]


@pytest.mark.parametrize(
    ("statement", "code", "named"),
    [
        ("arch: resnet50", "checkpoint.unexpected_architecture", "zoo.yaml"),
        ("format: moco", "checkpoint.unknown_format", "moco"),
        ("format: mocko", "checkpoint.unknown_format", "mocko"),
    ],
)
def test_wrong_statements_of_the_zoo(statement, code, named, zoo_entry):
    zoo_entry(statement)
    with raises_code(code, named):
        load_backbone("virtex://my/model")


def test_input_of_the_zoo_is_used(zoo_entry):
    zoo_entry("input: {channel_order: BGR, mean: [1, 2, 3], std: [4, 5, 6], scale: 255}")
    backbone = load_backbone("virtex://my/model")
    assert backbone.input == InputSpec("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 255.0)
    assert "input from zoo.yaml" in backbone.source.notes


def test_random_weights_are_torchvisions_initialization(here):
    backbone = load_backbone("random:resnet18?seed=3")
    torch.manual_seed(3)
    expected = torchvision.models.resnet18(weights=None).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.state_dict.items())
    assert backbone.source.requested == "random:resnet18?seed=3"


def test_random_weights_keep_the_random_state(here):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, other = resolve("random:resnet18"), resolve("random:resnet18?seed=1")
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == resolve("random:resnet18?seed=0") != other
    assert sha256_of(first) != sha256_of(other)


@pytest.mark.parametrize(
    ("home", "code"), [("file", "checkpoint.download_failed"), ("~", "cache.no_home")]
)
def test_cache_is_never_in_a_temporary_folder(home, code, here, monkeypatch):
    """Another user can create a predictable folder there first, with a network of his own."""
    monkeypatch.setenv("TMPDIR", str(here))
    planted = here / "iopath_cache" / "virtex" / "random"
    planted.mkdir(parents=True)
    (planted / f"resnet18_seed0_torch{torch.__version__}.pth").touch()
    (here / "file").touch()
    monkeypatch.delenv("FVCORE_CACHE")
    monkeypatch.setenv("HOME", str(here / home) if home == "file" else home)
    with raises_code(code, "FVCORE_CACHE"):
        resolve("random:resnet18?seed=0")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("random:resnet51", "resnet50"),
        ("torchvision://resnet51", "resnet50"),
        ("random:resnet18?sed=1", "sed"),
        ("random:resnet18?seed=one", "'one'"),
        ("torchvision://resnet18?weights=V9", "IMAGENET1K_V1"),
    ],
)
def test_invalid_names_are_refused(name, named, here):
    with raises_code("checkpoint.invalid_name", name, named):
        resolve(name)


def test_networks_of_no_family_are_refused(here):
    with raises_code("checkpoint.unknown_format"):
        load_backbone("random:squeezenet1_1")


@pytest.mark.parametrize(
    ("options", "weights"), [("", "IMAGENET1K_V1"), ("?weights=IMAGENET1K_V2", "IMAGENET1K_V2")]
)
def test_torchvision_weights_are_verified(options, weights, here):
    address = torchvision.models.get_model_weights("resnet50")[weights].url
    cached = here / "cache" / "virtex" / address.removeprefix("https://")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not torchvision's")
    with raises_code("checkpoint.hash_mismatch", cached):
        resolve(f"torchvision://resnet50{options}")


def test_register_source(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    (tmp_path / "model.pth").touch()

    @register_source("shelf://")
    def resolve_shelf(uri):
        return Resolved(str(tmp_path / uri.removeprefix("shelf://")))

    assert resolve("shelf://model.pth") == str(tmp_path / "model.pth")
    with pytest.raises(ValueError, match="shelf://"):
        register_source("shelf://")(resolve_shelf)

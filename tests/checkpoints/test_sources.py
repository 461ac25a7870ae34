"""From names to files: local paths, the web, torchvision's weights, random networks."""

import pytest
import torch
import torchvision
from iopath.common.file_io import PathHandler

from virtex.checkpoints import (
    PATHS,
    CheckpointError,
    InputSpec,
    load_backbone,
    resolve,
    sha256_of,
)
from virtex.errors import UserError


def test_a_local_path_is_itself(tmp_path):
    (tmp_path / "model.pth").touch()
    assert resolve(str(tmp_path / "model.pth")) == str(tmp_path / "model.pth")


def test_a_path_that_leads_nowhere_gets_examples_of_names():
    with pytest.raises(
        CheckpointError, match=r"no checkpoint absent.pth; give a local path, https"
    ):
        resolve("absent.pth")


def test_an_address_is_downloaded_once(server):
    url = server.serve("/model.pth", b"weights")
    path = resolve(url)
    server.serve("/model.pth", b"changed")
    assert resolve(url) == path
    with open(path, "rb") as file:
        assert file.read() == b"weights"


def test_one_path_on_two_hosts_is_two_files(server):
    url = server.serve("/model.pth", b"weights")
    assert resolve(url) != resolve(url.replace("127.0.0.1", "localhost"))


def test_a_download_that_fails_is_one_sentence(server):
    with pytest.raises(CheckpointError) as error:
        resolve(f"{server.address}/absent.pth")
    assert f"could not download {server.address}/absent.pth: the server answered 404" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_a_zoo_entry_is_downloaded_and_checked(server, here, monkeypatch):
    torch.save(torchvision.models.resnet18().state_dict(), here / "m.pth")
    url = server.serve("/m.pth", (here / "m.pth").read_bytes())
    (here / "zoo.yaml").write_text(
        f"models: {{my/model: {{urls: [{server.address}/gone.pth, {url}], arch: resnet18, "
        f"sha256: '{sha256_of(here / 'm.pth')}'}}}}"
    )
    monkeypatch.setenv("VIRTEX_ZOO", str(here / "zoo.yaml"))
    backbone = load_backbone("virtex://my/model")
    assert backbone.source.requested == "virtex://my/model"
    assert [path for path, _ in server.asked] == ["/gone.pth", "/m.pth"]
    assert load_backbone("virtex://my/model").source.path == backbone.source.path
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("input: {channel_order: BGR, mean: [1, 2, 3], std: [4, 5, 6], scale: 255}", None),
        ("arch: resnet50", "is a resnet18, but .* says of my/model that it is a resnet50"),
        ("format: moco", "moco"),
        ("format: mocko", "mocko"),
    ],
)
def test_what_the_zoo_says_of_a_file_holds(said, outcome, server, here, monkeypatch):
    torch.save(torchvision.models.resnet18().state_dict(), here / "m.pth")
    url = server.serve("/m.pth", (here / "m.pth").read_bytes())
    (here / "zoo.yaml").write_text(f"models: {{my/model: {{urls: [{url}], {said}}}}}")
    monkeypatch.setenv("VIRTEX_ZOO", str(here / "zoo.yaml"))
    if outcome:
        with pytest.raises(CheckpointError, match=outcome):
            load_backbone("virtex://my/model")
        return
    backbone = load_backbone("virtex://my/model")
    assert backbone.input == InputSpec("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 255.0)
    assert "input as zoo.yaml says" in backbone.source.notes


def test_an_unknown_entry_gets_the_nearest_names():
    with pytest.raises(UserError, match=r"the model zoo has no 'hub/resnet51'; near it: hub/res"):
        resolve("virtex://hub/resnet51")


def test_random_weights_are_torchvisions_initialization_from_the_seed(here):
    backbone = load_backbone("random:resnet18?seed=3")
    torch.manual_seed(3)
    wanted = torchvision.models.resnet18(weights=None).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in backbone.state_dict.items())
    assert backbone.source.requested == "random:resnet18?seed=3"


def test_random_weights_leave_the_random_state_alone(here):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    resolve("random:resnet18?seed=5")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_seed_gives_one_file_and_another_seed_another(here):
    first, again = load_backbone("random:resnet18"), load_backbone("random:resnet18?seed=0")
    other = load_backbone("random:resnet18?seed=1")
    assert first.source.sha256 == again.source.sha256 != other.source.sha256


@pytest.mark.parametrize("scheme", ["random:", "torchvision://"])
def test_an_unknown_network_gets_the_nearest_names(scheme, here):
    with pytest.raises(
        CheckpointError, match=r"there is no network 'resnet51'; near it: .*resnet50"
    ):
        resolve(f"{scheme}resnet51")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("random:resnet18?sed=1", "unknown option sed; there is seed"),
        ("random:resnet18?seed=one", "the seed should be a whole number, not 'one'"),
        ("torchvision://resnet18?weights=V9", "no weights V9, only IMAGENET1K_V1 and DEFAULT"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(name, sentence, here):
    with pytest.raises(CheckpointError, match=sentence):
        resolve(name)


@pytest.mark.parametrize(
    ("options", "weights"), [("", "IMAGENET1K_V1"), ("?weights=IMAGENET1K_V2", "IMAGENET1K_V2")]
)
def test_torchvisions_weights_come_from_torchvisions_address(options, weights, here, monkeypatch):
    address = torchvision.models.get_model_weights("resnet50")[weights].url
    cached = here / "cache" / "virtex" / address.removeprefix("https://")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not torchvision's")
    with pytest.raises(CheckpointError, match=f"{cached} is not, or no longer, what"):
        resolve(f"torchvision://resnet50{options}")


def test_a_handler_more_is_one_line(tmp_path):
    class Shelf(PathHandler):
        def _get_supported_prefixes(self):
            return ["shelf://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.removeprefix("shelf://"))

    (tmp_path / "model.pth").touch()
    PATHS.register_handler(Shelf())
    assert resolve("shelf://model.pth") == str(tmp_path / "model.pth")

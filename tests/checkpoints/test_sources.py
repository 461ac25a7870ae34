"""From names to files: local paths, the web, torchvision's weights, random networks."""

import http.server
import threading

import pytest
import torch
import torchvision
from iopath.common.file_io import PathHandler

from virtex.checkpoints import PATHS, CheckpointError, load_backbone, resolve


@pytest.fixture
def server(here):
    """A web server on this machine; gives its folder and port."""
    folder = here / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.path = f"/{self.headers['Host'].split(':')[0]}{self.path}"
            super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, running.server_address[1]
        running.shutdown()


def test_a_local_path_is_itself(tmp_path):
    (tmp_path / "model.pth").touch()
    assert resolve(str(tmp_path / "model.pth")) == str(tmp_path / "model.pth")


def test_a_path_that_leads_nowhere_gets_examples_of_names():
    with pytest.raises(
        CheckpointError, match=r"no checkpoint absent.pth; give a local path, https"
    ):
        resolve("absent.pth")


def test_an_address_is_downloaded_once(server):
    folder, port = server
    (folder / "127.0.0.1").mkdir()
    (folder / "127.0.0.1" / "model.pth").write_bytes(b"weights")
    path = resolve(f"http://127.0.0.1:{port}/model.pth")
    (folder / "127.0.0.1" / "model.pth").write_bytes(b"changed")
    assert resolve(f"http://127.0.0.1:{port}/model.pth") == path
    with open(path, "rb") as file:
        assert file.read() == b"weights"


def test_one_path_on_two_hosts_is_two_files(server):
    folder, port = server
    contents = []
    for host in ("127.0.0.1", "localhost"):
        (folder / host).mkdir()
        (folder / host / "model.pth").write_bytes(host.encode())
        with open(resolve(f"http://{host}:{port}/model.pth"), "rb") as file:
            contents.append(file.read())
    assert contents == [b"127.0.0.1", b"localhost"]


def test_a_download_that_fails_is_one_sentence(server):
    _, port = server
    address = f"http://127.0.0.1:{port}/absent.pth"
    with pytest.raises(CheckpointError) as error:
        resolve(address)
    assert f"could not download {address}: the server answered 404" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_one_sentence(here):
    with pytest.raises(
        CheckpointError, match=r"could not download http://127.0.0.1:9/m.pth: .*efuse"
    ):
        resolve("http://127.0.0.1:9/m.pth")


def test_random_weights_are_torchvisions_initialisation_from_the_seed(here):
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
    cached.touch()
    assert resolve(f"torchvision://resnet50{options}") == str(cached)


def test_a_handler_more_is_one_line(tmp_path):
    class Shelf(PathHandler):
        def _get_supported_prefixes(self):
            return ["shelf://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.removeprefix("shelf://"))

    (tmp_path / "model.pth").touch()
    PATHS.register_handler(Shelf())
    assert resolve("shelf://model.pth") == str(tmp_path / "model.pth")

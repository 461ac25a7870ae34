"""Loading captioning models: config, vocabulary, weights, and errors."""

import functools
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision

from tests.captioning.small_captioners import write_checkpoint
from tests.errors import raises_code
from virtex import zoo
from virtex.captioning.captioner import CaptionerOptions, load_captioner
from virtex.checkpoints.loading import load_backbone
from virtex.data.tokenizer import train_tokenizer
from virtex.errors import UserError
from virtex.files import sha256_of
from virtex.pretraining.models.decoding import BeamSearch, NucleusSampling
from virtex.probes.settings import load_settings
from virtex.run_folder import RUN_VERSION
from virtex.tasks import packaged_protocol
from virtex.zoo.models import weights_in

SHORT = ("MODEL.DECODER.MAX_DECODING_STEPS", 8)


def decoding(*overrides):
    protocol = packaged_protocol("coco_captioning", "toy")
    return load_settings(protocol, [*SHORT, *overrides])[0].MODEL.DECODER


def load(checkpoint, *overrides, **options):
    return load_captioner(
        load_backbone(str(checkpoint)), decoding(*overrides), CaptionerOptions(**options)
    )


@pytest.fixture
def alone(checkpoint, tmp_path):
    """The checkpoint without the files beside it."""
    return shutil.copy(checkpoint, tmp_path / "alone.pth")


def test_config_and_vocabulary_beside_checkpoint(checkpoint):
    captioner = load(checkpoint)
    assert not captioner.model.training
    assert captioner.model.backward_textual is not None
    assert captioner.tokenizer.path == checkpoint.with_name("tokenizer.model")
    saved = torch.load(checkpoint)["model"]
    for name, tensor in captioner.model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_captions_match_the_model(checkpoint):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = zoo.load(checkpoint)
    model.decoder = BeamSearch(5, 8)
    captioner = load(checkpoint)
    expected = [captioner.tokenizer.decode(ids) for ids in model.caption(images)]
    assert captioner(images) == expected
    assert len(set(expected)) > 1  # captions depend on the image


def test_decoder_comes_from_the_protocol(checkpoint):
    assert load(checkpoint).model.decoder == BeamSearch(5, 8, 2)
    nucleus = ("MODEL.DECODER.NAME", "nucleus_sampling")
    assert load(checkpoint, *nucleus).model.decoder == NucleusSampling(0.9, 8)


def test_config_and_tokenizer_options(checkpoint, alone):
    files = {"config": "pretrain_config.yaml", "tokenizer": "tokenizer.model"}
    options = {key: str(checkpoint.with_name(file)) for key, file in files.items()}
    found = load(alone, **options).model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in load(checkpoint).model.state_dict().items())


def test_vocabulary_of_config_below_data_root(checkpoint, alone, data):
    config = alone.with_name("pretrain_config.yaml")
    shutil.copy(checkpoint.with_name(config.name), config)
    captioner = load(alone, data_root=str(data))
    assert captioner.tokenizer.path == data / "vocab/toy.model"


@pytest.fixture
def address(checkpoint):
    """Serve the folder of the checkpoint over HTTP."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=checkpoint.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_config_and_vocabulary_of_zoo_entry(checkpoint, address, tmp_path, monkeypatch):
    for name in ("pretrain_config.yaml", "tokenizer.model"):
        shutil.copy(checkpoint.with_name(name), tmp_path / name)
    (tmp_path / "zoo.yaml").write_text(
        f"models:\n  mine:\n    urls: ['{address}/model_final.pth']\n    holds: model\n"
        "    config: pretrain_config.yaml\n    tokenizer: tokenizer.model\n"
    )
    monkeypatch.setenv("VIRTEX_ZOO", str(tmp_path / "zoo.yaml"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    captioner = load("virtex://mine")
    assert captioner.tokenizer.path == tmp_path / "tokenizer.model"
    found = captioner.model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in torch.load(checkpoint)["model"].items())


def test_missing_config(alone):
    with pytest.raises(UserError, match=r"pretrain_config\.yaml.*--config"):
        load(alone)


def test_missing_vocabulary(checkpoint, alone, tmp_path):
    shutil.copy(checkpoint.with_name("pretrain_config.yaml"), tmp_path)
    train = f"--vocab-size 120 --output {tmp_path}/data/vocab/toy.model"
    with raises_code("captioning.no_vocabulary", "--tokenizer", *train.split(" --")):
        load(alone, data_root=str(tmp_path / "data"))


def test_backbone_is_rejected(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "backbone.pth")
    for checkpoint in (tmp_path / "backbone.pth", "random:resnet18?seed=0"):
        with raises_code("captioning.not_a_captioning_model", checkpoint):
            load(checkpoint)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("masked_lm", {}),
        ("token_classification", {"MODEL__TEXTUAL__NAME": "none"}),
        ("multilabel_classification", {"MODEL__TEXTUAL__NAME": "none"}),
    ],
)
def test_other_pretraining_tasks_are_rejected(tmp_path, vocabulary, task, settings):
    checkpoint = write_checkpoint(tmp_path, vocabulary, MODEL__NAME=task, **settings)
    with raises_code("captioning.not_a_captioning_model", checkpoint):
        load(checkpoint)


def test_other_config_is_rejected(checkpoint):
    with pytest.raises(UserError):
        load(checkpoint, config="bicaptioning_R_50_L1_H512")


def test_larger_vocabulary_is_rejected(checkpoint, tmp_path):
    lines = ["the quick brown fox jumps over a lazy dog and a sphinx of black quartz judges vows"]
    large = train_tokenizer(lines * 3, 130, tmp_path / "large.model")
    assert len(large) == 130
    with pytest.raises(UserError, match=r"130.*DATA\.VOCAB_SIZE"):
        load(checkpoint, tokenizer=str(large.path))


def test_other_vocabulary_is_rejected(checkpoint, vocabulary, tmp_path):
    """The run folder of the pretraining records the hash of its vocabulary."""
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    model, other = tmp_path / "run/model_final.pth", tmp_path / "other.model"
    identity = {"tokenizer_sha256": sha256_of(vocabulary)}
    run = {"version": RUN_VERSION, "identity": identity}
    (tmp_path / "run/run.json").write_text(json.dumps(run))
    assert load(model).tokenizer.path == model.with_name("tokenizer.model")
    train_tokenizer(["a red circle and a blue square on a green background"] * 3, 40, other)
    with raises_code("captioning.wrong_vocabulary", other, model):
        load(model, tokenizer=str(other))


def test_more_steps_than_positions_are_rejected(checkpoint):
    with pytest.raises(UserError, match=r"MODEL\.DECODER\.MAX_DECODING_STEPS.* 31.*30|30.*31"):
        load(checkpoint, "MODEL.DECODER.MAX_DECODING_STEPS", 31)


def test_missing_tensor_of_the_head_is_rejected(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    content = torch.load(tmp_path / "run/model_final.pth")
    del content["model"]["textual.output.bias"]
    torch.save(content, tmp_path / "run/model_final.pth")
    with pytest.raises(UserError, match=r"textual\.output\.bias"):
        load(tmp_path / "run/model_final.pth")


def test_wrapper_prefixes_are_ignored(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    content = torch.load(checkpoint)
    content["model"] = {f"module.{name}": tensor for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "run/model_final.pth")
    found = load(tmp_path / "run/model_final.pth").model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in torch.load(checkpoint)["model"].items())


def test_replaced_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": torch.ones(2)}}, path)
    assert list(weights_in(str(path), sha256=sha256_of(path))) == ["a"]
    with raises_code("checkpoint.replaced", path):
        weights_in(str(path), sha256="0" * 64)

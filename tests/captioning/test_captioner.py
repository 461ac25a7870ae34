"""From a checkpoint's name to a whole captioning model, or to a sentence that says why not."""

import functools
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision

from tests.captioning.small_captioners import write_checkpoint
from virtex import zoo
from virtex.captioning.captioner import Naming, load_captioner
from virtex.checkpoints.hashing import sha256_of
from virtex.checkpoints.loading import load_backbone
from virtex.data.tokenizer import train_tokenizer
from virtex.errors import UserError
from virtex.pretraining.models.decoding import BeamSearch, NucleusSampling
from virtex.probes.settings import load_settings
from virtex.tasks import packaged_protocol

SHORT = ("MODEL.DECODER.MAX_DECODING_STEPS", 8)


def decoding(*overrides):
    protocol = packaged_protocol("coco_captioning", "toy")
    return load_settings(protocol, [*SHORT, *overrides])[0].MODEL.DECODER


def load(checkpoint, *overrides, **named):
    return load_captioner(load_backbone(str(checkpoint)), decoding(*overrides), Naming(**named))


def refusal(checkpoint, *overrides, **named):
    with pytest.raises(UserError) as error:
        load(checkpoint, *overrides, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def alone(checkpoint, tmp_path):
    """The file without what lies beside it."""
    return shutil.copy(checkpoint, tmp_path / "alone.pth")


def test_config_and_vocabulary_lie_beside_the_checkpoint(checkpoint):
    captioner = load(checkpoint)
    assert not captioner.model.training
    assert captioner.model.backward_textual is not None
    assert captioner.tokenizer.path == checkpoint.with_name("tokenizer.model")
    saved = torch.load(checkpoint)["model"]
    for name, tensor in captioner.model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_captions_are_those_of_the_model_itself(checkpoint):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = zoo.load(checkpoint)
    model.decoder = BeamSearch(5, 8)
    captioner = load(checkpoint)
    expected = [captioner.tokenizer.decode(ids) for ids in model.caption(images)]
    assert captioner(images) == expected
    assert len(set(expected)) > 1  # else any picture would do


def test_the_protocol_says_how_words_are_found_not_the_config(checkpoint):
    assert load(checkpoint).model.decoder == BeamSearch(5, 8, 2)
    name = ("MODEL.DECODER.NAME", "nucleus_sampling")
    assert load(checkpoint, *name).model.decoder == NucleusSampling(0.9, 8)


def test_config_and_vocabulary_can_be_named(checkpoint, alone):
    files = {"config": "pretrain_config.yaml", "tokenizer": "tokenizer.model"}
    named = {key: str(checkpoint.with_name(file)) for key, file in files.items()}
    found = load(alone, **named).model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in load(checkpoint).model.state_dict().items())


def test_the_configs_own_vocabulary_is_found_below_the_data_root(checkpoint, alone, data):
    config = alone.with_name("pretrain_config.yaml")
    shutil.copy(checkpoint.with_name(config.name), config)
    captioner = load(alone, data_root=str(data))
    assert captioner.tokenizer.path == data / "vocab/toy.model"


@pytest.fixture
def address(checkpoint):
    """Of the folder that holds the checkpoint, on a server of this machine."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=checkpoint.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_zoo_entry_tells_its_config_and_vocabulary(checkpoint, address, tmp_path, monkeypatch):
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


def test_a_missing_config_is_told_and_how_to_name_it(alone):
    said = refusal(alone)
    assert "has no pretrain_config.yaml beside it" in said and "--config" in said


def test_a_missing_vocabulary_is_told_and_how_to_train_it(checkpoint, alone, tmp_path):
    shutil.copy(checkpoint.with_name("pretrain_config.yaml"), tmp_path)
    said = refusal(alone, data_root=str(tmp_path / "data"))
    assert "python -m virtex.data.tokenizer --captions" in said
    assert "--vocab-size 120" in said and f"--output {tmp_path}/data/vocab/toy.model" in said
    assert "--tokenizer" in said


def test_a_backbone_alone_writes_no_captions(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "backbone.pth")
    said = refusal(tmp_path / "backbone.pth")
    assert "is a backbone alone, without a textual head" in said
    assert "is a backbone alone" in refusal("random:resnet18?seed=0")


@pytest.mark.parametrize(
    ("task", "settings", "reason"),
    [
        ("masked_lm", {}, "was trained by masked_lm, which learns to write no captions"),
        ("token_classification", {"MODEL__TEXTUAL__NAME": "none"}, "names classes"),
        ("multilabel_classification", {"MODEL__TEXTUAL__NAME": "none"}, "names classes"),
    ],
)
def test_other_pretraining_tasks_write_no_captions(tmp_path, vocabulary, task, settings, reason):
    checkpoint = write_checkpoint(tmp_path, vocabulary, MODEL__NAME=task, **settings)
    assert reason in refusal(checkpoint)


def test_a_model_of_another_config_is_refused(checkpoint):
    said = refusal(checkpoint, config="bicaptioning_R_50_L1_H512")
    assert "does not hold this model: " in said and " more" in said


def test_a_vocabulary_of_more_tokens_is_refused(checkpoint, tmp_path):
    lines = ["the quick brown fox jumps over a lazy dog and a sphinx of black quartz judges vows"]
    large = train_tokenizer(lines * 3, 130, tmp_path / "large.model")
    assert len(large) == 130
    assert "130 tokens, more than DATA.VOCAB_SIZE, 120" in refusal(
        checkpoint, tokenizer=str(large.path)
    )


def test_the_vocabulary_of_another_model_is_refused(checkpoint, vocabulary, tmp_path):
    """As far as the run that trained the model tells which one is its own."""
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    model, other = tmp_path / "run/model_final.pth", tmp_path / "other.model"
    said = {"tokenizer sha256": sha256_of(vocabulary)}
    (tmp_path / "run/run.json").write_text(json.dumps(said))
    assert load(model).tokenizer.path == model.with_name("tokenizer.model")
    train_tokenizer(["a red circle and a blue square on a green background"] * 3, 40, other)
    said = refusal(model, tokenizer=str(other))
    assert f"{other} is not the vocabulary that {model} was trained with" in said


def test_more_steps_than_the_model_has_positions_are_refused(checkpoint):
    said = refusal(checkpoint, "MODEL.DECODER.MAX_DECODING_STEPS", 31)
    assert "MODEL.DECODER.MAX_DECODING_STEPS is 31" in said and "30" in said


def test_a_checkpoint_that_lacks_a_tensor_of_the_head_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    content = torch.load(tmp_path / "run/model_final.pth")
    del content["model"]["textual.output.bias"]
    torch.save(content, tmp_path / "run/model_final.pth")
    with pytest.raises(UserError, match=r"textual\.output\.bias"):
        load(tmp_path / "run/model_final.pth")


def test_what_wrappers_put_before_names_is_no_part_of_them(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    content = torch.load(checkpoint)
    content["model"] = {f"module.{name}": tensor for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "run/model_final.pth")
    found = load(tmp_path / "run/model_final.pth").model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in torch.load(checkpoint)["model"].items())

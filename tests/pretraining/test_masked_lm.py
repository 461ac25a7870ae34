"""Masked language modeling: loss and gradient parity, attention, samples."""

import torch
from small_models import (
    FEATURES,
    FEEDFORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    small_head,
    some_captions,
)
from torch.nn import functional as F

from benchmarks.plain_captioning import PlainHead
from virtex.pretraining.models.masked_lm import MaskedLMModel
from virtex.pretraining.models.visual import build_visual

MASK = 3


def some_batch():
    tokens, lengths = some_captions([6, 10, 4])
    labels = torch.zeros_like(tokens)
    for row, place in ((0, 2), (1, 3), (1, 7), (2, 1)):
        labels[row, place] = tokens[row, place]
        tokens[row, place] = MASK
    image = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    return {"image": image, "tokens": tokens, "lengths": lengths, "labels": labels}


def model_and_twin():
    torch.manual_seed(0)
    model = MaskedLMModel(build_visual("torchvision::resnet18"), small_head(2)).double().eval()
    twin = PlainHead(FEATURES, VOCABULARY, 2, HIDDEN, HEADS, FEEDFORWARD, 0.0, False, causal=False)
    twin.double().eval().load_state_dict(model.textual.state_dict())
    return model, twin


def test_loss_and_gradients_match_plain_head():
    model, twin = model_and_twin()
    batch = some_batch()
    losses = model(batch)["masked_lm"]
    logits = twin(model.visual(batch["image"]), batch["tokens"], batch["lengths"])
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=0)
    torch.testing.assert_close(losses.total / losses.count, expected, rtol=1e-12, atol=0)
    (losses.total / losses.count).backward()
    expected.backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    for name, parameter in model.textual.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-14)


def test_only_masked_tokens_count():
    model, _ = model_and_twin()
    assert model(some_batch())["masked_lm"].count == 4


def test_attention_is_bidirectional():
    model, _ = model_and_twin()
    batch = some_batch()
    before, _ = model.masked_states(batch)
    batch["tokens"][1, 8] = 4 if batch["tokens"][1, 8] != 4 else 5
    after, _ = model.masked_states(batch)
    assert not torch.allclose(before[1], after[1])
    assert torch.equal(before[0], after[0])


def test_samples():
    model, _ = model_and_twin()
    batch = some_batch()
    pairs = model.samples(batch)
    assert [len(true) for true, _ in pairs] == [len(guess) for _, guess in pairs] == [1, 2, 1]
    assert pairs[0][0] == [int(batch["labels"][0, 2])]


def test_batch_without_masks():
    model, _ = model_and_twin()
    batch = some_batch()
    batch["labels"].zero_()
    losses = model(batch)["masked_lm"]
    assert losses.total == 0
    assert losses.count == 0

"""Captioning: loss and gradient parity with torch's decoder on padded captions."""

import pytest
import torch
from small_models import (
    EOS,
    VOCABULARY,
    plain_twin,
    small_head,
    small_model,
    some_captions,
    some_features,
)

from virtex.engine.losses import mean_losses, total_loss
from virtex.pretraining.models.captioning import CaptioningModel, reverse_tokens
from virtex.pretraining.models.visual import build_visual

HEADS = [(1, False), (2, False), (1, True), (2, True)]
LENGTHS = [5, 9, 12, 3, 12, 7]


@pytest.mark.parametrize(("layers", "norm_first"), HEADS)
def test_loss_and_gradients_match_plain_decoder(layers, norm_first):
    model = small_model(layers, norm_first)
    plain = plain_twin(model, layers, norm_first)
    tokens, lengths = some_captions(LENGTHS)
    ours, theirs = (some_features(len(LENGTHS)).requires_grad_() for _ in range(2))
    loss = total_loss(model.textual_losses(ours, tokens, lengths))
    expected = plain(theirs, tokens, reverse_tokens(tokens, lengths), lengths)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15)
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        if not name.startswith("visual."):
            torch.testing.assert_close(
                parameter.grad, gradients[name], rtol=1e-9, atol=1e-14, msg=name
            )


def test_loss_without_padding():
    model = small_model()
    plain = plain_twin(model)
    tokens, lengths = some_captions([8, 8, 8])
    features = some_features(3)
    loss = total_loss(model.textual_losses(features, tokens, lengths))
    expected = plain(features, tokens, reverse_tokens(tokens, lengths), lengths)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_unknown_tokens_are_ignored():
    """An unknown token has the id of padding, 0, within a caption."""
    model = small_model()
    plain = plain_twin(model)
    tokens, lengths = some_captions(LENGTHS)
    tokens[1, 4] = tokens[2, 1] = 0
    features = some_features(len(LENGTHS))
    losses = model.textual_losses(features, tokens, lengths)
    expected = plain(features, tokens, reverse_tokens(tokens, lengths), lengths)
    torch.testing.assert_close(total_loss(losses), expected, rtol=1e-12, atol=0)
    assert losses["captioning_forward"].count == sum(LENGTHS) - len(LENGTHS) - 2


def test_extra_padding_changes_nothing():
    model = small_model()
    tokens, lengths = some_captions(LENGTHS)
    features = some_features(len(LENGTHS))
    wider = torch.nn.functional.pad(tokens, (0, 6))
    short, long = (total_loss(model.textual_losses(features, t, lengths)) for t in (tokens, wider))
    torch.testing.assert_close(short, long, rtol=1e-12, atol=0)


def test_attention_is_causal():
    model = small_model()
    tokens, lengths = some_captions([9])
    memory = model.textual.project(some_features(1))
    before = model.textual.logits(memory, tokens, lengths, causal=True)
    tokens[0, 5] = 11 if tokens[0, 5] != 11 else 12
    after = model.textual.logits(memory, tokens, lengths, causal=True)
    assert torch.equal(before[:5], after[:5])
    assert not torch.allclose(before[5:], after[5:])


def test_reverse_tokens():
    tokens = torch.tensor([[1, 7, 8, 2, 0], [1, 5, 2, 0, 0], [1, 5, 6, 7, 2]])
    turned = reverse_tokens(tokens, torch.tensor([4, 3, 5]))
    assert turned.tolist() == [[2, 8, 7, 1, 0], [2, 5, 1, 0, 0], [2, 7, 6, 5, 1]]


def test_directions_share_all_but_transformers():
    model = CaptioningModel(build_visual("torchvision::resnet18"), small_head(), True)
    forward, backward = model.textual, model.backward_textual
    assert backward.embedding is forward.embedding
    assert backward.visual_projection is forward.visual_projection
    assert backward.output is forward.output
    assert forward.output.weight is forward.embedding.words.weight
    ours = {p.data_ptr() for p in forward.transformer.parameters()}
    assert ours.isdisjoint(p.data_ptr() for p in backward.transformer.parameters())


def test_forward_captioning_has_one_direction():
    model = small_model(bidirectional=False)
    tokens, lengths = some_captions(LENGTHS)
    losses = model.textual_losses(some_features(len(LENGTHS)), tokens, lengths)
    assert list(losses) == ["captioning_forward"]
    assert not any(key.startswith("backward") for key in model.state_dict())


def test_initial_loss_is_uniform():
    """The loss of a fresh head is that of guessing among all tokens."""
    torch.manual_seed(0)
    model = CaptioningModel(build_visual("torchvision::resnet18"), small_head(), True).eval()
    tokens, lengths = some_captions(LENGTHS)
    losses = mean_losses(model.textual_losses(some_features(6).float(), tokens, lengths))
    for loss in losses.values():
        assert abs(loss.item() - torch.tensor(VOCABULARY).log().item()) < 0.2


def test_dropout_in_training_only():
    torch.manual_seed(0)
    model = CaptioningModel(build_visual("torchvision::resnet18"), small_head(dropout=0.3), True)
    tokens, lengths = some_captions(LENGTHS)
    features = some_features(6).float()
    for mode, differ in ((True, True), (False, False)):
        model.train(mode)
        one, two = (total_loss(model.textual_losses(features, tokens, lengths)) for _ in range(2))
        assert (one != two) == differ


def test_samples():
    model = small_model().float()
    tokens, lengths = some_captions([5, 7])
    pairs = model.samples(
        {"image": torch.randn(2, 3, 64, 64), "tokens": tokens, "lengths": lengths}
    )
    assert [len(truth) for truth, _ in pairs] == [5, 7]
    assert all(EOS not in guess for _, guess in pairs)

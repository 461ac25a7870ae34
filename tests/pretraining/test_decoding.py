"""Decoding: parity of the cached decoders with references that recompute every prefix."""

import itertools

import pytest
import torch
from small_models import EOS, SOS, plain_twin, small_model, some_features
from torch.nn import functional as F

from benchmarks.plain_captioning import plain_beam_search
from virtex.pretraining.models.decoding import (
    BeamSearch,
    NucleusSampling,
    caption_ids,
    inverse_cdf,
)

MODELS = [(1, False), (2, False), (1, True), (2, True)]
BATCH = 6


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: f"L{m[0]}_{'pre' if m[1] else 'post'}")
def models(request):
    model = small_model(*request.param)
    return model, plain_twin(model, *request.param)


def directions(model, plain):
    """Head, plain head, first and last token."""
    return {
        "forward": (model.textual, plain.textual, SOS, EOS),
        "backward": (model.backward_textual, plain.backward_textual, EOS, SOS),
    }


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("max_steps", [1, 30])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_beam_search_matches_reference(models, beams, max_steps, direction):
    head, plain, start, end = directions(*models)[direction]
    features = some_features(BATCH)
    tokens, _ = BeamSearch(beams, max_steps)(head, features, start, end)
    assert caption_ids(tokens, end) == plain_beam_search(
        plain, features, start, end, beams, max_steps
    )


def test_captions_differ():
    found = set()
    for layers, norm_first in MODELS:
        head = small_model(layers, norm_first).textual
        tokens, _ = BeamSearch(5, 30)(head, some_features(BATCH), SOS, EOS)
        found |= {tuple(ids) for ids in caption_ids(tokens, EOS)}
    assert len(found) > 8
    assert len({len(ids) for ids in found}) > 3


def test_incremental_logits_match_full_prefix(models):
    """Step by step logits equal those of the prefix at once; a lost [SOS] would shift them."""
    model, plain = models
    features = some_features(2)
    prefix = torch.tensor([[SOS, 9, 14, 7, 30], [SOS, 4, 4, 22, 8]])
    lengths = torch.tensor([5, 5])
    expected = plain.textual(features, prefix, lengths)
    state = model.textual.start(features)
    for place in range(prefix.shape[1]):
        logits = state.step(prefix[:, place])
        torch.testing.assert_close(logits, expected[:, place], rtol=1e-9, atol=1e-12)


def test_scores_are_log_probabilities(models):
    model, plain = models
    features = some_features(BATCH)
    tokens, scores = BeamSearch(5, 30)(model.textual, features, SOS, EOS)
    for image, ids, score in zip(features, tokens.tolist(), scores, strict=True):
        ids = ids[: ids.index(EOS) + 1] if EOS in ids else ids
        prefix = torch.tensor([[SOS, *ids[:-1]]])
        logits = plain.textual(image[None], prefix, torch.tensor([prefix.shape[1]]))
        each = F.log_softmax(logits[0], dim=-1)[torch.arange(len(ids)), torch.tensor(ids)]
        assert abs(each.sum().item() - score.item()) < 1e-4


def test_one_step_search_is_exact():
    """Of one step: the best of a wider search is the best of all."""
    head = small_model().textual
    greedy, best = (BeamSearch(b, 1)(head, some_features(BATCH), SOS, EOS)[1] for b in (1, 5))
    assert torch.equal(greedy, best)


def test_token_never_follows_itself(models):
    tokens, _ = BeamSearch(5, 30)(models[0].textual, some_features(BATCH), SOS, EOS)
    for ids in caption_ids(tokens, EOS):
        assert all(a != b for a, b in itertools.pairwise(ids))


def test_caption_is_independent_of_the_batch(models):
    head, features = models[0].textual, some_features(BATCH)
    search = BeamSearch(5, 30)
    together = caption_ids(search(head, features, SOS, EOS)[0], EOS)
    alone = [caption_ids(search(head, image[None], SOS, EOS)[0], EOS)[0] for image in features]
    assert together == alone


def plain_nucleus(head, features, nucleus, max_steps, draws):
    """Nucleus sampling with the whole prefix computed anew; draws as in ``NucleusSampling``."""
    prefix = torch.full((len(features), 1), SOS)
    for step in range(max_steps):
        lengths = torch.full((len(prefix),), prefix.shape[1])
        logits = head(features, prefix, lengths)[:, -1].float()
        last = prefix[:, -1]
        allowed = torch.zeros_like(logits)
        for row, probabilities, previous in zip(
            allowed, logits.softmax(-1), last.tolist(), strict=True
        ):
            reached = 0.0
            for token in probabilities.argsort(descending=True).tolist():
                if reached > nucleus:
                    break
                reached += probabilities[token].item()
                row[token] = float(token != previous)
            if not row.any():  # the last token was the whole nucleus: the next likeliest
                row[probabilities.argsort(descending=True)[1]] = 1.0
        order = logits.argsort(descending=True)
        kept = (logits.softmax(-1) * allowed).gather(1, order)
        reached = kept.cumsum(dim=-1) > draws[:, step, None] * kept.sum(dim=-1, keepdim=True)
        drawn = order.gather(1, reached.int().argmax(dim=-1, keepdim=True))
        drawn[last == EOS] = EOS
        prefix = torch.cat([prefix, drawn], dim=1)
        if (drawn == EOS).all():
            break
    return prefix[:, 1:]


@pytest.mark.parametrize("max_steps", [6, 30])
@pytest.mark.parametrize("nucleus", [0.3, 0.9])
def test_nucleus_sampling_matches_reference(models, nucleus, max_steps):
    model, plain = models
    features = some_features(BATCH)
    draws = some_draws(max_steps)
    tokens, _ = NucleusSampling(nucleus, max_steps)(model.textual, features, SOS, EOS, draws)
    expected = plain_nucleus(plain.textual, features, nucleus, max_steps, draws)
    assert tokens.tolist() == expected.tolist()


def some_draws(steps, seed=3):
    return torch.rand(BATCH, steps, generator=torch.Generator().manual_seed(seed))


def test_nucleus_sampling_uses_torch_generator():
    head, features = small_model().textual, some_features(BATCH)
    sampled = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sampled.append(caption_ids(NucleusSampling(0.9, 20)(head, features, SOS, EOS)[0], EOS))
    assert sampled[0] == sampled[1] != sampled[2]


def test_sampled_caption_is_independent_of_the_batch():
    head, features, draws = small_model().textual, some_features(BATCH), some_draws(20)
    sample = NucleusSampling(0.9, 20)
    together = caption_ids(sample(head, features, SOS, EOS, draws)[0], EOS)
    alone = [
        caption_ids(sample(head, image[None], SOS, EOS, own[None])[0], EOS)[0]
        for image, own in zip(features, draws, strict=True)
    ]
    assert together == alone


def test_inverse_cdf():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0]).expand(10_000, 5)
    draws = (torch.arange(10_000) / 10_000)[:, None]
    places = inverse_cdf(probabilities, draws)[:, 0]
    assert places.bincount(minlength=5).tolist() == pytest.approx([5000, 0, 3000, 2000, 0], abs=1)
    above = inverse_cdf(probabilities[:1], torch.tensor([[1.0]]))
    assert above.item() == 3


def test_tiny_nucleus_is_greedy():
    head, features = small_model().textual, some_features(BATCH)
    sampled = caption_ids(NucleusSampling(1e-9, 30)(head, features, SOS, EOS)[0], EOS)
    greedy = caption_ids(BeamSearch(1, 30)(head, features, SOS, EOS)[0], EOS)
    assert sampled == greedy


def test_endless_captions_are_truncated():
    head = small_model().textual
    with torch.no_grad():
        head.output.bias[EOS] = -1e4
    for decode in (BeamSearch(5, 12), NucleusSampling(0.9, 12)):
        tokens, _ = decode(head, some_features(2), SOS, EOS)
        assert [len(ids) for ids in caption_ids(tokens, EOS)] == [12, 12]


def test_empty_captions():
    head = small_model().textual
    with torch.no_grad():
        head.output.bias[EOS] = 1e4
    for decode in (BeamSearch(1, 12), BeamSearch(5, 12), NucleusSampling(0.9, 12)):
        tokens, _ = decode(head, some_features(2), SOS, EOS)
        assert caption_ids(tokens, EOS) == [[], []]

"""Multi-label classification: the mean of -log softmax over unique labels."""

import torch
from torch.nn import functional as F

from virtex.pretraining.models.classification import ClassificationModel
from virtex.pretraining.models.textual import LinearTextualHead
from virtex.pretraining.models.visual import build_visual

SPECIAL = (0, 1, 2, 3)


def small_model(ignored=SPECIAL):
    torch.manual_seed(0)
    return ClassificationModel(
        build_visual("torchvision::resnet18"), LinearTextualHead(512, 20), ignored
    ).eval()


def images(batch):
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_loss_averages_unique_labels():
    model = small_model()
    image = images(2)
    losses = model({"image": image, "labels": torch.tensor([[5, 7, 7, 9], [4, 0, 0, 0]])})
    logprobs = F.log_softmax(model.textual(model.visual(image)), dim=1)
    expected = -logprobs[0, [5, 7, 9]].mean() - logprobs[1, 4]
    torch.testing.assert_close(losses["classification"].total, expected)
    assert losses["classification"].count == 2


def test_special_tokens_are_ignored():
    model = small_model()
    batch = {"image": images(1), "labels": torch.tensor([[1, 5, 2]])}
    alone = {"image": images(1), "labels": torch.tensor([[5, 0, 0]])}
    assert torch.equal(model(batch)["classification"].total, model(alone)["classification"].total)


def test_images_without_labels():
    model = small_model(ignored=(0,))
    image = images(2)
    losses = model({"image": image, "labels": torch.tensor([[5], [0]])})["classification"]
    alone = model({"image": image[:1], "labels": torch.tensor([[5]])})["classification"]
    torch.testing.assert_close(losses.total, alone.total)
    assert losses.count == 1


def test_global_average_pooling():
    head = LinearTextualHead(512, 20)
    features = torch.randn(2, 512, 7, 7)
    torch.testing.assert_close(head(features), head.output(features.mean(dim=(2, 3))))


def test_samples():
    model = small_model()
    image = images(2)
    pairs = model.samples({"image": image, "labels": torch.tensor([[9, 5, 5], [4, 0, 0]])})
    assert [truth for truth, _ in pairs] == [[5, 9], [4]]
    best = model.textual(model.visual(image)).argmax(dim=1).tolist()
    assert [guess[0] for _, guess in pairs] == best
    assert all(len(guess) == 10 for _, guess in pairs)

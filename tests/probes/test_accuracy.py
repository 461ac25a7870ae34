"""Accuracy equals a plain count, whatever the batches."""

import csv

import pytest
import torch

from virtex.probes.accuracy import PER_CLASS, Accuracy


def make_logits(images=50, classes=12, seed=0):
    """Return logits that favor the correct class a little, and labels without class 4."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    labels[labels == 4] = 5 % classes
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1
    return logits, labels


def accuracy_of(logits, labels, batches=None):
    accuracy = Accuracy(logits.shape[1])
    batches = batches or [len(labels)]
    for part, truth in zip(logits.split(batches), labels.split(batches), strict=True):
        accuracy.update(part, truth)
    return accuracy


def label_ranks(logits, labels):
    """Yield the label and its rank (from 0) of each image."""
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        yield label, sum(other > row[label] for other in row)


def reference_metrics(logits, labels):
    places = list(label_ranks(logits, labels))
    by_class = {label: [p == 0 for c, p in places if c == label] for label, _ in places}
    shares = [sum(right) / len(right) for right in by_class.values()]
    return {
        "top1": 100 * sum(place < 1 for _, place in places) / len(places),
        "top5": 100 * sum(place < 5 for _, place in places) / len(places),
        "mean_per_class": 100 * sum(shares) / len(shares),
    }


def test_matches_plain_count():
    for seed in range(5):
        logits, labels = make_logits(seed=seed)
        expected = reference_metrics(logits, labels)
        assert accuracy_of(logits, labels).compute() == pytest.approx(expected)


def test_unequal_batches_are_summed():
    logits, labels = make_logits()
    parts = [3, 40, 7]
    separate = [
        accuracy_of(*part).compute()["top1"]
        for part in zip(logits.split(parts), labels.split(parts), strict=True)
    ]
    whole = accuracy_of(logits, labels).compute()
    assert accuracy_of(logits, labels, parts).compute() == whole
    assert abs(sum(separate) / 3 - whole["top1"]) > 1


def test_mean_per_class_weights_classes_equally():
    logits = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    metrics = accuracy_of(logits, torch.tensor([0, 0, 0, 1])).compute()
    assert metrics == {"top1": 75, "mean_per_class": 50}


@pytest.mark.parametrize(("classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_needs_more_than_5_classes(classes, has_top5):
    assert ("top5" in accuracy_of(*make_logits(classes=classes)).compute()) == has_top5


def test_minus_infinity_is_never_predicted():
    """Only two classes have a finite logit."""
    logits = torch.full((1, 8), -torch.inf)
    logits[0, :2] = torch.tensor([0.3, 0.7])
    for label in range(8):
        metrics = accuracy_of(logits, torch.tensor([label])).compute()
        assert metrics["top1"] == (100 if label == 1 else 0)
        assert metrics["top5"] == (100 if label < 2 else 0)


def test_half_precision_logits_are_counted_exactly():
    """4097 images of one class: float16 cannot represent 4096 + 1."""
    accuracy = Accuracy(2)
    for size in (4096, 1):
        accuracy.update(torch.tensor([[0.0, 1]]).half().expand(size, 2), torch.ones(size).long())
    assert accuracy.counts[1].tolist() == [4097, 4097, 4097]


def test_per_class_table_has_a_row_per_class(tmp_path):
    logits, labels = make_logits()
    names = [f"class, {number}" for number in range(12)]
    accuracy_of(logits, labels).write_per_class(tmp_path, names)
    with open(tmp_path / PER_CLASS, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    places = list(label_ranks(logits, labels))
    for number, row in enumerate(rows):
        own = [place for label, place in places if label == number]
        assert int(row["images"]) == len(own)
        for column, guesses in (("top1", 1), ("top5", 5)):
            share = f"{100 * sum(p < guesses for p in own) / len(own):.4f}" if own else ""
            assert row[column] == share
    assert rows[4]["images"] == "0"

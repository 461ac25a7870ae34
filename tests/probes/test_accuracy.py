"""Accuracy: sums over images, whatever the batches, the same as a plain count."""

import csv

import pytest
import torch

from virtex.probes.accuracy import PER_CLASS, Accuracy


def some_scores(images=50, classes=12, seed=0):
    """Scores that favor the right class a little, and labels without those of class 4."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    labels[labels == 4] = 5 % classes
    scores = torch.randn(images, classes, generator=generator)
    scores[torch.arange(images), labels] += 1
    return scores, labels


def accuracy_of(scores, labels, batches=None):
    accuracy = Accuracy(scores.shape[1])
    batches = batches or [len(labels)]
    for part, truth in zip(scores.split(batches), labels.split(batches), strict=True):
        accuracy.add(part, truth)
    return accuracy


def plain_places(scores, labels):
    """(label, place of the label among the scores, from 0) of each image."""
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        yield label, sum(other > row[label] for other in row)


def plain_metrics(scores, labels):
    places = list(plain_places(scores, labels))
    by_class = {label: [p == 0 for c, p in places if c == label] for label, _ in places}
    shares = [sum(right) / len(right) for right in by_class.values()]
    return {
        "top1": 100 * sum(place < 1 for _, place in places) / len(places),
        "top5": 100 * sum(place < 5 for _, place in places) / len(places),
        "mean_per_class": 100 * sum(shares) / len(shares),
    }


def test_agrees_with_a_plain_count():
    for seed in range(5):
        scores, labels = some_scores(seed=seed)
        expected = plain_metrics(scores, labels)
        assert accuracy_of(scores, labels).metrics() == pytest.approx(expected)


def test_batches_of_unequal_size_are_summed_and_not_averaged():
    scores, labels = some_scores()
    parts = [3, 40, 7]
    separate = [
        accuracy_of(*part).metrics()["top1"]
        for part in zip(scores.split(parts), labels.split(parts), strict=True)
    ]
    whole = accuracy_of(scores, labels).metrics()
    assert accuracy_of(scores, labels, parts).metrics() == whole
    assert abs(sum(separate) / 3 - whole["top1"]) > 1


def test_the_mean_over_classes_is_not_the_mean_over_images():
    scores = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    metrics = accuracy_of(scores, torch.tensor([0, 0, 0, 1])).metrics()
    assert metrics == {"top1": 75, "mean_per_class": 50}


@pytest.mark.parametrize(("classes", "there"), [(2, False), (5, False), (6, True)])
def test_five_guesses_are_told_where_there_are_more_classes(classes, there):
    assert ("top5" in accuracy_of(*some_scores(classes=classes)).metrics()) == there


def test_a_class_without_images_is_no_part_of_the_mean():
    scores, labels = torch.eye(3)[[0, 1]], torch.tensor([0, 1])
    assert accuracy_of(scores, labels).metrics()["mean_per_class"] == 100


def test_minus_infinity_is_no_guess():
    """Two classes have a score; the label is not among them."""
    scores = torch.full((1, 8), -torch.inf)
    scores[0, :2] = torch.tensor([0.3, 0.7])
    for label in range(8):
        metrics = accuracy_of(scores, torch.tensor([label])).metrics()
        assert metrics["top1"] == (100 if label == 1 else 0)
        assert metrics["top5"] == (100 if label < 2 else 0)


def test_no_score_at_all_is_no_guess():
    scores = torch.full((8, 8), -torch.inf)
    metrics = accuracy_of(scores, torch.arange(8)).metrics()
    assert metrics == {"top1": 0, "top5": 0, "mean_per_class": 0}


def test_scores_of_half_precision_are_counted_whole():
    """4097 images of one class: more than float16, and 4096 + 1, can count to."""
    accuracy = Accuracy(2)
    for size in (4096, 1):
        accuracy.add(torch.tensor([[0.0, 1]]).half().expand(size, 2), torch.ones(size).long())
    assert accuracy.counts[1].tolist() == [4097, 4097, 4097]


def test_every_class_has_a_row_in_the_table(tmp_path):
    scores, labels = some_scores()
    names = [f"class, {number}" for number in range(12)]
    accuracy_of(scores, labels).write_per_class(tmp_path, names)
    with open(tmp_path / PER_CLASS, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    places = list(plain_places(scores, labels))
    for number, row in enumerate(rows):
        own = [place for label, place in places if label == number]
        assert int(row["images"]) == len(own)
        for column, guesses in (("top1", 1), ("top5", 5)):
            share = f"{100 * sum(p < guesses for p in own) / len(own):.4f}" if own else ""
            assert row[column] == share
    assert rows[4]["images"] == "0"


def test_names_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(ValueError, match="is longer than argument 1"):
        accuracy_of(*some_scores()).write_per_class(tmp_path, ["one"])

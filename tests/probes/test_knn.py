"""Weighted k-NN: equal to a double loop and to scikit-learn, whatever the chunks."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tests.probes.small_probes import (
    label_set,
    make_clusters,
    settings_of,
    small_extractor,
)
from virtex.probes import knn
from virtex.probes.knn import NearestNeighbors, find_neighbors, vote

CLASSES, TEMPERATURE = 7, 0.07
LABELS = np.random.default_rng(1).integers(CLASSES - 1, size=23)  # none of the last class
VAL_LABELS = np.random.default_rng(2).integers(CLASSES - 1, size=40)


def reference_neighbors(query, rows):
    """Return (similarity, row), the nearest first."""
    similar = [
        float(query @ row / np.linalg.norm(query) / np.linalg.norm(row))
        for row in rows.astype(np.float64)
    ]
    return sorted(((s, number) for number, s in enumerate(similar)), reverse=True)


def reference_votes(query, rows, labels, k):
    sums = [0.0] * CLASSES
    for similarity, row in reference_neighbors(query.astype(np.float64), rows)[:k]:
        sums[labels[row]] += np.exp(similarity / TEMPERATURE)
    return sums


def make_features(labels, seed):
    return make_clusters(labels, spread=1.5, seed=seed)


def run_probe(tmp_path, *overrides, train=LABELS):
    settings = settings_of("imagenet_knn", "toy", *overrides)
    probe = NearestNeighbors(
        label_set(train, "train", CLASSES),
        label_set(VAL_LABELS, "val", CLASSES),
        settings,
        small_extractor(tmp_path),
    )
    return probe, probe.score([make_features(train, 3)], make_features(VAL_LABELS, 4))


# Neighbors and votes ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 1000])
@pytest.mark.parametrize("k", [1, 6, 7, 8, 22, 23])
def test_neighbors_match_double_loop(monkeypatch, chunk, k):
    monkeypatch.setattr(knn, "TRAIN_CHUNK", chunk)
    rows, queries = make_features(LABELS, 3), make_features(VAL_LABELS, 4)
    similar, found = find_neighbors(torch.from_numpy(queries), rows, k)
    for query, values, numbers in zip(queries, similar.tolist(), found.tolist(), strict=True):
        plain = reference_neighbors(query.astype(np.float64), rows)[:k]
        assert numbers == [number for _, number in plain]
        assert values == pytest.approx([s for s, _ in plain], abs=1e-5)


@pytest.mark.parametrize("k", [1, 5, 23])
def test_votes_match_double_loop(k):
    rows, queries = make_features(LABELS, 3), make_features(VAL_LABELS, 4)
    similar, found = find_neighbors(torch.from_numpy(queries), rows, k)
    sums = vote(similar, torch.from_numpy(LABELS)[found], CLASSES, TEMPERATURE)
    for query, row in zip(queries, sums, strict=True):
        plain = np.array(reference_votes(query, rows, LABELS, k))
        assert (row.isinf().numpy() == (plain == 0)).all()
        own = row.clamp(min=0).numpy()
        np.testing.assert_allclose(own / own.sum(), plain / plain.sum(), rtol=1e-3, atol=1e-9)


def test_low_temperature_does_not_overflow():
    sums = vote(torch.tensor([[0.9, 0.8995]]), torch.tensor([[0, 1]]), 2, 0.001)
    assert sums.isfinite().all()
    assert (sums[0, 0] / sums[0, 1]).item() == pytest.approx(np.exp(0.5), rel=1e-3)


def test_rows_may_be_memory_mapped(tmp_path):
    rows = make_features(LABELS, 3)
    np.save(tmp_path / "rows.npy", rows)
    queries = torch.from_numpy(make_features(VAL_LABELS, 4))
    mapped = find_neighbors(queries, np.load(tmp_path / "rows.npy", mmap_mode="r"), 5)
    assert torch.equal(mapped[1], find_neighbors(queries, rows, 5)[1])


# The whole probe ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_scikit_learn(tmp_path, k):
    _, metrics = run_probe(tmp_path, "KNN.NEIGHBORS", [k])
    model = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / TEMPERATURE)
    )
    model.fit(make_features(LABELS, 3), LABELS)
    share = model.score(make_features(VAL_LABELS, 4), VAL_LABELS)
    assert metrics["top1"] == pytest.approx(100 * share)
    assert 0.2 < share < 0.95


def test_top5_and_mean_per_class_match_double_loop(tmp_path):
    _, metrics = run_probe(tmp_path, "KNN.NEIGHBORS", [9])
    rows, five, by_class = make_features(LABELS, 3), [], {}
    for query, label in zip(make_features(VAL_LABELS, 4), VAL_LABELS, strict=True):
        sums = reference_votes(query, rows, LABELS, 9)
        place = sum(other > sums[label] for other in sums)
        five.append(place < 5 and sums[label] > 0)
        by_class.setdefault(label, []).append(place == 0 and sums[label] > 0)
    assert metrics["top5"] == pytest.approx(100 * np.mean(five))
    means = [np.mean(right) for right in by_class.values()]
    assert metrics["mean_per_class"] == pytest.approx(100 * np.mean(means))


def test_each_k_has_metrics_and_the_first_is_primary(tmp_path):
    _, metrics = run_probe(tmp_path, "KNN.NEIGHBORS", [20, 1, 5])
    names = ("top1", "top5", "mean_per_class")
    assert set(metrics) == {*names, *(f"k{k}/{name}" for k in (20, 1, 5) for name in names)}
    for k in (20, 1, 5):
        _, alone = run_probe(tmp_path, "KNN.NEIGHBORS", [k])
        assert all(metrics[f"k{k}/{name}"] == alone[name] for name in names)
    assert all(metrics[name] == metrics[f"k20/{name}"] for name in names)


def test_chunks_do_not_change_metrics(tmp_path, monkeypatch):
    _, whole = run_probe(tmp_path)
    monkeypatch.setattr(knn, "QUERY_CHUNK", 7)
    monkeypatch.setattr(knn, "TRAIN_CHUNK", 5)
    assert run_probe(tmp_path)[1] == whole


def test_k_above_number_of_images_is_noted(tmp_path):
    probe, metrics = run_probe(tmp_path, "KNN.NEIGHBORS", [23, 24, 200])
    assert [note.partition(":")[0] for note in probe.report.notes] == ["k24", "k200"]
    assert metrics["k24/top1"] == metrics["k200/top1"] == metrics["k23/top1"]

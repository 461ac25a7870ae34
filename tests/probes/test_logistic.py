"""Logistic probes equal the published procedure with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score

from tests.probes.small_probes import label_set, make_clusters, small_extractor
from virtex.probes.average_precision import eleven_point_average_precision
from virtex.probes.logistic import LogisticProbe, LowShotProbe, sample_per_class
from virtex.probes.settings import load_settings
from virtex.protocols import Protocol
from virtex.tasks.registry import downstream_config

CLASSES = 6
SIZES = {"train": 60, "val": 30, "test": 90}


def settings_of(name, *overrides):
    protocol = Protocol("set", name, "1", downstream_config(f"suite_{name}"))
    return load_settings(protocol, overrides)[0]


def make_sets(multi_label=False):
    """Image sets and their features, of which classes overlap."""
    rng = np.random.default_rng(0)
    sets, features = [], []
    for number, (name, size) in enumerate(SIZES.items()):
        labels = np.arange(size) % CLASSES
        features.append(make_clusters(labels, spread=2.5, seed=number, size=12))
        if multi_label:
            present = np.eye(CLASSES, dtype=np.int8)[labels] | (rng.random((size, CLASSES)) < 0.2)
            labels = np.where(present, 1, np.where(rng.random(present.shape) < 0.1, 0, -1))
        sets.append(label_set(labels, name, CLASSES))
    return sets, features


def run_probe(tmp_path, cls, name, metric, multi_label=False, overrides=(), **options):
    sets, features = make_sets(multi_label)
    settings = settings_of(name, *overrides)
    probe = cls(
        *sets, settings=settings, extractor=small_extractor(tmp_path), metric=metric, **options
    )
    return probe, probe.score(features[:2], features[2]), sets, features


def fit_sklearn(features, labels, strength):
    model = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=10_000)
    return model.fit(features.astype(np.float64), labels)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_selection_and_refit_match_sklearn(tmp_path, metric):
    overrides = ("LOGISTIC.LOG10_STRENGTHS", [-2.0, 4.0], "LOGISTIC.NUM_STRENGTHS", 9)
    probe, metrics, sets, features = run_probe(
        tmp_path, LogisticProbe, "logistic", metric, overrides=overrides
    )

    def score(model, part):
        predicted = model.predict(features[part].astype(np.float64))
        if metric == "top1":
            return 100 * accuracy_score(sets[part].labels, predicted)
        return 100 * recall_score(sets[part].labels, predicted, average="macro")

    best, best_value = None, 0
    for strength in np.logspace(-2, 4, 9):  # as in ssl-transfer's linear.py
        value = score(fit_sklearn(features[0], sets[0].labels, strength), 1)
        if value > best_value:
            best, best_value = strength, value
    both = np.concatenate(features[:2]), np.concatenate([images.labels for images in sets[:2]])
    assert probe.report.details["strength"] == pytest.approx(best)
    assert metrics[f"selection/{metric}"] == pytest.approx(best_value)
    assert metrics[metric] == pytest.approx(score(fit_sklearn(*both, best), 2))


def test_several_labels_match_sklearn(tmp_path):
    overrides = ("LOGISTIC.LOG10_STRENGTHS", [0.0, 0.0], "LOGISTIC.NUM_STRENGTHS", 1)
    _, metrics, sets, features = run_probe(
        tmp_path, LogisticProbe, "logistic", "mAP", True, overrides
    )
    both = np.concatenate(features[:2])
    targets = np.concatenate([images.labels for images in sets[:2]]) == 1
    values = []
    for c in range(CLASSES):
        # the multinomial model has two weight vectors of half the length: half of the penalty
        model = fit_sklearn(both, targets[:, c], 0.5)
        outputs = model.decision_function(features[2].astype(np.float64))
        values.append(eleven_point_average_precision(sets[2].labels[:, c] == 1, outputs))
    assert metrics["mAP"] == pytest.approx(100 * np.mean(values), abs=1e-6)


def test_low_shot(tmp_path):
    overrides = ("LOW_SHOT.SHOTS", [1, 4], "LOW_SHOT.SAMPLES", 3)
    _, metrics, sets, features = run_probe(
        tmp_path, LowShotProbe, "low_shot", "top1", overrides=overrides, seed=5
    )
    assert list(metrics) == ["1-shot/top1", "1-shot/interval95", "4-shot/top1", "4-shot/interval95"]
    both = np.concatenate(features[:2]), np.concatenate([images.labels for images in sets[:2]])
    values = []
    for sample in range(3):
        rows = sample_per_class(both[1], 4, (5, sample))
        assert np.bincount(both[1][rows]).tolist() == [4] * CLASSES
        model = fit_sklearn(both[0][rows], both[1][rows], 1.0)
        values.append(100 * model.score(features[2].astype(np.float64), sets[2].labels))
    assert metrics["4-shot/top1"] == pytest.approx(np.mean(values))
    # 4.303: Student's t of 2 degrees of freedom at 97.5 %
    assert metrics["4-shot/interval95"] == pytest.approx(
        4.303 * np.std(values, ddof=1) / 3**0.5, rel=1e-3
    )


def test_samples_are_nested_and_seeded():
    labels = np.random.default_rng(0).integers(4, size=50)
    few, more = (sample_per_class(labels, shots, (0, 0)) for shots in (2, 5))
    assert set(few) < set(more)
    assert not np.array_equal(few, sample_per_class(labels, 2, (0, 1)))
    rare = np.array([0, 1, 1, 1])
    assert sample_per_class(rare, 2, (0, 0)).tolist()[0] == 0


def test_end_of_the_range_is_reported(tmp_path):
    overrides = ("LOGISTIC.LOG10_STRENGTHS", [4.0, 5.0], "LOGISTIC.NUM_STRENGTHS", 2)
    probe, *_ = run_probe(tmp_path, LogisticProbe, "logistic", "top1", overrides=overrides)
    assert any("end of the searched range" in note for note in probe.report.notes)
    assert torch.isfinite(torch.tensor(probe.report.details["strength"]))

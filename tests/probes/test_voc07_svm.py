"""VOC07 SVMs match scikit-learn's folds, selection and scores with either solver."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from tests.errors import raises_code
from tests.probes.small_probes import settings_of, small_extractor
from virtex.data.toy.plan import Plan
from virtex.data.toy.voc import write_voc
from virtex.data.voc import VOC_CLASSES, read_voc07
from virtex.probes import svm
from virtex.probes.average_precision import AVERAGE_PRECISIONS
from virtex.probes.low_shot import sample_low_shot
from virtex.probes.svm import Voc07Svm, choose_costs, cross_validate
from virtex.probes.svm_liblinear import fit_svms_liblinear
from virtex.probes.svm_solver import fit_svms
from virtex.records import Deviation

COSTS, FOLDS, POSITIVE_WEIGHT = [0.01, 0.1, 1.0, 10.0], 3, 2.0
LIBLINEAR = partial(fit_svms_liblinear, jobs=1)
TIGHT_LIBLINEAR = partial(fit_svms_liblinear, jobs=1, tolerance=1e-8, max_iterations=10**6)
TRAINVAL, TEST, SIZE = 30, 40, 8


def linear_svc(cost, tolerance=1e-4, max_iterations=2000):
    """Return the model of published VOC07 evaluations."""
    return LinearSVC(
        C=cost, class_weight={1: POSITIVE_WEIGHT, -1: 1}, max_iter=max_iterations, tol=tolerance,
        loss="squared_hinge", penalty="l2", dual=True, random_state=0,
    )  # fmt: skip


def make_features(labels, seed):
    """Return features (images, SIZE) of unit norm with a noisy direction per class."""
    traces = np.random.default_rng(0).normal(size=(labels.shape[1], SIZE))
    noise = np.random.default_rng(seed).normal(size=(len(labels), SIZE))
    features = (labels == 1) @ traces + noise
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def make_labels(images, classes, seed, of=(-1, 1), shares=(0.7, 0.3)):
    return np.random.default_rng(seed).choice(of, size=(images, classes), p=shares).astype(np.int8)


# Cross-validation --------------------------------------------------------------------------------


def sklearn_quality(features, targets, **precision):
    """Cross-validate with scikit-learn, class by class and cost by cost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folds without positives
        return np.array(
            [
                [
                    cross_val_score(
                        linear_svc(cost, **precision), features, column,
                        cv=FOLDS, scoring="average_precision",
                    ).mean()
                    for cost in COSTS
                ]
                for column in targets.T
            ]
        )  # fmt: skip


def our_quality(solver, features, targets):
    targets = torch.from_numpy(targets).long()
    return cross_validate(
        solver, torch.from_numpy(features), targets, COSTS, FOLDS, POSITIVE_WEIGHT
    )


@pytest.fixture(scope="module")
def problem():
    targets = make_labels(70, 3, seed=1)
    return make_features(targets, seed=2), targets


def test_cross_validation_with_liblinear_matches_sklearn(problem):
    expected = sklearn_quality(*problem)
    np.testing.assert_allclose(our_quality(LIBLINEAR, *problem), expected, atol=1e-6, rtol=0)
    assert np.ptp(expected, axis=1).min() > 1e-3


def test_cross_validation_with_fast_solver_matches_sklearn(problem):
    expected = sklearn_quality(*problem, tolerance=1e-8, max_iterations=10**6)
    np.testing.assert_allclose(our_quality(fit_svms, *problem), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("positives", [1, 2, 3, 69])
@pytest.mark.parametrize("solver", [TIGHT_LIBLINEAR, fit_svms], ids=["liblinear", "fast"])
def test_cross_validation_of_few_images_matches_sklearn(problem, solver, positives):
    features, targets = problem
    targets = targets.copy()
    targets[:, 1] = -1
    targets[np.random.default_rng(5).permutation(70)[:positives], 1] = 1
    expected = sklearn_quality(features, targets, tolerance=1e-8, max_iterations=10**6)
    assert np.isnan(expected[1]).all() == (positives in (1, 69))
    found = our_quality(solver, features, targets)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0, equal_nan=True)


def test_fewer_images_than_folds_are_rejected():
    targets = np.array([[1], [-1], [1], [-1]], dtype=np.int8)
    with raises_code("probe.too_few_images", "SVM.FOLDS"):
        our_quality(fit_svms, make_features(targets, 0), targets)


@pytest.mark.parametrize(
    ("quality", "chosen"),
    [
        ([0.2, 0.9, 0.3, 0.1], 1),
        ([0.2, 0.9, 0.9, 0.9], 1),
        ([0.5, 0.5, 0.5, 0.5], 0),
        ([np.nan, 0.1, 0.3, np.nan], 2),
        ([np.nan, 0.0, 0.0, np.nan], 1),
        ([np.nan] * 4, 0),
    ],
)
def test_choice_of_cost(quality, chosen):
    assert choose_costs(np.array([[0.3, 0.2, 0.1, 0.4], quality])) == [3, chosen]


# The protocol on VOC2007's files -----------------------------------------------------------------


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory):
    """Toy images in VOC2007's layout with their original labels."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(Plan(root, 0, 2 * TRAINVAL, TEST, coco_train_images=2))
    return root


@pytest.fixture
def relabeled(voc_root, tmp_path):
    """The same images with labels that the test writes."""
    (tmp_path / "VOC2007" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "VOC2007" / "JPEGImages").symlink_to(voc_root / "VOC2007" / "JPEGImages")
    for split, images in (("trainval", TRAINVAL), ("test", TEST)):
        stems = (voc_root / "VOC2007" / "ImageSets" / "Main" / f"{split}.txt").read_text()
        assert len(stems.split()) == images
        (tmp_path / "VOC2007" / "ImageSets" / "Main" / f"{split}.txt").write_text(stems)
        write_labels(tmp_path, split, np.full((images, 20), -1))
    return tmp_path


def write_labels(root, split, labels):
    folder = root / "VOC2007" / "ImageSets" / "Main"
    stems = (folder / f"{split}.txt").read_text().split()
    for name, column in zip(VOC_CLASSES, labels.T, strict=False):
        rows = [f"{stem} {label:2d}\n" for stem, label in zip(stems, column, strict=True)]
        (folder / f"{name}_{split}.txt").write_text("".join(rows))


def write_three_classes(root):
    """Write labels (images, 3) of -1, 0 and 1 of the first three classes."""
    found = []
    for split, images, seed in (("trainval", TRAINVAL, 1), ("test", TEST, 2)):
        found.append(make_labels(images, 3, seed, (-1, 0, 1), (0.5, 0.15, 0.35)))
        write_labels(root, split, found[-1])
    return found


def evaluator_of(root, *overrides, **options):
    settings = settings_of("voc07_svm", "toy", *overrides)
    return Voc07Svm(root, settings, small_extractor(root), **options)


@pytest.fixture
def liblinear_in_process(monkeypatch):
    """Run liblinear without worker processes, which are slow to start."""
    monkeypatch.setitem(svm.SOLVERS, "liblinear", LIBLINEAR)


def run(evaluator, features):
    train, test = features
    return evaluator.score([train], test)


def features_of(train, test):
    return [
        make_features(labels, seed).astype(np.float32) for seed, labels in ((3, train), (4, test))
    ]


def reference_protocol(train, test, train_features, test_features, score=average_precision_score):
    """Return the average precision and cost of each class, class by class."""
    found = []
    for column in range(train.shape[1]):
        targets = np.where(train[:, column] == 1, 1, -1)
        quality = sklearn_quality(train_features, targets[:, None])[0]
        model = linear_svc(COSTS[int(quality.argmax())]).fit(train_features, targets)
        easy = test[:, column] != 0
        scores = model.decision_function(test_features[easy])
        found.append((100 * score(test[easy, column] == 1, scores), model.C))
    return found


@pytest.mark.parametrize("definition", ["sklearn", "voc11"])
def test_protocol_matches_sklearn_loop(relabeled, liblinear_in_process, definition):
    train, test = write_three_classes(relabeled)
    features = features_of(train, test)
    evaluator = evaluator_of(relabeled, solver="liblinear", average_precision=definition)
    metrics = run(evaluator, features)
    plain = reference_protocol(train, test, *features, AVERAGE_PRECISIONS[definition])
    names = VOC_CLASSES[:3]
    assert evaluator.report.details["svm_costs"] == dict(
        zip(names, (cost for _, cost in plain), strict=True)
    )
    assert [metrics[f"AP/{name}"] for name in names] == pytest.approx(
        [value for value, _ in plain], abs=1e-3
    )
    assert len(metrics) == 4


def test_the_fast_solver_agrees_with_liblinear(relabeled, liblinear_in_process):
    features = features_of(*write_three_classes(relabeled))
    metrics = [
        run(evaluator_of(relabeled, solver=solver), features) for solver in ("fast", "liblinear")
    ]
    assert metrics[0] == pytest.approx(metrics[1], abs=1)


def test_norm_of_features_does_not_matter(relabeled):
    train, test = features_of(*write_three_classes(relabeled))
    lengths = np.linspace(0.1, 50, TRAINVAL, dtype=np.float32)[:, None]
    metrics = run(evaluator_of(relabeled), (train, test))
    assert run(evaluator_of(relabeled), (lengths * train, 7 * test)) == pytest.approx(metrics)


def test_map_is_mean_over_classes(voc_root):
    evaluator = evaluator_of(voc_root)
    labels = [images.labels for images in evaluator.images.values()]
    metrics = run(evaluator, features_of(*labels))
    values = [value for name, value in metrics.items() if name.startswith("AP/")]
    assert len(values) == 20
    assert metrics["mAP"] == pytest.approx(np.mean(values))
    assert np.std(values) > 1


def test_difficult_images_are_ignored_in_evaluation(relabeled):
    _, test = write_three_classes(relabeled)
    evaluator = evaluator_of(relabeled)
    scores = np.random.default_rng(0).normal(size=test.shape)
    values = evaluator.evaluate(torch.from_numpy(scores))
    moved = np.where(test == 0, 100, scores)
    assert evaluator.evaluate(torch.from_numpy(moved)) == values
    assert evaluator.evaluate(torch.from_numpy(np.where(test == -1, 100, scores))) != values


def test_unusable_classes_are_omitted_and_reported(relabeled):
    train, test = np.full((TRAINVAL, 20), -1), np.full((TEST, 20), -1)
    train[:9, :4] = test[:9, :4] = 1
    train[:, 1] = -1  # never seen
    test[:, 2] = 0  # difficult in every test image
    train[:, 3] = 1  # in every image
    write_labels(relabeled, "trainval", train)
    write_labels(relabeled, "test", test)
    report = evaluator_of(relabeled).report
    assert report.deviations == [Deviation("classes", 20, 1, "data")]
    (note,) = report.notes
    assert note.endswith(f": {', '.join(VOC_CLASSES[1:])}")


def test_no_usable_class_is_rejected(relabeled):
    with raises_code("probe.no_usable_class", "VOC2007"):
        evaluator_of(relabeled)


def test_few_positives_are_noted(voc_root):
    labels = read_voc07(voc_root, "trainval").labels
    evaluator = evaluator_of(voc_root)
    run(evaluator, features_of(labels, read_voc07(voc_root, "test").labels))
    counts = dict(zip(VOC_CLASSES, (labels == 1).sum(axis=0).tolist(), strict=True))
    few = [f"{name} {count}" for name, count in counts.items() if count < 3]
    assert few
    (note,) = evaluator.report.notes
    assert note.rpartition(": ")[2] == ", ".join(few)


# Low-shot ----------------------------------------------------------------------------------------

SHOT_LABELS = make_labels(400, 5, 3, (-1, 0, 1), (0.7, 0.1, 0.2))


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_sample_has_shots_and_negatives(shots):
    used = sample_low_shot(SHOT_LABELS, shots, seed=(0, 0))
    for column in range(5):
        drawn = SHOT_LABELS[used[:, column], column]
        counts = [int((drawn == label).sum()) for label in (1, -1, 0)]
        assert counts == [shots, 4 * shots, 0]


def test_fewer_shots_are_a_subset():
    draws = [sample_low_shot(SHOT_LABELS, shots, seed=(0, 0)) for shots in (1, 2, 8)]
    assert not (draws[0] & ~draws[1]).any()
    assert not (draws[1] & ~draws[2]).any()


def test_sample_depends_on_seed_sample_and_class():
    first, again, sample, seed = (
        sample_low_shot(SHOT_LABELS, 8, numbers) for numbers in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, sample)
    assert not np.array_equal(first, seed)
    alike = np.repeat(SHOT_LABELS[:, :1], 2, axis=1)
    used = sample_low_shot(alike, 8, (1, 0))
    assert not np.array_equal(used[:, 0], used[:, 1])


def test_low_shot_matches_sklearn_loop(relabeled, liblinear_in_process):
    labels, test = write_three_classes(relabeled)
    train_features, test_features = features_of(labels, test)
    evaluator = evaluator_of(
        relabeled, "LOW_SHOT.SAMPLES", 3, "LOW_SHOT.COST", 0.5,
        solver="liblinear", low_shot=(1, 2), seed=6,
    )  # fmt: skip
    metrics = run(evaluator, (train_features, test_features))
    for shots in (1, 2):
        maps = []
        for sample in range(3):
            used = sample_low_shot(labels, shots, (6, sample))
            values = []
            for column in range(3):
                rows = used[:, column]
                model = linear_svc(0.5).fit(train_features[rows], labels[rows, column])
                easy = test[:, column] != 0
                scores = model.decision_function(test_features[easy])
                values.append(100 * average_precision_score(test[easy, column] == 1, scores))
            maps.append(np.mean(values))
        assert metrics[f"{shots}-shot/mAP"] == pytest.approx(np.mean(maps), abs=1e-3)
        assert metrics[f"{shots}-shot/std"] == pytest.approx(np.std(maps, ddof=1), abs=1e-3)
    assert len(metrics) == 4


def test_low_shot_shortage_is_noted(relabeled):
    labels, test = write_three_classes(relabeled)
    labels[:, 0] = -1  # so that the class is not at its place among those that are used
    labels[:, 2] = np.where(np.arange(TRAINVAL) < 3, 1, -1)
    write_labels(relabeled, "trainval", labels)
    evaluator = evaluator_of(relabeled, low_shot=(4,))
    run(evaluator, features_of(labels, test))
    shortages = [note for note in evaluator.report.notes if "4-shot" in note]
    assert len(shortages) == 1
    assert shortages[0].endswith(f": {VOC_CLASSES[2]} 3")


def test_low_shot_needs_negatives_that_are_not_difficult(relabeled):
    labels, _ = write_three_classes(relabeled)
    labels[:, 1] = np.where(labels[:, 1] == 1, 1, 0)
    write_labels(relabeled, "trainval", labels)
    assert evaluator_of(relabeled).classes == [0, 1, 2]
    assert evaluator_of(relabeled, low_shot=(1,)).classes == [0, 2]

"""Cached linear probe: each setting trains as if alone; val never selects one."""

import csv
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.errors import raises_code
from tests.probes.small_probes import (
    SMALL_IMAGES,
    label_set,
    make_clusters,
    make_images,
    settings_of,
    small_backbone,
    small_extractor,
)
from virtex.probes import cached_probe
from virtex.probes.cached_probe import (
    GRID,
    CachedLinearProbe,
    LinearHeads,
    compute_moments,
    hold_out,
    iterate_epochs,
)

CLASSES, SIZE = 4, 8
LABELS = np.arange(62) % CLASSES
VAL_LABELS = np.arange(41) % CLASSES
SETTINGS = [(0.1, 0.0), (0.5, 0.01), (0.03, 0.3), (2.0, 0.0)]
MOMENTS = (np.linspace(-1, 2, SIZE), np.linspace(0.5, 3, SIZE))
MOMENTUM = 0.9


def small_probe(folder, *overrides, seed=0, val_labels=VAL_LABELS):
    overrides = ("PROBE.BATCH_SIZE", 16, "PROBE.NUM_EPOCHS", 5, *overrides)
    return CachedLinearProbe(
        label_set(LABELS, "train"),
        label_set(val_labels, "val"),
        settings_of("imagenet_linear", "toy-cached", *overrides),
        small_extractor(folder),
        folder,
        seed,
    )


def make_features(labels, seed):
    return make_clusters(labels, spread=1.5, size=SIZE, seed=seed)


TRAIN, VAL = make_features(LABELS, 1), make_features(VAL_LABELS, 2)


def train_with_sgd(setting, batches, steps):
    """Train one setting with torch: a linear layer from zero, SGD, a cosine schedule."""
    layer = nn.Linear(SIZE, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    lr, decay = setting
    optimizer = torch.optim.SGD(layer.parameters(), lr, MOMENTUM, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for features, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(layer(features), labels).backward()
        optimizer.step()
        schedule.step()
    return layer


def standardize(features, standard):
    mean, std = (torch.from_numpy(value).float() for value in standard)
    return (torch.from_numpy(features) - mean) / std


def assert_same_weights(heads, number, layer):
    weight = heads.weight.view(-1, heads.classes, SIZE + 1)[number]
    torch.testing.assert_close(weight[:, :-1], layer.weight.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight[:, -1], layer.bias.detach(), rtol=1e-5, atol=1e-5)


# Training ---------------------------------------------------------------------------------------


def make_batches(count=8):
    """Return batches of unequal size: (features, labels)."""
    rng = np.random.default_rng(3)
    chosen = [rng.choice(len(LABELS), 10 + n, replace=False) for n in range(count)]
    return [(TRAIN[rows], torch.from_numpy(LABELS[rows])) for rows in chosen]


@pytest.fixture(scope="module")
def trained():
    steps = make_batches()
    heads = LinearHeads(SIZE, CLASSES, SETTINGS, MOMENTUM, "cpu", MOMENTS)
    for number, (features, labels) in enumerate(steps):
        rate = 0.5 * (1 + math.cos(math.pi * number / len(steps)))
        heads.step(torch.from_numpy(features), labels, rate)
    return heads


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_each_setting_matches_torch_sgd(trained, number):
    steps = make_batches()
    batches = [(standardize(features, MOMENTS), labels) for features, labels in steps]
    layer = train_with_sgd(SETTINGS[number], batches, len(steps))
    assert layer.bias.abs().max() > 1e-3
    assert_same_weights(trained, number, layer)


def test_logits_match_linear_layers(trained):
    logits = trained.logits(torch.from_numpy(VAL))
    assert logits.shape == (len(VAL), len(SETTINGS), CLASSES)
    weight = trained.weight.view(len(SETTINGS), CLASSES, SIZE + 1)
    for number in range(len(SETTINGS)):
        plain = F.linear(standardize(VAL, MOMENTS), weight[number, :, :-1], weight[number, :, -1])
        torch.testing.assert_close(logits[:, number], plain, rtol=1e-4, atol=1e-5)


def test_diverging_setting_does_not_affect_others():
    steps, heads = make_batches(), []
    for grid in ([(0.1, 0.0)], [(1e30, 0.1), (0.1, 0.0)]):
        heads.append(LinearHeads(SIZE, CLASSES, grid, MOMENTUM, "cpu", MOMENTS))
        for features, labels in steps:
            heads[-1].step(torch.from_numpy(features), labels, 1.0)
    alone, among = heads
    assert not among.weight[:CLASSES].isfinite().all()
    torch.testing.assert_close(among.weight[CLASSES:], alone.weight)


@pytest.mark.parametrize("number", [0, 1])
def test_fit_trains_on_all_views(tmp_path, number):
    """Equals a plain loop over the kept rows of both views."""
    probe = small_probe(tmp_path)
    views = [TRAIN, make_features(LABELS, 9)]
    kept = np.setdiff1d(np.arange(len(LABELS)), probe.held_out)
    heads = probe.fit(views, kept, MOMENTS, SETTINGS[:2])
    rows = standardize(np.concatenate([view[kept] for view in views]), MOMENTS)
    labels = torch.from_numpy(np.concatenate([LABELS[kept]] * 2))
    order = list(iterate_epochs(len(rows), 5, 16, seed=0))
    assert len(order) == 5 * math.ceil(2 * len(kept) / 16)
    batches = [(rows[chosen], labels[chosen]) for chosen in order]
    assert_same_weights(heads, number, train_with_sgd(SETTINGS[number], batches, len(order)))


# Epochs ------------------------------------------------------------------------------------------


def test_epochs_are_shuffled_permutations():
    batches = list(iterate_epochs(rows=23, epochs=3, batch_size=5, seed=0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 3
    firsts = []
    for start in (0, 5, 10):
        epoch = batches[start : start + 5]
        assert sorted(np.concatenate(epoch)) == list(range(23))
        firsts.append(tuple(epoch[0]))
    assert len(set(firsts)) == 3


def test_seed_determines_order():
    first, again, other = (
        np.concatenate(list(iterate_epochs(50, 2, 7, seed))) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# The held-out part -------------------------------------------------------------------------------

UNEQUAL = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, 5], [200, 50, 2, 1, 30]))


def test_hold_out_is_balanced():
    held = hold_out(UNEQUAL, 0.1, seed=0)
    assert np.bincount(UNEQUAL[held]).tolist() == [20, 5, 1, 0, 0, 3]
    assert (np.diff(held) > 0).all()


def test_seed_determines_held_out_images():
    first, again, other = (hold_out(UNEQUAL, 0.1, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_single_images_cannot_be_held_out():
    with raises_code("probe.no_held_out_images", "PROBE.HELD_OUT"):
        hold_out(np.arange(7), 0.1, seed=0)


def test_held_out_images_are_not_trained_on(tmp_path):
    """Changing their features changes no metric of val when the grid has one setting."""
    found = []
    for noise in (0, 100):
        probe = small_probe(tmp_path, "PROBE.LRS", [0.03], "PROBE.WEIGHT_DECAYS", [0.0])
        train = TRAIN.copy()
        train[probe.held_out, ::2] += noise
        found.append(probe.score([train], VAL))
    assert len(probe.held_out) >= CLASSES
    assert found[0]["top1"] == found[1]["top1"]
    assert found[0]["mean_per_class"] == found[1]["mean_per_class"]
    assert found[0]["held_out/top1"] != found[1]["held_out/top1"]


# Moments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 8192])
def test_moments_match_numpy(monkeypatch, rows_at_a_time):
    monkeypatch.setattr(cached_probe, "CHUNK", rows_at_a_time)
    views = [1000 + TRAIN, 1003 + 2 * make_features(LABELS, 9)]
    rows = np.arange(3, 60, 2)
    mean, std = compute_moments(views, rows)
    everything = np.concatenate([view[rows] for view in views]).astype(np.float64)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, everything.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(std, everything.std(axis=0), rtol=1e-10)


@pytest.mark.parametrize("value", [0, 0.1, -1e4 / 3])
def test_constant_feature_has_std_1(monkeypatch, value):
    monkeypatch.setattr(cached_probe, "CHUNK", 7)
    features = TRAIN.copy()
    features[:, 2] = value
    mean, std = compute_moments([features, features], np.arange(len(features)))
    assert mean[2] == pytest.approx(value, abs=1e-3)
    assert std[2] == 1
    assert (std[[0, 1, 3]] != 1).all()


# Selection ---------------------------------------------------------------------------------------


def read_grid(folder):
    with open(folder / GRID, newline="") as file:
        return [(float(r["learning_rate"]), float(r["weight_decay"]), float(r["held_out_top1"]))
                for r in csv.DictReader(file)]  # fmt: skip


LRS, DECAYS = [0.00001, 0.003, 0.3, 3.0], [0.0, 0.1]
A_GRID = ("PROBE.LRS", LRS, "PROBE.WEIGHT_DECAYS", DECAYS)


def test_grid_table_matches_single_settings(tmp_path):
    small_probe(tmp_path, *A_GRID).score([TRAIN], VAL)
    rows = read_grid(tmp_path)
    assert sorted(row[:2] for row in rows) == [(lr, decay) for lr in LRS for decay in DECAYS]
    assert len({held_out for *_, held_out in rows}) > 1
    for lr, decay, held_out in rows:
        alone = small_probe(tmp_path, "PROBE.LRS", [lr], "PROBE.WEIGHT_DECAYS", [decay])
        assert alone.score([TRAIN], VAL)["held_out/top1"] == pytest.approx(held_out, abs=1e-3)


def test_best_held_out_setting_is_evaluated_on_val(tmp_path):
    probe = small_probe(tmp_path, *A_GRID)
    metrics = probe.score([TRAIN], VAL)
    rows, chosen = read_grid(tmp_path), probe.report.details["chosen"]
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    assert (chosen["LR"], chosen["WEIGHT_DECAY"]) == rows[0][:2]
    assert metrics["held_out/top1"] == chosen["held_out_top1"] == pytest.approx(rows[0][2])
    alone = small_probe(
        tmp_path, "PROBE.LRS", [chosen["LR"]], "PROBE.WEIGHT_DECAYS", [chosen["WEIGHT_DECAY"]]
    ).score([TRAIN], VAL)
    assert alone == pytest.approx(metrics)
    assert set(metrics) == {"top1", "mean_per_class", "held_out/top1"}


def test_ties_select_the_first_setting(tmp_path):
    rates = [0.0100001, 0.01, 0.0100002]
    probe = small_probe(tmp_path, "PROBE.LRS", rates, "PROBE.WEIGHT_DECAYS", [0.0])
    probe.score([TRAIN], VAL)
    assert {row[2] for row in read_grid(tmp_path)} == {read_grid(tmp_path)[0][2]}
    assert probe.report.details["chosen"]["LR"] == 0.0100001


def test_val_labels_do_not_affect_selection(tmp_path):
    """With wrong val labels, the setting that learns is as bad on val as one that diverges."""
    separable = make_clusters(LABELS, 0.1, SIZE, 1), make_clusters(VAL_LABELS, 0.1, SIZE, 2)
    grid = ("PROBE.LRS", [1e18, 0.01], "PROBE.WEIGHT_DECAYS", [0.01])
    found = []
    for labels in (VAL_LABELS, (VAL_LABELS + 1) % CLASSES):
        probe = small_probe(tmp_path, *grid, val_labels=labels)
        top1 = probe.score([separable[0]], separable[1])["top1"]
        found.append((top1, probe.report.details["chosen"]))
    assert [top1 for top1, _ in found] == [100, 0]
    assert found[0][1] == found[1][1]
    assert found[0][1]["LR"] == 0.01


@pytest.mark.parametrize(
    ("lr", "decay", "noted"),
    [
        (0.001, 0.0, ["PROBE.LRS"]),
        (0.1, 0.001, ["PROBE.LRS"]),
        (0.01, 0.1, ["PROBE.WEIGHT_DECAYS"]),
        (0.1, 0.1, ["PROBE.LRS", "PROBE.WEIGHT_DECAYS"]),
        (0.01, 0.001, []),
        (0.01, 0.0, []),
    ],
)
def test_setting_at_edge_of_grid_is_noted(tmp_path, lr, decay, noted):
    probe = small_probe(
        tmp_path, "PROBE.LRS", [0.01, 0.001, 0.1], "PROBE.WEIGHT_DECAYS", [0.0, 0.001, 0.1]
    )
    notes = probe.edge_notes(lr, decay)
    assert len(notes) == len(noted)
    assert all(key in note for key, note in zip(noted, notes, strict=True))


def test_evaluation_chunks_do_not_change_metrics(tmp_path, monkeypatch):
    whole = small_probe(tmp_path, *A_GRID).score([TRAIN], VAL)
    table = read_grid(tmp_path)
    monkeypatch.setattr(cached_probe, "MAX_LOGITS", 5 * CLASSES * len(LRS) * len(DECAYS))
    assert small_probe(tmp_path, *A_GRID).score([TRAIN], VAL) == whole
    assert read_grid(tmp_path) == table


# The whole probe ---------------------------------------------------------------------------------


def test_probe_on_images_with_augmentations(tmp_path):
    train, val = (make_images(tmp_path / name, n) for name, n in (("train", 18), ("val", 6)))
    settings = settings_of(
        "imagenet_linear", "toy-cached", *SMALL_IMAGES,
        "DATA.AUGMENTATIONS", 2, "PROBE.NUM_EPOCHS", 2,
    )  # fmt: skip
    extractor = small_extractor(tmp_path)
    probe = CachedLinearProbe(train, val, settings, extractor, tmp_path)
    metrics = probe(small_backbone())
    assert extractor.images == 3 * 18 + 6
    assert len(extractor.cache.entries()) == 4
    assert probe.report.verification["backbone"]["unchanged"] is True
    assert 0 <= metrics["top1"] <= 100
    assert len(read_grid(tmp_path)) == 20
    assert (tmp_path / "per_class.csv").read_text().startswith("class,images,top1\nclass 0,2,")

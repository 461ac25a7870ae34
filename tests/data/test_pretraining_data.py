"""Targets, samples, batches and loaders of pretraining."""

import itertools
import logging
import math
import pickle
from pathlib import Path

import pytest
import torch

from tests.data.conftest import TRAIN
from tests.errors import raises_code
from virtex.config import load_config
from virtex.data.captions import CaptionedImage, read_captions, read_labels
from virtex.data.loading import training_loader, validation_loader
from virtex.data.targets import TextOptions, caption_targets, masked_targets, token_targets
from virtex.data.tokenizer import Tokenizer, read_caption_files, train_tokenizer
from virtex.data.transforms import build_transform
from virtex.pretraining.data import PretrainingSet, build_pretraining_set

CAPTIONS_JSON = "annotations/captions_train2017.json"
INSTANCES_JSON = "annotations/instances_train2017.json"
ALL_TASKS = ("bicaptioning", "captioning", "masked_lm", "token_classification")


@pytest.fixture(scope="session")
def tokenizer(coco, tmp_path_factory) -> Tokenizer:
    captions = read_caption_files([coco / CAPTIONS_JSON])
    return train_tokenizer(captions, 200, tmp_path_factory.mktemp("vocab") / "toy.model")


def config_for(root: Path, *overrides):
    small = ["DATA.ROOT", str(root), "DATA.VOCAB_SIZE", 200, "DATA.IMAGE_CROP_SIZE", 32]
    return load_config("bicaptioning_R_50_L1_H1024", [*small, *overrides])


def task_config(root: Path, task: str, *overrides):
    textual = ["MODEL.TEXTUAL.NAME", "none"] if task.endswith("classification") else []
    return config_for(root, "MODEL.NAME", task, *textual, *overrides)


@pytest.fixture
def train_set(coco, tokenizer) -> PretrainingSet:
    return build_pretraining_set(config_for(coco), "train", tokenizer, seed=0)


@pytest.fixture
def val_set(coco, tokenizer) -> PretrainingSet:
    return build_pretraining_set(config_for(coco), "val", tokenizer, seed=0)


def take(batches, count: int) -> list[dict]:
    return list(itertools.islice(batches, count))


def assert_same(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


# Targets -----------------------------------------------------------------------------------------

LONG = "a red circle left of a green square " * 6


def test_caption_targets(tokenizer):
    tokens = caption_targets("A red circle", TextOptions(tokenizer))["tokens"]
    assert tokens == [1, *tokenizer.encode("a red circle"), 2]


@pytest.mark.parametrize("make", [caption_targets, masked_targets])
def test_truncated_targets_keep_eos(tokenizer, make):
    tokens = make(LONG, TextOptions(tokenizer, max_length=12))["tokens"]
    assert len(tokens) == 12
    assert (tokens[0], tokens[-1]) == (1, 2)


@pytest.mark.parametrize("caption", [LONG, "a red circle", "a"])
def test_masked_lm_predicts_15_percent(tokenizer, caption):
    options = TextOptions(tokenizer)
    true = tokenizer.encode_caption(caption, 30)
    for seed in range(30):
        torch.manual_seed(seed)
        made = masked_targets(caption, options)
        predicted = [place for place, label in enumerate(made["labels"]) if label]
        assert len(predicted) == math.ceil(0.15 * (len(true) - 2))
        assert min(predicted) > 0 and max(predicted) < len(true) - 1
        for place, token in enumerate(true):
            assert made["labels"][place] == (token if place in predicted else 0)
            assert place in predicted or made["tokens"][place] == token


def test_masked_lm_proportions(tokenizer):
    options = TextOptions(tokenizer)
    torch.manual_seed(0)
    seen = {"masked": 0, "replaced": 0, "kept": 0}
    for _ in range(2000):
        made = masked_targets(LONG, options)
        for token, label in zip(made["tokens"], made["labels"], strict=True):
            if label:
                kind = "masked" if token == 3 else "kept" if token == label else "replaced"
                seen[kind] += 1
    share = {kind: count / sum(seen.values()) for kind, count in seen.items()}
    assert share["masked"] == pytest.approx(0.85, abs=0.02)
    assert share["replaced"] == pytest.approx(0.10, abs=0.02)
    assert share["kept"] == pytest.approx(0.05, abs=0.02)


def test_replaced_and_unchanged_tokens_are_labeled(tokenizer):
    for options in (
        TextOptions(tokenizer, mask=0.0, replace=1.0),
        TextOptions(tokenizer, mask=0.0, replace=0.0),
    ):
        labels = masked_targets(LONG, options)["labels"]
        assert sum(label > 0 for label in labels) == math.ceil(0.15 * 28)


def test_random_tokens_cover_the_vocabulary(tokenizer):
    options = TextOptions(tokenizer, proportion=1.0, mask=0.0, replace=1.0)
    torch.manual_seed(0)
    drawn = {t for _ in range(400) for t in masked_targets(LONG, options)["tokens"][1:-1]}
    assert (min(drawn), max(drawn)) == (4, len(tokenizer) - 1)


@pytest.mark.parametrize("make", [caption_targets, masked_targets, token_targets])
def test_empty_caption_has_no_labels(tokenizer, make):
    made = make(" ", TextOptions(tokenizer))
    assert made.get("tokens", [1, 2]) == [1, 2]
    assert not any(made.get("labels", []))


def test_unknown_tokens_are_not_predicted(tokenizer):
    made = masked_targets("東", TextOptions(tokenizer, proportion=1.0, mask=1.0))
    place = made["tokens"].index(0)
    assert made["labels"][place] == 0


def test_token_targets_are_unique(tokenizer):
    labels = token_targets("a red circle, a red square 東", TextOptions(tokenizer))["labels"]
    expected = set(tokenizer.encode("a red circle, a red square 東")) - {0}
    assert labels == sorted(expected)


# Samples -----------------------------------------------------------------------------------------


def test_sample_depends_on_seed_and_position_only(train_set):
    first = train_set[(7, 3)]
    train_set[(8, 5)]
    torch.manual_seed(99)
    again = train_set[(7, 3)]
    assert torch.equal(first["image"], again["image"])
    assert first["tokens"] == again["tokens"]


def test_augmentation_depends_on_position(train_set):
    samples = [train_set[(position, 3)] for position in range(20)]
    assert len({sample["image"].sum().item() for sample in samples}) == 20
    assert len({tuple(sample["tokens"]) for sample in samples}) >= 4
    assert len({sample["image_id"] for sample in samples}) == 1


def test_augmentation_depends_on_seed(coco, tokenizer, train_set):
    other = build_pretraining_set(config_for(coco), "train", tokenizer, seed=1)
    assert not torch.equal(train_set[(7, 3)]["image"], other[(7, 3)]["image"])


def test_captions_are_drawn_uniformly(coco, tokenizer):
    image = read_captions(coco, "train")[0]
    transform = build_transform(["center_crop"], 8)
    data = PretrainingSet([image], "captioning", transform, TextOptions(tokenizer, 100))
    drawn = [tokenizer.decode(data[(position, 0)]["tokens"]) for position in range(300)]
    assert {drawn.count(text) for text in drawn} <= set(range(35, 86))
    assert len(set(drawn)) == len(set(image.captions)) == 5


def test_flip_swaps_words_of_caption(coco, tokenizer):
    image = read_captions(coco, "train")[0]
    image = CaptionedImage(image.image_id, image.file, ("a red circle left of a square",))
    text = TextOptions(tokenizer)
    plain = PretrainingSet([image], "captioning", build_transform(["global_resize"], 32), text)
    flip = build_transform(["global_resize", "horizontal_flip"], 32)
    data = PretrainingSet([image], "captioning", flip, text)
    seen = set()
    for position in range(12):
        sample = data[(position, 0)]
        caption = tokenizer.decode(sample["tokens"])
        upright = plain[(0, 0)]["image"]
        mirrored = "right" in caption
        assert torch.equal(sample["image"], upright.flip(-1) if mirrored else upright)
        assert caption == f"a red circle {'right' if mirrored else 'left'} of a square"
        seen.add(mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize("task", [*ALL_TASKS, "virtex"])
def test_samples_of_each_task(coco, tokenizer, task):
    data = build_pretraining_set(task_config(coco, task), "train", tokenizer, seed=0)
    sample = data[(0, 0)]
    assert sample["image"].shape == (3, 32, 32)
    assert sample["image"].dtype == torch.float32
    assert sample["image_id"] == data.items[0].image_id
    keys = {"masked_lm": {"tokens", "labels"}, "token_classification": {"labels"}}
    assert sample.keys() == {"image", "image_id"} | keys.get(task, {"tokens"})


def test_multilabel_classification_needs_no_tokenizer(coco):
    config = task_config(coco, "multilabel_classification")
    data = build_pretraining_set(config, "train", None, seed=0)
    sample = data[(0, 2)]
    assert sample["labels"] == list(data.items[2].labels)
    assert data.label_names[0] == "background"
    assert len(data.label_names) > max(max(item.labels) for item in data.items)


def test_validation_uses_first_caption(val_set, tokenizer):
    for position in (0, 5):
        sample = val_set[(position, 2)]
        assert sample["tokens"] == tokenizer.encode_caption(val_set.items[2].captions[0], 30)
        assert torch.equal(sample["image"], val_set[(2, 2)]["image"])


def test_validation_masks_are_deterministic(coco, tokenizer):
    data = build_pretraining_set(task_config(coco, "masked_lm"), "val", tokenizer, seed=0)
    first, second = (list(validation_loader(data, 8)) for _ in range(2))
    assert_same(first, second)


def test_use_single_caption(coco, tokenizer):
    config = config_for(coco, "DATA.USE_SINGLE_CAPTION", True)
    data = build_pretraining_set(config, "train", tokenizer, seed=0)
    assert [item.captions for item in data.items] == [
        image.captions[:1] for image in read_captions(coco, "train")
    ]


def test_use_percentage_affects_training_only(coco, tokenizer, val_set):
    config = config_for(coco, "DATA.USE_PERCENTAGE", 10)
    train = build_pretraining_set(config, "train", tokenizer, seed=0)
    val = build_pretraining_set(config, "val", tokenizer, seed=0)
    assert len(train) == TRAIN // 10
    assert len(val) == len(val_set)


def test_vocabulary_larger_than_config(coco, tokenizer):
    config = config_for(coco, "DATA.VOCAB_SIZE", 150)
    with raises_code("tokenizer.mismatch", "DATA.VOCAB_SIZE", 150, 200):
        build_pretraining_set(config, "train", tokenizer, seed=0)


def test_special_token_ids_must_match_config(coco, tokenizer):
    config = config_for(coco, "DATA.SOS_INDEX", 7)
    with raises_code("tokenizer.mismatch", "DATA.SOS_INDEX"):
        build_pretraining_set(config, "train", tokenizer, seed=0)


def test_categories_must_fit_vocab_size(coco):
    labels = len(read_labels(coco, "train")[1])
    build_pretraining_set(
        task_config(coco, "multilabel_classification", "DATA.VOCAB_SIZE", labels), "val", None, 0
    )
    config = task_config(coco, "multilabel_classification", "DATA.VOCAB_SIZE", labels - 1)
    with raises_code("config.invalid_value", "DATA.VOCAB_SIZE", labels):
        build_pretraining_set(config, "train", None, seed=0)


def test_unknown_transform_is_rejected(coco, tokenizer):
    config = config_for(coco, "DATA.IMAGE_TRANSFORM_VAL", ["center_corp", "normalize"])
    with raises_code("config.unknown_transform", "center_corp"):
        build_pretraining_set(config, "val", tokenizer, seed=0)


# Batches -----------------------------------------------------------------------------------------


def test_batch_pads_tokens(train_set):
    samples = [train_set[(position, position)] for position in range(6)]
    batch = train_set.collate(samples)
    lengths = [len(sample["tokens"]) for sample in samples]
    assert batch["image"].shape == (6, 3, 32, 32)
    assert batch["lengths"].tolist() == lengths
    assert batch["tokens"].shape == (6, max(lengths))
    assert batch["image_id"].tolist() == [sample["image_id"] for sample in samples]
    for row, sample in zip(batch["tokens"].tolist(), samples, strict=True):
        assert row == sample["tokens"] + [0] * (max(lengths) - len(sample["tokens"]))


def test_batch_aligns_masked_labels(coco, tokenizer):
    data = build_pretraining_set(task_config(coco, "masked_lm"), "train", tokenizer, seed=0)
    batch = data.collate([data[(position, position)] for position in range(6)])
    assert batch["labels"].shape == batch["tokens"].shape
    assert not batch["labels"][batch["tokens"] == 0].any()


def test_batch_pads_class_labels(coco):
    config = task_config(coco, "multilabel_classification")
    data = build_pretraining_set(config, "train", None, seed=0)
    batch = data.collate([data[(position, position)] for position in range(8)])
    for row, item in zip(batch["labels"].tolist(), data.items, strict=False):
        assert tuple(label for label in row if label) == item.labels
    assert batch.keys() == {"image", "image_id", "labels"}


# Loaders -----------------------------------------------------------------------------------------


def test_resumed_loader_gives_same_batches(train_set):
    whole = take(training_loader(train_set, 16, 0, seed=0), 9)  # spans an epoch's end
    assert_same(whole[5:], take(training_loader(train_set, 16, 5, seed=0), 4))


def test_workers_do_not_change_the_batches(train_set):
    assert_same(
        take(training_loader(train_set, 8, 0, seed=0), 3),
        take(training_loader(train_set, 8, 0, seed=0, num_workers=2), 3),
    )


def test_processes_split_batches(train_set):
    whole = take(training_loader(train_set, 8, 0, seed=0), 2)
    ranks = [take(training_loader(train_set, 8, 0, 0, rank, 2), 2) for rank in (0, 1)]
    for iteration, batch in enumerate(whole):
        for rank in (0, 1):
            part = ranks[rank][iteration]
            assert torch.equal(part["image"], batch["image"][rank::2])
            assert torch.equal(part["lengths"], batch["lengths"][rank::2])


def test_augmentation_differs_between_epochs(train_set):
    batches = take(training_loader(train_set, len(train_set), 0, seed=0), 2)
    of_first = [b["image"][b["image_id"] == train_set.items[0].image_id] for b in batches]
    assert not torch.equal(*of_first)


@pytest.mark.parametrize("world_size", [1, 3])
def test_validation_loads_each_image_once(val_set, world_size):
    batches = [
        batch
        for rank in range(world_size)
        for batch in validation_loader(val_set, 9, rank, world_size)
    ]
    seen = [image_id for batch in batches for image_id in batch["image_id"].tolist()]
    assert sorted(seen) == sorted(item.image_id for item in val_set.items)
    assert max(len(batch["image_id"]) for batch in batches) == 9 // world_size


def test_process_without_validation_images(val_set):
    val_set.items = val_set.items[:2]
    assert [len(validation_loader(val_set, 4, rank, 4)) for rank in range(4)] == [1, 1, 0, 0]
    assert list(validation_loader(val_set, 4, 3, 4)) == []


def test_set_can_be_pickled(train_set):
    there = pickle.loads(pickle.dumps(train_set))
    assert torch.equal(there[(7, 3)]["image"], train_set[(7, 3)]["image"])


# Undecodable images ------------------------------------------------------------------------------


@pytest.fixture
def one_broken(copied, tokenizer):
    """A training set, the index of its broken image, and a function to build it anew."""
    file = read_captions(copied, "train")[2].file
    file.write_bytes(file.read_bytes()[:500])

    def build(skip_bad_images: bool, split: str = "train") -> PretrainingSet:
        return build_pretraining_set(config_for(copied), split, tokenizer, 0, skip_bad_images)

    return build, file


@pytest.mark.parametrize("num_workers", [0, 1])
def test_truncated_image_is_an_error(one_broken, num_workers):
    build, file = one_broken
    batches = training_loader(build(False), 100, 0, seed=0, num_workers=num_workers)
    with raises_code("data.image", file):
        next(batches)


def test_image_deleted_during_training(one_broken):
    build, file = one_broken
    data = build(False)
    file.unlink()
    with raises_code("data.image", file):
        next(training_loader(data, 100, 0, seed=0))


def test_skip_bad_images(one_broken, caplog):
    build, file = one_broken
    data = build(True)
    with caplog.at_level(logging.WARNING):
        sample = data[(0, 2)]
    assert sample["image_id"] == data.items[3].image_id
    assert str(file) in caplog.text
    assert_same(
        take(training_loader(data, 20, 0, seed=0), 6)[4:],
        take(training_loader(data, 20, 4, seed=0), 2),
    )


def test_no_decodable_image(one_broken):
    build, _ = one_broken
    data = build(True)
    data.items = data.items[2:3]
    with raises_code("data.image"):
        next(training_loader(data, 4, 0, seed=0))


def test_validation_never_skips_images(copied, one_broken):
    build, _ = one_broken
    file = read_captions(copied, "val")[1].file
    file.write_bytes(file.read_bytes()[:500])
    with raises_code("data.image", file):
        list(validation_loader(build(True, "val"), 8))
    file.unlink()
    with raises_code("data.missing_images"):
        build(True, "val")

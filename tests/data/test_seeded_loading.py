"""``SeededSet`` and its loaders."""

import itertools
import logging

import pytest
import torch

from tests.errors import raises_code
from virtex.data.loading import SeededSet, training_loader, validation_loader
from virtex.errors import UserError


class Numbers(SeededSet):
    """Eight images, some of them undecodable; a sample is a random number."""

    def __init__(self, broken=(), **arguments):
        super().__init__(**arguments)
        self.broken = broken

    def __len__(self):
        return 8

    def sample(self, index):
        if index in self.broken:
            raise UserError(f"cannot decode image {index}", "data.image")
        return {"index": index, "drawn": torch.rand(())}

    def batch(self, samples):
        return {
            "index": torch.tensor([sample["index"] for sample in samples]),
            "drawn": torch.stack([sample["drawn"] for sample in samples]),
        }


def test_sample_depends_on_seed_and_position_only():
    drawn = Numbers()[(5, 2)]["drawn"]
    torch.manual_seed(99)
    assert Numbers()[(5, 2)]["drawn"] == drawn
    assert Numbers()[(6, 2)]["drawn"] != drawn
    assert Numbers(seed=1)[(5, 2)]["drawn"] != drawn


def test_undecodable_image_is_returned_as_an_error():
    error = Numbers(broken=[2])[(0, 2)]
    assert isinstance(error, UserError)
    assert error.code == "data.image"
    assert "image 2" in str(error)


def test_collate_returns_the_first_error():
    data = Numbers(broken=[2, 3])
    assert "image 2" in str(data.collate([data[(0, index)] for index in range(4)]))


def test_collate_uses_batch():
    data = Numbers()
    assert data.collate([data[(0, 3)], data[(1, 1)]])["index"].tolist() == [3, 1]


def test_skip_bad_images_takes_the_next_image(caplog):
    data = Numbers(broken=[6, 7], skip_bad_images=True)
    with caplog.at_level(logging.WARNING):
        assert data[(0, 6)]["index"] == 0
    assert "image 6" in caplog.text


def test_validation_never_skips_images():
    data = Numbers(broken=[2], training=False, skip_bad_images=True)
    assert isinstance(data[(0, 2)], UserError)


def test_all_images_undecodable():
    data = Numbers(broken=range(8), skip_bad_images=True)
    assert data[(0, 2)].code == "data.image"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_raise_errors_of_samples(num_workers):
    data = Numbers(broken=[2])
    with raises_code("data.image", "image 2"):
        next(training_loader(data, 8, 0, seed=0, num_workers=num_workers))
    with raises_code("data.image", "image 2"):
        list(validation_loader(data, 8, num_workers=num_workers))


def test_training_loader_is_infinite():
    batches = itertools.islice(training_loader(Numbers(), 4, 0, seed=0), 6)
    order = torch.cat([batch["index"] for batch in batches]).tolist()
    for epoch in (order[:8], order[8:16], order[16:]):
        assert sorted(epoch) == list(range(8))


def test_validation_loader_is_complete():
    batches = list(validation_loader(Numbers(), 3))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8))

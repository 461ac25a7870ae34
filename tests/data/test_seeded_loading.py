"""What every set of samples has in common, shown on one whose samples are random numbers."""

import itertools
import logging

import pytest
import torch

from virtex.data.loading import SeededSet, training_loader, validation_loader
from virtex.errors import UserError


class Numbers(SeededSet):
    """Eight images, of which some cannot be read; a sample is a random number."""

    def __init__(self, broken=(), **arguments):
        super().__init__(**arguments)
        self.broken = broken

    def __len__(self):
        return 8

    def sample(self, index):
        if index in self.broken:
            raise UserError(f"the image {index} cannot be read")
        return {"index": index, "drawn": torch.rand(())}

    def batch(self, samples):
        return {
            "index": torch.tensor([sample["index"] for sample in samples]),
            "drawn": torch.stack([sample["drawn"] for sample in samples]),
        }


def test_a_sample_draws_from_seed_and_position_alone():
    drawn = Numbers()[(5, 2)]["drawn"]
    torch.manual_seed(99)
    assert Numbers()[(5, 2)]["drawn"] == drawn
    assert Numbers()[(6, 2)]["drawn"] != drawn
    assert Numbers(seed=1)[(5, 2)]["drawn"] != drawn


def test_an_image_that_cannot_be_read_is_an_error_as_a_value():
    error = Numbers(broken=[2])[(0, 2)]
    assert isinstance(error, UserError)
    assert str(error) == "the image 2 cannot be read"


def test_a_batch_with_an_error_is_that_error():
    data = Numbers(broken=[2, 3])
    assert str(data.collate([data[(0, index)] for index in range(4)])) == (
        "the image 2 cannot be read"
    )


def test_a_batch_is_what_the_set_makes_of_samples():
    data = Numbers()
    assert data.collate([data[(0, 3)], data[(1, 1)]])["index"].tolist() == [3, 1]


def test_the_next_image_takes_the_place_of_a_bad_one_where_asked(caplog):
    data = Numbers(broken=[6, 7], skip_bad_images=True)
    with caplog.at_level(logging.WARNING):
        assert data[(0, 6)]["index"] == 0
    assert "left out: the image 6 cannot be read" in caplog.text


def test_validation_leaves_no_image_out():
    data = Numbers(broken=[2], training=False, skip_bad_images=True)
    assert isinstance(data[(0, 2)], UserError)


def test_without_one_readable_image_there_is_an_error():
    data = Numbers(broken=range(8), skip_bad_images=True)
    assert "no image" in str(data[(0, 2)])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_raise_the_error_in_this_process(num_workers):
    data = Numbers(broken=[2])
    with pytest.raises(UserError, match="the image 2 cannot be read"):
        next(training_loader(data, 8, 0, seed=0, num_workers=num_workers))
    with pytest.raises(UserError, match="the image 2 cannot be read"):
        list(validation_loader(data, 8, num_workers=num_workers))


def test_training_is_endless_and_each_epoch_holds_every_image_once():
    batches = itertools.islice(training_loader(Numbers(), 4, 0, seed=0), 6)
    order = torch.cat([batch["index"] for batch in batches]).tolist()
    for epoch in (order[:8], order[8:16], order[16:]):
        assert sorted(epoch) == list(range(8))


def test_validation_ends_once_every_image_was_there():
    batches = list(validation_loader(Numbers(), 3))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8))

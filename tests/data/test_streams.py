"""The order of samples."""

import itertools

import pytest

from tests.errors import raises_code
from virtex.data.streams import TrainingStream, subset, validation_share


def batches_of(count: int, **arguments) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(TrainingStream(**{"images": 12, "seed": 0, **arguments}), count))


def test_each_epoch_is_a_new_permutation():
    indices = [index for batch in batches_of(6, batch_size=4) for _, index in batch]
    assert sorted(indices[:12]) == sorted(indices[12:]) == list(range(12))
    assert indices[:12] != indices[12:]


@pytest.mark.parametrize("batch_size", [5, 12, 30])
def test_batches_may_span_epochs(batch_size):
    keys = [key for batch in batches_of(12, batch_size=batch_size) for key in batch]
    assert [position for position, _ in keys] == list(range(12 * batch_size))
    for epoch in range(len(keys) // 12):
        assert sorted(i for _, i in keys[12 * epoch : 12 * epoch + 12]) == list(range(12))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_split_global_batches(world_size):
    whole = batches_of(7, batch_size=8)
    shares = [
        batches_of(7, batch_size=8, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for iteration, batch in enumerate(whole):
        parts = [share[iteration] for share in shares]
        assert sorted(key for part in parts for key in part) == batch
        assert {len(part) for part in parts} == {8 // world_size}


def test_stream_starts_at_any_iteration():
    assert batches_of(9, batch_size=5)[4:] == batches_of(5, batch_size=5, start=4)
    far = 10**9
    assert batches_of(1, batch_size=4, start=far)[0][0][0] == 4 * far


def test_order_depends_on_seed():
    assert batches_of(3, batch_size=4) != batches_of(3, batch_size=4, seed=1)


def test_batch_size_must_be_multiple_of_world_size():
    with raises_code("config.batch_size", "OPTIM.BATCH_SIZE", 10, 4):
        TrainingStream(12, batch_size=10, seed=0, world_size=4)


@pytest.mark.parametrize(("images", "world_size"), [(10, 1), (10, 3), (10, 4), (2, 4)])
def test_validation_share_is_a_partition(images, world_size):
    shares = [validation_share(images, rank, world_size) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_subsets_are_seeded_and_nested():
    assert subset(1000, 10, seed=0) == subset(1000, 10, seed=0)
    assert subset(1000, 10, seed=0) != subset(1000, 10, seed=1)
    assert set(subset(1000, 10, seed=0)) < set(subset(1000, 20, seed=0))
    assert subset(1000, 100, seed=0) == list(range(1000))
    assert len(subset(1000, 0.01, seed=0)) == 1

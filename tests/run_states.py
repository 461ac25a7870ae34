"""What training runs left behind, compared bit by bit."""

import torch


def content_of(folder, name="model_final.pth"):
    """A checkpoint, but for the time it took."""
    content = torch.load(folder / name, weights_only=True)
    return {key: value for key, value in content.items() if key != "stopwatch"}


def assert_equal(first, second, where="state"):
    """Equal bit by bit, whatever is nested in what."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}.{index}")
    else:
        assert first == second, where

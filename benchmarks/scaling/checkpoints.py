"""Opening, loading and hashing checkpoints, against bytes and against the number of tensors."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.scaling.measuring import Part, Subject

MB = 10**6
OTHER = 16 * MB  # bytes of a tensor that is no part of the backbone


def backbone_weights() -> dict:
    """A ResNet-18's, 45 MB."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def write_bytes(folder: Path, megabytes: int) -> None:
    """The same content in every container, so large as ``megabytes`` says."""
    import torch
    from safetensors.torch import save_file

    weights = backbone_weights()
    left = megabytes * MB - sum(t.numel() * t.element_size() for t in weights.values())
    for number in range(max(left // OTHER, 0)):
        weights[f"decoder.{number}.weight"] = torch.full((OTHER // 4,), float(number))
    torch.save(weights, folder / "zip.pth")
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "weights.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    with open(folder / "arrays.pkl", "wb") as file:
        pickle.dump(arrays, file)


def write_tensors(folder: Path, count: int) -> None:
    """A backbone and so many small tensors beside it."""
    import torch
    from safetensors.torch import save_file

    weights = backbone_weights()
    for number in range(count):
        weights[f"decoder.{number // 10}.{number % 10}.weight"] = torch.zeros(1)
    torch.save(weights, folder / "zip.pth")
    save_file(weights, folder / "weights.safetensors")


def load(file: str, folder: Path, size: int) -> Callable[[], object]:
    from virtex.checkpoints.loading import load_backbone

    return lambda: load_backbone(folder / file)


def hash_file(folder: Path, size: int) -> Callable[[], object]:
    from virtex.checkpoints.hashing import sha256_of

    return lambda: sha256_of(folder / "zip.pth")


SUBJECTS = {
    "checkpoint-bytes": Subject(
        "load_backbone of a file of so many megabytes, 45 of them a ResNet-18: open, hash, "
        "recognize, copy. The least is the time of the hash alone.",
        "MB",
        (128, 256, 512, 1024, 2048),
        (50, 70),
        write_bytes,
        {
            "hash": Part(hash_file),
            "torch zip": Part(partial(load, "zip.pth")),
            "torch legacy": Part(partial(load, "legacy.pth")),
            "safetensors": Part(partial(load, "weights.safetensors")),
            "numpy pickle": Part(partial(load, "arrays.pkl")),
        },
    ),
    "checkpoint-tensors": Subject(
        "load_backbone of a ResNet-18's file with so many more tensors in it.",
        "tensors",
        (2000, 4000, 8000, 16000, 32000),
        (20, 40),
        write_tensors,
        {
            "torch zip": Part(partial(load, "zip.pth")),
            "safetensors": Part(partial(load, "weights.safetensors")),
        },
    ),
}

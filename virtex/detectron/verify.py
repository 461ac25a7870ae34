"""The proof that the detector holds the checkpoint: every tensor, and what they compute.

A backbone whose keys did not match trains on in silence from random weights. Here every
tensor is compared after loading, and one image goes through both networks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image
from torch import Tensor, nn

from virtex.checkpoints.backbone import InputSpec
from virtex.detectron.adapters import ConvertedBackbone, Detector
from virtex.errors import UserError

TOLERANCE = 1e-4  # largest difference allowed, relative to the largest feature of the stage
IMAGE_SIZE = (224, 288)  # height, width; multiples of 32, so that a pyramid pads nothing


def load_weights(detector: nn.Module, adaptation: ConvertedBackbone) -> dict[str, Any]:
    """Copy the checkpoint's tensors into the detector and prove that they are all there.

    Returns:
        ``{"compared": number of tensors, "equal": True}`` for the record.

    Raises:
        UserError: a tensor has no place in the detector, another shape there, is not equal
            after loading, or a backbone tensor of the detector was not filled.
    """
    own = detector.state_dict()
    problems = []
    for name, tensor in adaptation.weights.items():
        if name not in own:
            problems.append(f"{name} has no place in the detector")
        elif own[name].shape != tensor.shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
    fail_if(problems)
    with torch.no_grad():
        for name, tensor in adaptation.weights.items():
            own[name].copy_(tensor)
    return compare_tensors(detector, adaptation)


def compare_tensors(detector: nn.Module, adaptation: ConvertedBackbone) -> dict[str, Any]:
    """Every backbone tensor of the detector against the file's: all equal, or UserError."""
    found = {k: v for k, v in detector.state_dict().items() if is_backbone(k, adaptation)}
    problems = [f"{name} was not filled" for name in sorted(found.keys() - adaptation.weights)]
    for name, tensor in adaptation.weights.items():
        if not torch.equal(found[name].cpu(), tensor.to(found[name].dtype)):
            problems.append(f"{name} differs from the file")
    fail_if(problems)
    return {"compared": len(found), "equal": True}


def is_backbone(name: str, adaptation: ConvertedBackbone) -> bool:
    """Whether the adapter must fill this tensor; an added norm after res5 is the head's own."""
    return (
        name.startswith(adaptation.owned)
        and not name.startswith("roi_heads.res5.norm.")
        and not name.endswith(".num_batches_tracked")
    )


def fail_if(problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:5]) + (
            f"; and {len(problems) - 5} more" if problems[5:] else ""
        )
        raise UserError(
            f"the detector does not hold the checkpoint: {shown}. Its norm layers must be BN, "
            "SyncBN or FrozenBN, and its backbone the checkpoint's architecture"
        )


def compare_features(
    detector: Detector, adaptation: ConvertedBackbone, spec: InputSpec
) -> dict[str, float]:
    """One fixed image through the detector's backbone and through the original network.

    Each side reads and normalizes the image its own way, so that a wrong channel order, mean,
    std, stride or norm shows.

    Returns:
        stage -> largest absolute difference / largest absolute feature.

    Raises:
        UserError: a stage is missing or differs by more than ``TOLERANCE``.
    """
    image = fixed_image()
    device = detector.pixel_mean.device
    was_training = detector.training
    detector.eval()
    with torch.no_grad(), full_precision():
        ours = adaptation.detector_features(detector, detector_input(detector, image))
        theirs = adaptation.reference_features(reference_input(image, spec).to(device))
    detector.train(was_training)
    errors = {}
    for stage, expected in theirs.items():
        if stage not in ours or ours[stage].shape != expected.shape:
            raise UserError(f"the detector's backbone computes no {stage} like the checkpoint's")
        scale = expected.abs().max().clamp(min=1e-12)
        errors[stage] = float((ours[stage] - expected).abs().max() / scale)
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:  # also when it is NaN
        raise UserError(
            f"the detector's backbone does not compute what the checkpoint's network does: "
            f"{worst} differs by {errors[worst]:.2g} (relative; {TOLERANCE:g} allowed)"
        )
    return errors


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions without TensorFloat-32, whose 10 bits are fewer than what is to be shown."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def fixed_image() -> Image.Image:
    """Smooth color gradients with noise, the same on every machine; channels all different."""
    height, width = IMAGE_SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 17 + k) * np.cos(columns / (11 + 5 * k)) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    pixels = 128 + 80 * np.stack(waves, axis=-1) + noise + np.array([30, 0, -30])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def detector_input(detector: Detector, image: Image.Image) -> Tensor:
    """(1, 3, height, width) through Detectron2's own reading and normalization."""
    pixels = convert_PIL_to_numpy(image, detector.input_format)
    tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return detector.preprocess_image([{"image": tensor}]).tensor


def reference_input(image: Image.Image, spec: InputSpec) -> Tensor:
    """(1, 3, height, width) normalized as the checkpoint's own project does."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255 * spec.scale
    if spec.channel_order == "BGR":
        pixels = pixels.flip(0)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (spec.mean, spec.std))
    return ((pixels - mean) / std).float().unsqueeze(0)

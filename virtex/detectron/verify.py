"""Verify that a detector holds the checkpoint: its tensors, and the features they compute.

A backbone whose keys do not match would silently train from random weights. Every tensor is
compared after loading, and one image goes through both networks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.modeling import SemanticSegmentor
from detectron2.structures import ImageList
from PIL import Image
from torch import Tensor, nn

from virtex.backbones.registry import BATCH_COUNTER
from virtex.checkpoints.backbone import InputSpec
from virtex.detectron.adapters import ConvertedBackbone, Detector
from virtex.errors import UserError

TOLERANCE = 1e-4  # largest difference allowed, relative to the largest feature of the stage
IMAGE_SIZE = (224, 288)  # height, width; multiples of 32, so that a pyramid adds no padding


def load_weights(detector: nn.Module, converted: ConvertedBackbone) -> dict[str, Any]:
    """Copy the checkpoint's tensors into the detector and verify that all of them arrived.

    Returns:
        ``{"compared": number of tensors, "equal": True}`` for the record.

    Raises:
        UserError: the detector lacks a tensor, has it in another shape, differs after loading, or
            has a backbone tensor that was not filled.
    """
    own = detector.state_dict()
    problems = []
    for name, tensor in converted.weights.items():
        if name not in own:
            problems.append(f"the detector has no {name}")
        elif own[name].shape != tensor.shape:
            problems.append(
                f"{name} has shape {tuple(own[name].shape)}, expected {tuple(tensor.shape)}"
            )
    raise_problems(problems)
    with torch.no_grad():
        for name, tensor in converted.weights.items():
            own[name].copy_(tensor)
    return compare_tensors(detector, converted)


def compare_tensors(detector: nn.Module, converted: ConvertedBackbone) -> dict[str, Any]:
    """Compare every backbone tensor of the detector with the file's, see ``load_weights``."""
    found = {k: v for k, v in detector.state_dict().items() if is_backbone(k, converted)}
    problems = [f"{name} was not filled" for name in sorted(found.keys() - converted.weights)]
    for name, tensor in converted.weights.items():
        if not torch.equal(found[name].cpu(), tensor.to(found[name].dtype)):
            problems.append(f"{name} differs from the file")
    raise_problems(problems)
    return {"compared": len(found), "equal": True}


def is_backbone(name: str, converted: ConvertedBackbone) -> bool:
    """Return whether the converter must fill this tensor."""
    return (
        name.startswith(converted.prefixes)
        and not name.startswith(converted.excluded_prefixes or "\0")
        and not name.endswith(f".{BATCH_COUNTER}")
    )


def raise_problems(problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:5]) + (
            f"; and {len(problems) - 5} more" if problems[5:] else ""
        )
        raise UserError(
            f"the detector does not hold the checkpoint: {shown}; its norm layers must be BN, "
            "SyncBN or FrozenBN, and its backbone of the checkpoint's architecture",
            code="detection.weights_differ",
        )


def compare_features(
    detector: Detector, converted: ConvertedBackbone, spec: InputSpec
) -> dict[str, float]:
    """Compare features of one fixed image from the detector's backbone and the original network.

    Each side reads and normalizes the image itself, so that a wrong channel order, mean, std,
    stride or norm is found.

    Returns:
        feature map -> largest absolute difference / largest absolute feature.

    Raises:
        UserError: a feature map is missing or differs by more than ``TOLERANCE``.
    """
    image = fixed_image()
    # SemanticSegmentor has no input_format
    image_format = getattr(detector, "input_format", converted.settings["INPUT.FORMAT"])
    device = detector.pixel_mean.device
    was_training = detector.training
    detector.eval()
    with torch.no_grad(), full_precision():
        ours = converted.detector_features(detector, detector_input(detector, image, image_format))
        theirs = converted.reference_features(reference_input(image, spec).to(device))
    detector.train(was_training)
    errors = {}
    for stage, expected in theirs.items():
        if stage not in ours or ours[stage].shape != expected.shape:
            raise UserError(
                f"the detector's backbone has no feature map {stage} of the checkpoint's shape "
                f"{tuple(expected.shape)}",
                code="detection.features_differ",
            )
        scale = expected.abs().max().clamp(min=1e-12)
        errors[stage] = float((ours[stage] - expected).abs().max() / scale)
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:  # also when it is NaN
        raise UserError(
            f"expected the features of the checkpoint's network within {TOLERANCE:g}, but "
            f"{worst} of the detector's backbone differs by {errors[worst]:.2g}",
            code="detection.features_differ",
        )
    return errors


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TensorFloat-32, whose 10 bits of mantissa are less than ``TOLERANCE`` needs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def fixed_image() -> Image.Image:
    """Return smooth color gradients with noise, deterministic, with three different channels."""
    height, width = IMAGE_SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 17 + k) * np.cos(columns / (11 + 5 * k)) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    pixels = 128 + 80 * np.stack(waves, axis=-1) + noise + np.array([30, 0, -30])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def detector_input(detector: Detector, image: Image.Image, image_format: str) -> Tensor:
    """Return (1, 3, height, width) by Detectron2's own reading and normalization."""
    pixels = convert_PIL_to_numpy(image, image_format)
    tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if isinstance(detector, SemanticSegmentor):  # normalizes in forward()
        mean, std = detector.pixel_mean, detector.pixel_std
        images = [(tensor.to(mean.device) - mean) / std]
        return ImageList.from_tensors(images, detector.backbone.size_divisibility).tensor
    return detector.preprocess_image([{"image": tensor}])[0].unsqueeze(0)  # without padding


def reference_input(image: Image.Image, spec: InputSpec) -> Tensor:
    """Return (1, 3, height, width), normalized as the checkpoint's project does."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255 * spec.scale
    if spec.channel_order == "BGR":
        pixels = pixels.flip(0)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (spec.mean, spec.std))
    return ((pixels - mean) / std).float().unsqueeze(0)

"""Freeze a network, and verify that it did not change: hash its tensors before and after."""

import hashlib
from types import MethodType

import torch
from torch import nn

from virtex.errors import UserError


def freeze(network: nn.Module) -> None:
    """Disable gradients, and keep the network in eval mode when ``train()`` is called on a parent.

    Dropout and stochastic depth are off and norm layers use their running statistics. For inputs
    without gradients, no activations are kept for the backward pass.
    """
    network.requires_grad_(False).eval()
    network.__dict__["train"] = MethodType(_stay_in_eval_mode, network)


def _stay_in_eval_mode(network: nn.Module, mode: bool = True) -> nn.Module:
    return network


def tensors_sha256(network: nn.Module) -> str:
    """Return a hash of the names, dtypes, shapes and bytes of the network's ``state_dict``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def verify_unchanged(network: nn.Module, sha256: str) -> dict[str, object]:
    """Verify that the network still has this hash, and return the entry for the record.

    Raises:
        UserError: the network changed, so the result would not be the checkpoint's.
    """
    current = tensors_sha256(network)
    if current != sha256:
        raise UserError(
            f"the frozen backbone must not change during the evaluation, but the sha256 of its "
            f"tensors was {sha256} before and is {current} now; no result was written. Keep the "
            "backbone in eval mode and without gradients",
            code="probe.backbone_changed",
        )
    return {"tensors_sha256": current, "unchanged": True}

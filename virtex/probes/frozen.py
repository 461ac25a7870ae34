"""Proof that a frozen backbone stayed frozen: its tensors hashed before and after."""

import hashlib

import torch
from torch import nn

from virtex.errors import UserError


def tensors_sha256(network: nn.Module) -> str:
    """A hash over names, types, shapes and bytes of everything in the network's state_dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def require_unchanged(network: nn.Module, sha256: str) -> dict[str, object]:
    """What the record says of a backbone that is still the one with this hash.

    Raises:
        UserError: it is not, so what was measured is not the checkpoint.
    """
    now = tensors_sha256(network)
    if now != sha256:
        raise UserError(
            f"the frozen backbone changed during the evaluation (sha256 of its tensors {sha256} "
            f"before, {now} after), so the result is not the checkpoint's and was not written; "
            "if you changed the evaluator, keep the backbone in eval mode and without gradient"
        )
    return {"tensors_sha256": now, "unchanged": True}

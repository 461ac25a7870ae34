"""Blocks of timm's vision transformers with window attention and relative positions, as in ViTDet.

Shapes: tokens are (batch, ``prefix`` + rows * columns, width). The first ``prefix`` ones are class
and register tokens; the others are the patches of the grid (rows, columns).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def run_block(
    block: Any, x: Tensor, rope: Tensor | None, grid: tuple[int, int], size: int, prefix: int
) -> Tensor:
    """Compute a block of timm's ``VisionTransformer`` or ``Eva``.

    Args:
        x: the tokens.
        rope: rotary positions of the patches (rows * columns, 2 * width of a head).
        size: side of a window in patches; 0: global attention.
    """
    tokens = block.norm1(x)
    if size:
        attended = attend_in_windows(block.attn, tokens, rope, grid, size, prefix)
    else:
        attended = attend(block.attn, tokens, rope, grid, prefix)
    x = x + block.drop_path1(scale_layer(block, 1, attended))
    return x + block.drop_path2(scale_layer(block, 2, block.mlp(block.norm2(x))))


def scale_layer(block: Any, index: int, x: Tensor) -> Tensor:
    """Apply the block's first or second LayerScale, if it has one."""
    if hasattr(block, "ls1"):  # of VisionTransformer
        return getattr(block, f"ls{index}")(x)
    gamma = getattr(block, f"gamma_{index}")
    return x if gamma is None else gamma * x


def attend(
    attention: Any, x: Tensor, rope: Tensor | None, grid: tuple[int, int], prefix: int
) -> Tensor:
    """Apply global attention to the tokens, with relative positions if the layer has them."""
    if rope is not None:
        return attention(x, rope=rope)
    if not hasattr(attention, "rel_pos_h"):
        return attention(x)
    q, k, v = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    bias = relative_bias(q[:, :, prefix:], attention.rel_pos_h, attention.rel_pos_w, grid)
    bias = F.pad(bias, (prefix, 0, prefix, 0)).to(q.dtype)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return attention.proj(attention.norm(x.transpose(1, 2).flatten(2)))


def attend_in_windows(
    attention: Any, x: Tensor, rope: Tensor | None, grid: tuple[int, int], size: int, prefix: int
) -> Tensor:
    """Apply attention within windows of ``size`` x ``size`` patches.

    The prefix tokens are part of every window; their outputs are averaged over the windows.
    """
    batch, (rows, columns) = len(x), grid
    windows = partition(x[:, prefix:].unflatten(1, grid), size)
    count = windows.shape[1]
    shared = x[:, None, :prefix].expand(-1, count, -1, -1)
    windows = torch.cat([shared, windows], dim=2).flatten(0, 1)  # (batch * count, tokens, width)
    if rope is not None:
        places = partition(rope.unflatten(0, grid)[None], size)  # (1, count, size * size, …)
        rope = places.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    attended = attend(attention, windows, rope, (size, size), prefix).unflatten(0, (batch, count))
    whole = attended[:, :, prefix:].unflatten(2, (size, size))
    whole = whole.unflatten(1, (-1, math.ceil(columns / size)))
    whole = whole.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (batch, rows, columns, width)
    patches = whole[:, :rows, :columns].flatten(1, 2)
    return torch.cat([attended[:, :, :prefix].mean(dim=1), patches], dim=1)


def partition(x: Tensor, size: int) -> Tensor:
    """Split (batch, rows, columns, width) into windows, padded with zeros to whole ones.

    Returns:
        (batch, windows, size * size, width).
    """
    rows, columns = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -columns % size, 0, -rows % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def add_relative_positions(network: Any, sides: Sequence[int]) -> None:
    """Add relative position embeddings, initialized to zero, to a ``VisionTransformer``.

    They are decomposed (MViTv2, arXiv 2112.01526): one vector per distance along each axis. Names
    and shapes are those of Detectron2's ``ViT``.

    Args:
        sides: for each block, patches along the side of its windows, or of the image.
    """
    for block, side in zip(network.blocks, sides, strict=True):
        attention = block.attn
        for name in ("rel_pos_h", "rel_pos_w"):
            vectors = torch.zeros(2 * side - 1, attention.head_dim)
            attention.register_parameter(name, nn.Parameter(vectors))


def relative_bias(
    q: Tensor, along_rows: Tensor, along_columns: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Return the bias that relative positions add to the attention logits.

    Args:
        q: unscaled queries (batch, heads, rows * columns, head width).
        along_rows, along_columns: embeddings (distances, head width).

    Returns:
        (batch, heads, rows * columns, rows * columns).
    """
    q = q.unflatten(2, grid)
    rows, columns = (
        distance_vectors(vectors, size)
        for vectors, size in zip((along_rows, along_columns), grid, strict=True)
    )
    by_row = torch.einsum("bnhwc,hkc->bnhwk", q, rows)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", q, columns)
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)


def distance_vectors(vectors: Tensor, size: int) -> Tensor:
    """Return the embeddings (size, size, head width) for each query and key along an axis.

    If the number of distances differs, they are interpolated linearly, as in Detectron2.
    """
    if len(vectors) != 2 * size - 1:
        vectors = F.interpolate(vectors.T[None], size=2 * size - 1, mode="linear")[0].T
    places = torch.arange(size, device=vectors.device)
    return vectors[places[:, None] - places[None, :] + size - 1]

"""A transformer decoder that skips padding and caches keys and values.

Parameters (names and shapes) and results are those of ``torch.nn.TransformerDecoder``; it does
less computation:

- Layers that treat tokens independently (projections, feed-forward, norms) run on the tokens
  without padding, as rows (tokens, hidden). Only attention, which mixes the tokens of a caption,
  sees them padded; ``Rows`` converts between the two layouts.
- Keys and values of the image are computed once per image. While decoding, those of previous
  tokens are cached (``LayerCache``).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sublayer = Callable[[Tensor], Tensor]  # (tokens, hidden) to (tokens, hidden)


class Rows:
    """The positions of the tokens in a padded batch of captions.

    Attributes:
        size: (batch, longest).
        present: (batch, longest), True at tokens, False at padding.
        index: (tokens,), index of each row in the flattened padded batch.
        positions: (tokens,), position of each row in its caption.
        full: whether there is no padding.
    """

    def __init__(self, lengths: Tensor, device: torch.device | str = "cpu"):
        """
        Args:
            lengths: on the CPU, to avoid synchronizing with the GPU.
            device: of the attributes.
        """
        lengths = lengths.cpu()
        longest = int(lengths.max())
        self.size = (len(lengths), longest)
        places = torch.arange(longest)
        present = places < lengths[:, None]
        index = present.flatten().nonzero().squeeze(1)
        self.full = len(index) == len(lengths) * longest
        self.present, self.index, self.positions = (
            part.to(device, non_blocking=True)
            for part in (present, index, places.expand(self.size)[present])
        )

    def pad(self, rows: Tensor) -> Tensor:
        """Convert (tokens, channels) to (batch, longest, channels), with zeros at padding."""
        if not self.full:
            empty = rows.new_zeros(self.size[0] * self.size[1], rows.shape[1])
            rows = empty.index_copy(0, self.index, rows)
        return rows.view(*self.size, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Convert (batch, longest, channels) to (tokens, channels)."""
        rows = padded.flatten(0, 1)
        return rows if self.full else rows.index_select(0, self.index)


@dataclass
class LayerCache:
    """Cached keys and values of a layer during decoding; ``captions`` = images x beams.

    Attributes:
        image_keys, image_values: (images, heads, height * width, channels per head).
        keys, values: (captions, heads, tokens so far, channels per head); None at the start.
    """

    image_keys: Tensor
    image_values: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of one more token; return all."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def select(self, captions: Tensor) -> None:
        """Continue with these captions (indices; repeats allowed)."""
        assert self.keys is not None and self.values is not None
        self.keys = self.keys.index_select(0, captions)
        self.values = self.values.index_select(0, captions)


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``torch.nn.MultiheadAttention``."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden))
        self.out_proj = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Project to queries (0), keys (1) and values (2), those in ``range(first, last)``.

        Maps ``x`` (…, hidden) to (…, (last - first) * hidden).
        """
        hidden = x.shape[-1]
        part = slice(first * hidden, last * hidden)
        return F.linear(x, self.in_proj_weight[part], self.in_proj_bias[part])

    def split_heads(self, x: Tensor) -> Tensor:
        """Reshape (batch, length, hidden) to (batch, heads, length, hidden / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Map (batch, heads, length, channels) tensors to (batch, length, hidden)."""
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return mixed.transpose(1, 2).flatten(2)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the image, and feed-forward.

    Parameters as in ``torch.nn.TransformerDecoderLayer``.
    """

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float, norm_first: bool):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = Attention(hidden, heads, dropout)
        self.multihead_attn = Attention(hidden, heads, dropout)
        self.linear1 = nn.Linear(hidden, feedforward)
        self.linear2 = nn.Linear(feedforward, hidden)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(hidden) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, rows: Rows, causal: bool) -> Tensor:
        """Process tokens (tokens, hidden) with image memory (batch, height * width, hidden)."""
        mask = None if causal or rows.full else rows.present[:, None, None, :]

        def self_attention(x: Tensor) -> Tensor:
            attention = self.self_attn
            queries, keys, values = (
                attention.split_heads(part)
                for part in rows.pad(attention.project(x, 0, 3)).chunk(3, dim=-1)
            )
            # with padding on the right, a causal mask also hides the padding from every token
            mixed = attention.attend(queries, keys, values, mask, causal)
            return attention.out_proj(rows.unpad(mixed))

        def cross_attention(x: Tensor) -> Tensor:
            attention = self.multihead_attn
            queries = attention.split_heads(rows.pad(attention.project(x, 0, 1)))
            mixed = attention.attend(queries, *self.image_keys_and_values(memory))
            return attention.out_proj(rows.unpad(mixed))

        return self.sublayers(x, self_attention, cross_attention)

    def step(self, x: Tensor, cache: LayerCache) -> Tensor:
        """Process one more token per caption, (captions, hidden), and append it to the cache."""

        def self_attention(x: Tensor) -> Tensor:
            attention = self.self_attn
            queries, keys, values = (
                attention.split_heads(part[:, None])
                for part in attention.project(x, 0, 3).chunk(3, dim=-1)
            )
            mixed = attention.attend(queries, *cache.append(keys, values))
            return attention.out_proj(mixed[:, 0])

        def cross_attention(x: Tensor) -> Tensor:
            attention = self.multihead_attn
            # the captions of an image are its queries, so keys and values are not copied
            queries = attention.project(x, 0, 1).view(len(cache.image_keys), -1, x.shape[-1])
            mixed = attention.attend(
                attention.split_heads(queries), cache.image_keys, cache.image_values
            )
            return attention.out_proj(mixed.flatten(0, 1))

        return self.sublayers(x, self_attention, cross_attention)

    def sublayers(self, x: Tensor, self_attention: Sublayer, cross_attention: Sublayer) -> Tensor:
        """Apply the three sublayers with residuals, and LayerNorm after or (pre-norm) before."""
        parts = (self_attention, cross_attention, self.feedforward)
        for part, norm in zip(parts, (self.norm1, self.norm2, self.norm3), strict=True):
            x = x + self.drop(part(norm(x))) if self.norm_first else norm(x + self.drop(part(x)))
        return x

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(self.drop(F.gelu(self.linear1(x))))

    def image_keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, length, hidden) to keys and values (batch, heads, length, channels)."""
        attention = self.multihead_attn
        keys, values = attention.project(memory, 1, 3).chunk(2, dim=-1)
        return attention.split_heads(keys), attention.split_heads(values)


class TransformerDecoder(nn.Module):
    """Layers and, for pre-norm, a final norm; parameters as in ``torch.nn.TransformerDecoder``."""

    def __init__(
        self,
        layers: int,
        hidden: int,
        heads: int,
        feedforward: int,
        dropout: float = 0.1,
        norm_first: bool = False,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(hidden, heads, feedforward, dropout, norm_first) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden) if norm_first else None

    def forward(self, x: Tensor, memory: Tensor, rows: Rows, causal: bool) -> Tensor:
        """Map embedded tokens (tokens, hidden) to (tokens, hidden).

        Args:
            memory: projected image, (batch, height * width, hidden).
            causal: whether a token attends to previous ones only.
        """
        for layer in self.layers:
            x = layer(x, memory, rows, causal)
        return x if self.norm is None else self.norm(x)

    def start(self, memory: Tensor) -> list[LayerCache]:
        """Start decoding: compute the image's keys and values of each layer."""
        layers = cast(Iterable[DecoderLayer], self.layers)
        return [LayerCache(*layer.image_keys_and_values(memory)) for layer in layers]

    def step(self, x: Tensor, caches: list[LayerCache]) -> Tensor:
        """Process one more token of each caption: (captions, hidden) to (captions, hidden)."""
        layers = cast(Iterable[DecoderLayer], self.layers)
        for layer, cache in zip(layers, caches, strict=True):
            x = layer.step(x, cache)
        return x if self.norm is None else self.norm(x)

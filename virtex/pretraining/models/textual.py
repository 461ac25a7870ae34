"""Textual heads: from the grid of visual features to tokens."""

import torch
from torch import Tensor, nn

from virtex.pretraining.models.transformer import Attention, LayerCache, Rows, TransformerDecoder
from virtex.pretraining.models.visual import grid_to_sequence

INIT_STD = 0.02  # of linear, attention and embedding weights, as in BERT (arXiv 1810.04805)


class LinearTextualHead(nn.Module):
    """Global average pooling and one linear layer, for the classification tasks."""

    def __init__(self, feature_size: int, vocab_size: int):
        super().__init__()
        self.output = nn.Linear(feature_size, vocab_size)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, vocabulary)."""
        return self.output(features.mean(dim=(2, 3)))


class WordAndPositionalEmbedding(nn.Module):
    """Learned embeddings of token and position, summed, normed, with dropout; pads are zeros."""

    def __init__(self, vocab_size: int, hidden: int, dropout: float, max_length: int, pad: int):
        super().__init__()
        self.pad = pad
        self.words = nn.Embedding(vocab_size, hidden, padding_idx=pad)
        self.positions = nn.Embedding(max_length, hidden)
        self.layer_norm = nn.LayerNorm(hidden, eps=1e-8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens and their positions, both (tokens,), to (tokens, hidden)."""
        embedded = self.layer_norm(self.words(tokens) + self.positions(positions))
        # an unknown piece has the pad's id and is as empty as a pad
        return self.dropout(embedded) * (tokens != self.pad).unsqueeze(-1)


class TransformerTextualHead(nn.Module):
    """Image features and tokens to the next, or the masked, tokens (arXiv 2006.06666, 3.1).

    Attributes:
        output: its weight is the word embedding's, its bias its own.
    """

    def __init__(
        self,
        feature_size: int,
        vocab_size: int,
        transformer: TransformerDecoder,
        hidden: int,
        dropout: float = 0.1,
        max_length: int = 30,
        pad: int = 0,
    ):
        super().__init__()
        self.pad, self.max_length = pad, max_length
        self.visual_projection = nn.Linear(feature_size, hidden)
        self.embedding = WordAndPositionalEmbedding(vocab_size, hidden, dropout, max_length, pad)
        self.transformer = transformer
        self.apply(init_weights)
        self.output = nn.Linear(hidden, vocab_size)
        self.output.weight = self.embedding.words.weight

    def project(self, features: Tensor) -> Tensor:
        """(batch, channels, height, width) to the transformer's memory (batch, places, hidden)."""
        return self.visual_projection(grid_to_sequence(features))

    def logits(self, memory: Tensor, tokens: Tensor, lengths: Tensor, causal: bool) -> Tensor:
        """Logits at each token of padded captions.

        Args:
            memory: ``project``'s.
            tokens: (batch, longest), padded at the right.
            lengths: (batch,).

        Returns:
            (tokens that are no padding, vocabulary), caption by caption.
        """
        rows = Rows(lengths, tokens.device)
        x = self.embedding(rows.unpad(tokens[:, : rows.size[1], None])[:, 0], rows.positions)
        return self.output(self.transformer(x, memory, rows, causal))

    def start(self, features: Tensor) -> "DecodingState":
        """Begin to decode captions of a batch of images (batch, channels, height, width)."""
        return DecodingState(self, self.transformer.start(self.project(features)))


class DecodingState:
    """Captions in the making: one more token at a time, nothing computed twice."""

    def __init__(self, head: TransformerTextualHead, caches: list[LayerCache]):
        self.head, self.caches, self.length = head, caches, 0

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token to each caption; logits of the next one.

        Args:
            tokens: (captions,), the captions of an image side by side.

        Returns:
            (captions, vocabulary).
        """
        positions = torch.full_like(tokens, self.length)
        self.length += 1
        x = self.head.embedding(tokens, positions)
        return self.head.output(self.head.transformer.step(x, self.caches))

    def select(self, captions: Tensor) -> None:
        """Go on with these captions (indices, repeats allowed, equally many an image)."""
        for cache in self.caches:
            cache.select(captions)


def init_weights(module: nn.Module) -> None:
    """Normal weights; biases stay as torch makes them, as in the published training."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, Attention):
        nn.init.normal_(module.in_proj_weight, std=INIT_STD)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()

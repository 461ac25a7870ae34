"""Textual heads: predict tokens from the grid of visual features."""

import torch
from torch import Tensor, nn

from virtex.pretraining.models.transformer import Attention, LayerCache, Rows, TransformerDecoder
from virtex.pretraining.models.visual import grid_to_sequence

INIT_STD = 0.02  # of linear, attention and embedding weights, as in BERT (arXiv 1810.04805)


class LinearTextualHead(nn.Module):
    """Global average pooling and a linear layer, for classification."""

    def __init__(self, feature_size: int, vocab_size: int):
        super().__init__()
        self.output = nn.Linear(feature_size, vocab_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits (batch, vocabulary)."""
        return self.output(features.mean(dim=(2, 3)))


class WordAndPositionalEmbedding(nn.Module):
    """Sum of learned token and position embeddings, with LayerNorm and dropout; 0 at padding."""

    def __init__(self, vocab_size: int, hidden: int, dropout: float, max_length: int, pad: int):
        super().__init__()
        self.pad = pad
        self.words = nn.Embedding(vocab_size, hidden, padding_idx=pad)
        self.positions = nn.Embedding(max_length, hidden)
        self.layer_norm = nn.LayerNorm(hidden, eps=1e-8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Map tokens and their positions, both (tokens,), to (tokens, hidden)."""
        embedded = self.layer_norm(self.words(tokens) + self.positions(positions))
        # unknown pieces share the id of padding, and are zeroed too
        return self.dropout(embedded) * (tokens != self.pad).unsqueeze(-1)


class TransformerTextualHead(nn.Module):
    """A transformer that predicts next or masked tokens (arXiv 2006.06666, section 3.1).

    Attributes:
        output: its weight is tied to the word embedding.
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
        """Map (batch, channels, height, width) to the memory (batch, height * width, hidden)."""
        return self.visual_projection(grid_to_sequence(features))

    def logits(self, memory: Tensor, tokens: Tensor, lengths: Tensor, causal: bool) -> Tensor:
        """Compute the logits at each token of padded captions.

        Args:
            memory: from ``project``.
            tokens: (batch, longest), padded on the right.
            lengths: (batch,).

        Returns:
            (tokens without padding, vocabulary), caption by caption.
        """
        rows = Rows(lengths, tokens.device)
        x = self.embedding(rows.unpad(tokens[:, : rows.size[1], None])[:, 0], rows.positions)
        return self.output(self.transformer(x, memory, rows, causal))

    def start(self, features: Tensor) -> "DecodingState":
        """Start decoding from visual features (batch, channels, height, width)."""
        return DecodingState(self, self.transformer.start(self.project(features)))


class DecodingState:
    """Incremental decoding of captions with cached keys and values."""

    def __init__(self, head: TransformerTextualHead, caches: list[LayerCache]):
        self.head, self.caches, self.length = head, caches, 0

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token to each caption and return the logits of the next one.

        Args:
            tokens: (captions,), those of an image contiguous.

        Returns:
            (captions, vocabulary).
        """
        positions = torch.full_like(tokens, self.length)
        self.length += 1
        x = self.head.embedding(tokens, positions)
        return self.head.output(self.head.transformer.step(x, self.caches))

    def select(self, captions: Tensor) -> None:
        """Continue with these captions (indices; repeats allowed; equally many per image)."""
        for cache in self.caches:
            cache.select(captions)


def init_weights(module: nn.Module) -> None:
    """Initialize weights from a normal distribution; biases keep torch's default, as published."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, Attention):
        nn.init.normal_(module.in_proj_weight, std=INIT_STD)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()

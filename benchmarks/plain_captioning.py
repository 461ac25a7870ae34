"""A captioning model and beam search from torch modules, as a reference.

The textual head is ``torch.nn.TransformerDecoder`` on padded captions, run once for each direction,
with logits at every position; decoding recomputes the whole prefix at each step. Tests compare its
results and benchmarks its time. It loads the state_dict of a
``virtex.pretraining.models.captioning.CaptioningModel`` unchanged.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainEmbedding(nn.Module):
    def __init__(self, vocab_size: int, hidden: int, dropout: float, max_length: int):
        super().__init__()
        self.words = nn.Embedding(vocab_size, hidden, padding_idx=0)
        self.positions = nn.Embedding(max_length, hidden)
        self.layer_norm = nn.LayerNorm(hidden, eps=1e-8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.dropout(self.layer_norm(self.words(tokens) + self.positions(places)))
        return embedded * (tokens != 0)[..., None]


class PlainHead(nn.Module):
    """One direction: maps features (batch, channels, height, width) and tokens to logits."""

    def __init__(
        self, feature_size, vocab_size, layers, hidden, heads, feedforward, dropout, norm_first,
        causal=True, max_length=30,
    ):  # fmt: skip
        super().__init__()
        self.causal = causal
        self.visual_projection = nn.Linear(feature_size, hidden)
        self.embedding = PlainEmbedding(vocab_size, hidden, dropout, max_length)
        layer = nn.TransformerDecoderLayer(
            hidden, heads, feedforward, dropout, "gelu", batch_first=True, norm_first=norm_first
        )
        norm = nn.LayerNorm(hidden) if norm_first else None
        self.transformer = nn.TransformerDecoder(layer, layers, norm)
        self.output = nn.Linear(hidden, vocab_size)
        self.output.weight = self.embedding.words.weight

    def forward(self, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (batch, longest, vocabulary)."""
        memory = self.visual_projection(features.flatten(2).transpose(1, 2))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        future = places[:, None] < places if self.causal else None
        states = self.transformer(
            self.embedding(tokens),
            memory,
            tgt_mask=future,
            tgt_key_padding_mask=places >= lengths[:, None],
        )
        return self.output(states)

    def start(self, features: Tensor) -> "PlainState":
        """Start decoding like ``TransformerTextualHead.start``, without a cache."""
        return PlainState(self, features)


class PlainState:
    """Decoding state that recomputes the prefixes and images at each step."""

    def __init__(self, head: PlainHead, features: Tensor):
        self.head, self.features, self.prefixes = head, features, None

    def step(self, tokens: Tensor) -> Tensor:
        tokens = tokens[:, None]
        self.prefixes = tokens if self.prefixes is None else torch.cat([self.prefixes, tokens], 1)
        captions, length = self.prefixes.shape
        features = self.features.repeat_interleave(captions // len(self.features), dim=0)
        lengths = torch.full((captions,), length, device=tokens.device)
        return self.head(features, self.prefixes, lengths)[:, -1]

    def select(self, captions: Tensor) -> None:
        self.prefixes = self.prefixes[captions]


class PlainBicaptioning(nn.Module):
    """Both directions, which share projection, embedding and output layer."""

    def __init__(self, head: PlainHead):
        super().__init__()
        self.textual = head
        self.backward_textual = copy.deepcopy(head)
        self.backward_textual.visual_projection = head.visual_projection
        self.backward_textual.embedding = head.embedding
        self.backward_textual.output = head.output

    def forward(self, features: Tensor, tokens: Tensor, turned: Tensor, lengths: Tensor) -> Tensor:
        """Return the sum of the mean cross entropies of both directions."""
        return caption_loss(self.textual, features, tokens, lengths) + caption_loss(
            self.backward_textual, features, turned, lengths
        )


def caption_loss(head: PlainHead, features: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean cross entropy of the next token, ignoring padding and unknown tokens."""
    logits = head(features, tokens, lengths)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)


@torch.no_grad()
def plain_beam_search(
    head: PlainHead, features: Tensor, start: int, end: int, beams: int, max_steps: int, per_node=2
) -> list[list[int]]:
    """Return the best caption of each image, with beams in lists and recomputed prefixes."""
    captions = []
    for image in features:
        alive: list[tuple[float, list[int]]] = [(0.0, [start])]
        for step in range(max_steps):
            open_beams = [tokens for _, tokens in alive if tokens[-1] != end or len(tokens) == 1]
            if not open_beams:
                break
            prefixes = torch.tensor(open_beams, device=features.device)
            lengths = torch.full((len(prefixes),), prefixes.shape[1], device=features.device)
            logits = head(image.expand(len(prefixes), -1, -1, -1), prefixes, lengths)[:, -1]
            candidates = []
            rows = iter(F.log_softmax(logits.float(), dim=-1))
            for score, tokens in alive:
                if tokens[-1] == end and len(tokens) > 1:
                    candidates.append((score, [*tokens, end]))
                    continue
                row = next(rows).clone()
                if step:
                    row[tokens[-1]] = -10000.0
                values, indices = row.topk(per_node if step else beams)
                candidates += [
                    (score + value, [*tokens, token])
                    for value, token in zip(values.tolist(), indices.tolist(), strict=True)
                ]
            alive = sorted(candidates, key=lambda beam: -beam[0])[:beams]
        tokens = alive[0][1][1:]
        captions.append(tokens[: tokens.index(end)] if end in tokens else tokens)
    return captions

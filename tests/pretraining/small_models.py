"""Small captioning models and the plain ones with the same weights."""

import torch

from benchmarks.plain_captioning import PlainBicaptioning, PlainHead
from virtex.pretraining.models.captioning import CaptioningModel
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import TransformerDecoder
from virtex.pretraining.models.visual import build_visual

VOCABULARY, HIDDEN, HEADS, FEEDFORWARD, FEATURES = 40, 32, 4, 64, 512
SOS, EOS = 1, 2


def small_head(layers=1, norm_first=False, dropout=0.0, max_length=30):
    transformer = TransformerDecoder(layers, HIDDEN, HEADS, FEEDFORWARD, dropout, norm_first)
    return TransformerTextualHead(
        FEATURES, VOCABULARY, transformer, HIDDEN, dropout, max_length=max_length
    )


def small_model(layers=1, norm_first=False, bidirectional=True, seed=0):
    """In float64 and eval mode, its weights large enough that captions differ."""
    torch.manual_seed(seed)
    head = small_head(layers, norm_first)
    model = CaptioningModel(build_visual("torchvision::resnet18"), head, bidirectional)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "textual" in name and parameter.dim() > 1:
                parameter.mul_(6.0)
            if bidirectional and name.startswith("backward_textual.transformer"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double().eval()


def plain_twin(model, layers=1, norm_first=False):
    """The plain heads with the same weights."""
    twin = PlainBicaptioning(
        PlainHead(FEATURES, VOCABULARY, layers, HIDDEN, HEADS, FEEDFORWARD, 0.0, norm_first)
    )
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("visual.")}
    twin.double().eval().load_state_dict(weights, strict=True)
    return twin


def some_captions(lengths, seed=0):
    """Tokens (batch, longest) of captions of these lengths, [SOS] and [EOS] included."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    tokens = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[:length] = torch.randint(4, VOCABULARY, (length,), generator=generator)
        row[0], row[length - 1] = SOS, EOS
    return tokens, lengths


def some_features(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, FEATURES, 7, 7, generator=generator, dtype=torch.float64)

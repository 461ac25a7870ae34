#!/usr/bin/env python3
"""Seconds of pretraining steps and of decoding, beside the plain way on the same machine.

The plain way (``benchmarks/plain_virtex.py``): the textual head of torch's own modules, run twice
over padded captions with logits at every position; decoding that computes each prefix anew. The
loop around a step, and the data, are timed by ``benchmarks/pretraining_throughput.py``.

examples:
  python benchmarks/pretraining_speed.py
  python benchmarks/pretraining_speed.py --head L1_H2048_A32_F8192 --batch 16 --repeat 7
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import report
from benchmarks.plain_virtex import PlainBicaptioning, PlainHead
from virtex.engine.losses import total_loss
from virtex.pretraining.models.captioning import CaptioningModel, reverse_tokens
from virtex.pretraining.models.decoding import BeamSearch, caption_ids
from virtex.pretraining.models.textual import TransformerTextualHead
from virtex.pretraining.models.transformer import TransformerDecoder
from virtex.pretraining.models.visual import build_visual

VOCABULARY, SOS, EOS = 10000, 1, 2
BATCHES = 4  # of different captions, for padding differs from batch to batch
DECODED = 16  # images
# How many of 795 COCO captions have so many words and stops, with [SOS] and [EOS].
LENGTHS = {
    9: 4, 10: 30, 11: 129, 12: 173, 13: 137, 14: 117, 15: 78, 16: 52, 17: 26, 18: 13, 19: 10,
    20: 9, 21: 1, 22: 7, 23: 1, 24: 5, 26: 1, 29: 1, 30: 1,
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = report.benchmark_parser(__doc__)
    report.add_device(parser)
    parser.add_argument(
        "--head",
        nargs="+",
        default=["L1_H512_A8_F2048", "L1_H1024_A16_F4096", "L1_H2048_A32_F8192"],
        metavar="L_H_A_F",
    )
    parser.add_argument(
        "--batch", type=int, default=32, help="images a step (default: 32, a GPU's share of 256)"
    )
    parser.add_argument("--crop", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--backbone", default="resnet50", help="default: resnet50")
    parser.add_argument("--no-backbone", action="store_true", help="leave out the whole step")
    return parser


def some_captions(batch: int, device: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens in captions as long as real ones."""
    rng = np.random.default_rng(seed)
    share = np.array(list(LENGTHS.values())) / sum(LENGTHS.values())
    lengths = rng.choice(list(LENGTHS), size=batch, p=share).clip(max=30)
    tokens = np.zeros((batch, lengths.max()), dtype=np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = rng.integers(4, VOCABULARY, length)
        row[0], row[length - 1] = SOS, EOS
    return torch.from_numpy(tokens).to(device), torch.from_numpy(lengths).to(device)


def both_models(
    size: list[int], backbone: str, device: str
) -> tuple[CaptioningModel, PlainBicaptioning]:
    """The same weights, ours and plain, in training mode with dropout 0.1."""
    layers, hidden, heads, feedforward = size
    torch.manual_seed(0)
    visual = build_visual(f"torchvision::{backbone}")
    channels = visual.feature_size
    head = TransformerTextualHead(
        channels, VOCABULARY, TransformerDecoder(layers, hidden, heads, feedforward), hidden
    )
    ours = CaptioningModel(visual, head, bidirectional=True)
    plain = PlainBicaptioning(
        PlainHead(channels, VOCABULARY, layers, hidden, heads, feedforward, 0.1, False)
    )
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("visual.")}
    plain.load_state_dict(weights)
    return ours.to(device).train(), plain.to(device).train()


def compare(name: str, ours: Callable, plain: Callable, args: argparse.Namespace) -> report.Row:
    """The row of two pieces of work."""
    return report.compare(
        f"pretraining, {name}, {args.device}",
        report.seconds_of(ours, args.device),
        report.seconds_of(plain, args.device),
        "torch's own modules",
        args,
    )


def steps(model: torch.nn.Module, losses: list[Callable[[], torch.Tensor]]) -> Callable[[], None]:
    """Forward, backward and an SGD step for each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def run() -> None:
        for loss_of in losses:
            optimizer.zero_grad(set_to_none=True)
            loss_of().backward()
            optimizer.step()

    return run


def compare_head(name: str, args: argparse.Namespace) -> list[report.Row]:
    """The textual half, the whole step and decoding for one size of head."""
    ours, plain = both_models(
        [int(part[1:]) for part in name.split("_")], args.backbone, args.device
    )
    captions = [some_captions(args.batch, args.device, seed) for seed in range(BATCHES)]
    rows = [compare_textual_half(name, ours, plain, captions, args)]
    if not args.no_backbone:
        rows.append(compare_whole_step(name, ours, plain, captions[0], args))
    ours.eval(), plain.eval()
    images = min(DECODED, args.batch)
    features = torch.randn(images, ours.visual.feature_size, 7, 7, device=args.device)
    search = BeamSearch(beam_size=5, max_steps=30)
    rows.append(
        compare(
            f"{name}: decoding {images} images, 5 beams",
            lambda: caption_ids(search(ours.textual, features, SOS, EOS)[0], EOS),
            lambda: caption_ids(search(plain.textual, features, SOS, EOS)[0], EOS),
            args,
        )
    )
    return rows


def compare_textual_half(
    name: str,
    ours: CaptioningModel,
    plain: PlainBicaptioning,
    captions: list[tuple[torch.Tensor, torch.Tensor]],
    args: argparse.Namespace,
) -> report.Row:
    """Steps from the features of images on."""
    shape = (args.batch, ours.visual.feature_size, 7, 7)
    features = torch.randn(shape, device=args.device, requires_grad=True)
    turned = [reverse_tokens(*caption) for caption in captions]
    return compare(
        f"{name}: textual half, {BATCHES} steps of {args.batch}",
        steps(
            torch.nn.ModuleList([ours.textual, ours.backward_textual]),
            [partial(our_loss, ours, features, *caption) for caption in captions],
        ),
        steps(
            plain,
            [
                partial(plain, features, tokens, back, lengths)
                for (tokens, lengths), back in zip(captions, turned, strict=True)
            ],
        ),
        args,
    )


def compare_whole_step(
    name: str,
    ours: CaptioningModel,
    plain: PlainBicaptioning,
    caption: tuple[torch.Tensor, torch.Tensor],
    args: argparse.Namespace,
) -> report.Row:
    """A step with the backbone."""
    images = torch.randn(args.batch, 3, args.crop, args.crop, device=args.device)
    (tokens, lengths), turned = caption, reverse_tokens(*caption)
    batch = {"image": images, "tokens": tokens, "lengths": lengths}
    visual = copy.deepcopy(ours.visual)
    return compare(
        f"{name}: whole step of {args.batch} with {args.backbone}",
        steps(ours, [lambda: total_loss(ours(batch))]),
        steps(
            torch.nn.ModuleList([visual, plain]),
            [lambda: plain(visual(images), tokens, turned, lengths)],
        ),
        args,
    )


def our_loss(
    model: CaptioningModel, features: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    return total_loss(model.textual_losses(features, tokens, lengths))


def main(argv: Sequence[str] | None = None) -> None:
    args = report.parse(
        build_parser(), argv, head=["L1_H64_A2_F64"], batch=2, crop=64, backbone="resnet18"
    )
    rows = [row for name in args.head for row in compare_head(name, args)]
    report.release_pages(rows, args)


if __name__ == "__main__":
    main()

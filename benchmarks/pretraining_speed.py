#!/usr/bin/env python3
"""Seconds of pretraining steps and of decoding, beside the plain way on the same machine.

The plain way (``benchmarks/plain_virtex.py``): the textual head of torch's own modules, run twice
over padded captions with logits at every position; decoding that computes each prefix anew. Both
ways are timed by turns, and the median of the paired ratios is told.

examples:
  python benchmarks/pretraining_speed.py
  python benchmarks/pretraining_speed.py --head L1_H2048_A32_F8192 --batch 16 --repeat 7
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.plain_virtex import PlainBicaptioning, PlainHead
from virtex.models.captioning import CaptioningModel, turn_around
from virtex.models.decoding import BeamSearch, caption_ids
from virtex.models.losses import total_loss
from virtex.models.textual import TransformerTextualHead
from virtex.models.transformer import TransformerDecoder
from virtex.models.visual import build_visual

VOCABULARY, SOS, EOS = 10000, 1, 2
BATCHES = 4  # of different captions, for padding differs from batch to batch
DECODED = 16  # images
# How many of 795 COCO captions have so many words and stops, with [SOS] and [EOS].
LENGTHS = {
    9: 4, 10: 30, 11: 129, 12: 173, 13: 137, 14: 117, 15: 78, 16: 52, 17: 26, 18: 13, 19: 10,
    20: 9, 21: 1, 22: 7, 23: 1, 24: 5, 26: 1, 29: 1, 30: 1,
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--head",
        nargs="+",
        default=["L1_H512_A8_F2048", "L1_H1024_A16_F4096", "L1_H2048_A32_F8192"],
        metavar="L_H_A_F",
    )
    parser.add_argument(
        "--batch", type=int, default=32, help="images a step (default: 32, a GPU's share of 256)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="pairs of timings (default: 5)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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


def both_models(size: list[int], device: str) -> tuple[CaptioningModel, PlainBicaptioning]:
    """The same weights, ours and plain, in training mode with dropout 0.1."""
    layers, hidden, heads, feedforward = size
    torch.manual_seed(0)
    head = TransformerTextualHead(
        2048, VOCABULARY, TransformerDecoder(layers, hidden, heads, feedforward), hidden
    )
    ours = CaptioningModel(build_visual("torchvision::resnet50"), head, bidirectional=True)
    plain = PlainBicaptioning(
        PlainHead(2048, VOCABULARY, layers, hidden, heads, feedforward, 0.1, False)
    )
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("visual.")}
    plain.load_state_dict(weights)
    return ours.to(device).train(), plain.to(device).train()


def compare(name: str, ours: Callable, plain: Callable, args: argparse.Namespace) -> None:
    """Time both by turns and print medians and the median ratio."""
    times: dict[Callable, list[float]] = {ours: [], plain: []}
    for run in (ours, plain):
        run()
    for _ in range(args.repeat):
        for run in (ours, plain):
            start = time.perf_counter()
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()
            times[run].append(time.perf_counter() - start)
    ratio = statistics.median(p / o for o, p in zip(times[ours], times[plain], strict=True))
    seconds = [statistics.median(times[run]) for run in (ours, plain)]
    print(f"{name:<72} {seconds[0]:9.4f} {seconds[1]:9.4f} {ratio:7.2f}", flush=True)


def steps(model: torch.nn.Module, losses: list[Callable[[], torch.Tensor]]) -> Callable[[], None]:
    """Forward, backward and an SGD step for each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def run() -> None:
        for loss_of in losses:
            optimizer.zero_grad(set_to_none=True)
            loss_of().backward()
            optimizer.step()

    return run


def compare_head(name: str, args: argparse.Namespace) -> None:
    """The textual half, the whole step and decoding for one size of head."""
    ours, plain = both_models([int(part[1:]) for part in name.split("_")], args.device)
    captions = [some_captions(args.batch, args.device, seed) for seed in range(BATCHES)]
    padded = [tokens.shape[1] for tokens, _ in captions]
    features = torch.randn(args.batch, 2048, 7, 7, device=args.device, requires_grad=True)
    turned = [turn_around(*caption) for caption in captions]
    compare(
        f"{name}: textual half, {BATCHES} steps (longest {padded})",
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
    if not args.no_backbone:
        images = torch.randn(args.batch, 3, 224, 224, device=args.device)
        tokens, lengths = captions[0]
        batch = {"image": images, "tokens": tokens, "lengths": lengths}
        visual = copy.deepcopy(ours.visual)
        compare(
            f"{name}: whole step with ResNet-50",
            steps(ours, [lambda: total_loss(ours(batch))]),
            steps(
                torch.nn.ModuleList([visual, plain]),
                [lambda: plain(visual(images), tokens, turned[0], lengths)],
            ),
            args,
        )
    ours.eval(), plain.eval()
    features = features[:DECODED].detach()
    search = BeamSearch(beam_size=5, max_steps=30)
    compare(
        f"{name}: decoding {DECODED} images, 5 beams",
        lambda: caption_ids(search(ours.textual, features, SOS, EOS)[0], EOS),
        lambda: caption_ids(search(plain.textual, features, SOS, EOS)[0], EOS),
        args,
    )


def our_loss(model, features, tokens, lengths) -> torch.Tensor:
    return total_loss(model.textual_losses(features, tokens, lengths))


def main() -> None:
    args = build_parser().parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    print(f"{'median seconds of ' + str(args.repeat):<72} {'ours':>9} {'plain':>9} {'ratio':>7}")
    for name in args.head:
        compare_head(name, args)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compare the throughput of pretraining with a plain training loop, in images per second.

Measures ``python -m virtex.pretrain``. The reference uses torchvision's ResNet, the textual head of
``benchmarks/plain_captioning.py``, a short loop with autocast, and torchvision transforms on Pillow
images in a DataLoader, with the same optimizer, Lookahead, schedule, gradient clipping, mixed
precision, cuDNN settings, batch size and workers. The first row excludes data loading: it repeats a
few preloaded batches.

examples:
  python benchmarks/pretraining_throughput.py
  python benchmarks/pretraining_throughput.py --device cuda --batch 256 --num-workers 16
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from benchmarks.plain_captioning import PlainBicaptioning, PlainHead

LOADED = 4  # batches, where data are left out
BESIDE = "torch's and torchvision's own modules"
SIZES = {"cuda": {"batch": 256, "iterations": 40}, "cpu": {"batch": 16, "iterations": 4}}


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    measure.add_device(parser)
    parser.add_argument("--config", default="bicaptioning_R_50_L1_H2048")
    parser.add_argument("--batch", type=int, help="images a step (default: 256; CPU: 16)")
    parser.add_argument("--iterations", type=int, help="timed each time (default: 40; CPU: 4)")
    parser.add_argument("--images", type=int, default=1000, help="drawn before (default: 1000)")
    parser.add_argument("--num-workers", type=int, default=measure.usable_cores())
    parser.add_argument("--crop", type=int, default=224, help="pixels (default: 224)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = measure.parse(
        build_parser(), argv, batch=2, iterations=1, images=6, num_workers=1, crop=64,
        config="toy/bicaptioning_R_18_L1_H256",
    )  # fmt: skip
    for name, value in SIZES[args.device].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(args, folder)
        torch.backends.cudnn.benchmark = config.CUDNN_BENCHMARK
        ours, plain = Ours(config, args, folder), Plain(config, args, folder)
        rows = [
            measure.compare(
                f"pretraining {what}, {args.config}, batch {args.batch}, {args.crop} pixels, "
                f"{'bfloat16' if args.device == 'cuda' else 'float32'}, {args.device}{workers}",
                lambda ours=ours.rate, data=data: ours(data),
                lambda plain=plain.rate, data=data: plain(data),
                BESIDE,
                args,
                "images/s",
                higher_is_better=True,
                warm_up=False,
            )
            for what, data, workers in (
                ("without data", False, ""),
                ("with data", True, f", {args.num_workers} workers"),
            )
        ]
    measure.write_rows(rows, args)


def prepare(args: argparse.Namespace, folder: Path) -> Any:
    """Write data and vocabulary; return the config that names them."""
    from benchmarks.images import write_coco
    from virtex.config import load_config
    from virtex.data.captions import read_captions
    from virtex.data.tokenizer import train_tokenizer

    write_coco(folder, args.images)
    captioned = read_captions(folder / "coco", "train")
    captions = [caption for image in captioned for caption in image.captions]
    vocabulary = folder / "vocabulary.model"
    train_tokenizer(captions, 100 if args.quick else 2000, vocabulary)
    settings = {
        "DATA.ROOT": folder / "coco",
        "DATA.TOKENIZER_MODEL": vocabulary,
        "DATA.IMAGE_CROP_SIZE": args.crop,
        "OPTIM.BATCH_SIZE": args.batch,
        "OPTIM.NUM_ITERATIONS": 500_000,
        "OPTIM.WARMUP_STEPS": 10_000,
        "AMP_DTYPE": "bfloat16",
    }
    return load_config(args.config, [str(v) for pair in settings.items() for v in pair])


class Laps:
    """Batches of a training loop; records when the warm-up and the timed batches are done."""

    def __init__(self, batches: Iterator[Any], args: argparse.Namespace, warm_up: int):
        self.batches, self.args, self.warm_up = batches, args, warm_up

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if number == self.warm_up:
                measure.synchronize(self.args.device)
                self.start = time.perf_counter()
            if number == self.warm_up + self.args.iterations:
                measure.synchronize(self.args.device)
                self.seconds = time.perf_counter() - self.start
                raise Enough
            yield batch

    def rate(self, loop: Callable[[Iterator[Any]], object]) -> float:
        """Return images per second of a loop over these batches."""
        try:
            loop(iter(self))
        except Enough:
            return self.args.iterations * self.args.batch / self.seconds
        raise RuntimeError("the loop ended before its time")


class Enough(Exception):
    """Yield as many batches as are timed."""


class Pretraining:
    """An implementation of pretraining: ``loader`` (infinite batches) and ``loop``."""

    def __init__(self, config: Any, args: argparse.Namespace, folder: Path):
        self.config, self.args, self.folder = config, args, folder
        self.loaded = list(itertools.islice(self.loader(), LOADED))

    def rate(self, data: bool) -> float:
        """Return images per second.

        Args:
            data: whether to load data instead of repeating preloaded batches.
        """
        # batches that workers prepare during the first step do not show their speed
        warm_up = 2 * self.args.num_workers + 8 if data else 5
        warm_up = 1 if self.args.device == "cpu" else warm_up
        batches = self.loader() if data else itertools.cycle(self.loaded)
        return Laps(batches, self.args, warm_up).rate(self.loop)


class Ours(Pretraining):
    def loader(self) -> Iterator[Any]:
        from virtex.data.loading import training_loader
        from virtex.data.tokenizer import Tokenizer
        from virtex.pretraining.data import build_pretraining_set

        tokenizer = Tokenizer(self.config.DATA.TOKENIZER_MODEL)
        data = build_pretraining_set(self.config, "train", tokenizer, seed=0)
        return training_loader(data, self.args.batch, 0, 0, num_workers=self.args.num_workers)

    def loop(self, batches: Iterator[Any]) -> object:
        from virtex.engine.loop import LoopSettings, TrainingLoop, amp_dtype
        from virtex.optim import Lookahead, build_optimizer, build_schedule
        from virtex.pretraining.models.build import build_model

        device, optim = torch.device(self.args.device), self.config.OPTIM
        torch.manual_seed(0)
        model = build_model(self.config).to(device)
        optimizer = build_optimizer(self.config, model)
        lookahead = Lookahead(optimizer, optim.LOOKAHEAD.STEPS, optim.LOOKAHEAD.ALPHA)
        settings = LoopSettings(
            optim.NUM_ITERATIONS, self.args.batch, clip_norm=optim.CLIP_GRAD_NORM,
            amp_dtype=amp_dtype(self.config, device), checkpoint_every=optim.NUM_ITERATIONS,
        )  # fmt: skip
        schedule = build_schedule(self.config, optimizer)
        more = {"lookahead": lookahead}
        return TrainingLoop(model, optimizer, schedule, settings, self.folder, more).run(batches)


class Plain(Pretraining):
    def loader(self) -> Iterator[Any]:
        images = PlainCaptions(self.config)
        loader = torch.utils.data.DataLoader(
            images,
            self.args.batch,
            # an epoch of a few batches would have workers wait for its end
            sampler=torch.utils.data.RandomSampler(images, True, 10**7),
            num_workers=self.args.num_workers,
            collate_fn=collate,
            pin_memory=self.args.device == "cuda",
            drop_last=True,
            persistent_workers=self.args.num_workers > 0,
        )
        while True:
            yield from loader

    def loop(self, batches: Iterator[Any]) -> object:
        from virtex.optim import Lookahead, build_optimizer, build_schedule

        optim = self.config.OPTIM
        torch.manual_seed(0)
        model = PlainModel(self.config).to(self.args.device).train()
        optimizer = build_optimizer(self.config, model)
        Lookahead(optimizer, optim.LOOKAHEAD.STEPS, optim.LOOKAHEAD.ALPHA)
        schedule = build_schedule(self.config, optimizer)
        for iteration, batch in enumerate(batches):
            batch = [part.to(self.args.device, non_blocking=True) for part in batch]
            with torch.autocast("cuda", torch.bfloat16, enabled=self.args.device == "cuda"):
                loss = model(*batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), optim.CLIP_GRAD_NORM)
            optimizer.step()
            schedule.step()
            if iteration % 20 == 0:
                print(f"loss {loss.item():.4f}", file=sys.stderr)


class PlainModel(nn.Module):
    """Compute the loss from images, captions, reversed captions and lengths."""

    def __init__(self, config: Any):
        super().__init__()
        import torchvision

        from virtex.config import parse_textual_name

        size = parse_textual_name(config.MODEL.TEXTUAL.NAME)
        network = config.MODEL.VISUAL.NAME.removeprefix("torchvision::")
        cnn = torchvision.models.get_model(network, zero_init_residual=True)
        channels = cnn.fc.in_features
        self.visual = nn.Module()
        self.visual.cnn = nn.Sequential(*list(cnn.children())[:-2])
        self.textual = PlainBicaptioning(
            PlainHead(
                channels, config.DATA.VOCAB_SIZE, size.layers, size.hidden, size.heads,
                size.feedforward, config.MODEL.TEXTUAL.DROPOUT, size.norm_first,
            )
        )  # fmt: skip
        for parameter in self.textual.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, images: Tensor, tokens: Tensor, turned: Tensor, lengths: Tensor) -> Tensor:
        return self.textual(self.visual.cnn(images), tokens, turned, lengths)


class PlainCaptions(torch.utils.data.Dataset):
    """An image, transformed by torchvision, and one of its captions."""

    def __init__(self, config: Any):
        from torchvision import transforms

        from virtex.data.captions import read_captions
        from virtex.data.tokenizer import Tokenizer

        data = config.DATA
        self.items = read_captions(Path(data.ROOT), "train")
        self.tokenizer, self.longest = Tokenizer(data.TOKENIZER_MODEL), data.MAX_CAPTION_LENGTH
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(data.IMAGE_CROP_SIZE, (0.2, 1.0)),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        item = self.items[index]
        image = self.transform(Image.open(item.file).convert("RGB"))
        caption = item.captions[int(torch.randint(len(item.captions), ()))]
        return image, torch.tensor(self.tokenizer.encode_caption(caption, self.longest))


def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    images, captions = zip(*samples, strict=True)
    return (
        torch.stack(images),
        pad_sequence(captions, batch_first=True),
        pad_sequence([caption.flip(0) for caption in captions], batch_first=True),
        torch.tensor([len(caption) for caption in captions]),
    )


if __name__ == "__main__":
    main()

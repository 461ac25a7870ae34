#!/usr/bin/env python3
"""Compare the throughput of feature extraction from JPEG files with a plain torchvision loop.

Measures images per second of the extractor that the SVM, k-NN and cached linear probe use,
including its disk cache. The reference is ``ImageFolder``, torchvision transforms on Pillow images,
a ``DataLoader`` with pinned memory, and ``resnet50`` in eval mode without gradients, with the same
weights, batch size, workers and cuDNN settings. Prints the largest difference of the features.

examples:
  python benchmarks/feature_extraction.py
  python benchmarks/feature_extraction.py --device cuda --images 4000 --num-workers 16
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from fvcore.common.config import CfgNode
from torchvision import transforms
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import measure
from virtex.checkpoints.loading import load_backbone
from virtex.data.image_sets import ImageSet
from virtex.probes.feature_cache import FeatureCache
from virtex.probes.features import FeatureExtractor, center_view

RESIZE, CROP = 256, 224
SIZES = {"cuda": 4000, "cpu": 64}  # images


def build_parser() -> argparse.ArgumentParser:
    parser = measure.benchmark_parser(__doc__)
    measure.add_device(parser)
    parser.add_argument("--network", default="resnet50", help="of torchvision (default: resnet50)")
    parser.add_argument("--images", type=int, help="default: 4000; CPU: 64")
    parser.add_argument("--batch", type=int, default=64, help="images per batch (default: 64)")
    parser.add_argument("--num-workers", type=int, default=measure.usable_cores())
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = measure.parse(build_parser(), argv, network="resnet18", images=4, batch=2, num_workers=1)
    args.images = args.images or SIZES[args.device]
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as name:
        rows = compare(args, Path(name))
    measure.write_rows(rows, args)


def compare(args: argparse.Namespace, folder: Path) -> list[measure.Row]:
    """Time both and print the largest difference of their features."""
    from benchmarks.images import write_images

    write_images(folder / "images" / "one class", args.images)
    images = image_set(folder / "images" / "one class")
    backbone = load_backbone(f"random:{args.network}?seed=0")
    network = torchvision.models.get_model(args.network)
    network.fc = torch.nn.Identity()
    network.load_state_dict(backbone.state_dict)
    network = network.to(args.device).eval()
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            device = torch.device(args.device)
            cache = FeatureCache(Path(name))
            extractor = FeatureExtractor(device, cache, args.batch, args.num_workers)
            extractor.open(backbone)
            sizes = {"IMAGE_RESIZE_SIZE": RESIZE, "IMAGE_CROP_SIZE": CROP}
            data = CfgNode({**sizes, "INTERPOLATION": "bilinear", "ANTIALIAS": True})
            found["ours"] = np.array(extractor.extract(images, center_view(data)))
            extractor.close()

    def reference() -> None:
        found["torchvision"] = plain_features(network, folder / "images", args)

    seconds = [measure.timed(work, args.device) for work in (ours, reference)]
    row = measure.compare(
        f"features of {args.network}, {args.images} JPEG files, {CROP} pixels, "
        f"batch {args.batch}, {args.num_workers} workers, {args.device}",
        *(lambda timed=timed: args.images / timed() for timed in seconds),
        "torchvision's ImageFolder and network",
        args,
        "images/s",
        higher_is_better=True,
    )
    apart = np.abs(found["ours"] - found["torchvision"]).max() / np.abs(found["torchvision"]).max()
    print(f"  (features differ by {apart:.1e} of the largest one, as Pillow resizes differently)")
    return [row]


def image_set(folder: Path) -> ImageSet:
    files = sorted(path.name for path in folder.iterdir())
    return ImageSet("images", folder, files, np.zeros(len(files), np.int64), ["one"])


@torch.no_grad()
def plain_features(network: torch.nn.Module, folder: Path, args: argparse.Namespace) -> np.ndarray:
    """Return features (images, channels), ordered by file name."""
    steps = [
        transforms.Resize(RESIZE),
        transforms.CenterCrop(CROP),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(folder), transforms.Compose(steps)),
        args.batch,
        num_workers=args.num_workers,
        pin_memory=args.device == "cuda",
    )
    parts = [network(images.to(args.device, non_blocking=True)).cpu() for images, _ in loader]
    return torch.cat(parts).numpy()


if __name__ == "__main__":
    main()

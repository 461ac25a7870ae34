#!/usr/bin/env python3
"""How often a model's captions of held-out toy pictures name what is there.

Counts every "<color> <shape>" in the captions that a pretrained model writes for the
validation pictures, and the share of them that are truly in the picture (by its annotations);
the same for the colors and the shapes alone. Chance is that share when each caption is held
against the other pictures.

examples:
  python eval_tools/make_toy_data.py datasets/toy --train-images 3000 --val-images 300
  python benchmarks/toy_captions.py output/toy_pretraining --data-root datasets/toy
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import report
from virtex.config import load_config
from virtex.data.loading import validation_loader
from virtex.data.tokenizer import Tokenizer
from virtex.data.toy.world import COLORS, SHAPES
from virtex.pretraining.data import build_pretraining_set
from virtex.pretraining.models.build import build_model
from virtex.zoo import load_weights

NAMED = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})(?:s|es)?\b")


PARTS = {"color and shape": slice(0, 2), "color": slice(0, 1), "shape": slice(1, 2)}


def build_parser() -> argparse.ArgumentParser:
    parser = report.benchmark_parser(__doc__)
    parser.add_argument("folder", type=Path, help="output folder of virtex.pretrain")
    parser.add_argument("--data-root", default="datasets/toy")
    parser.add_argument("--checkpoint", default="model_final.pth", help="in the folder")
    return parser


def write_captions(folder: Path, checkpoint: str, data_root: str) -> dict[int, str]:
    """Image id -> caption, for the validation pictures."""
    config = load_config(folder / "pretrain_config.yaml", ["DATA.ROOT", f"{data_root}/coco"])
    tokenizer = Tokenizer(folder / "tokenizer.model")
    model = build_model(config).eval()
    load_weights(model, str(folder / checkpoint))
    captions = {}
    for batch in validation_loader(build_pretraining_set(config, "val", tokenizer, 0), 64):
        ids = model.caption(batch["image"])
        for image, tokens in zip(batch["image_id"].tolist(), ids, strict=True):
            captions[image] = tokenizer.decode(tokens)
    return captions


def true_kinds(data_root: Path) -> dict[int, set[str]]:
    """Image id -> the "<color> <shape>" of its objects, from the LVIS annotations."""
    content = json.loads((data_root / "lvis/lvis_v1_val.json").read_text())
    names = {c["id"]: c["name"].replace("_", " ") for c in content["categories"]}
    kinds = defaultdict(set)
    for annotation in content["annotations"]:
        kinds[annotation["image_id"]].add(names[annotation["category_id"]])
    return kinds


def share_true(captions: list[str], kinds: list[set[str]], part: slice) -> float:
    """The share of named kinds that are there, their color (and, or) shape compared."""
    named = [
        (found[part], {tuple(kind.split(" "))[part] for kind in there})
        for caption, there in zip(captions, kinds, strict=True)
        for found in NAMED.findall(caption)
    ]
    return sum(name in there for name, there in named) / max(len(named), 1)


def main(argv: Sequence[str] | None = None) -> None:
    args = report.parse(build_parser(), argv)
    if (args.folder / args.checkpoint).is_file():
        rows = measure(args)
    else:
        note = f"there is no {args.folder / args.checkpoint}: pretrain first, as make demo does"
        rows = [report.say(report.Row("captions of toy pictures", "%", note=note))]
    report.release_pages(rows, args)


def measure(args: argparse.Namespace) -> list[report.Row]:
    """A row for each part of what is named."""
    captions = write_captions(args.folder, args.checkpoint, args.data_root)
    kinds = true_kinds(Path(args.data_root))
    images = sorted(captions)
    said, there = ([of[image] for image in images] for of in (captions, kinds))
    count = sum(len(NAMED.findall(caption)) for caption in said)
    print(f"{len(images)} pictures, {len(set(said))} different captions, {count} objects named")
    rows = []
    for what, part in PARTS.items():
        share = share_true(said, there, part)
        others = [share_true(said, there[n:] + there[:n], part) for n in range(1, len(images))]
        chance = sum(others) / len(others)
        name = f"named objects that are there, {what}"
        ratio = share / chance if chance else None
        rows.append(
            report.say(report.Row(name, "%", 100 * share, 100 * chance, ratio, True, "by chance"))
        )
    return rows


if __name__ == "__main__":
    main()

"""Write the built-in toy data: drawn shapes in the layout of every real dataset.

    python eval_tools/make_toy_data.py datasets_toy
    python eval_tools/make_toy_data.py datasets_toy --preview toy.png
    python eval_tools/make_toy_data.py small --seed 1 --train-images 60 --val-images 20
    python eval_tools/make_toy_data.py small --seed 2 --overwrite
    python eval_tools/make_toy_data.py datasets_toy --coco-train-images 3000  # to pretrain on

OUT can be used as --data-root of every other tool. It contains coco/ (instances, captions,
persons), lvis/, VOC2007/, VOC2012/, imagenet/, inaturalist/, cityscapes/ and
ADEChallengeData2016/. The output is deterministic: the same seed and sizes give the same bytes.
Nothing is written if OUT already contains them.
"""

import argparse
from pathlib import Path

from virtex.cli import run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty output folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--train-images",
        type=int,
        default=240,
        metavar="N",
        help="training images of each dataset; for VOC, of both years together (default: 240)",
    )
    parser.add_argument(
        "--coco-train-images",
        type=int,
        metavar="N",
        help="training images of COCO, for pretraining (default: --train-images)",
    )
    parser.add_argument(
        "--val-images",
        type=int,
        default=60,
        metavar="N",
        help="validation images of each dataset; for VOC, test images (default: 60)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace complete or partial toy data in OUT; other files are never deleted",
    )
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="FILE.png",
        help="also draw a few images with masks, boxes and captions",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    from virtex.data.toy import has_toy_data, write_toy_data
    from virtex.data.toy.preview import check_preview_name, write_preview

    if args.preview:
        check_preview_name(args.preview)
    sizes = (args.seed, args.train_images, args.val_images)
    coco = {"coco_train_images": args.coco_train_images}
    is_complete = not args.overwrite and has_toy_data(args.out, *sizes, **coco)
    files = write_toy_data(args.out, *sizes, overwrite=args.overwrite, progress=True, **coco)
    counts = ", ".join(f"{name} {number}" for name, number in files.items())
    if is_complete:
        print(f"{args.out} already contains these toy data, nothing written (files: {counts})")
    else:
        print(f"wrote toy data to {args.out} (files: {counts})")
    if args.preview:
        write_preview(args.out, args.preview)
        print(f"drew {args.preview}")


if __name__ == "__main__":
    run_tool(main, build_parser())

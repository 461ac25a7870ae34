#!/usr/bin/env python3
"""Run a trained detector on any images; write figures, and detections as JSON.

examples:
  # a folder; single files and a pattern
  python eval_tools/predict.py --weights output/cells --images photos/ --output-dir output/photos
  python eval_tools/predict.py --weights output/cells --images a.jpg b.png 'more/**/*.jpg'

  # every detection that the evaluation keeps
  ... --score-threshold 0

  # on the CPU, although there is a GPU
  ... --num-gpus 0

  # another checkpoint of the run, with its config.yaml in the same folder
  ... --weights output/cells/model_0000199.pth

--weights is the folder of a run of detectron2_transfer (its latest checkpoint is used), or one of
its checkpoints. Images are decoded, rotated by their EXIF orientation and resized as in the
evaluation, so that detections equal those of the evaluation.

Writes to OUTPUT_DIR: gallery/ (one figure per image), predictions.json (COCO's result format with
category_name: image_id, category_id, bbox as x, y, width, height in pixels, score, segmentation),
and images.json (id, file_name, width and height of each image, the categories, and the skipped
images). pycocotools reads the two as COCO("images.json").loadRes("predictions.json"). Semantic
segmentation models write label_maps/ (PNG, the class index of every pixel) instead of
predictions.json.

Exit status: 0 success; 1 unreadable images were skipped; 2 invalid input; 130 interrupted by
Ctrl-C.
"""

import argparse

from virtex.cli import add_num_workers, run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--weights", required=True, metavar="PATH", help="folder of a run, or a checkpoint in it"
    )
    parser.add_argument(
        "--images", required=True, nargs="+", metavar="PATH", help="images, folders or patterns"
    )
    output = "output/predict"
    parser.add_argument("--output-dir", default=output, metavar="DIR", help=f"default: {output}")
    parser.add_argument(
        "--score-threshold",
        type=score,
        default=0.5,
        metavar="S",
        help="lowest score of the detections to keep, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace earlier predictions in --output-dir"
    )
    parser.add_argument(
        "--num-gpus", type=int, choices=(0, 1), help="0: CPU (default: a GPU if there is one)"
    )
    add_num_workers(parser)
    return parser


def score(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def main(args: argparse.Namespace) -> int:
    from virtex.detectron.predict import run

    return run(args)


if __name__ == "__main__":
    run_tool(main, build_parser())

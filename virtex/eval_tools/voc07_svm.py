#!/usr/bin/env python3
"""PASCAL VOC 2007 classification: one linear SVM per class on frozen features.

examples:
  # as published (VirTex, arXiv 2006.06666): mAP over 20 classes
  python eval_tools/voc07_svm.py --checkpoint moco_v2_800ep.pth.tar \\
      --data-root datasets --output-dir output/moco_v2/voc07_svm

  # scikit-learn's liblinear: the same objective, many times slower
  ... --solver liblinear

  # another definition of average precision; low-shot (each is a separate protocol)
  ... --ap voc11
  ... --low-shot 1,2,4,8,16,32,64,96

  # seconds on a CPU, with the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/voc07_svm.py --checkpoint 'random:resnet18' --protocol toy \\
      --data-root datasets/toy --output-dir output/toy_svm --num-gpus 0

  # list the feature cache; override any setting
  python eval_tools/voc07_svm.py --list-cache
  ... SVM.COSTS "[0.1, 1.0]"

Reads VOC2007/{JPEGImages,ImageSets/Main} below the data root. Writes to OUTPUT_DIR: result.json
(mAP, protocol, every deviation from it, the checkpoint's hash, the selected costs), log.txt,
metrics.json, TensorBoard events, config.yaml, and run.json for --resume.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM (continue
with --resume).
"""

import argparse

from virtex.cli import (
    add_feature_arguments,
    add_probe_arguments,
    int_list,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/voc07_svm")
    parser.add_argument("--protocol", metavar="NAME", help="paper (default) or toy")
    parser.add_argument(
        "--solver",
        choices=("fast", "liblinear"),
        default="fast",
        help="batched over classes, costs and folds, or scikit-learn's liblinear (default: fast)",
    )
    parser.add_argument(
        "--ap",
        choices=("sklearn", "voc11", "interpolated"),
        default="sklearn",
        help="average precision: not interpolated (default), 11-point of VOC2007, or VOC2010's",
    )
    parser.add_argument(
        "--low-shot",
        type=int_list,
        default=(),
        metavar="K,K,…",
        help="train on K positive images per class; reports mean and std over samples",
    )
    add_feature_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.jobs import run_probe
    from virtex.tasks.voc07_svm import plan

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

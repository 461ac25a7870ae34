#!/usr/bin/env python3
"""Train a linear classifier on a frozen backbone: ImageNet, or any folder of class subfolders.

examples:
  # as published (VirTex, arXiv 2006.06666): 100 epochs with augmentation, on all GPUs
  python eval_tools/imagenet_linear.py --checkpoint moco_v2_800ep.pth.tar \\
      --data-root datasets --output-dir output/moco_v2/imagenet_linear

  # cached features, a grid of 20 settings in one pass, selected on a held-out part of train
  ... --protocol cached

  # weighted k nearest neighbors on the same features
  ... --knn

  # any other folder with train/<class>/ and val/<class>/
  ... --image-folder datasets/places205

  # resume; two machines with 8 GPUs each, started on both; or torchrun
  ... --resume
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/imagenet_linear.py ...

  # minutes on a CPU, with the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/imagenet_linear.py --checkpoint 'random:resnet18' --protocol toy-cached \\
      --data-root datasets/toy --output-dir output/toy_linear --num-gpus 0

  # override any setting
  ... OPTIM.LR 3.0 OPTIM.NUM_EPOCHS 50
  ... --protocol cached PROBE.LRS "[0.01, 0.1]" DATA.AUGMENTATIONS 3

Reads imagenet/{train,val}/<class>/ below the data root. Writes to OUTPUT_DIR: result.json (top-1,
top-5, the protocol, every deviation from it, the checkpoint's hash), per_class.csv, grid.csv (with
--protocol cached) or model_final.pth, log.txt, metrics.json, TensorBoard events, config.yaml, and
run.json and last_checkpoint for --resume.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM after
saving a checkpoint (continue with --resume).
"""

import argparse

from virtex.cli import (
    add_classifier_training_arguments,
    add_feature_arguments,
    add_probe_arguments,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/imagenet_linear")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="paper (default), cached, toy, toy-cached; with --knn: k20 (default), toy",
    )
    parser.add_argument(
        "--knn", action="store_true", help="evaluate k nearest neighbors, without training"
    )
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        help="folder with train/ and val/, instead of imagenet/ of --data-root",
    )
    add_classifier_training_arguments(parser)
    add_feature_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.imagenet import plan
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

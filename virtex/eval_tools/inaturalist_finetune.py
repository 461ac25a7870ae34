#!/usr/bin/env python3
"""Fine-tune a backbone end to end: iNaturalist 2018, or a fraction of ImageNet's labels.

examples:
  # as published (VirTex, arXiv 2006.06666): 100 epochs, on all GPUs
  python eval_tools/inaturalist_finetune.py --checkpoint moco_v2_800ep.pth.tar \\
      --data-root datasets --output-dir output/moco_v2/inaturalist

  # semi-supervised: 1% and 10% of ImageNet's labels, each in its own folder
  ... --fraction 0.01 0.1 --output-dir output/moco_v2/semi_supervised

  # the same for any folder with train/<class>/ and val/<class>/
  ... --fraction 0.1 --image-folder datasets/places205

  # resume; two machines with 8 GPUs each, started on both; or torchrun
  ... --resume
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/inaturalist_finetune.py ...

  # minutes on a CPU, with the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/inaturalist_finetune.py --checkpoint 'random:resnet18' --protocol toy \\
      --data-root datasets/toy --output-dir output/toy_inaturalist --num-gpus 0

  # override any setting
  ... OPTIM.LR 0.05 OPTIM.CNN_LR 0.05
  ... OPTIM.NUM_EPOCHS 2 OPTIM.LR_STEP_EPOCHS "[1]"

Reads inaturalist/{train_val2018,annotations} or imagenet/{train,val}/<class>/ below the data root.
Writes to OUTPUT_DIR: result.json (top-1, top-5, the protocol, every deviation from it, the
checkpoint's hash), per_class.csv, model_final.pth (a valid --checkpoint for all tools), log.txt,
metrics.json, TensorBoard events, config.yaml, and run.json and last_checkpoint for --resume.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM after
saving a checkpoint (continue with --resume).
"""

import argparse

from virtex.cli import (
    add_classifier_training_arguments,
    add_probe_arguments,
    positive_float,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/inaturalist_finetune")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="paper (default) or toy; with --fraction: 20-epochs (default) or toy",
    )
    parser.add_argument(
        "--fraction",
        type=positive_float,
        nargs="+",
        default=(),
        metavar="F",
        help="train on this fraction of the images of each class of imagenet/, instead of "
        "iNaturalist (KEY VALUE pairs must precede it)",
    )
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        help="with --fraction: folder with train/ and val/, instead of imagenet/ of --data-root",
    )
    add_classifier_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.inaturalist import plan
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

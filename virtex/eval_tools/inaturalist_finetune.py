#!/usr/bin/env python3
"""Fine-tune a backbone end to end: iNaturalist 2018, or a fraction of ImageNet's labels.

examples:
  # as published (VirTex, arXiv 2006.06666): 100 epochs, on all GPUs there are
  python eval_tools/inaturalist_finetune.py --checkpoint moco_v2_800ep.pth.tar \\
      --data-root datasets --output-dir output/moco_v2/inaturalist

  # semi-supervised: 1 % and 10 % of ImageNet's labels, each in a folder of its own
  ... --fraction 0.01 0.1 --output-dir output/moco_v2/semi_supervised

  # the same on any folder that holds train/<class>/ and val/<class>/
  ... --fraction 0.1 --image-folder datasets/places205

  # go on where it stopped; two machines of 8 GPUs, started on each; or torchrun
  ... --resume
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/inaturalist_finetune.py ...

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/inaturalist_finetune.py --checkpoint 'random:resnet18' --protocol toy \\
      --data-root datasets/toy --output-dir output/toy_inaturalist --num-gpus 0

  # any setting
  ... OPTIM.LR 0.05 OPTIM.CNN_LR 0.05
  ... OPTIM.NUM_EPOCHS 2 OPTIM.LR_STEP_EPOCHS "[1]"

The data root holds inaturalist/{train_val2018,annotations}, or imagenet/{train,val}/<class>/.
OUTPUT_DIR then holds result.json (top-1, top-5, the protocol, every deviation from it, the
checkpoint's hash), per_class.csv, model_final.pth (a checkpoint that every tool here reads),
log.txt, metrics.json, tensorboard events, config.yaml, and what
--resume needs (run.json, last_checkpoint).

Exit status: 0 done; 2 something to fix, said in one sentence; 130 interrupted by Ctrl-C;
75 stopped by SIGTERM (training saves first): the same command with --resume goes on.
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
        help="paper (default) or toy; with --fraction 20-epochs (default) or toy",
    )
    parser.add_argument(
        "--fraction",
        type=positive_float,
        nargs="+",
        default=(),
        metavar="F",
        help="of the labels of imagenet/, the same of each class; not iNaturalist (KEY VALUE pairs "
        "go before it)",
    )
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        help="with --fraction: holds train/ and val/; not imagenet/ of --data-root",
    )
    add_classifier_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.inaturalist import plan
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

#!/usr/bin/env python3
"""Transfer a pretrained backbone to COCO, LVIS or PASCAL VOC detection with Detectron2.

examples:
  # COCO instance segmentation (Mask R-CNN R50-FPN, 2x), on all GPUs there are
  python eval_tools/detectron2_transfer.py --checkpoint moco_v2_800ep.pth.tar --task coco \\
      --data-root datasets --output-dir output/moco_v2/coco

  # the 1x schedule; LVIS v1; PASCAL VOC
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco --protocol 1x
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task lvis
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task voc

  # a model of the zoo (model_zoo.py list), torchvision's, a random one, a file on the web
  ... --checkpoint virtex://moco/v2_800ep
  ... --checkpoint torchvision://resnet50
  ... --checkpoint 'random:resnet50?seed=0'
  ... --checkpoint https://example.org/model.pth

  # instance segmentation as pretraining: from random initialization, then its own backbone
  ... --checkpoint 'random:resnet50?seed=0' --task coco --protocol scratch --output-dir scratch
  ... --checkpoint scratch/model_final.pth --task voc

  # two machines of 8 GPUs, started on each; or torchrun
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/detectron2_transfer.py ...

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/detectron2_transfer.py --checkpoint 'random:resnet18' --task coco \\
      --protocol toy --data-root datasets/toy --output-dir output/toy --num-gpus 0

  # any Detectron2 YAML (a file, or a name in its model zoo), any setting
  ... --config COCO-Detection/retinanet_R_50_FPN_1x.yaml SOLVER.BASE_LR 0.005

OUTPUT_DIR then holds result.json (the score, the protocol, every deviation from it, the
checkpoint's hash, what was verified), gallery/, model_final.pth, log.txt, metrics.json,
tensorboard events and the detections.

Exit status: 0 done; 2 something to fix, said in one sentence; 130 interrupted by Ctrl-C;
75 stopped by SIGTERM (training saves first): the same command with --resume goes on.
"""

import argparse
import os

from virtex.cli import (
    CHECKPOINT,
    add_checkpoint_arguments,
    add_training_arguments,
    non_negative_int,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    add_checkpoint_arguments(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", choices=("coco", "lvis", "voc"), help="a packaged task")
    what.add_argument("--config", metavar="YAML", help="any other Detectron2 config")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="of the task; coco: 2x (default), 1x, scratch, toy; "
        "lvis: 2x (default), imagenet-init, toy; voc: 24k (default), toy",
    )
    parser.add_argument(
        "--data-root", default="datasets", metavar="DIR", help="holds coco/, lvis/, VOC2007/, …"
    )
    parser.add_argument("--output-dir", default="output/detectron2_transfer", metavar="DIR")
    parser.add_argument("--seed", type=non_negative_int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--eval-only", action="store_true", help="score the run's newest checkpoint, or --weights"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="with --eval-only: another trained detector"
    )
    add_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    if args.protocol and args.config:
        build_parser().error("--protocol belongs to --task, not to --config")
    if args.weights and not args.eval_only:
        build_parser().error("--weights belongs to --eval-only")
    if args.eval_only and (args.overwrite or args.resume):
        build_parser().error("--eval-only stands without --overwrite and --resume")
    # Detectron2 reads it when it registers data sets that are not registered here
    os.environ["DETECTRON2_DATASETS"] = args.data_root
    from virtex.runner import run
    from virtex.tasks.detection import plan_detection

    return run(args, plan_detection)


if __name__ == "__main__":
    run_tool(main, build_parser())

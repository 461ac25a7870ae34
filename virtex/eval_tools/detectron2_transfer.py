#!/usr/bin/env python3
"""Transfer a pretrained backbone to detection or segmentation with Detectron2.

examples:
  # COCO instance segmentation (Mask R-CNN R50-FPN, 2x) on all GPUs
  python eval_tools/detectron2_transfer.py --checkpoint moco_v2_800ep.pth.tar --task coco \\
      --data-root datasets --output-dir output/moco_v2/coco

  # other tasks and schedules
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco --protocol 1x
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task lvis
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco_keypoints --protocol 1x
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task cityscapes
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task voc

  # VOC with a feature pyramid, for backbones other than ResNets; AdamW; a frozen backbone
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task voc --protocol fpn-24k
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco --protocol adamw-3x
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco --protocol frozen

  # ViTDet on a ViT-B (vitdet-l: ViT-L, vitdet-h: ViT-H); its 64 images per step on 8 GPUs
  ... --checkpoint mae_pretrain_vit_base.pth --format mae --task coco --protocol vitdet
  ... --num-gpus 8 SOLVER.ACCUMULATE 4

  # semantic segmentation: linear on frozen features, or Semantic FPN
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task ade20k
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task voc_seg --protocol fpn

  # a model of the zoo (model_zoo.py list), of torchvision, a random one, a URL
  ... --checkpoint virtex://moco/v2_800ep
  ... --checkpoint torchvision://resnet50
  ... --checkpoint 'random:resnet50?seed=0'
  ... --checkpoint https://example.org/model.pth

  # instance segmentation as pretraining: from random initialization, then its own backbone
  ... --checkpoint 'random:resnet50?seed=0' --task coco --protocol scratch --output-dir scratch
  ... --checkpoint scratch/model_final.pth --task voc

  # two machines with 8 GPUs each, started on both; or torchrun
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/detectron2_transfer.py ...

  # one GPU with the batch size, learning rate and schedule of 8
  ... --num-gpus 1 SOLVER.IMS_PER_BATCH 16 SOLVER.ACCUMULATE 8

  # mixed precision (bfloat16 or float16), and a moving average of the weights
  ... SOLVER.AMP.ENABLED True MODEL_EMA.ENABLED True

  # minutes on a CPU, with the built-in toy data
  python eval_tools/make_toy_data.py datasets/toy
  python eval_tools/detectron2_transfer.py --checkpoint 'random:resnet18' --task coco \\
      --protocol toy --data-root datasets/toy --output-dir output/toy --num-gpus 0

  # your own data in COCO's format, with the settings of a COCO protocol and a short schedule
  python eval_tools/detectron2_transfer.py --checkpoint FILE --task coco --protocol 1x \\
      --train-json cells/train.json --train-images cells/images \\
      --val-json cells/val.json --val-images cells/images --output-dir output/cells \\
      SOLVER.MAX_ITER 600 SOLVER.STEPS '(400, 540)' SOLVER.WARMUP_ITERS 100

  # any Detectron2 config (a file, or a name in its model zoo) with any overrides
  ... --config COCO-Detection/retinanet_R_50_FPN_1x.yaml SOLVER.BASE_LR 0.005

Writes to OUTPUT_DIR: result.json (scores, protocol, every deviation from it, the checkpoint's
hash, verification), per_class.csv, gallery/, model_final.pth, log.txt, metrics.json, TensorBoard
events and the detections.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM after
saving a checkpoint (continue with --resume).
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
from virtex.tasks import TASKS
from virtex.tasks.detection import plan_detection


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    add_checkpoint_arguments(parser)
    tasks = {name: task for name, task in TASKS.items() if task.command == "detectron2_transfer"}
    task_or_config = parser.add_mutually_exclusive_group(required=True)
    task_or_config.add_argument("--task", choices=tuple(tasks), help="a packaged task")
    task_or_config.add_argument("--config", metavar="YAML", help="any other Detectron2 config")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="protocol of the task, default: the first of "
        + "; ".join(f"{name}: {', '.join(task.protocols)}" for name, task in tasks.items()),
    )
    parser.add_argument(
        "--data-root", default="datasets", metavar="DIR", help="contains coco/, lvis/, VOC2007/, …"
    )
    custom = parser.add_argument_group("your own data in COCO's format")
    for split, purpose in (("train", "to train on"), ("val", "to score")):
        custom.add_argument(
            f"--{split}-json", metavar="FILE", help=f"images, annotations and categories {purpose}"
        )
        custom.add_argument(
            f"--{split}-images",
            metavar="DIR",
            help="folder of the images (default: the folder of the JSON file)",
        )
    output = "output/detectron2_transfer"
    parser.add_argument("--output-dir", default=output, metavar="DIR", help=f"default: {output}")
    parser.add_argument("--seed", type=non_negative_int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate the run's latest checkpoint, or --weights",
    )
    parser.add_argument("--weights", metavar="FILE", help="with --eval-only: a trained detector")
    add_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    if args.protocol and args.config:
        build_parser().error("--protocol requires --task")
    if args.weights and not args.eval_only:
        build_parser().error("--weights requires --eval-only")
    if args.eval_only and (args.overwrite or args.resume):
        build_parser().error("--eval-only cannot be combined with --overwrite or --resume")
    for split in ("train", "val"):
        if getattr(args, f"{split}_images") and not getattr(args, f"{split}_json"):
            build_parser().error(f"--{split}-images requires --{split}-json")
    if args.train_json and not args.val_json:
        build_parser().error("--train-json requires --val-json")
    if args.val_json and not (args.train_json or args.eval_only):
        build_parser().error("--val-json requires --train-json, or --eval-only")
    # read by Detectron2 when it registers its own datasets
    os.environ["DETECTRON2_DATASETS"] = args.data_root
    from virtex.runner import run

    return run(args, plan_detection)


if __name__ == "__main__":
    run_tool(main, build_parser())

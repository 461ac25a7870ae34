"""Pretrain a visual backbone with language: VirTex (arXiv 2006.06666) and its ablations.

examples:
  # train the vocabulary of the captions, once
  python -m virtex.data.tokenizer --captions datasets/coco/annotations/captions_train2017.json \\
      --vocab-size 10000 --output datasets/vocab/coco_10k.model

  # the best published model, on all available GPUs
  python -m virtex.pretrain --config bicaptioning_R_50_L1_H2048 --data-root datasets \\
      --output-dir output/virtex

  # train an ablation, or your own YAML file with changed settings
  python -m virtex.pretrain --config task_ablations/masked_lm_R_50_L1_H2048 ...
  python -m virtex.pretrain --config pretrain_config.yaml ... OPTIM.BATCH_SIZE 128

  # print all settings; list the packaged configs
  python -m virtex.pretrain --config bicaptioning_R_50_L1_H2048 --print-config
  python -m virtex.pretrain --list-configs

  # two machines with 8 GPUs each: run on both, or use torchrun
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 -m virtex.pretrain ...

  # minutes on a CPU, on the built-in toy data
  python eval_tools/make_toy_data.py toy --coco-train-images 2000
  python -m virtex.data.tokenizer --captions toy/coco/annotations/captions_train2017.json \\
      --vocab-size 200 --output toy/vocab/toy.model
  python -m virtex.pretrain --config toy/bicaptioning_R_18_L1_H256 --data-root toy \\
      --output-dir output/toy_pretraining --num-gpus 0

  # smaller still: about a minute
  ... OPTIM.BATCH_SIZE 8 OPTIM.NUM_ITERATIONS 60 OPTIM.WARMUP_STEPS 10

  # continue an interrupted run
  ... --resume

OUTPUT_DIR contains model_final.pth (accepted as --checkpoint by every evaluation), its
pretrain_config.yaml and tokenizer.model, pretraining.json (final losses, overrides of the config,
data, environment), log.txt, metrics.json (one JSON object per line), TensorBoard events, and, for
--resume, run.json, last_checkpoint and the newest model_<iteration>.pth.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM after
saving a checkpoint: the same command with --resume continues.
"""

import argparse

from virtex.cli import (
    add_num_workers,
    add_training_arguments,
    non_negative_int,
    positive_int,
    run_tool,
    tool_parser,
)


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--config", metavar="NAME_OR_YAML", help="packaged name or YAML file")
    parser.add_argument("--list-configs", action="store_true", help="list the packaged configs")
    parser.add_argument("--print-config", action="store_true", help="print all settings and exit")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="contains coco/ and vocab/; replaces the leading datasets/ of the config's paths "
        "(default: datasets)",
    )
    parser.add_argument(
        "--output-dir",
        default="output/pretraining",
        metavar="DIR",
        help="default: output/pretraining",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, metavar="N", help="default: the config's RANDOM_SEED"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=2000,
        metavar="N",
        help="save a checkpoint and validate every N iterations (default: 2000)",
    )
    parser.add_argument(
        "--keep",
        type=positive_int,
        default=2,
        metavar="N",
        help="number of checkpoints to keep (default: 2)",
    )
    parser.add_argument(
        "--log-every", type=positive_int, default=20, metavar="N", help="default: 20"
    )
    add_num_workers(parser)
    add_training_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.config import load_config, packaged_configs

    if args.list_configs:
        print("\n".join(packaged_configs()))
        return 0
    if not args.config:
        build_parser().error("--config is missing; --list-configs lists the packaged configs")
    config = load_config(args.config, args.overrides)  # fail before torch is imported
    if args.print_config:
        print(config.dump(), end="")
        return 0

    from virtex import runner
    from virtex.tasks.pretraining import plan

    return runner.run(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

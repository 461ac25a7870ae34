#!/usr/bin/env python3
"""Caption COCO val2017 and score the captions, or caption any images.

examples:
  # as published: beam search with 5 beams, CIDEr-D, BLEU, ROUGE-L, METEOR, SPICE
  python eval_tools/coco_captioning.py --checkpoint output/virtex/model_final.pth \\
      --data-root datasets --output-dir output/virtex/coco_captioning
  python eval_tools/coco_captioning.py --checkpoint virtex://bicaptioning_R_50_L1_H2048 ...

  # your own images: files, folders, or both
  python eval_tools/coco_captioning.py --checkpoint output/virtex/model_final.pth \\
      --images holiday/ dog.jpg --output-dir output/holiday

  # greedy search; shorter captions; nucleus sampling
  ... --beam-size 1
  ... --max-length 15
  ... --nucleus 0.9 --seed 1

  # a model whose config and vocabulary are not in the checkpoint's folder
  ... --config bicaptioning_R_50_L1_H1024 --tokenizer datasets/vocab/coco_10k.model

  # resume; two machines with 8 GPUs each, started on both; or torchrun
  ... --resume
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/coco_captioning.py ...

  # seconds on a CPU, with the built-in toy data and a model that virtex.pretrain trained on them
  python eval_tools/coco_captioning.py --checkpoint output/toy_pretraining/model_final.pth \\
      --protocol toy --data-root toy --output-dir output/toy_captions --num-gpus 0

The model is a captioning model trained by virtex.pretrain, or one of the model zoo; its
pretrain_config.yaml and tokenizer.model are read from the checkpoint's folder. Scores are computed
by pycocoevalcap (pip install pycocoevalcap) if it and Java are installed. Otherwise, CIDEr-D, BLEU
and ROUGE-L are computed without it, which the record states.

Writes to OUTPUT_DIR: captions.json (COCO's result format), captions.html (every image with its
caption, references and score), for COCO result.json (scores, protocol, deviations from it),
log.txt, config.yaml, and run.json for --resume.

Exit status: 0 success; 2 invalid input; 130 interrupted by Ctrl-C; 75 stopped by SIGTERM (continue
with --resume).
"""

import argparse

from virtex.cli import add_probe_arguments, fraction, positive_int, run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/coco_captioning")
    parser.add_argument("--protocol", metavar="NAME", help="paper (default) or toy")
    parser.add_argument(
        "--images", nargs="+", metavar="PATH", help="images and folders of images, instead of COCO"
    )
    model = parser.add_argument_group("model, if its files are not in the checkpoint's folder")
    model.add_argument("--config", metavar="NAME_OR_YAML", help="pretraining config")
    model.add_argument("--tokenizer", metavar="FILE", help="vocabulary, a SentencePiece model")
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--beam-size",
        type=positive_int,
        metavar="N",
        help="beams (default: 5)",
    )
    decoding.add_argument(
        "--nucleus",
        type=fraction,
        metavar="P",
        help="nucleus sampling with this cumulative probability",
    )
    decoding.add_argument(
        "--max-length",
        type=positive_int,
        metavar="N",
        help="maximum number of tokens (default: 30)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="images per batch in each process (default: 64)",
    )
    parser.add_argument(
        "--scorer",
        choices=("auto", "java", "python"),
        default="auto",
        help="pycocoevalcap with Java, or the built-in scorer (default: auto, Java if installed)",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.coco_captioning import plan
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

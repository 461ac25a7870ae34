#!/usr/bin/env python3
"""Captions of COCO val2017, scored; or captions of any pictures.

examples:
  # as published: beam search with 5 beams, CIDEr-D, BLEU, ROUGE-L, METEOR, SPICE
  python eval_tools/coco_captioning.py --checkpoint output/virtex/model_final.pth \\
      --data-root datasets --output-dir output/virtex/coco_captioning
  python eval_tools/coco_captioning.py --checkpoint virtex://bicaptioning_R_50_L1_H2048 ...

  # pictures of one's own: files, folders, or both
  python eval_tools/coco_captioning.py --checkpoint output/virtex/model_final.pth \\
      --images holiday/ dog.jpg --output-dir output/holiday

  # greedy; shorter; words that are drawn, not searched for
  ... --beam-size 1
  ... --max-length 15
  ... --nucleus 0.9 --seed 1

  # a model whose config and vocabulary do not lie beside it
  ... --config bicaptioning_R_50_L1_H1024 --tokenizer datasets/vocab/coco_10k.model

  # go on where it stopped; two machines of 8 GPUs, started on each; or torchrun
  ... --resume
  ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun --nproc-per-node 8 eval_tools/coco_captioning.py ...

  # seconds on a CPU, on the built-in toy data, with the model that virtex.pretrain trains on them
  python eval_tools/coco_captioning.py --checkpoint output/toy_pretraining/model_final.pth \\
      --protocol toy --data-root toy --output-dir output/toy_captions --num-gpus 0

The model is a captioning model that virtex.pretrain trained, or one of the model zoo. Its
pretrain_config.yaml and tokenizer.model are taken from beside it. Scores are those of
pycocoevalcap (pip install pycocoevalcap) where it and Java are there; else CIDEr-D, BLEU and
ROUGE-L are computed without it, and the record says so.

OUTPUT_DIR then holds captions.json (COCO's result format), captions.html (every picture with its
caption, references and score), and with COCO result.json (scores, protocol, deviations from it);
log.txt, config.yaml, and run.json for --resume.

Exit status: 0 done; 2 something to fix, said in one sentence; 130 interrupted by Ctrl-C;
75 stopped by SIGTERM (training saves first): the same command with --resume goes on.
"""

import argparse

from virtex.cli import add_probe_arguments, fraction, positive_int, run_tool, tool_parser


def build_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add_probe_arguments(parser, "output/coco_captioning")
    parser.add_argument("--protocol", metavar="NAME", help="paper (default) or toy")
    parser.add_argument(
        "--images", nargs="+", metavar="PATH", help="pictures and folders of them, in place of COCO"
    )
    model = parser.add_argument_group("model, where it is not found beside the checkpoint")
    model.add_argument("--config", metavar="NAME_OR_YAML", help="its pretraining config")
    model.add_argument("--tokenizer", metavar="FILE", help="its vocabulary, a sentencepiece model")
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--beam-size",
        type=positive_int,
        metavar="N",
        help="captions kept at each step (default: 5)",
    )
    decoding.add_argument(
        "--nucleus", type=fraction, metavar="P", help="draw words from so much of the probability"
    )
    decoding.add_argument(
        "--max-length", type=positive_int, metavar="N", help="tokens at most (default: 30)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="pictures at once in each process (default: 64)",
    )
    parser.add_argument(
        "--scorer",
        choices=("auto", "java", "python"),
        default="auto",
        help="pycocoevalcap with Java, or without both (default: auto, Java where it is there)",
    )
    return parser


def main(args: argparse.Namespace) -> int:
    from virtex.tasks.coco_captioning import plan
    from virtex.tasks.jobs import run_probe

    return run_probe(args, plan)


if __name__ == "__main__":
    run_tool(main, build_parser())

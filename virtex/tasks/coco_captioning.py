"""COCO Captions: caption val2017 with the pretrained model, scored against the references."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import COCO_CAPTIONING as LAYOUT
from virtex.errors import UserError
from virtex.tasks.registry import Task, build_protocols, register_task

if TYPE_CHECKING:
    from virtex.captioning.captioner import CaptionerOptions
    from virtex.evaluator import Evaluator
    from virtex.runner import Evaluation, Job


def build_evaluator(job: Evaluation) -> Evaluator:
    import torch

    from virtex.captioning.evaluator import Captioning
    from virtex.captioning.images import find_images, read_coco_images
    from virtex.engine.distributed import get_device

    args = job.args
    return Captioning(
        find_images(args.images) if args.images else read_coco_images(args.data_root),
        job.settings,
        captioner_options(args),
        args.scorer,
        job.folder,
        torch.device(get_device(args)),
        args.seed,
        args.batch_size,
        args.num_workers,
    )


def captioner_options(args: argparse.Namespace) -> CaptionerOptions:
    """Return the options that select the config and vocabulary of the checkpoint."""
    from virtex.captioning.captioner import CaptionerOptions

    return CaptionerOptions(args.config, args.tokenizer, args.data_root, args.trust_pickle)


def plan(args: argparse.Namespace) -> list[Job]:
    """Plan captioning COCO val2017, or ``--images``, whose captions are not scored."""
    from virtex.captioning.captioner import captioner_identity
    from virtex.tasks.jobs import plan_probe

    protocol = COCO_CAPTIONING.protocol(args.protocol)
    if args.images:
        protocol = replace(protocol, task="captions", images={})
    job = plan_probe(
        args,
        COCO_CAPTIONING,
        build_evaluator,
        protocol,
        overrides=[*decoding_overrides(args), *args.overrides],
        model_identity=partial(captioner_identity, options=captioner_options(args)),
    )
    return [job]


def decoding_overrides(args: argparse.Namespace) -> list[str]:
    """Return the decoding options as ``KEY VALUE`` pairs.

    Raises:
        UserError: the options are mutually exclusive.
    """
    if args.nucleus is not None and args.beam_size is not None:
        raise UserError(
            "--nucleus and --beam-size are mutually exclusive; pass only one of them",
            "arguments.conflict",
        )
    pairs = {
        "BEAM_SIZE": args.beam_size,
        "NAME": None if args.nucleus is None else "nucleus_sampling",
        "NUCLEUS_SIZE": args.nucleus,
        "MAX_DECODING_STEPS": args.max_length,
    }
    given = [(f"MODEL.DECODER.{key}", value) for key, value in pairs.items() if value is not None]
    return [word for pair in given for word in pair]


def unsupported_reason(args: argparse.Namespace, may_open: bool) -> str:
    """See ``Task.unsupported_reason``: a backbone alone cannot caption images."""
    from virtex.captioning.captioner import unsupported_reason as reason

    return reason(args, may_open)


def read_data(data_root: Path) -> None:
    """Read and check the reference captions."""
    from virtex.data.captions import read_captions

    read_captions(data_root / "coco", "val")


COCO_CAPTIONING = register_task(
    Task(
        name="coco_captioning",
        title="COCO captioning",
        layout=LAYOUT,
        protocols=build_protocols(
            "coco_captioning",
            "CIDEr",
            {"coco_captions_val2017": 5000},
            {"paper": "coco_captioning", "toy": "toy/coco_captioning"},
            version="2",  # 1: all images were resized with bilinear antialiasing
        ),
        plan=plan,
        command="coco_captioning",
        is_default=True,
        seeded_by=("--nucleus", "nucleus_sampling"),
        read_data=read_data,
        unsupported_reason=unsupported_reason,
    )
)

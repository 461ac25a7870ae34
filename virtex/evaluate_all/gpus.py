"""Which GPUs there are, and how runs at the same time share them out."""

import os
from collections.abc import Sequence

from virtex.errors import UserError


def visible_gpus(number: int | None) -> list[str]:
    """The first ``number`` GPUs (None: all) as ``CUDA_VISIBLE_DEVICES`` names them; of this
    process's own list where it has one.

    Raises:
        UserError: there are not so many.
    """
    if number == 0:
        return []
    import torch

    there = torch.cuda.device_count()
    if number is not None and number > there:
        raise UserError(
            f"--num-gpus {number}, but this machine has {there}; --num-gpus 0 runs on the CPU"
        )
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = own.split(",") if own else [str(index) for index in range(there)]
    return [name.strip() for name in names[: there if number is None else number]]


def share_out(gpus: Sequence[str], at_once: int) -> list[tuple[str, ...]]:
    """The GPUs of each of ``at_once`` runs: as many for each; none for any on the CPU.

    Raises:
        UserError: the GPUs cannot be divided evenly.
    """
    if len(gpus) % at_once:
        raise UserError(
            f"--at-once {at_once} does not divide {len(gpus)} GPUs; give a number that does, or "
            "another --num-gpus"
        )
    each = len(gpus) // at_once
    return [tuple(gpus[place * each : (place + 1) * each]) for place in range(at_once)]

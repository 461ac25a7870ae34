"""Which processes share a machine, as Detectron2 wants to know it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from detectron2.utils import comm


@contextmanager
def ranks_of_this_machine() -> Iterator[None]:
    """Tell Detectron2 the ranks of each machine (0.5 has no function for it).

    Detectron2's own launcher does so too, but imports detectron2 before v0.5 can be made fit
    for it.
    """
    if not dist.is_initialized():
        yield
        return
    size = int(os.environ["LOCAL_WORLD_SIZE"])
    for first in range(0, dist.get_world_size(), size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= dist.get_rank() < first + size:
            comm._LOCAL_PROCESS_GROUP = group
    try:
        yield
    finally:
        comm._LOCAL_PROCESS_GROUP = None

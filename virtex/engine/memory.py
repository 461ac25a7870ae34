"""The peak memory of a run, for its record."""

import resource
import sys
from typing import Any

import torch

from virtex.engine.distributed import all_gather_object

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def peak_memory(device: str) -> dict[str, Any]:
    """Return the peak memory of the process that used most; call it in every process.

    Returns:
        ``gib``: in units of 2**30 bytes; ``kind``: ``torch.cuda.max_memory_allocated`` on GPUs,
        ``max_rss`` (resident set size, without the workers of data loaders) on CPUs.
    """
    if device == "cuda":
        kind, peak = "torch.cuda.max_memory_allocated", torch.cuda.max_memory_allocated()
    else:
        kind = "max_rss"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
    return {"gib": round(max(all_gather_object(peak)) / 2**30, 3), "kind": kind}

"""Folder names that people can read, for checkpoints of any name."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

LONGEST = 80  # characters; file systems allow 255 bytes, and log names add the task's
# What the output folder holds beside the checkpoints' folders.
RESERVED = ("logs", "leaderboard.csv", "leaderboard.md", "leaderboard.html", "leaderboard.png")


def normal_name(name: str) -> str:
    """One spelling of a checkpoint's name; of addresses there is only one."""
    return name if is_address(name) else os.path.normpath(name)


def is_address(name: str) -> bool:
    """Whether it is ``https://…``, ``random:…`` or the like, not a file on this machine."""
    return re.match(r"[a-z][a-z0-9+.-]+:", name) is not None and not os.path.exists(name)


def checkpoint_folders(names: Sequence[str], reserved: Iterable[str] = RESERVED) -> dict[str, str]:
    """Checkpoint name -> a folder's name of its own: ``random:a?seed=0`` -> ``random_a_seed_0``.

    Where two names would have one folder (on file systems without upper case, too), where it is
    ``reserved`` or too long, some digits of the name's hash are added.
    """
    readable = {name: re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.-") for name in names}
    uses = Counter(slug.lower() for slug in [*readable.values(), *reserved])
    return {
        name: slug
        if slug and len(slug) <= LONGEST and uses[slug.lower()] == 1
        else "_".join(filter(None, [slug[:LONGEST].rstrip("_.-"), digits(name)]))
        for name, slug in readable.items()
    }


def digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]

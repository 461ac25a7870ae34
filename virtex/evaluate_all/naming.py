"""Readable folder names for checkpoints."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from virtex.text import redact

MAX_LENGTH = 80  # characters; file systems allow 255 bytes, and log names add the task's
# What the output folder contains besides the checkpoints' folders
RESERVED = ("logs", "leaderboard.csv", "leaderboard.md", "leaderboard.html", "leaderboard.png")


def normalize_name(name: str) -> str:
    """Return one spelling of a checkpoint's path; URIs are returned unchanged."""
    return name if is_uri(name) else os.path.normpath(name)


def is_uri(name: str) -> bool:
    """Return whether a checkpoint is ``https://…``, ``random:…`` or the like, not a local file."""
    return re.match(r"[a-z][a-z0-9+.-]+:", name) is not None and not os.path.exists(name)


def checkpoint_folders(names: Sequence[str], reserved: Iterable[str] = RESERVED) -> dict[str, str]:
    """Map checkpoint names to unique folder names: ``random:a?seed=0`` -> ``random_a_seed_0``.

    A folder name that is reserved, too long, or not unique (also on case-insensitive file systems)
    ends with digits of the name's hash.
    """
    slugs = {name: re.sub(r"[^A-Za-z0-9.-]+", "_", redact(name)).strip("_.-") for name in names}
    uses = Counter(slug.lower() for slug in [*slugs.values(), *reserved])
    for name, slug in slugs.items():
        if not slug or len(slug) > MAX_LENGTH or uses[slug.lower()] > 1:
            digits = hashlib.sha256(name.encode()).hexdigest()[:8]
            slugs[name] = "_".join(filter(None, [slug[:MAX_LENGTH].rstrip("_.-"), digits]))
    return slugs

"""Resolve ``virtex://NAME`` to a checkpoint."""

from virtex.checkpoints.sources import Resolved, register_source
from virtex.zoo.entries import PREFIX, find
from virtex.zoo.files import fetch_entry


@register_source(PREFIX)
def resolve_zoo(uri: str) -> Resolved:
    """Download the file of a zoo entry."""
    entry = find(uri)
    path = str(fetch_entry(entry))
    return Resolved(path, entry.format, entry.input, entry.arch, str(entry.zoo_file))

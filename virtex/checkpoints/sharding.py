"""Checkpoints in several files: Hugging Face's indexed shards, and torch's distributed ones.

The shards of an index (``model.safetensors.index.json``) are read together. Those of FSDP and of
``torch.distributed.checkpoint`` need torch's own program, which the error names.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from virtex.checkpoints.backbone import CheckpointError
from virtex.text import escape

INDEX = "model.safetensors.index.json"
_INDEX_SUFFIX = ".index.json"
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
MAX_INDEX_BYTES = 20_000_000  # 50,000 tensors have an index of about 5 MB
MERGE = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"


def is_index(path: pathlib.Path) -> bool:
    """Return whether a file is named as an index of shards."""
    return path.name.endswith(_INDEX_SUFFIX)


def find_index(path: str) -> str:
    """Return the index in a folder of safetensors shards; the path itself if there is none."""
    index = os.path.join(path, INDEX)
    return index if os.path.isfile(index) else path


def refuse_part(path: pathlib.Path) -> None:
    """Raise for a file or folder that is named as a part of a checkpoint.

    Raises:
        CheckpointError: ``checkpoint.sharded``, with what to specify or run instead.
    """
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[2]) > 1:
        index = path.with_name(f"{shard[1]}{shard[3]}{_INDEX_SUFFIX}")
        raise CheckpointError(
            f"{path} is one of {int(shard[2])} files of a checkpoint; specify {index}, which lists "
            "all of them",
            code="checkpoint.sharded",
        )
    is_folder = os.path.isfile(path / ".metadata")
    folder = path if is_folder else path.parent
    if is_folder or path.name == ".metadata" or path.suffix == ".distcp":
        raise CheckpointError(
            f"{path} is part of a checkpoint in torch's distributed format; merge it: {MERGE} "
            f"{folder} FILE",
            code="checkpoint.sharded",
        )


def fsdp_error(path: pathlib.Path) -> CheckpointError:
    """Return the error for a file with the shards of one process of FSDP."""
    return CheckpointError(
        f"{path} contains one process' shards of a network trained with FSDP; save the full "
        "state_dict where it was trained (DINOv2 writes it to eval/*/teacher_checkpoint.pth), or "
        f"save it with torch.distributed.checkpoint and merge it: {MERGE} FOLDER FILE",
        code="checkpoint.sharded",
    )


def read_index(path: pathlib.Path, content: bytes) -> dict[str, set[str]]:
    """Return what ``parse_index`` does, for an index whose shards are beside it.

    Raises:
        CheckpointError: it is not a valid index (``checkpoint.unreadable``), or a shard is missing
            (``checkpoint.not_found``).
    """
    shards = parse_index(path, content)
    missing = [file for file in shards if not os.path.isfile(path.with_name(file))]
    if missing:
        raise CheckpointError(
            f"{path} lists {len(shards)} files beside it, of which {len(missing)} are missing, as "
            f"{escape(missing[0])}; download them to the same folder",
            code="checkpoint.not_found",
        )
    return shards


def parse_index(path: pathlib.Path, content: bytes) -> dict[str, set[str]]:
    """Return name of a shard -> names of its tensors, sorted by shard.

    Raises:
        CheckpointError: it is not a valid index (``checkpoint.unreadable``).
    """
    try:
        if len(content) > MAX_INDEX_BYTES:
            raise ValueError(f"it has {len(content)} bytes")
        names = json.loads(content)["weight_map"]
        if not isinstance(names, dict) or not names:
            raise ValueError("its weight_map is not a mapping")
        shards: dict[str, set[str]] = {}
        for tensor, file in names.items():
            if not isinstance(file, str) or pathlib.PurePath(file).name != file:
                raise ValueError(f"{file!r} is not the name of a file")
            if is_index(pathlib.Path(file)):
                raise ValueError(f"{file} is an index, too")
            shards.setdefault(file, set()).add(tensor)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} should be an index of shards, a JSON file with a weight_map; download it "
            f"again ({escape(f'{type(error).__name__}: {error}', 300)})",
            code="checkpoint.unreadable",
        ) from error
    return dict(sorted(shards.items()))


def merge_shards(
    path: pathlib.Path, index: Mapping[str, Iterable[str]], shards: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the tensors of all shards, which must be those of the index.

    Args:
        path: the index.
        index: see ``read_index``.
        shards: name of a shard -> its content.

    Raises:
        CheckpointError: a shard and the index have different tensors (``checkpoint.incomplete``).
    """
    merged: dict[str, Any] = {}
    for file, names in index.items():
        found = shards[file] if isinstance(shards[file], Mapping) else {}
        if different := sorted(set(names) ^ found.keys()):
            place = "only in the index" if different[0] in names else f"only in {escape(file)}"
            raise CheckpointError(
                f"{path} should list exactly the tensors of its files, but {len(different)} differ "
                f"for {escape(file)}, such as {escape(str(different[0]))}, which is {place}; "
                "download index and files again",
                code="checkpoint.incomplete",
            )
        merged |= found
    return merged

"""Caption many images: each once over all processes, saved incrementally, resumable.

Finished captions are lines of ``captions.partial*.jsonl`` until ``captions.json`` is complete. A
caption depends on its image and, with sampling, on the image's id and the seed, but not on the
other images, the batch or the number of processes.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virtex.captioning.captioner import Captioner
from virtex.captioning.images import CaptioningImages
from virtex.data.decoding import decode_image
from virtex.data.loading import Batch, SeededSet, listed_loader
from virtex.engine.distributed import all_gather_object, rank, synchronize, world_size
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.files import open_append, parse_json, read_file, read_json_lines, replace_file
from virtex.pretraining.models.decoding import NucleusSampling

logger = logging.getLogger(__name__)

RESULTS = "captions.json"
PARTIAL = "captions.partial.jsonl"  # of earlier runs, all processes together
PARTIAL_OF_RANK = "captions.partial.rank{}.jsonl"
PARTIAL_PATTERN = re.compile(r"captions\.partial(\.rank\d+)?\.jsonl")


@dataclass
class Captions:
    """The outcome for each image.

    Attributes:
        written: index of an image -> its caption, ascending.
        unreadable: index of an image -> why it cannot be read.
        fresh: number of images captioned by this run.
    """

    written: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    fresh: int = 0


class CaptioningSet(SeededSet):
    """Transformed images for a captioner; images that cannot be read become ``problem`` samples.

    A sample has ``image_id``, the index of the image, and either ``image`` (3, size, size)
    float32 and ``draws`` (steps,), or ``problem``.
    """

    def __init__(
        self,
        images: CaptioningImages,
        transform: Callable[[Tensor], tuple[Tensor, str]],
        seed: int,
        steps: int,
    ):
        """
        Args:
            transform: (3, height, width) uint8 to (3, size, size) float32.
            steps: random numbers per image, one for each decoding step.
        """
        super().__init__(seed, training=False)
        self.images, self.transform, self.steps = images, transform, steps

    def __len__(self) -> int:
        return len(self.images)

    def position(self, index: int) -> int:
        """Return the position that seeds an image, a hash of its id."""
        digest = hashlib.sha256(ascii(self.images.ids[index]).encode())
        return int.from_bytes(digest.digest()[:6], "little")

    def sample(self, index: int) -> dict[str, Any]:
        draws = torch.rand(self.steps)  # from the generator seeded by (seed, position)
        try:
            image = decode_image(self.images.path(index))
            image, _ = self.transform(image)
        except UserError as error:
            return {"image_id": index, "problem": str(error)}
        return {"image_id": index, "image": image, "draws": draws}

    def batch(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            ``problems``, index -> reason; and of the other samples, if any, ``image``
            (batch, 3, size, size), ``draws`` (batch, steps) and ``image_id`` (batch,).
        """
        problems = {s["image_id"]: s["problem"] for s in samples if "problem" in s}
        readable = [sample for sample in samples if "image" in sample]
        batch: dict[str, Any] = {"problems": problems}
        if readable:
            batch |= {key: torch.stack([s[key] for s in readable]) for key in ("image", "draws")}
            batch["image_id"] = torch.tensor([s["image_id"] for s in readable])
        return batch


def write_captions(
    captioner: Captioner,
    data: CaptioningSet,
    folder: Path,
    device: torch.device,
    batch_size: int,
    num_workers: int,
) -> Captions:
    """Caption the images without captions in ``folder``, and write ``captions.json``.

    Args:
        folder: existing output folder.
        batch_size: images per process.

    Returns:
        The captions of this and earlier runs, the same in all processes.

    Raises:
        UserError: the files in ``folder`` are invalid, or it is not writable.
    """
    done = load_captions(folder, data.images)
    todo = [index for index in range(len(data)) if index not in done]
    if done and todo:
        logger.info("resuming after %d of %d captions", len(done), len(data))
    assigned = todo[rank() :: world_size()]
    batches = [
        [(data.position(index), index) for index in assigned[first : first + batch_size]]
        for first in range(0, len(assigned), batch_size)
    ]
    captions, partial = Captions(done), folder / PARTIAL_OF_RANK.format(rank())
    captioner.to(device)
    with progress_bar(len(assigned), "image", "captions") as bar:
        for batch in listed_loader(data, batches, num_workers):
            captions.unreadable |= batch["problems"]
            written = caption_batch(captioner, batch, device)
            with _report_os_errors(partial), open_append(partial) as file:
                file.writelines(_to_lines(written))
            captions.written |= written
            captions.fresh += len(written)
            bar.update(len(written) + len(batch["problems"]))
    captions = _merge(all_gather_object(captions))
    if rank() == 0 and captions.written:
        write_results(folder, data.images, captions)
    synchronize()
    return captions


def caption_batch(captioner: Captioner, batch: Batch, device: torch.device) -> dict[int, str]:
    """Return index -> caption of the readable images of a batch."""
    if "image" not in batch:
        return {}
    images = batch["image"].to(device, non_blocking=True)
    is_sampled = isinstance(captioner.model.decoder, NucleusSampling)
    captions = captioner(images, batch["draws"].to(device) if is_sampled else None)
    return dict(zip(batch["image_id"].tolist(), captions, strict=True))


def _merge(parts: Iterable[Captions]) -> Captions:
    """Merge the captions of all processes."""
    merged = Captions()
    for part in parts:
        merged.written |= part.written
        merged.unreadable |= part.unreadable
        merged.fresh += part.fresh
    merged.written = dict(sorted(merged.written.items()))
    merged.unreadable = dict(sorted(merged.unreadable.items()))
    return merged


# Files -------------------------------------------------------------------------------------------


@contextmanager
def _report_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read or written ({error.strerror or error}); fix this and rerun "
            "with --resume",
            code="captioning.file_error",
        ) from error


def load_captions(folder: Path, images: CaptioningImages) -> dict[int, str]:
    """Load the captions of earlier runs in every process, and merge their partial files.

    Raises:
        UserError: ``captions.json`` is invalid.
    """
    done: dict[int, str] = {}
    if rank() == 0:
        with _report_os_errors(folder / PARTIAL):
            if (folder / RESULTS).is_file():
                done |= read_results(folder / RESULTS, images)
            parts = list_partial_files(folder)
            for path in parts:
                done |= _read_lines(path, len(images))
            if parts:
                text = "".join(_to_lines(done))
                replace_file(folder / PARTIAL, lambda file: file.write(text.encode()))
            for path in parts:
                if path.name != PARTIAL:
                    path.unlink()
    return all_gather_object(done)[0]


def _to_lines(captions: dict[int, str]) -> list[str]:
    return [json.dumps([index, caption]) + "\n" for index, caption in captions.items()]


def list_partial_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if PARTIAL_PATTERN.fullmatch(path.name))


def _read_lines(path: Path, images: int) -> dict[int, str]:
    """Read the lines that ``_to_lines`` has written, and skip any other."""
    captions = {}
    for _, content in read_json_lines(path):
        match content:
            case [int(index), str(caption)] if 0 <= index < images:
                captions[index] = caption
    return captions


def write_results(folder: Path, images: CaptioningImages, captions: Captions) -> None:
    """Write ``captions.json`` in COCO's result format, and delete the partial files.

    Raises:
        UserError: it cannot be written.
    """
    rows = [
        {"image_id": images.ids[index], "caption": caption}
        for index, caption in captions.written.items()
    ]
    text = json.dumps(rows, indent=0) + "\n"  # ASCII: file names may not be valid Unicode
    with _report_os_errors(folder / RESULTS):
        replace_file(folder / RESULTS, lambda file: file.write(text.encode()))
        for path in list_partial_files(folder):
            path.unlink()


def read_results(path: Path, images: CaptioningImages) -> dict[int, str]:
    """Read a ``captions.json`` of these images as index -> caption.

    Raises:
        UserError: it is invalid, or contains other images.
    """
    indices = {image_id: index for index, image_id in enumerate(images.ids)}
    try:
        rows = parse_json(read_file(path))
        captions = {indices[row["image_id"]]: row["caption"] for row in rows}
        if not all(isinstance(caption, str) for caption in captions.values()):
            raise TypeError("a caption is not a string")
        return captions
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a list of captions of these images ({error!r}); restart with "
            "--overwrite",
            code="captioning.invalid_results",
        ) from error

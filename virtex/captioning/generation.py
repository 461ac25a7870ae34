"""Captions of many pictures: each once over all processes, kept as they come, resumed.

What is done lies in ``captions.partial*.jsonl``, a line a picture, until ``captions.json`` is
whole. A caption depends on its picture (where words are drawn, on its id) and the seed, neither on
the other pictures nor on batches and processes.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virtex.captioning.captioner import Captioner
from virtex.captioning.pictures import Pictures
from virtex.data.loading import Batch, SeededSet, listed_loader
from virtex.data.transforms import decode_image
from virtex.engine.distributed import all_gather_object, rank, synchronize, world_size
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.files import replace_file
from virtex.pretraining.models.decoding import NucleusSampling

logger = logging.getLogger(__name__)

RESULTS = "captions.json"
DONE = "captions.partial.jsonl"  # by runs before this one, all processes together
DONE_BY = "captions.partial.rank{}.jsonl"
PARTIAL = "captions.partial*.jsonl"
LONGEST = 100  # times the shorter side


@dataclass
class Captions:
    """What came of the pictures.

    Attributes:
        written: index of a picture -> its caption, ascending.
        unreadable: index of a picture -> why it cannot be read.
        fresh: how many were captioned now.
    """

    written: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    fresh: int = 0


class PictureSet(SeededSet):
    """Pictures as a captioner takes them; those that do not decode are told, not raised.

    A sample holds ``image_id``, the index of the picture, and either ``image`` (3, size, size)
    float32 with ``draws`` (steps,), or ``problem``.
    """

    def __init__(
        self,
        pictures: Pictures,
        transform: Callable[[Tensor], tuple[Tensor, str]],
        seed: int,
        steps: int,
    ):
        """
        Args:
            transform: maps (3, height, width) uint8 to (3, size, size) float32.
            steps: random numbers that each picture gets.
        """
        super().__init__(seed, training=False)
        self.pictures, self.transform, self.steps = pictures, transform, steps

    def __len__(self) -> int:
        return len(self.pictures)

    def position(self, index: int) -> int:
        """What stands for a picture where its random numbers are drawn: the same in any company."""
        digest = hashlib.sha256(ascii(self.pictures.ids[index]).encode())
        return int.from_bytes(digest.digest()[:6], "little")

    def sample(self, index: int) -> dict[str, Any]:
        draws = torch.rand(self.steps)  # of the generator that the seed and the position have set
        try:
            image = decode_image(self.pictures.path(index))
            require_shape(image, self.pictures.path(index))
            image, _ = self.transform(image)
        except UserError as error:
            return {"image_id": index, "problem": str(error)}
        return {"image_id": index, "image": image, "draws": draws}

    def batch(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns:
            ``problems``, index -> reason; of the other samples, if there are any, ``image``
            (batch, 3, size, size), ``draws`` (batch, steps), ``image_id`` (batch,).
        """
        problems = {s["image_id"]: s["problem"] for s in samples if "problem" in s}
        sound = [sample for sample in samples if "image" in sample]
        batch: dict[str, Any] = {"problems": problems}
        if sound:
            batch |= {key: torch.stack([s[key] for s in sound]) for key in ("image", "draws")}
            batch["image_id"] = torch.tensor([s["image_id"] for s in sound])
        return batch


def require_shape(image: Tensor, path: Path) -> None:
    """A line is no picture: its longer side would have millions of pixels once it is resized.

    Raises:
        UserError: it is one.
    """
    height, width = image.shape[-2:]
    if max(height, width) > LONGEST * min(height, width):
        raise UserError(
            f"the image {path} is {width} x {height} pixels, a line that cannot be resized; leave "
            "it out"
        )


def write_captions(
    captioner: Captioner,
    data: PictureSet,
    folder: Path,
    device: torch.device,
    batch_size: int,
    num_workers: int,
) -> Captions:
    """Caption the pictures that ``folder`` holds no captions of yet.

    Args:
        folder: is there; ``captions.json`` in it is whole in the end, if any picture can be read.
        batch_size: pictures at once in each process.

    Returns:
        those of before and of now, the same in all processes.

    Raises:
        UserError: what is in ``folder`` is broken, or nothing can be written there.
    """
    pictures = data.pictures
    done = gather_done(folder, pictures)
    todo = [index for index in range(len(pictures)) if index not in done]
    if done and todo:
        logger.info("going on after %d captions of %d", len(done), len(pictures))
    mine = todo[rank() :: world_size()]
    batches = [
        [(data.position(index), index) for index in mine[first : first + batch_size]]
        for first in range(0, len(mine), batch_size)
    ]
    captions = Captions(done)
    captioner.to(device)
    with (
        progress_bar(len(mine), "picture", "captions") as bar,
        Keeping(folder / DONE_BY.format(rank())) as keeping,
    ):
        for batch in listed_loader(data, batches, num_workers):
            captions.unreadable |= batch["problems"]
            found = caption_batch(captioner, batch, device)
            keeping.add(found)
            captions.written |= found
            captions.fresh += len(found)
            bar.update(len(found) + len(batch["problems"]))
    captions = together(all_gather_object(captions))
    if rank() == 0 and captions.written:
        write_results(folder, pictures, captions)
    synchronize()
    return captions


def caption_batch(captioner: Captioner, batch: Batch, device: torch.device) -> dict[int, str]:
    """Index -> caption of the readable pictures of a batch."""
    if "image" not in batch:
        return {}
    images = batch["image"].to(device, non_blocking=True)
    sampled = isinstance(captioner.model.decoder, NucleusSampling)
    captions = captioner(images, batch["draws"].to(device) if sampled else None)
    return dict(zip(batch["image_id"].tolist(), captions, strict=True))


def together(parts: Iterable[Captions]) -> Captions:
    """What all processes have done."""
    whole = Captions()
    for part in parts:
        whole.written |= part.written
        whole.unreadable |= part.unreadable
        whole.fresh += part.fresh
    whole.written = dict(sorted(whole.written.items()))
    whole.unreadable = dict(sorted(whole.unreadable.items()))
    return whole


# What is kept ------------------------------------------------------------------------------------


class Keeping:
    """Puts captions to the end of a file at once, so that a killed run goes on after them."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Keeping":
        with told(self.path):
            self.file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, captions: dict[int, str]) -> None:
        with told(self.path):
            self.file.writelines(lines_of(captions))
            self.file.flush()


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """What keeps ``path`` from being read or written becomes a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read or written: {error.strerror or error}; fix that and --resume"
        ) from error


def gather_done(folder: Path, pictures: Pictures) -> dict[int, str]:
    """What runs before this one have written, in every process; one file of it is left.

    Raises:
        UserError: ``captions.json`` is broken.
    """
    done: dict[int, str] = {}
    if rank() == 0:
        with told(folder / PARTIAL):
            if (folder / RESULTS).is_file():
                done |= read_results(folder / RESULTS, pictures)
            parts = sorted(folder.glob(PARTIAL))
            for path in parts:
                done |= dict(read_lines(path))
            if parts:
                text = "".join(lines_of(done))
                replace_file(folder / DONE, lambda file: file.write(text.encode()))
            for path in parts:
                if path.name != DONE:
                    path.unlink()
    return all_gather_object(done)[0]


def lines_of(captions: dict[int, str]) -> Iterator[str]:
    for index, caption in captions.items():
        yield json.dumps([index, caption]) + "\n"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """What a file of lines holds, up to one that a killed process left unfinished."""
    for line in path.read_bytes().splitlines():
        try:
            index, caption = json.loads(line)
        except ValueError:
            return
        yield index, caption


def write_results(folder: Path, pictures: Pictures, captions: Captions) -> None:
    """``captions.json``, in COCO's result format; what was kept until then is dropped.

    Raises:
        UserError: it cannot be written.
    """
    rows = [
        {"image_id": pictures.ids[index], "caption": caption}
        for index, caption in captions.written.items()
    ]
    text = json.dumps(rows, indent=0) + "\n"  # ASCII: a file name may hold what is no character
    with told(folder / RESULTS):
        replace_file(folder / RESULTS, lambda file: file.write(text.encode()))
        for path in folder.glob(PARTIAL):
            path.unlink()


def read_results(path: Path, pictures: Pictures) -> dict[int, str]:
    """Index -> caption of a ``captions.json`` of these pictures.

    Raises:
        UserError: it is broken, or of other pictures.
    """
    places = {name: index for index, name in enumerate(pictures.ids)}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {places[row["image_id"]]: row["caption"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is broken, or of other pictures ({error!r}); start anew with --overwrite"
        ) from error

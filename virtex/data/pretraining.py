"""The data of the pretraining tasks: samples, batches, and loaders that can be resumed.

A sample and its augmentation are a function of (seed, position in the stream): no process,
worker, epoch or resumed run draws another's random numbers, and none draws its own twice.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from virtex.data.captions import CaptionedImage, LabelledImage, read_captions, read_labels
from virtex.data.streams import Key, TrainingStream, subset, validation_batches
from virtex.data.targets import CAPTION_TASKS, TextOptions
from virtex.data.tokenizer import Tokenizer
from virtex.data.transforms import CaptionTransform, build_transform, decode_image
from virtex.errors import UserError
from virtex.training.randomness import seed_everything

logger = logging.getLogger(__name__)

Item = CaptionedImage | LabelledImage
Sample = dict[str, Tensor | int | list[int]]
Batch = dict[str, Tensor]


# Samples -----------------------------------------------------------------------------------------


class PretrainingSet(Dataset[Sample | UserError]):
    """Maps (position in the stream, index of the image) to a sample of a task.

    A sample holds ``image`` (3, size, size) float32, ``image_id``, and what the task makes of
    the caption (``CAPTION_TASKS``), or ``labels`` where there is none. In training a caption is
    drawn; validation always takes the first, and its masks depend on the index alone. Whatever
    is drawn comes from (seed, position).

    Attributes:
        items: the images, and what they are paired with.
        label_names: the name of each label of multilabel_classification, else empty.
    """

    def __init__(
        self,
        items: Sequence[Item],
        task: str,
        transform: CaptionTransform,
        text: TextOptions | None = None,
        seed: int = 0,
        training: bool = True,
        skip_bad_images: bool = False,
        label_names: Sequence[str] = (),
    ):
        """
        Args:
            text: not needed for multilabel_classification.
            skip_bad_images: in training, put the next image in the place of one that cannot be
                read, with a warning.
        """
        self.items, self.task, self.transform, self.text = list(items), task, transform, text
        self.seed, self.training = seed, training
        self.skip_bad_images = skip_bad_images and training
        self.label_names = list(label_names)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample | UserError:
        """The sample, or as a value what keeps it from being one.

        An exception in a worker process would arrive as text; a value arrives as it is.
        """
        position, index = key
        for attempt in range(len(self.items)):
            seed_everything("sample", self.seed, position, attempt)
            try:
                return self.sample(self.items[(index + attempt) % len(self.items)])
            except UserError as error:
                if not self.skip_bad_images:
                    return error
                logger.warning("left out: %s", error)
        return UserError("not one image of the training set can be read; restore the images")

    def sample(self, item: Item) -> Sample:
        """An image with its targets; draws from torch's generator.

        Raises:
            UserError: the image cannot be read.
        """
        image = decode_image(item.file)
        caption = ""
        if isinstance(item, CaptionedImage):
            drawn = torch.randint(len(item.captions), ()).item() if self.training else 0
            caption = item.captions[drawn]
        image, caption = self.transform(image, caption)
        if isinstance(item, CaptionedImage):
            targets = CAPTION_TASKS[self.task](caption, self.text)
        else:
            targets = {"labels": list(item.labels)}
        return {"image": image, "image_id": item.image_id, **targets}


def build_pretraining_set(
    config: CfgNode,
    split: str,
    tokenizer: Tokenizer | None,
    seed: int,
    skip_bad_images: bool = False,
) -> PretrainingSet:
    """The data of the task ``MODEL.NAME``, as the section ``DATA`` says.

    ``DATA.USE_SINGLE_CAPTION`` and ``DATA.USE_PERCENTAGE`` apply to training alone.

    Args:
        split: "train" or "val".
        tokenizer: None for multilabel_classification.
        skip_bad_images: train without images that are missing or broken; validation never is.

    Raises:
        UserError: data are missing or broken, a transform is unknown, or the vocabulary (or the
            categories) does not fit ``DATA``.
    """
    data, training = config.DATA, split == "train"
    root, skip = Path(data.ROOT), skip_bad_images and training
    names = data.IMAGE_TRANSFORM_TRAIN if training else data.IMAGE_TRANSFORM_VAL
    transform = build_transform(names, data.IMAGE_CROP_SIZE)
    text, label_names = None, []
    if config.MODEL.NAME == "multilabel_classification":
        items, label_names = read_labels(root, split, skip)
        _check_categories(len(label_names), data.VOCAB_SIZE, root)
    else:
        _check_vocabulary(tokenizer, data)
        masking = data.MASKED_LM
        text = TextOptions(
            tokenizer,
            data.MAX_CAPTION_LENGTH,
            masking.MASK_PROPORTION,
            masking.MASK_PROBABILITY,
            masking.REPLACE_PROBABILITY,
        )
        items = read_captions(root, split, skip)
        if training and data.USE_SINGLE_CAPTION:
            items = [CaptionedImage(i.image_id, i.file, i.captions[:1]) for i in items]
    if training and data.USE_PERCENTAGE < 100:
        items = [items[index] for index in subset(len(items), data.USE_PERCENTAGE, seed)]
    return PretrainingSet(
        items, config.MODEL.NAME, transform, text, seed, training, skip, label_names
    )


def _check_vocabulary(tokenizer: Tokenizer, data: CfgNode) -> None:
    if len(tokenizer) > data.VOCAB_SIZE:
        raise UserError(
            f"the vocabulary {tokenizer.path} has {len(tokenizer)} tokens, more than "
            f"DATA.VOCAB_SIZE, {data.VOCAB_SIZE}; set DATA.VOCAB_SIZE {len(tokenizer)}, or train "
            f"a vocabulary with --vocab-size {data.VOCAB_SIZE}"
        )
    wanted = {"UNK": tokenizer.pad_id, "SOS": tokenizer.sos_id}
    wanted |= {"EOS": tokenizer.eos_id, "MASK": tokenizer.mask_id}
    for name, number in wanted.items():
        if data[f"{name}_INDEX"] != number:
            raise UserError(
                f"DATA.{name}_INDEX is {data[f'{name}_INDEX']}, but that token of the vocabulary "
                f"{tokenizer.path} has the id {number}; set DATA.{name}_INDEX {number}"
            )


def _check_categories(labels: int, vocab_size: int, root: Path) -> None:
    if labels > vocab_size:
        raise UserError(
            f"{root} has {labels - 1} categories, which with the background do not fit "
            f"DATA.VOCAB_SIZE, {vocab_size}; set DATA.VOCAB_SIZE {labels}"
        )


# Batches -----------------------------------------------------------------------------------------


def collate(samples: Sequence[Sample | UserError]) -> Batch | UserError:
    """A batch of samples, or the first of them that is an error.

    Returns:
        ``image`` (batch, 3, size, size), ``image_id`` (batch,); where the task has them
        ``tokens`` (batch, longest) with ``lengths`` (batch,), and ``labels`` (batch, longest).
        Tokens and labels are padded with 0 at the right.
    """
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "image_id": torch.tensor([sample["image_id"] for sample in samples]),
    }
    for key in ("tokens", "labels"):
        if key in samples[0]:
            rows = [torch.tensor(sample[key], dtype=torch.long) for sample in samples]
            batch[key] = pad_sequence(rows, batch_first=True, padding_value=0)
    if "tokens" in batch:
        batch["lengths"] = torch.tensor([len(sample["tokens"]) for sample in samples])
    return batch


def raise_if_unreadable(batch: Batch | UserError) -> Batch:
    """``batch``, unless it is an error: that is raised."""
    if isinstance(batch, UserError):
        raise batch
    return batch


class ReadableBatches:
    """The batches of a loader; at one that is an error, UserError is raised in this process."""

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return map(raise_if_unreadable, self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def training_loader(
    dataset: PretrainingSet,
    batch_size: int,
    start: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Endless batches of this process, from iteration ``start`` on.

    Args:
        batch_size: of all processes together.

    Raises:
        UserError: here, if the processes cannot share a batch evenly; at the batch that holds
            an image which cannot be read.
    """
    stream = TrainingStream(len(dataset), batch_size, seed, rank, world_size, start)
    return iter(ReadableBatches(_loader(dataset, stream, num_workers)))


def validation_loader(
    dataset: PretrainingSet,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> ReadableBatches:
    """This process's share of the images, each exactly once over all processes.

    Processes may get different numbers of batches, and none at all of a small set.

    Args:
        batch_size: of all processes together.

    Raises:
        UserError: at the batch that holds an image which cannot be read.
    """
    batches = validation_batches(len(dataset), batch_size, rank, world_size)
    return ReadableBatches(_loader(dataset, batches, num_workers))


def _loader(
    dataset: PretrainingSet, batches: TrainingStream | list[list[Key]], num_workers: int
) -> DataLoader:
    # Workers need no seeds of their own, for every sample sets its seed; and torch keeps each of
    # them to one thread.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )

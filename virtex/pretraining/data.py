"""Datasets of the pretraining tasks: images with targets made from their captions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch.nn.utils.rnn import pad_sequence

from virtex.data.captions import CaptionedImage, LabeledImage, read_captions, read_labels
from virtex.data.decoding import decode_image
from virtex.data.loading import Batch, Sample, SeededSet
from virtex.data.streams import subset
from virtex.data.targets import CAPTION_TASKS, TextOptions
from virtex.data.tokenizer import Tokenizer
from virtex.data.transforms import CaptionTransform, build_transform
from virtex.errors import UserError
from virtex.pretraining.vocabulary import validate_vocabulary

Item = CaptionedImage | LabeledImage


class PretrainingSet(SeededSet):
    """Maps (position in the stream, index of the image) to a sample of a task.

    A sample contains ``image`` (3, size, size) float32, ``image_id``, and the targets that the task
    derives from the caption (``CAPTION_TASKS``) or, for multilabel_classification, ``labels``.
    Training draws one caption per image; validation uses the first, and its masks depend on the
    index only. All draws depend on (seed, position).

    Attributes:
        items: the images with their captions or labels.
        label_names: the name of each label, for multilabel_classification.
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
            seed, training, skip_bad_images: see ``SeededSet``.
        """
        super().__init__(seed, training, skip_bad_images)
        self.items, self.task, self.transform, self.text = list(items), task, transform, text
        self.label_names = list(label_names)

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """Load an image with its targets, drawing from torch's generator.

        Raises:
            UserError: the image cannot be read.
        """
        item = self.items[index]
        image = decode_image(item.file)
        caption = ""
        if isinstance(item, CaptionedImage):
            drawn = int(torch.randint(len(item.captions), ())) if self.training else 0
            caption = item.captions[drawn]
        image, caption = self.transform(image, caption)
        if isinstance(item, CaptionedImage):
            assert self.text is not None  # required for captions
            targets = CAPTION_TASKS[self.task](caption, self.text)
        else:
            targets = {"labels": list(item.labels)}
        return {"image": image, "image_id": item.image_id, **targets}

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Returns:
            ``image`` (batch, 3, size, size), ``image_id`` (batch,); depending on the task
            ``tokens`` (batch, longest) with ``lengths`` (batch,), and ``labels`` (batch,
            longest). Tokens and labels are padded with 0 on the right.
        """
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


def build_pretraining_set(
    config: CfgNode,
    split: str,
    tokenizer: Tokenizer | None,
    seed: int,
    skip_bad_images: bool = False,
) -> PretrainingSet:
    """Build the dataset of a config.

    ``DATA.USE_SINGLE_CAPTION`` and ``DATA.USE_PERCENTAGE`` apply to training only.

    Args:
        split: "train" or "val".
        tokenizer: None for multilabel_classification.
        skip_bad_images: skip missing or corrupt images in training, never in validation.

    Raises:
        UserError: data are missing or corrupt, a transform is unknown, or the vocabulary or the
            categories do not match ``DATA``.
    """
    data, training = config.DATA, split == "train"
    root, skip = Path(data.ROOT), skip_bad_images and training
    names = data.IMAGE_TRANSFORM_TRAIN if training else data.IMAGE_TRANSFORM_VAL
    transform = build_transform(names, data.IMAGE_CROP_SIZE)
    items: Sequence[Item]
    text: TextOptions | None = None
    label_names: list[str] = []
    if config.MODEL.NAME == "multilabel_classification":
        items, label_names = read_labels(root, split, skip)
        validate_categories(len(label_names), data.VOCAB_SIZE, root)
    else:
        assert tokenizer is not None
        validate_vocabulary(tokenizer, data)
        masking = data.MASKED_LM
        text = TextOptions(
            tokenizer,
            data.MAX_CAPTION_LENGTH,
            masking.MASK_PROPORTION,
            masking.MASK_PROBABILITY,
            masking.REPLACE_PROBABILITY,
        )
        captioned = read_captions(root, split, skip)
        if training and data.USE_SINGLE_CAPTION:
            captioned = [CaptionedImage(i.image_id, i.file, i.captions[:1]) for i in captioned]
        items = captioned
    if training and data.USE_PERCENTAGE < 100:
        items = [items[index] for index in subset(len(items), data.USE_PERCENTAGE, seed)]
    return PretrainingSet(
        items, config.MODEL.NAME, transform, text, seed, training, skip, label_names
    )


def validate_categories(labels: int, vocab_size: int, root: Path) -> None:
    if labels > vocab_size:
        raise UserError(
            f"DATA.VOCAB_SIZE must be at least {labels}, the categories of {root} and the "
            f"background, not {vocab_size}; set DATA.VOCAB_SIZE {labels}",
            code="config.invalid_value",
        )

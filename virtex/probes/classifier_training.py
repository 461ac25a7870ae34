"""Train a linear classifier on a backbone, frozen (linear probe) or not (fine-tuning)."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from virtex.backbones.registry import check_input_size
from virtex.checkpoints.backbone import Backbone
from virtex.checkpoints.inputs import saved_input
from virtex.data.classification import (
    ClassificationSet,
    evaluation_transform,
    resampling_of,
    training_transform,
)
from virtex.data.image_sets import ImageSet
from virtex.data.loading import Batch, training_loader, validation_loader
from virtex.engine.distributed import rank, world_size
from virtex.engine.frozen import tensors_sha256, verify_unchanged
from virtex.engine.loop import LoopSettings, TrainingLoop, amp_dtype, to_device
from virtex.engine.losses import Losses, LossSum
from virtex.engine.progress import MetricsWriter
from virtex.engine.randomness import seed_everything
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.optim import build_optimizer, build_schedule
from virtex.probes.accuracy import Accuracy
from virtex.probes.pooled import PooledBackbone
from virtex.records import Deviation

logger = logging.getLogger(__name__)

HEAD_STD = 0.01  # of the head's initial weights; its bias starts at 0, as in VirTex and MoCo


class Classifier(nn.Module):
    """A backbone and a linear layer.

    Its checkpoint has the tensor names of pretraining, so that the same format reads it.
    """

    def __init__(self, visual: PooledBackbone, classes: int):
        super().__init__()
        self.visual, self.head = visual, nn.Linear(visual.feature_size, classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (batch, classes) of images (batch, 3, height, width), uint8."""
        return self.head(self.visual(images))

    def forward(self, batch: Batch) -> Losses:
        """Return the cross entropy summed over the images.

        Args:
            batch: ``image`` (batch, 3, height, width) uint8, ``label`` (batch,) int64.
        """
        labels = batch["label"]
        total = F.cross_entropy(self.logits(batch["image"]), labels, reduction="sum")
        return {"cross_entropy": LossSum(total, torch.tensor(len(labels), device=labels.device))}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training run that are not part of its protocol.

    Attributes:
        folder: existing output folder of checkpoints, metrics and ``per_class.csv``.
        checkpoint_every: iterations between checkpoints, each followed by a validation; the last
            iteration always has both.
        resume: continue from the latest checkpoint in ``folder``.
        skip_bad_images: replace training images that cannot be decoded.
    """

    folder: Path
    device: torch.device
    seed: int = 0
    num_workers: int = 0
    checkpoint_every: int = 5000
    log_every: int = 20
    resume: bool = False
    skip_bad_images: bool = False


class ClassifierTraining:
    """Train a linear layer, and the backbone unless it is frozen; evaluate the last iteration.

    With ``MODEL.FROZEN``, the backbone stays in eval mode without gradients, and its tensors are
    hashed before and after.

    Attributes:
        images, report: see ``virtex.evaluator.Evaluator``.
    """

    def __init__(self, train: ImageSet, val: ImageSet, settings: CfgNode, options: TrainingOptions):
        """
        Args:
            settings: of an ``imagenet_linear``, ``inaturalist_finetune`` or ``semi_supervised``
                protocol, see ``virtex.probes.settings.load_settings``.
        """
        self.images = {train.name: train, val.name: val}
        self.train, self.val, self.options = train, val, options
        self.settings = with_iterations(settings, len(train))
        self.report = Report()
        batches, size = iterations_per_epoch(settings, len(train)), settings.OPTIM.BATCH_SIZE
        excess = 100 * (batches * size / len(train) - 1)
        if excess > 1:
            self.report.notes.append(
                f"an epoch is {batches} full batches of {size}, {excess:.0f} % more than the "
                f"{len(train)} images"
            )
        precision = amp_dtype(self.settings, options.device)
        self.report.setup = {
            "precision": str(precision or torch.float32).removeprefix("torch."),
            "images_per_process": self.settings.OPTIM.BATCH_SIZE // world_size(),
        }
        if self.settings.AMP and precision is None:
            self.report.deviations.append(Deviation("AMP", True, False, "device"))

    def check(self, backbone: Backbone) -> None:
        """See ``virtex.evaluator.Evaluator``."""
        size = self.settings.DATA.IMAGE_CROP_SIZE
        check_input_size(backbone.arch, size, size)

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """Return ``top1``, ``top5`` and ``mean_per_class`` of the validation images in percent.

        The reported time includes validations and checkpoints.

        Raises:
            UserError: an image cannot be read, the loss is not finite, the memory is exhausted,
                or the frozen backbone changed.
        """
        frozen = self.settings.MODEL.FROZEN
        seed_everything("head", self.options.seed)
        visual = PooledBackbone(backbone, frozen, self.settings.MODEL.REPRESENTATION)
        self.report.details["representation"] = visual.describe()
        model = Classifier(visual, len(self.train.class_names)).to(self.options.device)
        sha256 = tensors_sha256(visual.cnn)
        loop = self.loop(model, backbone)
        if self.options.resume and loop.resume():
            logger.info("resuming after iteration %d", loop.done)
        metrics = loop.run(self.batches(loop.done))
        if frozen:
            self.report.verification["backbone"] = verify_unchanged(visual.cnn, sha256)
        seconds, optim = loop.stopwatch.seconds(), self.settings.OPTIM
        images = optim.NUM_ITERATIONS * optim.BATCH_SIZE
        self.report.timing |= {
            "train_seconds": seconds,
            "train_images_per_second": images / max(seconds, 1e-9),
        }
        return {name.removeprefix("val/"): value for name, value in metrics.items()}

    def loop(self, model: Classifier, backbone: Backbone) -> TrainingLoop:
        """Build the training loop of the settings."""
        torch.backends.cudnn.benchmark = True  # all batches have the same size
        settings, optim, options = self.settings, self.settings.OPTIM, self.options
        optimizer = build_optimizer(settings, model)
        return TrainingLoop(
            model,
            optimizer,
            build_schedule(settings, optimizer),
            LoopSettings(
                iterations=optim.NUM_ITERATIONS,
                batch_size=optim.BATCH_SIZE,
                seed=options.seed,
                clip_norm=optim.CLIP_GRAD_NORM,
                amp_dtype=amp_dtype(settings, options.device),
                checkpoint_every=options.checkpoint_every,
                log_every=options.log_every,
                remedy="lower OPTIM.LR and OPTIM.CNN_LR and restart with --overwrite",
            ),
            options.folder,
            evaluate=partial(self.validate, model),
            saved_with=saved_input(backbone),
        )

    def batches(self, done: int) -> Iterator[Batch]:
        """Iterate endlessly over this process's training batches, after ``done`` iterations."""
        data, options = self.settings.DATA, self.options
        samples = ClassificationSet(
            self.train,
            training_transform(
                data.IMAGE_CROP_SIZE,
                tuple(data.CROP_SCALE),
                tuple(data.CROP_RATIO),
                resampling_of(data),
            ),
            options.seed,
            skip_bad_images=options.skip_bad_images,
        )
        batch_size = self.settings.OPTIM.BATCH_SIZE
        return training_loader(
            samples, batch_size, done, options.seed, rank(), world_size(), options.num_workers
        )

    def validate(
        self, model: Classifier, iteration: int, writer: MetricsWriter | None
    ) -> dict[str, float]:
        """Return the metrics, with the prefix ``val/``, over each validation image exactly once."""
        data, options = self.settings.DATA, self.options
        transform = evaluation_transform(
            data.IMAGE_RESIZE_SIZE, data.IMAGE_CROP_SIZE, resampling_of(data)
        )
        samples = ClassificationSet(self.val, transform, training=False)
        batch_size = self.settings.OPTIM.BATCH_SIZE
        accuracy = Accuracy(len(self.val.class_names), options.device)
        with torch.inference_mode():
            for batch in validation_loader(
                samples, batch_size, rank(), world_size(), options.num_workers
            ):
                batch = to_device(batch, options.device)
                accuracy.update(model.logits(batch["image"]), batch["label"])
        metrics = accuracy.compute()
        if rank() == 0:
            accuracy.write_per_class(options.folder, self.val.class_names)
        logger.info(
            "iteration %d  validation: %s",
            iteration,
            "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()),
        )
        return {f"val/{name}": value for name, value in metrics.items()}


def iterations_per_epoch(settings: CfgNode, images: int) -> int:
    """Return the batches of an epoch, rounded up."""
    return math.ceil(images / settings.OPTIM.BATCH_SIZE)


def with_iterations(settings: CfgNode, images: int) -> CfgNode:
    """Convert epochs to iterations: an epoch is images / batch size, rounded up.

    Returns:
        a copy with ``OPTIM.NUM_ITERATIONS``, ``WARMUP_STEPS`` and ``LR_STEPS``.

    Raises:
        UserError: the warm-up is longer than the training.
    """
    settings = settings.clone()
    settings.defrost()
    optim = settings.OPTIM
    epoch = iterations_per_epoch(settings, images)
    optim.NUM_ITERATIONS = max(round(epoch * optim.NUM_EPOCHS), 1)
    optim.WARMUP_STEPS = round(epoch * optim.WARMUP_EPOCHS)
    optim.LR_STEPS = [round(epoch * step) for step in optim.LR_STEP_EPOCHS]
    if optim.WARMUP_STEPS > optim.NUM_ITERATIONS:
        raise UserError(
            f"OPTIM.WARMUP_EPOCHS must not exceed OPTIM.NUM_EPOCHS ({optim.NUM_EPOCHS}), but is "
            f"{optim.WARMUP_EPOCHS}; lower it",
            code="config.invalid_value",
        )
    settings.freeze()
    return settings

"""Validation during pretraining: losses over the validation set, and sample predictions."""

import logging

import torch
from fvcore.common.config import CfgNode

from virtex.data.loading import Batch, validation_loader
from virtex.data.tokenizer import Tokenizer
from virtex.engine.distributed import rank, world_size
from virtex.engine.loop import RunningSums, to_device
from virtex.engine.progress import MetricsWriter
from virtex.pretraining.data import PretrainingSet
from virtex.pretraining.models.build import PretrainingModel

logger = logging.getLogger(__name__)

NUM_SAMPLES = 8  # predictions logged at each validation


def validate(
    model: PretrainingModel,
    val: PretrainingSet,
    config: CfgNode,
    tokenizer: Tokenizer | None,
    device: torch.device,
    num_workers: int,
    iteration: int,
    writer: MetricsWriter | None,
) -> dict[str, float]:
    """Compute the losses over every validation image once, and log some predictions.

    Args:
        tokenizer: None for multilabel_classification.
        writer: in the main process.

    Returns:
        ``val/loss`` and ``val/<name>``, averaged over the tokens or images of all processes.
    """
    sums, first = RunningSums(device), None
    batches = validation_loader(val, config.OPTIM.BATCH_SIZE, rank(), world_size(), num_workers)
    with torch.inference_mode():
        for batch in batches:
            batch = to_device(batch, device)
            sums.add(model(batch))
            if first is None:
                first = {key: value[:NUM_SAMPLES] for key, value in batch.items()}
        means = sums.means()
        metrics = {"val/loss": sum(means.values())} | {f"val/{k}": v for k, v in means.items()}
        logger.info(
            "validation: %s",
            "  ".join(f"{name.removeprefix('val/')}: {v:.4f}" for name, v in metrics.items()),
        )
        if writer is not None and first is not None:
            lines = describe_samples(model, val, tokenizer, config.MODEL.NAME, first)
            for line in lines:
                logger.info("%s", line)
            writer.text(iteration, "samples", "  \n".join(lines))
    return metrics


def describe_samples(
    model: PretrainingModel,
    val: PretrainingSet,
    tokenizer: Tokenizer | None,
    task: str,
    batch: Batch,
) -> list[str]:
    """Return a line with truth and prediction for each image of a batch."""

    def text(ids: list[int]) -> str:
        if task == "multilabel_classification":
            return ", ".join(val.label_names[i] for i in ids if i < len(val.label_names))
        assert tokenizer is not None  # all other tasks have captions
        if task in ("token_classification", "masked_lm"):
            return " ".join(tokenizer.id_to_piece(i) for i in ids)
        return tokenizer.decode(ids)

    return [
        f"image {int(image)}: {text(truth)}  ->  {text(prediction)}"
        for image, (truth, prediction) in zip(batch["image_id"], model.samples(batch), strict=True)
    ]

"""Run a detector over a test set, each image once, and score what it finds."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from virtex.detectron.loading import raise_if_unreadable, test_batches
from virtex.detectron.scoring import score_detections, write_detections
from virtex.errors import UserError

Metrics = dict[str, float]
DETECTIONS_NAME = "detections_{}.json"


@contextlib.contextmanager
def temporary_files_told() -> Iterator[None]:
    """What keeps a scorer from writing its temporary files becomes a sentence.

    Raises:
        UserError: that sentence.
    """
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "the folder for temporary files"
        if error.filename is not None and not str(error.filename).startswith(folder):
            raise
        raise UserError(
            f"the scorer cannot write to {folder} ({error.strerror}); make room there, or set "
            "TMPDIR to another folder, then go on with --resume"
        ) from error


class InstanceEvaluator(DatasetEvaluator):
    """Collects boxes and masks of all processes and scores them the COCO or LVIS way."""

    def __init__(self, dataset_name: str, masks: bool, output_dir: Path | None = None):
        """
        Args:
            dataset_name: a registered set whose metadata names its ``json_file``.
            masks: whether to score masks too.
            output_dir: where the detections are written in COCO's result format, or None.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.name, self.output_dir = dataset_name, output_dir
        self.annotations, self.style = Path(metadata.json_file), metadata.evaluator_type
        contiguous = metadata.thing_dataset_id_to_contiguous_id
        self.category_ids = {index: key for key, index in contiguous.items()}
        self.kinds = ["bbox", "segm"] if masks else ["bbox"]
        self.reset()

    def reset(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            rows = instances_to_coco_json(output["instances"].to("cpu"), sample["image_id"])
            for row in rows:
                row["category_id"] = self.category_ids[row["category_id"]]
            self.rows += rows

    def evaluate(self) -> Metrics | None:
        """``{"bbox/AP": …, "segm/AP": …}`` in the main process, None in the others."""
        shares = comm.gather(self.rows)
        if not comm.is_main_process():
            return None
        rows = [row for share in shares for row in share]
        if self.output_dir is not None:
            write_detections(self.output_dir / DETECTIONS_NAME.format(self.name), rows)
        with temporary_files_told():
            return score_detections(self.annotations, rows, self.kinds, self.style)


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's VOC evaluator with flat metric names."""

    def evaluate(self) -> Metrics | None:
        with temporary_files_told():
            found = super().evaluate()
        return found and {f"bbox/{name}": float(value) for name, value in found["bbox"].items()}


def build_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> DatasetEvaluator:
    """The evaluator for a registered test set, by its metadata.

    Raises:
        UserError: there is none for this kind of data set.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind in ("coco", "lvis"):
        return InstanceEvaluator(name, cfg.MODEL.MASK_ON, output_dir)
    if kind in ("voc", "pascal_voc"):
        return VOCEvaluator(name)
    raise UserError(f"{name} has evaluator type {kind!r}; coco, lvis and voc can be scored")


def evaluate(
    cfg: CfgNode, model: nn.Module, samples: dict[str, list], output_dir: Path | None
) -> Metrics:
    """Score ``model`` on every test set (empty in processes other than the main one).

    Args:
        samples: test set -> its Detectron2 dicts.
        output_dir: where detections are written, or None.

    Raises:
        UserError: an image cannot be read; a score must cover every image.
    """
    metrics: Metrics = {}
    for name, images in samples.items():
        evaluator = build_evaluator(cfg, name, output_dir)
        run_inference(model, test_batches(cfg, images), evaluator, name)
        found = evaluator.evaluate() or {}
        prefix = "" if len(samples) == 1 else f"{name}/"
        metrics.update({prefix + key: value for key, value in found.items()})
        comm.synchronize()
    return metrics


def run_inference(
    model: nn.Module, batches: Iterable[list], evaluator: DatasetEvaluator, name: str
) -> None:
    """Pass every image to the evaluator, with a progress bar in the main process."""
    evaluator.reset()
    bar = tqdm(batches, desc=f"inference {name}", unit="img", disable=not comm.is_main_process())
    with inference_context(model), torch.no_grad():
        for batch in bar:
            raise_if_unreadable(batch)
            evaluator.process(batch, model(batch))


def test_samples(cfg: CfgNode) -> dict[str, list[dict[str, Any]]]:
    """Every test set's images, read once.

    Raises:
        UserError: a set is unknown or its files cannot be read.
    """
    try:
        return {name: DatasetCatalog.get(name) for name in cfg.DATASETS.TEST}
    except (KeyError, AssertionError, OSError) as error:
        raise UserError(
            f"the test data {', '.join(cfg.DATASETS.TEST)} cannot be had: {error}"
        ) from error

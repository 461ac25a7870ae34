"""Run a detector over the test sets and score its detections."""

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

from virtex.data.annotations import read_json
from virtex.detectron.custom_data import annotation_file, coco_content
from virtex.detectron.ground_truth import scorable_json
from virtex.detectron.loading import raise_if_error, test_batches
from virtex.detectron.scoring import score_detections, write_detections
from virtex.errors import UserError

Metrics = dict[str, float]
DETECTIONS_NAME = "detections_{}.json"


@contextlib.contextmanager
def temporary_file_errors() -> Iterator[None]:
    """Raise a ``UserError`` if a scorer cannot write its temporary files."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "the temporary folder"
        if error.filename is not None and not str(error.filename).startswith(folder):
            raise
        raise UserError(
            f"the scorer cannot write to {folder} ({error.strerror}); free space there or set "
            "TMPDIR to another folder, then use --resume",
            code="environment.temporary_files",
        ) from error


class InstanceEvaluator(DatasetEvaluator):
    """Collects boxes and masks of all processes and scores them as COCO or LVIS."""

    def __init__(self, dataset_name: str, masks: bool, output_dir: Path | None = None):
        """
        Args:
            dataset_name: a registered set; scored against the ``json_file`` of its metadata if
                there is one, else against its samples.
            masks: also score masks.
            output_dir: write the detections there in COCO's result format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.name, self.output_dir = dataset_name, output_dir
        self.style = metadata.get("evaluator_type") or "coco"
        self.annotations: Path | dict[str, Any] = annotation_file(dataset_name) or coco_content(
            dataset_name, DatasetCatalog.get(dataset_name)
        )
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self.category_ids = {index: key for key, index in contiguous.items()}
        self.kinds = ["bbox", "segm"] if masks else ["bbox"]
        self.reset()

    def reset(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            rows = instances_to_coco_json(output["instances"].to("cpu"), int(sample["image_id"]))
            for row in rows:
                index = row["category_id"]
                row["category_id"] = self.category_ids.get(index, index)
            self.rows += rows

    def evaluate(self) -> Metrics | None:
        """Return ``{"bbox/AP": …, "segm/AP": …}`` in the main process, None in the others."""
        gathered = comm.gather(self.rows)
        if not comm.is_main_process():
            return None
        rows = [row for part in gathered for row in part]
        if self.output_dir is not None:
            write_detections(self.output_dir / DETECTIONS_NAME.format(self.name), rows)
        with temporary_file_errors():
            truth = self.annotations
            content = truth if isinstance(truth, dict) else read_json(truth, "annotations")
            annotations = scorable_json(content, self.style)
            return score_detections(annotations, rows, self.kinds, self.style)


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's VOC evaluator with flat metric names."""

    def evaluate(self) -> Metrics | None:
        with temporary_file_errors():
            found = super().evaluate()
        return found and {f"bbox/{name}": float(value) for name, value in found["bbox"].items()}


def build_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> DatasetEvaluator:
    """Build the evaluator that the metadata of a registered test set names.

    Raises:
        UserError: its ``evaluator_type`` is not supported.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind in (None, "coco") or (kind == "lvis" and annotation_file(name)):
        return InstanceEvaluator(name, cfg.MODEL.MASK_ON, output_dir)
    if kind in ("voc", "pascal_voc"):
        return VOCEvaluator(name)
    raise UserError(
        f"expected the evaluator_type coco, lvis or pascal_voc in the metadata of {name}, not "
        f"{kind!r}",
        code="detection.evaluator_type",
    )


def evaluate(
    cfg: CfgNode, model: nn.Module, samples: dict[str, list], output_dir: Path | None
) -> Metrics:
    """Score ``model`` on every test set.

    Args:
        samples: test set -> its Detectron2 dicts.
        output_dir: write the detections there.

    Returns:
        metric -> percent in the main process, an empty dict in the others. With several test
        sets, each metric is prefixed with the name of its set.

    Raises:
        UserError: an image cannot be read (scores always cover the whole set).
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
    """Pass the model's output for every image to the evaluator."""
    evaluator.reset()
    bar = tqdm(batches, desc=f"inference {name}", unit="img", disable=not comm.is_main_process())
    with inference_context(model), torch.no_grad():
        for batch in bar:
            raise_if_error(batch)
            evaluator.process(batch, model(batch))

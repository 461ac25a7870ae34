"""Run a detector over the test sets and score its detections."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    pascal_voc_evaluation,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from virtex.detectron.cityscapes import CityscapesEvaluator
from virtex.detectron.custom_data import loaded_set
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
            dataset_name: a test set, which has been read.
            masks: also score masks.
            output_dir: write the detections there in COCO's result format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.name, self.output_dir = dataset_name, output_dir
        self.style = metadata.get("evaluator_type") or "coco"
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
            truth = loaded_set(self.name).ground_truth
            assert isinstance(truth, bytes)
            return score_detections(truth, rows, self.kinds, self.style)


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's VOC evaluator on annotations that have been checked; flat metric names.

    Detectron2 would read the files itself, and fail on missing fields and blank lines.
    """

    def evaluate(self) -> Metrics | None:
        truth = loaded_set(self._dataset_name).ground_truth
        assert isinstance(truth, dict)
        parse = pascal_voc_evaluation.parse_rec
        with temporary_file_errors(), tempfile.TemporaryDirectory(prefix="virtex-voc-") as folder:
            self._image_set_path = os.path.join(folder, "images.txt")
            Path(self._image_set_path).write_text("\n".join(truth), encoding="utf-8")
            self._anno_file_template = "{}"  # parse_rec gets the name of the image
            try:
                pascal_voc_evaluation.parse_rec = truth.__getitem__
                found = super().evaluate()
            finally:
                pascal_voc_evaluation.parse_rec = parse
        return found and {f"bbox/{name}": float(value) for name, value in found["bbox"].items()}


def instance_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> InstanceEvaluator:
    return InstanceEvaluator(name, cfg.MODEL.MASK_ON, output_dir)


def cityscapes_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> CityscapesEvaluator:
    if not cfg.MODEL.MASK_ON or cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        raise UserError(
            "Cityscapes is scored by masks, but this detector predicts only boxes; use one with "
            "MODEL.MASK_ON True",
            code="config.invalid_value",
        )
    path = output_dir and output_dir / DETECTIONS_NAME.format(name)
    return CityscapesEvaluator(name, path)


def voc_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> VOCEvaluator:
    return VOCEvaluator(name)


# ``evaluator_type`` of a set -> (its evaluator, what it reads from the metadata)
EVALUATORS: dict[str | None, tuple[Callable[..., DatasetEvaluator], str]] = {
    None: (instance_evaluator, ""),
    "coco": (instance_evaluator, ""),
    "cityscapes_instance": (cityscapes_evaluator, "gt_dir"),
    "lvis": (instance_evaluator, "json_file"),
    "voc": (voc_evaluator, "dirname"),
    "pascal_voc": (voc_evaluator, "dirname"),
}


def build_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> DatasetEvaluator:
    """Build the evaluator that the metadata of a registered test set names.

    Raises:
        UserError: its ``evaluator_type`` is not supported, or its files are not named.
    """
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type")
    build, field = EVALUATORS.get(kind, (None, ""))
    if build is None or (field and not metadata.get(field)):
        kinds = ", ".join(filter(None, EVALUATORS))
        raise UserError(
            f"expected one of the evaluator_types {kinds}, and the files that it reads, in the "
            f"metadata of {name}, not {kind!r}",
            code="detection.evaluator_type",
        )
    return build(cfg, name, output_dir)


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

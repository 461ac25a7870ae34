"""Run a detector over the test sets and score its detections."""

import contextlib
import csv
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
from virtex.detectron.scoring import compute_scores, write_detections
from virtex.detectron.semantic import EVALUATOR_TYPE, SemanticEvaluator
from virtex.detectron.training_step import run_eagerly
from virtex.errors import UserError
from virtex.files import replace_file
from virtex.records import finite_or_none

Metrics = dict[str, float]
ClassTable = list[dict[str, Any]]  # one row per class: its name, number of objects and metrics
DETECTIONS_NAME = "detections_{}.json"
PER_CLASS_NAME = "per_class.csv"


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


def to_coco_rows(
    instances: Any, image_id: int, category_ids: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Convert the detections of an image to rows of COCO's result format.

    Args:
        instances: Detectron2's ``Instances``, on the CPU.
        category_ids: index of a class -> category id; the index itself if it is not a key.
    """
    rows = instances_to_coco_json(instances, image_id)
    for row in rows:
        row["category_id"] = category_ids.get(row["category_id"], row["category_id"])
    return rows


class InstanceEvaluator(DatasetEvaluator):
    """Collects boxes, masks and keypoints of all processes and scores them as COCO or LVIS.

    Attributes:
        per_class: set by ``evaluate`` in the main process.
    """

    per_class: ClassTable

    def __init__(
        self,
        dataset_name: str,
        masks: bool,
        output_dir: Path | None = None,
        keypoints: bool = False,
        sigmas: Sequence[float] = (),
    ):
        """
        Args:
            dataset_name: a test set, which has been read.
            masks, keypoints: whether to score them, too.
            sigmas: of keypoints, see ``compute_scores``.
            output_dir: write the detections there in COCO's result format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.name, self.output_dir = dataset_name, output_dir
        self.style = metadata.get("evaluator_type") or "coco"
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self.category_ids = {index: key for key, index in contiguous.items()}
        self.kinds = ["bbox", *["segm"] * masks, *["keypoints"] * keypoints]
        self.sigmas = sigmas
        self.reset()

    def reset(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self.rows += to_coco_rows(instances, int(sample["image_id"]), self.category_ids)

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
            scores = compute_scores(truth, rows, self.kinds, self.style, sigmas=self.sigmas)
        samples = loaded_set(self.name).samples
        objects = [o for sample in samples for o in sample["annotations"] if not o.get("iscrowd")]
        classes = range(len(scores.per_class))
        by_id = sorted(classes, key=lambda index: self.category_ids.get(index, index))
        self.per_class = class_table(
            self.name,
            Counter(found["category_id"] for found in objects),
            dict(zip(by_id, scores.per_class, strict=True)),
        )
        return scores.metrics


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's VOC evaluator on annotations that have been checked; flat metric names.

    Detectron2 would read the files itself, and fail on missing fields and blank lines.

    Attributes:
        per_class: set by ``evaluate`` in the main process.
    """

    per_class: ClassTable

    def evaluate(self) -> Metrics | None:
        truth = loaded_set(self._dataset_name).ground_truth
        assert isinstance(truth, dict)
        parse, score = pascal_voc_evaluation.parse_rec, pascal_voc_evaluation.voc_eval
        scores: dict[str, list[float]] = {}  # class -> AP at the IoU thresholds 0.5, 0.55, …

        def score_class(*args: Any, **options: Any) -> Any:
            result = score(*args, **options)
            scores.setdefault(args[3], []).append(100 * float(result[2]))
            return result

        with temporary_file_errors(), tempfile.TemporaryDirectory(prefix="virtex-voc-") as folder:
            self._image_set_path = os.path.join(folder, "images.txt")
            Path(self._image_set_path).write_text("\n".join(truth), encoding="utf-8")
            self._anno_file_template = "{}"  # parse_rec gets the name of the image
            try:
                pascal_voc_evaluation.parse_rec = truth.__getitem__
                pascal_voc_evaluation.voc_eval = score_class
                found = super().evaluate()
            finally:
                pascal_voc_evaluation.parse_rec = parse
                pascal_voc_evaluation.voc_eval = score
        objects = Counter(
            o["name"] for image in truth.values() for o in image if not o["difficult"]
        )
        self.per_class = class_table(
            self._dataset_name,
            {index: objects[name] for index, name in enumerate(scores)},
            {
                index: {"bbox/AP": float(np.mean(ap)), "bbox/AP50": ap[0]}
                for index, ap in enumerate(scores.values())
            },
        )
        return found and {f"bbox/{name}": float(value) for name, value in found["bbox"].items()}


def class_table(
    name: str, objects: Mapping[int, int], metrics: Mapping[int, Metrics]
) -> ClassTable:
    """Return one row per class of a registered set, in the order of the classes.

    Args:
        objects: index of a class -> number of objects, without crowds and difficult ones.
        metrics: index of a class -> metrics in percent; NaN becomes None, for JSON.
    """
    return [
        {"class": str(label), "objects": objects.get(index, 0)}
        | {key: finite_or_none(value) for key, value in metrics[index].items()}
        for index, label in enumerate(MetadataCatalog.get(name).thing_classes)
    ]


def write_class_tables(folder: Path, tables: Mapping[str, ClassTable]) -> None:
    """Write ``per_class.csv``: one row per test set and class, with empty cells where undefined."""
    rows = [{"dataset": name, **row} for name, table in tables.items() for row in table]
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    content = text.getvalue().encode(errors="replace")
    replace_file(folder / PER_CLASS_NAME, lambda file: file.write(content))


def instance_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> InstanceEvaluator:
    model, sigmas = cfg.MODEL, cfg.TEST.KEYPOINT_OKS_SIGMAS
    return InstanceEvaluator(name, model.MASK_ON, output_dir, model.KEYPOINT_ON, sigmas)


def cityscapes_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> CityscapesEvaluator:
    if not cfg.MODEL.MASK_ON or cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        raise UserError(
            "Cityscapes is scored by masks, but this detector predicts only boxes; use a detector "
            "with MODEL.MASK_ON True",
            code="config.invalid_value",
        )
    path = output_dir and output_dir / DETECTIONS_NAME.format(name)
    return CityscapesEvaluator(name, path)


def voc_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> VOCEvaluator:
    return VOCEvaluator(name)


def semantic_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> SemanticEvaluator:
    return SemanticEvaluator(name)


# ``evaluator_type`` of a set -> (builder of its evaluator, the metadata field that it requires)
EVALUATORS: dict[str | None, tuple[Callable[..., DatasetEvaluator], str]] = {
    None: (instance_evaluator, ""),
    "coco": (instance_evaluator, ""),
    "cityscapes_instance": (cityscapes_evaluator, "gt_dir"),
    "lvis": (instance_evaluator, "json_file"),
    "voc": (voc_evaluator, "dirname"),
    "pascal_voc": (voc_evaluator, "dirname"),
    EVALUATOR_TYPE: (semantic_evaluator, "stuff_classes"),
}


def build_evaluator(cfg: CfgNode, name: str, output_dir: Path | None) -> DatasetEvaluator:
    """Build the evaluator that the metadata of a registered test set names.

    Raises:
        UserError: its ``evaluator_type`` is not supported, or a field of its metadata is missing.
    """
    metadata = MetadataCatalog.get(name)
    kind = metadata.get("evaluator_type")
    build, field = EVALUATORS.get(kind, (None, ""))
    if build is None or (field and not metadata.get(field)):
        kinds = ", ".join(filter(None, EVALUATORS))
        raise UserError(
            f"the evaluator_type in the metadata of {name} must be one of {kinds}, not {kind!r}"
            if build is None
            else f"the metadata of {name} must have {field} for the evaluator_type {kind}",
            code="detection.evaluator_type",
        )
    return build(cfg, name, output_dir)


class Evaluation(NamedTuple):
    """The metrics of a detector in the main process; empty in the other processes.

    Attributes:
        metrics: metric -> percent. With several test sets, each metric is prefixed with the name
            of its set.
        per_class: test set -> table of its classes.
    """

    metrics: Metrics
    per_class: dict[str, ClassTable]


def evaluate(
    cfg: CfgNode, model: nn.Module, samples: dict[str, list], output_dir: Path | None
) -> Evaluation:
    """Score ``model`` on every test set.

    Args:
        samples: test set -> its Detectron2 dicts.
        output_dir: write the detections and ``per_class.csv`` there.

    Raises:
        UserError: an image cannot be read (scores always cover the whole set).
    """
    metrics: Metrics = {}
    per_class: dict[str, ClassTable] = {}
    for name, images in samples.items():
        evaluator = build_evaluator(cfg, name, output_dir)
        run_inference(model, test_batches(cfg, images), evaluator, name)
        found = evaluator.evaluate() or {}
        prefix = "" if len(samples) == 1 else f"{name}/"
        metrics.update({prefix + key: value for key, value in found.items()})
        if table := getattr(evaluator, "per_class", None):
            per_class[name] = table
        comm.synchronize()
    if output_dir is not None and per_class:
        write_class_tables(output_dir, per_class)
    return Evaluation(metrics, per_class)


def run_inference(
    model: nn.Module, batches: Iterable[list], evaluator: DatasetEvaluator, name: str
) -> None:
    """Pass the model's output for every image to the evaluator."""
    evaluator.reset()
    bar = tqdm(batches, desc=f"inference {name}", unit="img", disable=not comm.is_main_process())
    with inference_context(model), torch.no_grad(), run_eagerly(model):
        for batch in bar:
            raise_if_error(batch)
            evaluator.process(batch, model(batch))

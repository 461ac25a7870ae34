"""Cityscapes instance segmentation: polygons to train on, and scoring by cityscapesscripts.

The samples are those of Detectron2's own dataset of this name. Its evaluator imports
cityscapesscripts from a package that is not public (in the official 0.6) and makes it write a file
``matches.json`` to the current folder, which fails with numpy 2. The evaluator here calls the
functions of cityscapesscripts with its own copy of their settings and without writing files; it
also works on several machines.
"""

import contextlib
import copy
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image
from tqdm import tqdm

from virtex.data.cityscapes import (
    GROUP,
    IMAGE_SUFFIX,
    INSTANCE_IDS,
    THINGS,
    label_id,
    read_split,
)
from virtex.data.detection_sets import DetectionSet
from virtex.detectron.custom_data import loaded_set
from virtex.detectron.readers import LoadedSet
from virtex.detectron.scoring import Rows, numpy_alias, write_detections
from virtex.errors import UserError
from virtex.records import finite_or_none
from virtex.text import join_first

CONTIGUOUS = {number: index for index, number in enumerate(THINGS)}
# Half a pixel: PIL fills polygons beyond their corners by that much on each side
DILATION = 0.5

Metrics = dict[str, float]


def require_package(name: str) -> None:
    """Raise ``UserError`` unless a package of the extra ``cityscapes`` is installed."""
    if find_spec(name) is None:
        raise UserError(
            f"Cityscapes requires the package {name}, which is not installed; install it with "
            "pip install cityscapesscripts shapely",
            code=f"environment.{name}",
        )


# Samples ----


def read_cityscapes_set(entry: DetectionSet, data_root: Path, scored: bool) -> LoadedSet:
    """Read a split like Detectron2's ``load_cityscapes_instances`` with ``from_json=True``.

    Raises:
        UserError: files are missing or invalid, or shapely is not installed.
    """
    require_package("shapely")
    image_dir, gt_dir = data_root / entry.images, data_root / entry.annotations
    threads = max((os.cpu_count() or 1) // comm.get_local_size(), 1)
    frames = read_split(image_dir, gt_dir, scored, threads)
    with ThreadPoolExecutor(threads) as pool:  # shapely releases the interpreter's lock
        parts = pool.map(visible_parts, [content["objects"] for _, content, _ in frames])
    samples, digest = [], hashlib.sha256()
    for (frame, content, sha256), annotations in zip(frames, parts, strict=True):
        digest.update(f"{frame.image.name}\0{sha256}\n".encode())
        samples.append(
            {
                "file_name": str(frame.image),
                "image_id": frame.image.name,
                "height": content["imgHeight"],
                "width": content["imgWidth"],
                "annotations": annotations,
            }
        )
    metadata = {
        "thing_classes": list(THINGS.values()),
        "thing_dataset_id_to_contiguous_id": CONTIGUOUS,
        "image_dir": str(image_dir),
        "gt_dir": str(gt_dir),
        "evaluator_type": entry.kind,
    }
    return LoadedSet(samples, digest.hexdigest(), metadata)


def visible_parts(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Detectron2's annotations of the visible parts of the objects to detect.

    Args:
        objects: label and polygon (in pixels) of each, from back to front; they passed
            ``check_polygons``.
    """
    from shapely.geometry import Polygon

    in_front = Polygon()
    annotations = []
    for found in reversed(objects):
        number = label_id(found["label"])
        if "deleted" in found or number is None or number < 0:
            continue
        # corners are pixel indices; float32 as in Detectron2
        corners = np.asarray(found["polygon"], dtype="f4") + 0.5
        polygon = Polygon(corners).buffer(DILATION, quad_segs=4)
        if number not in THINGS:
            in_front = in_front.union(polygon)
            continue
        part = polygon.difference(in_front)
        if part.is_empty:
            continue
        in_front = in_front.union(polygon)
        pieces = [p for p in getattr(part, "geoms", [part]) if p.geom_type == "Polygon"]
        annotations.append(
            {
                "iscrowd": found["label"].endswith(GROUP),
                "category_id": CONTIGUOUS[number],
                # COCO's polygons have no holes
                "segmentation": [np.ravel(piece.exterior.coords).tolist() for piece in pieces],
                "bbox": part.bounds,
                "bbox_mode": BoxMode.XYXY_ABS,
            }
        )
    return annotations


# Scoring ----


class CityscapesEvaluator(DatasetEvaluator):
    """Collects the masks of all processes and scores them as the Cityscapes benchmark does.

    Attributes:
        per_class: set by ``evaluate`` in the main process: name, number of objects, and AP and AP50
            in percent of each class.
    """

    def __init__(self, dataset_name: str, path: Path | None = None):
        """
        Args:
            dataset_name: a test set, which has been read; its metadata has ``gt_dir``.
            path: where to write the detections in COCO's result format, with Cityscapes' label ids.

        Raises:
            UserError: cityscapesscripts is not installed, or an image has no ``instanceIds``.
        """
        require_package("cityscapesscripts")
        gt_dir = Path(MetadataCatalog.get(dataset_name).gt_dir)
        self.name, self.path = dataset_name, path
        self.truth = {
            sample["image_id"]: instance_ids_path(Path(sample["file_name"]), gt_dir)
            for sample in loaded_set(dataset_name).samples
        }
        if missing := [str(path) for path in self.truth.values() if not path.is_file()]:
            raise UserError(
                f"{len(missing)} annotations of {dataset_name} are missing: {join_first(missing)}; "
                "set gt_dir in its metadata to their folder",
                code="data.missing",
            )
        self.reset()

    def reset(self) -> None:
        self.rows: Rows = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        ids = list(THINGS)
        for sample, output in zip(inputs, outputs, strict=True):
            rows = instances_to_coco_json(output["instances"].to("cpu"), sample["image_id"])
            self.rows += [{**row, "category_id": ids[row["category_id"]]} for row in rows]

    def evaluate(self) -> Metrics | None:
        """Return ``{"segm/AP": …, "segm/AP50": …}`` in the main process, None in the others."""
        gathered = comm.gather(self.rows)
        if not comm.is_main_process():
            return None
        rows = [row for part in gathered for row in part]
        if self.path is not None:
            write_detections(self.path, rows)
        metrics, classes = score_cityscapes(self.truth, rows)
        counts = Counter(
            found["category_id"]
            for sample in loaded_set(self.name).samples
            for found in sample["annotations"]
            if not found.get("iscrowd")
        )
        self.per_class = [
            {"class": name, "objects": counts[index], **classes[name]}
            for index, name in enumerate(THINGS.values())
        ]
        return metrics


def instance_ids_path(image: Path, gt_dir: Path) -> Path:
    """Return the path of the ``instanceIds`` of an image."""
    name = image.name.removesuffix(IMAGE_SUFFIX)
    return gt_dir / image.parent.name / f"{name}_gtFine_{INSTANCE_IDS}"


def score_cityscapes(
    truth: Mapping[str, Path], rows: Rows
) -> tuple[Metrics, dict[str, dict[str, float | None]]]:
    """Compute Cityscapes' average precision of masks.

    Args:
        truth: id of every image -> its ``instanceIds``.
        rows: detections with image_id, category_id (a label id), score and segmentation (RLE).

    Returns:
        ``{"segm/AP": …, "segm/AP50": …}`` in percent, and the same for each class by name (None for
        a class without objects). AP is the mean over IoU thresholds from 0.5 to 0.95; groups and
        ignored regions count neither for nor against a detection.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as reference
    from cityscapesscripts.evaluation.instances2dict import instances2dict

    args = copy.copy(reference.args)  # its functions would modify those of the module
    reference.setInstanceLabels(args)
    by_image: dict[str, Rows] = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    matches = {}
    with numpy_alias("in1d", np.isin):  # removed in numpy 2.4
        for image_id, path in tqdm(truth.items(), "scoring", unit="img", disable=None):
            (instances,) = instances2dict([str(path)]).values()
            predictions = {encode_mask(row): row for row in by_image[image_id]}
            found = {
                file: {"labelID": row["category_id"], "conf": row["score"]}
                for file, row in predictions.items()
            }
            with Image.open(path) as ids:
                objects, detections = reference.assignGt2Preds(
                    reference.filterGtInstances(instances, args), ids, found, args
                )
            for file in predictions:  # the matches keep references to them
                file.close()
            matches[image_id] = {"groundTruth": objects, "prediction": detections}
    averages = reference.computeAverages(compute_average_precisions(matches, args), args)
    classes = {
        name: {
            "segm/AP": finite_or_none(float(found["ap"]) * 100),
            "segm/AP50": finite_or_none(float(found["ap50%"]) * 100),
        }
        for name, found in averages["classes"].items()
    }
    metrics = {"segm/AP": averages["allAp"], "segm/AP50": averages["allAp50%"]}
    return {name: float(value) * 100 for name, value in metrics.items()}, classes


def compute_average_precisions(matches: dict[str, Any], args: Any) -> np.ndarray:
    """Return the AP of each class and IoU threshold, (1, classes, thresholds), from 0 to 1.

    cityscapesscripts fails if all detections of a class are ignored; here, AP is 0 as without
    detections.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as reference

    found = np.zeros((1, len(args.instLabels), len(args.overlaps)))
    for index, label in enumerate(args.instLabels):
        for position, overlap in enumerate(args.overlaps):
            one = copy.copy(args)
            one.instLabels, one.overlaps = [label], [overlap]
            with contextlib.suppress(IndexError):
                found[0, index, position] = reference.evaluateMatches(matches, one).item()
    return found


def encode_mask(row: dict[str, Any]) -> io.BytesIO:
    """Return the mask of a detection as a PNG file in memory, which cityscapesscripts opens."""
    file = io.BytesIO()
    mask = pycocotools.mask.decode(row["segmentation"])
    Image.fromarray(mask * np.uint8(255)).save(file, "PNG", compress_level=1)
    return file

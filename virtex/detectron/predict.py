"""Run a trained detector on images; write figures, detections (COCO's format) or label maps."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from detectron2.evaluation.evaluator import inference_context
from torch import nn
from tqdm import tqdm

from virtex import run_folder
from virtex.checkpoints.statements import ENTRY
from virtex.config import get_setting, set_setting
from virtex.data.annotations import COCO_KEYPOINTS
from virtex.data.image_files import find_image_files
from virtex.detectron.checkpointing import CATEGORY_IDS, compare_statements, load_detector
from virtex.detectron.checks import validate_types
from virtex.detectron.config_files import read_config_file
from virtex.detectron.evaluation import to_coco_rows
from virtex.detectron.gallery import draw_label_map, draw_predictions, figure_names, write_jpeg
from virtex.detectron.keypoints import COCO_PERSON
from virtex.detectron.loading import read_image, test_batches
from virtex.detectron.scoring import write_detections
from virtex.detectron.semantic import is_semantic
from virtex.detectron.settings import NORM_KEYS
from virtex.detectron.trainer import build_detector
from virtex.engine.checkpoints import last_checkpoint
from virtex.engine.distributed import get_device
from virtex.engine.progress import log_to
from virtex.errors import UserError
from virtex.files import Manifest, describe_folder, replace_file
from virtex.records import write_json
from virtex.runner import CONFIG_NAME
from virtex.text import join_first, printable

logger = logging.getLogger("virtex.predict")

PREDICTIONS_NAME, IMAGES_NAME = "predictions.json", "images.json"
SKIPPED = 1  # exit status if an image could not be read


@dataclass(frozen=True)
class TrainedDetector:
    """The detector of a finished run.

    Attributes:
        path: its checkpoint.
        sha256: of the checkpoint.
        cfg: the settings of the run, adapted to this device.
        model: the detector, in evaluation mode during ``predict``.
        categories: category id in the annotations -> name, in the order of the classes.
    """

    path: Path
    sha256: str
    cfg: CfgNode
    model: nn.Module
    categories: dict[int, str]


def run(args: argparse.Namespace) -> int:
    """Run the command ``predict`` and return its exit status.

    Raises:
        UserError: invalid input, or no image can be read.
    """
    log_to(logging.getLogger("virtex"))
    path = find_checkpoint(Path(args.weights))
    images = find_image_files(args.images)
    folder = Path(args.output_dir)
    inputs = [path, path.with_name(CONFIG_NAME), *images]
    with run_folder.claim_folder(folder, False, args.overwrite, inputs):
        detector = load_trained(path, get_device(args))
        detector.cfg.DATALOADER.NUM_WORKERS = args.num_workers
        with Manifest(folder).record():
            if args.overwrite:
                run_folder.clear(folder)
            return predict(detector, images, args.score_threshold, folder)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint ``path``, or the latest checkpoint in the folder of a run.

    Raises:
        UserError: there is none, or no config beside it.
    """
    file = last_checkpoint(path) if path.is_dir() else path
    if file is None or not file.is_file():
        raise UserError(
            f"--weights must be the folder of a trained detector, or its checkpoint, but {path} "
            + (f"{describe_folder(path)}; train one" if path.is_dir() else "does not exist"),
            code="predict.no_detector",
        )
    if not file.with_name(CONFIG_NAME).is_file():
        raise UserError(
            f"expected {CONFIG_NAME}, the settings of the detector, in the folder of {file}; copy "
            "it from the folder of the run",
            code="predict.no_config",
        )
    return file


def load_trained(path: Path, device: str) -> TrainedDetector:
    """Load a trained detector.

    Args:
        path: its checkpoint; ``config.yaml`` of its run is in the same folder.
        device: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: the config is not valid, or the checkpoint does not match it.
    """
    cfg = read_config_file(path.with_name(CONFIG_NAME))
    validate_types(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
    for key in NORM_KEYS:
        if get_setting(cfg, key) == "SyncBN":  # needs several GPUs; the same in evaluation
            set_setting(cfg, key, "BN")
    model = build_detector(cfg)
    content, sha256 = load_detector(model, path)
    entry = content.get(ENTRY)
    classes = entry.get("classes") if isinstance(entry, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(
            f"{path} must be a checkpoint written by detectron2_transfer, but does not contain the "
            "names of the classes",
            code="predict.no_classes",
        )
    compare_statements(cfg, content, path, None)
    # earlier versions did not save ids
    ids = content.get(CATEGORY_IDS) or range(len(classes))
    logger.info("detector: %s, %d classes, on %s", path, len(classes), device)
    return TrainedDetector(path, sha256, cfg, model, dict(zip(ids, classes, strict=True)))


def predict(
    detector: TrainedDetector, images: Sequence[Path], threshold: float, folder: Path
) -> int:
    """Write figures and predictions for all images; return the exit status.

    Images that cannot be read are skipped and reported.

    Args:
        threshold: lowest score of a detection.
        folder: receives ``gallery/``, ``images.json``, and ``predictions.json`` (detections) or
            ``label_maps/`` (semantic segmentation).

    Raises:
        UserError: no image can be read, or memory runs out.
    """
    samples: list[dict[str, Any]] = [
        {"file_name": str(path), "image_id": number} for number, path in enumerate(images, 1)
    ]
    names = figure_names(map(str, images))
    is_map = is_semantic(detector.cfg)
    ids, classes = dict(enumerate(detector.categories)), list(detector.categories.values())
    for name in (run_folder.GALLERY, *[run_folder.LABEL_MAPS] * is_map):
        (folder / name).mkdir(parents=True, exist_ok=True)
    is_person = detector.cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == COCO_KEYPOINTS
    metadata = Metadata(**COCO_PERSON) if detector.cfg.MODEL.KEYPOINT_ON and is_person else None
    shown: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    batches = test_batches(detector.cfg, samples, "", "--num-workers")
    bar = tqdm(zip(samples, names, batches, strict=True), "predict", len(samples), unit="img")
    with inference_context(detector.model), torch.no_grad():
        for sample, name, (loaded,) in bar:
            if isinstance(loaded, UserError):
                logger.warning("skipped: %s", loaded)
                skipped.append({"file_name": sample["file_name"], "reason": str(loaded)})
                continue
            output = run_model(detector.model, loaded)
            image = read_image(sample["file_name"], "RGB")
            height, width = image.shape[:2]
            about = {"id": sample["image_id"], "file_name": sample["file_name"]}
            shown.append(about | {"width": width, "height": height})
            if is_map:
                labels = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.uint8)
                path = Path(run_folder.LABEL_MAPS, name).with_suffix(".png")
                write_png(folder / path, labels)
                shown[-1]["label_map"] = str(path)
                figure = draw_label_map(image, labels, classes)
            else:
                found = output["instances"].to("cpu")
                found = found[found.scores >= threshold]
                # drawn first, because the conversion to rows modifies keypoints in place
                figure = draw_predictions(image, found, classes, metadata)
                rows += to_coco_rows(found, sample["image_id"], ids)
            write_jpeg(folder / run_folder.GALLERY / name, figure)
    if not shown:
        raise UserError(
            f"none of the {len(skipped)} images could be read, see the log for the reasons",
            code="data.image",
        )
    info: dict[str, Any] = {"detector": str(detector.path), "sha256": detector.sha256}
    info["skipped"] = skipped
    content: dict[str, Any] = {
        "info": info,
        "images": shown,
        "categories": [{"id": key, "name": name} for key, name in detector.categories.items()],
    }
    if not is_map:
        info["score_threshold"] = threshold
        content["annotations"] = []  # without which pycocotools does not read it
        write_rows(folder / PREDICTIONS_NAME, rows, detector.categories)
    write_json(folder / IMAGES_NAME, content)
    print(f"{len(shown)} figures: {folder / run_folder.GALLERY}", flush=True)
    if not skipped:
        return 0
    listed = join_first([printable(image["file_name"]) for image in skipped])
    print(f"skipped {len(skipped)} of {len(images)} images: {listed}", file=sys.stderr)
    return SKIPPED


def write_rows(path: Path, rows: list[dict[str, Any]], categories: Mapping[int, str]) -> None:
    """Write detections with the names of their categories, and print the number per category."""
    for row in rows:
        row["category_name"] = categories[row["category_id"]]
    write_detections(path, rows)
    counts = Counter(row["category_name"] for row in rows).most_common()
    per_class = ", ".join(f"{name} {count}" for name, count in counts)
    print(f"{len(rows)} detections{per_class and f' ({per_class})'}: {path}")


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a (height, width) uint8 image atomically."""
    _, encoded = cv2.imencode(".png", image)
    replace_file(path, lambda file: file.write(encoded.tobytes()))


def run_model(model: nn.Module, sample: dict[str, Any]) -> dict[str, Any]:
    """Return the output for one image.

    Raises:
        UserError: the GPU runs out of memory.
    """
    try:
        (output,) = model([sample])
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU ran out of memory on {sample['file_name']}; free GPU memory, or use "
            "--num-gpus 0",
            code="device.out_of_memory",
        ) from error
    return output

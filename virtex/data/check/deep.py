"""What only opening files tells: images that cannot be decoded, annotations that make no sense.

Both are found by the functions that the tools read with.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from virtex.data.annotations import check_coco_json, check_lvis_json, read_json
from virtex.data.captions import read_captions, read_labels
from virtex.data.inaturalist import read_inaturalist
from virtex.data.voc import read_stems, read_voc07
from virtex.errors import UserError

CHUNK = 32  # images that a process is given at once


def broken_images(root: Path, files: Sequence[str], processes: int) -> dict[str, str]:
    """The images that cannot be decoded, and why.

    Args:
        files: relative to ``root``.

    Raises:
        UserError: a process is killed.
    """
    import virtex.data.transforms  # noqa: F401  once, for all processes that are forked

    paths = [str(root / file) for file in files]
    try:
        with ProcessPoolExecutor(processes) as pool:
            reasons = pool.map(why_broken, paths, chunksize=CHUNK)
            shown = tqdm(reasons, "decoding", len(paths), unit="image", disable=None)
            return {file: why for file, why in zip(files, shown, strict=True) if why}
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decodes images was killed, perhaps for want of memory; "
            "try again with fewer (--num-workers 1)"
        ) from error


def why_broken(path: str) -> str:
    """Why an image cannot be decoded; "" if it can."""
    from virtex.data.transforms import decode_image

    try:
        decode_image(path)
    except UserError as error:
        return str(error)
    return ""


# ---- annotations


def coco(root: Path) -> None:
    for split in ("train", "val"):
        path = root / f"coco/annotations/instances_{split}2017.json"
        check_coco_json(read_json(path, "COCO instances"), path)


def lvis(root: Path) -> None:
    for split in ("train", "val"):
        path = root / f"lvis/lvis_v1_{split}.json"
        check_lvis_json(read_json(path, "LVIS v1 annotations"), path)


def voc(root: Path) -> None:
    try:
        from virtex.detectron.datasets import voc_sample
    except Exception as error:  # a broken one fails in ways of its own: ImportError, OSError, …
        raise UserError(
            f"the annotations cannot be read without Detectron2, which {whats_broken(error)}"
        ) from error

    for year, splits in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
        for split in splits:
            scored = split == "test"
            stems = read_stems(root / f"{year}/ImageSets/Main/{split}.txt", scored)
            shown = f"annotations of {year} {split}"
            for stem in tqdm(stems, shown, unit="", leave=False, disable=None):
                voc_sample(root / year, stem, scored)


def whats_broken(error: Exception) -> str:
    """Why Detectron2 cannot be imported, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
        return "is not installed; install it: python -m virtex.detectron.install"
    return (
        f"cannot be imported ({type(error).__name__}: {error}); python -m "
        "virtex.detectron.install --check says what fixes it"
    )


def voc07_svm(root: Path) -> None:
    for split in ("trainval", "test"):
        read_voc07(root, split)


def imagenet(root: Path) -> None:
    from virtex.data.image_folders import read_image_folder

    read_image_folder(root / "imagenet", "imagenet")


def captioning(root: Path) -> None:
    read_captions(root / "coco", "val")


def pretraining(root: Path) -> None:
    for split in ("train", "val"):
        read_captions(root / "coco", split)


def multilabel_pretraining(root: Path) -> None:
    for split in ("train", "val"):
        read_labels(root / "coco", split)


READERS: dict[str, Callable[[Path], object]] = {
    "coco": coco,
    "lvis": lvis,
    "voc": voc,
    "voc07_svm": voc07_svm,
    "imagenet": imagenet,
    "inaturalist": read_inaturalist,
    "captioning": captioning,
    "pretraining": pretraining,
    "multilabel_pretraining": multilabel_pretraining,
}


def whats_unreadable(root: Path, layout: str) -> str:
    """The first thing in a layout that its tool's reader refuses; "" if there is none."""
    try:
        READERS[layout](root)
    except UserError as error:
        return str(error)
    return ""

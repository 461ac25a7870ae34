"""Write all toy data into a folder; a marker file distinguishes complete from partial data."""

import json
import os
from pathlib import Path

from tqdm import tqdm

from virtex.data.toy.cityscapes import write_cityscapes
from virtex.data.toy.classification import write_imagenet, write_inaturalist
from virtex.data.toy.coco import write_coco_and_lvis
from virtex.data.toy.keypoints import half, write_person_keypoints
from virtex.data.toy.plan import Plan, write_json
from virtex.data.toy.segmentation import write_ade20k
from virtex.data.toy.voc import write_voc
from virtex.errors import UserError
from virtex.files import Manifest, list_manifests, read_manifests, replace_file

VERSION = 4  # increment when the same seed and sizes give other files
MARKER = "toy.json"  # written last
UNFINISHED = "toy.unfinished.json"  # exists while files are being written
FOLDERS = (
    *("coco", "lvis", "VOC2007", "VOC2012", "imagenet", "inaturalist", "cityscapes"),
    "ADEChallengeData2016",
)
WRITERS = (
    *(write_coco_and_lvis, write_person_keypoints, write_voc, write_imagenet, write_inaturalist),
    *(write_cityscapes, write_ade20k),
)


def write_toy_data(
    out: Path,
    seed: int = 0,
    train_images: int = 240,
    val_images: int = 60,
    overwrite: bool = False,
    progress: bool = False,
    coco_train_images: int | None = None,
) -> dict[str, int]:
    """Write toy data of every dataset, so that ``out`` is a data root.

    COCO (shared with LVIS), ImageNet, iNaturalist and Cityscapes each get ``train_images`` and
    ``val_images``. ``coco_train_images`` sets another number for COCO, on which models are
    pretrained. VOC2007 and VOC2012 share ``train_images``, and VOC2007 test gets ``val_images``.
    ADE20K and COCO person keypoints get half as many, separate images.
    The same seed and sizes give the same bytes; if ``out`` already holds them, nothing is done.
    ``overwrite`` replaces toy data, complete or not, and nothing else.

    Returns:
        the number of files of each layout.

    Raises:
        UserError: ``out`` holds something else or cannot be written, or a size is too small.
    """
    out = Path(out)
    if seed < 0:
        raise UserError(f"the seed must not be negative, but is {seed}", "arguments.invalid")
    coco_train_images = train_images if coco_train_images is None else coco_train_images
    sizes = (train_images, val_images, coco_train_images)
    if train_images < 2 or val_images < 1 or coco_train_images < 2:
        raise UserError(
            "toy data needs at least 2 training images and 1 validation image, "
            f"not {min(train_images, coco_train_images)} and {val_images}",
            "arguments.invalid",
        )
    settings = _settings(seed, *sizes)
    try:
        if not overwrite and has_toy_data(out, seed, *sizes):
            return _count_files(out)
        _claim(out, settings, overwrite)
        halves = half(train_images) + half(val_images)  # of ADE20K, of person keypoints
        total = 4 * train_images + 5 * val_images + coco_train_images + 2 * halves
        with tqdm(total=total, unit="image", disable=None if progress else True) as bar:
            plan = Plan(out, seed, *sizes, bar.update)
            manifest = Manifest(out)
            with manifest.record():
                for write in WRITERS:
                    write(plan)
        # in the order of the names, not of the threads, so that the bytes are the same
        lines = "".join(json.dumps(name) + "\n" for name in sorted(manifest.names))
        replace_file(manifest.path, lambda file: file.write(lines.encode()))
        files = _count_files(out)
        write_json(out / UNFINISHED, {**settings, "files": files})
        (out / UNFINISHED).replace(out / MARKER)
    except OSError as error:
        raise UserError(
            f"cannot write toy data to {out}: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; "
            "choose a writable folder with enough free space",
            "data.unwritable",
        ) from error
    return files


def has_toy_data(
    out: Path,
    seed: int,
    train_images: int,
    val_images: int,
    coco_train_images: int | None = None,
) -> bool:
    """Return whether ``out`` holds complete toy data of this seed and these sizes."""
    coco_train_images = train_images if coco_train_images is None else coco_train_images
    found = _read_marker(Path(out))
    return found is not None and found == {
        **_settings(seed, train_images, val_images, coco_train_images),
        "files": _count_files(Path(out)),
    }


def _count_files(out: Path) -> dict[str, int]:
    return {layout: sum(path.is_file() for path in (out / layout).rglob("*")) for layout in FOLDERS}


def _settings(
    seed: int, train_images: int, val_images: int, coco_train_images: int
) -> dict[str, int]:
    return {
        "toy_version": VERSION,
        "seed": seed,
        "train_images": train_images,
        "val_images": val_images,
        "coco_train_images": coco_train_images,
    }


def _read_marker(out: Path) -> dict | None:
    """Return the content of the marker of complete data, or None if there is none."""
    try:
        content = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "files" in content else None


def _claim(out: Path, settings: dict[str, int], overwrite: bool) -> None:
    """Make ``out`` an empty folder with the marker of partial data, or raise UserError."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; toy data needs a folder", "data.not_empty")
    out.mkdir(parents=True, exist_ok=True)
    ours = (out / MARKER).is_file() or (out / UNFINISHED).is_file()
    if any(out.iterdir()):
        if not ours:
            raise UserError(
                f"{out} is not empty and contains no {MARKER}, so it is left alone; "
                "choose a new folder or empty this one",
                "data.not_empty",
            )
        if not overwrite:
            raise UserError(_describe_conflict(out, settings), "data.not_empty")
        _remove(out)
    try:
        with (out / UNFINISHED).open("x", encoding="utf-8") as file:
            json.dump(settings, file)
    except FileExistsError as error:
        raise UserError(
            f"another process is writing toy data to {out}", "data.not_empty"
        ) from error


def _describe_conflict(out: Path, settings: dict[str, int]) -> str:
    found = _read_marker(out)
    if found is None:
        return (
            f"{out} contains incomplete toy data, or another process is writing to it; "
            "if none is, replace them with --overwrite"
        )
    found.pop("files")
    if found == settings:
        return (
            f"{out} contains these toy data, but files were added or deleted; "
            "replace them with --overwrite"
        )
    known = ", ".join(f"{key} {value}" for key, value in found.items())
    return (
        f"{out} already contains other toy data ({known}); "
        "choose a new folder or replace them with --overwrite"
    )


def _remove(out: Path) -> None:
    """Delete the files that this module has written, and nothing else.

    The marker of complete data is removed first: an interrupted removal must not look complete.

    Raises:
        UserError: there are other files among them.
    """
    written, files, folders = read_manifests(out), [], []
    for top in (out / layout for layout in FOLDERS):
        if top.is_symlink() or top.is_file():
            files.append(top)
            continue
        for folder, names, here in os.walk(top):  # does not follow links
            folders.append(folder)
            links = [name for name in names if os.path.islink(os.path.join(folder, name))]
            files += [Path(folder, name) for name in [*here, *links]]
    if other := sorted(set(files) - written):
        raise UserError(
            f"{out} contains {other[0]}, which is not toy data, so nothing is deleted; move it "
            "away, or choose a new folder",
            "data.not_empty",
        )
    if (out / MARKER).is_file():
        (out / MARKER).replace(out / UNFINISHED)
    for path in files:
        path.unlink()
    for folder in reversed(folders):
        os.rmdir(folder)
    for path in (*list_manifests(out), out / UNFINISHED):
        path.unlink()

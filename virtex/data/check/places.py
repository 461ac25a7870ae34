"""How people have these data: other names of folders, and archives that are still packed."""

import sys
from dataclasses import dataclass

# What a path is called elsewhere, in lower case; its own last part always is one of its names.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "coco": ("coco2017", "coco_2017", "mscoco", "mscoco2017", "ms_coco", "coco-2017"),
    "lvis": ("lvis_v1", "lvis_v1.0", "lvis1.0"),
    "VOC2007": ("voc_2007", "voc07"),
    "VOC2012": ("voc_2012", "voc12"),
    "imagenet": (
        *("ilsvrc2012", "ilsvrc_2012", "ilsvrc", "cls-loc", "imagenet-1k", "imagenet1k"),
        *("imagenet_1k", "imagenet2012", "imagenet-2012", "in1k"),
    ),
    "imagenet/train": ("training", "ilsvrc2012_img_train"),
    "imagenet/val": ("validation", "valid", "ilsvrc2012_img_val"),
    "inaturalist": (
        *("inat", "inat2018", "inat18", "inat_2018", "inaturalist2018", "inaturalist18"),
        *("inaturalist_2018", "inaturalist-2018"),
    ),
}
# Names that other data have too: these count only inside a folder that is called like the data set.
COMMON = {
    *("train", "val", "Annotations", "JPEGImages", "trainval.txt", "test.txt"),
    *("aeroplane_trainval.txt", "aeroplane_test.txt"),
}


def names(path: str) -> set[str]:
    """What a path that is needed may be called, in lower case."""
    return {path.rpartition("/")[2].lower(), *OTHER_NAMES.get(path, ())}


@dataclass(frozen=True)
class Archive:
    """A file as it is downloaded.

    Attributes:
        name: of the file.
        gives: patterns of the paths that are in it.
        target: the folder that it is unpacked into, below the data root.
        unpack: the command; {file} and {target} are filled in.
    """

    name: str
    gives: tuple[str, ...]
    target: str
    unpack: str


# What lies there already stays: it may have been changed. GNU's tar counts files that -k keeps as
# failures; BSD's does not, and has no other option for it.
KEEP = "-k" if sys.platform == "darwin" else "--skip-old-files"
UNZIP = "mkdir -p {target} && unzip -qn {file} -d {target}"
UNTAR = f"mkdir -p {{target}} && tar {KEEP} -xf {{file}} -C {{target}}"
OUT_OF_VOCDEVKIT = f"{UNTAR} --strip-components=1"
# ImageNet's train comes as a tar of a tar for each class
UNPACK_CLASSES = (
    'for tar in {target}/n*.tar; do mkdir -p "${{tar%.tar}}" && '
    'tar -xf "$tar" -C "${{tar%.tar}}" && rm "$tar"; done'
)

ARCHIVES = (
    Archive("train2017.zip", ("coco/train2017",), "coco", UNZIP),
    Archive("val2017.zip", ("coco/val2017",), "coco", UNZIP),
    Archive("annotations_trainval2017.zip", ("coco/annotations/*",), "coco", UNZIP),
    Archive("lvis_v1_train.json.zip", ("lvis/lvis_v1_train.json",), "lvis", UNZIP),
    Archive("lvis_v1_val.json.zip", ("lvis/lvis_v1_val.json",), "lvis", UNZIP),
    Archive(
        "VOCtrainval_06-Nov-2007.tar",
        ("VOC2007/Annotations*", "VOC2007/JPEGImages*", "VOC2007/*trainval.txt"),
        "",
        OUT_OF_VOCDEVKIT,
    ),
    Archive(
        "VOCtest_06-Nov-2007.tar",
        ("VOC2007/Annotations*", "VOC2007/JPEGImages*", "VOC2007/*test.txt"),
        "",
        OUT_OF_VOCDEVKIT,
    ),
    Archive("VOCtrainval_11-May-2012.tar", ("VOC2012/*",), "", OUT_OF_VOCDEVKIT),
    Archive(
        "ILSVRC2012_img_train.tar",
        ("imagenet/train",),
        "imagenet/train",
        f"{UNTAR} && {UNPACK_CLASSES}",
    ),
    Archive("ILSVRC2012_img_val.tar", ("imagenet/val",), "imagenet/val", UNTAR),
    Archive("imagenet-object-localization-challenge.zip", ("imagenet/*",), "", UNZIP),
    Archive("train_val2018.tar.gz", ("inaturalist/train_val2018*",), "inaturalist", UNTAR),
    Archive(
        "train2018.json.tar.gz",
        ("inaturalist/annotations/train2018.json",),
        "inaturalist/annotations",
        UNTAR,
    ),
    Archive(
        "val2018.json.tar.gz",
        ("inaturalist/annotations/val2018.json",),
        "inaturalist/annotations",
        UNTAR,
    ),
)

# ImageNet's val images are told apart by one of these, whichever is there: its name -> the command
# that moves them from {val} into class folders; {file} is its path, {folder} the folder it is in.
VAL_CLASSES = {
    "LOC_val_solution.csv": (
        "tail -n +2 {file} | while IFS=', ' read -r image class rest; do "
        'mkdir -p {val}/"$class" && mv {val}/"$image.JPEG" {val}/"$class"/; done'
    ),
    "ILSVRC2012_devkit_t12.tar.gz": """\
python - {folder} {val} <<'END'
import sys
from pathlib import Path
from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive
folder, val = map(Path, sys.argv[1:])
if not (folder / "meta.bin").exists():
    parse_devkit_archive(folder)
classes = load_meta_file(folder)[1]
for path in val.glob("ILSVRC2012_val_*.JPEG"):
    target = val / classes[int(path.stem[-8:]) - 1]
    target.mkdir(exist_ok=True)
    path.rename(target / path.name)
END""",
}

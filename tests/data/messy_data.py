"""Toy data as people have them: elsewhere, under another name, too deep, or still packed."""

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mess:
    """What was done to a data root, and for which task."""

    task: str
    make: Callable[[Path], None]


def moved(*moves: tuple[str, str]) -> Callable[[Path], None]:
    """Each path is moved to a place, one after the other; folders that become empty are removed."""

    def make(root: Path) -> None:
        for path, place in moves:
            move(root, path, place)

    return make


def move(root: Path, path: str, place: str) -> None:
    """Also into a folder below itself."""
    (root / path).rename(root / "aside")
    if (root / path).parent != root and not any((root / path).parent.iterdir()):
        (root / path).parent.rmdir()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / "aside").rename(root / place)


def pack(root: Path, path: str, archive: str, inside: str) -> None:
    """Into a .zip, or into a tar; ``inside``: what the path is called in it."""
    tree = root / "tree"
    (tree / inside).parent.mkdir(parents=True)
    (root / path).rename(tree / inside)
    file = root / archive
    file.parent.mkdir(parents=True, exist_ok=True)
    if archive.endswith(".zip"):
        shutil.make_archive(str(file.with_suffix("")), "zip", tree)
    else:
        with tarfile.open(file, "w:gz" if archive.endswith("gz") else "w") as tar:
            for entry in sorted(tree.iterdir()):
                tar.add(entry, entry.name)
    shutil.rmtree(tree)


def coco_packed(root: Path) -> None:
    pack(root, "coco/train2017", "train2017.zip", "train2017")
    pack(root, "coco/val2017", "coco/val2017.zip", "val2017")
    pack(root, "coco/annotations", "downloads/annotations_trainval2017.zip", "annotations")


def voc_packed(root: Path) -> None:
    pack(root, "VOC2007", "VOCtrainval_06-Nov-2007.tar", "VOCdevkit/VOC2007")
    pack(root, "VOC2012", "VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012")


def voc_test_packed(root: Path) -> None:
    """The archive of test is not unpacked yet."""
    stems = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    files = [f"JPEGImages/{stem}.jpg" for stem in stems]
    files += [f"Annotations/{stem}.xml" for stem in stems]
    files += [str(f.relative_to(root / "VOC2007")) for f in root.glob("VOC2007/*/Main/*test.txt")]
    with tarfile.open(root / "VOCtest_06-Nov-2007.tar", "w") as tar:
        for file in files:
            tar.add(root / "VOC2007" / file, f"VOCdevkit/VOC2007/{file}")
            (root / "VOC2007" / file).unlink()


def imagenet_packed(root: Path) -> None:
    """A tar of tars for train, a flat one for val, beside a table of classes."""
    (root / "tars").mkdir()
    train = root / "imagenet/train"
    for folder in sorted(train.iterdir()):
        pack_files(folder, root / "tars" / f"{folder.name}.tar")
    train.rmdir()
    pack_files(root / "tars", root / "ILSVRC2012_img_train.tar")
    flatten_val(root)
    pack_files(root / "imagenet/val", root / "imagenet/ILSVRC2012_img_val.tar")


def classes_packed(root: Path) -> None:
    for folder in sorted((root / "imagenet/train").iterdir()):
        pack_files(folder, folder.with_suffix(".tar"))


def pack_files(folder: Path, archive: Path) -> None:
    """The files of a folder, without the folder."""
    with tarfile.open(archive, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    shutil.rmtree(folder)


def flatten_val(root: Path) -> None:
    """Out of the class folders, with Kaggle's table of them in the data root."""
    val, rows = root / "imagenet/val", ["ImageId,PredictionString"]
    for file in sorted(val.glob("*/*.JPEG")):
        rows.append(f"{file.stem},{file.parent.name} 1 2 30 40 {file.parent.name} 5 6 7 8 ")
        file.rename(val / file.name)
    for folder in list(val.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


def imagenet_of_kaggle(root: Path) -> None:
    flatten_val(root)
    move(root, "imagenet", "imagenet-object-localization-challenge/ILSVRC/Data/CLS-LOC")


def imagenet_with_development_kit(root: Path) -> None:
    """torchvision has read the kit already: meta.bin is what it made of it."""
    import torch

    images = sorted((root / "imagenet/val").glob("*/*.JPEG"), key=lambda file: file.stem)
    torch.save(({}, [file.parent.name for file in images]), root / "imagenet/meta.bin")
    flatten_val(root)
    (root / "LOC_val_solution.csv").unlink()
    (root / "imagenet/ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"")


def coco_of_2014(root: Path) -> None:
    """Other names and splits: half of train is in val. 2017's annotations are there."""
    for split in ("train", "val"):
        (root / f"coco/{split}2014").mkdir()
    files = sorted((root / "coco").glob("*2017/*.jpg"))
    for number, file in enumerate(files):
        split = "train" if number % 2 else "val"
        file.rename(root / f"coco/{split}2014" / f"COCO_{split}2014_{file.name}")
    for split in ("train", "val"):
        (root / f"coco/{split}2017").rmdir()


def names_of_2014(root: Path) -> None:
    for file in (root / "coco/train2017").iterdir():
        file.rename(file.with_name(f"COCO_train2014_{file.name}"))


def inaturalist_packed(root: Path) -> None:
    pack(root, "inaturalist/train_val2018", "inaturalist/train_val2018.tar.gz", "train_val2018")
    for split in ("train", "val"):
        file = f"{split}2018.json"
        pack(root, f"inaturalist/annotations/{file}", f"inaturalist/{file}.tar.gz", file)


def lvis_packed(root: Path) -> None:
    for split in ("train", "val"):
        file = f"lvis_v1_{split}.json"
        pack(root, f"lvis/{file}", f"lvis/{file}.zip", file)


def empty_folder(root: Path) -> None:
    move(root, "coco/val2017", "val2017")
    (root / "coco/val2017").mkdir()


def link_to_nothing(root: Path) -> None:
    move(root, "coco/val2017", "val2017")
    (root / "coco/val2017").symlink_to(root / "gone")


def link_to_itself(root: Path) -> None:
    move(root, "coco/val2017", "val2017")
    (root / "coco/val2017").symlink_to(root / "coco/val2017")


def linked(path: str, inside: str = "") -> Callable[[Path], None]:
    """The path is a link, to where its data lie one folder too deep if ``inside`` is given."""

    def make(root: Path) -> None:
        store = root.parent / "store" / Path(path).name
        (store / inside).parent.mkdir(parents=True)
        (root / path).rename(store / inside)
        (root / path).symlink_to(store)

    return make


def linked_twice(path: str) -> Callable[[Path], None]:
    """``ln -s``, given a second time, makes the link in the folder that the first leads to."""

    def make(root: Path) -> None:
        linked(path)(root)
        store = root.parent / "store" / Path(path).name
        (store / store.name).symlink_to(store)

    return make


def link_in_a_folder(root: Path) -> None:
    """``ln -s`` where there was a folder already."""
    linked("coco/val2017")(root)
    (root / "coco/val2017").unlink()
    (root / "coco/val2017").mkdir()
    (root / "coco/val2017/val2017").symlink_to("../../../store/val2017")


def too_deep_beside_a_file(root: Path) -> None:
    both("coco/{}2017", "coco/{0}2017/{0}2017")(root)
    for split in ("train", "val"):
        (root / f"coco/{split}2017/about.txt").write_text("")


def one_image_lost(root: Path) -> None:
    """Of an archive that was unpacked long ago."""
    shutil.copytree(root / "coco/val2017", root / "images")
    pack(root, "images", "coco/val2017.zip", "val2017")
    next((root / "coco/val2017").iterdir()).unlink()


def both(path: str, place: str) -> Callable[[Path], None]:
    """``moved`` of two paths, {} standing for train and val."""
    return moved(*((path.format(split), place.format(split)) for split in ("train", "val")))


def without_own_folder(root: Path) -> None:
    both("inaturalist/annotations/{}2018.json", "inaturalist/{}2018.json")(root)
    move(root, "inaturalist", "inat2018")


MESSES = {
    "coco under another name": Mess("coco", moved(("coco", "MSCOCO"))),
    "coco's folders in the data root": Mess(
        "coco",
        moved(
            ("coco/train2017", "train2017"),
            ("coco/val2017", "val2017"),
            ("coco/annotations", "annotations"),
        ),
    ),
    "coco's images in images/": Mess("pretraining", both("coco/{}2017", "coco/images/{}2017")),
    "annotations as unzipped": Mess(
        "coco_captioning", moved(("coco/annotations", "annotations_trainval2017/annotations"))
    ),
    "annotations one folder too deep": Mess(
        "multilabel_pretraining", moved(("coco/annotations", "coco/annotations/annotations"))
    ),
    "coco's images one folder too deep": Mess("coco", both("coco/{}2017", "coco/{0}2017/{0}2017")),
    "coco packed": Mess("coco", coco_packed),
    "coco of 2014": Mess("coco", coco_of_2014),
    "names of 2014 in train2017": Mess("coco", names_of_2014),
    "an empty folder": Mess("coco", empty_folder),
    "a link to nothing": Mess("coco", link_to_nothing),
    "a link to itself": Mess("coco", link_to_itself),
    "a link in a folder": Mess("coco", link_in_a_folder),
    "a link to a folder too high": Mess("coco", linked("coco/val2017", "val2017")),
    "one folder too deep, a file beside it": Mess("coco", too_deep_beside_a_file),
    "one image lost": Mess("coco", one_image_lost),
    "lvis in coco/annotations": Mess(
        "lvis", both("lvis/lvis_v1_{}.json", "coco/annotations/lvis_v1_{}.json")
    ),
    "lvis in coco": Mess("lvis", both("lvis/lvis_v1_{}.json", "coco/lvis_v1_{}.json")),
    "lvis packed": Mess("lvis", lvis_packed),
    "VOCdevkit": Mess(
        "voc", moved(("VOC2007", "VOCdevkit/VOC2007"), ("VOC2012", "VOCdevkit/VOC2012"))
    ),
    "VOCdevkit below VOC": Mess("voc07_svm", moved(("VOC2007", "VOC/VOCdevkit/VOC2007"))),
    "VOC2007 one folder too deep": Mess("voc07_svm", moved(("VOC2007", "VOC2007/VOC2007"))),
    "VOC2007 in lower case": Mess("voc", moved(("VOC2007", "voc2007"))),
    "VOC packed": Mess("voc", voc_packed),
    "VOC's test packed": Mess("voc", voc_test_packed),
    "a path that a shell would cut": Mess(
        "voc07_svm", moved(("VOC2007", "my data; and 'others'/VOC2007"))
    ),
    "ILSVRC2012": Mess("imagenet_linear", moved(("imagenet", "ILSVRC2012"))),
    "Kaggle's ImageNet": Mess("imagenet_linear", moved(("imagenet", "ILSVRC/Data/CLS-LOC"))),
    "Kaggle's ImageNet in imagenet": Mess(
        "imagenet_knn", moved(("imagenet", "imagenet/ILSVRC/Data/CLS-LOC"))
    ),
    "Kaggle's ImageNet, val flat": Mess("imagenet_linear", imagenet_of_kaggle),
    "ImageNet's val flat, with Kaggle's table": Mess("imagenet_linear", flatten_val),
    "ImageNet's val flat, with the kit": Mess("imagenet_linear", imagenet_with_development_kit),
    "ImageNet's val called validation": Mess(
        "imagenet_semi_supervised", moved(("imagenet/val", "imagenet/validation"))
    ),
    "ImageNet's images one folder too deep": Mess(
        "imagenet_linear", both("imagenet/{}", "imagenet/{0}/{0}")
    ),
    "ImageNet's train linked one folder too high": Mess(
        "imagenet_linear", linked("imagenet/train", "train")
    ),
    "ImageNet's train linked twice": Mess("imagenet_linear", linked_twice("imagenet/train")),
    "ImageNet's classes packed": Mess("imagenet_linear", classes_packed),
    "ImageNet packed": Mess("imagenet_linear", imagenet_packed),
    "inat2018": Mess("inaturalist", moved(("inaturalist", "inat2018"))),
    "inat2018, annotations without a folder": Mess("inaturalist", without_own_folder),
    "train_val2018 in the data root": Mess(
        "inaturalist", moved(("inaturalist/train_val2018", "train_val2018"))
    ),
    "train_val2018 one folder too deep": Mess(
        "inaturalist",
        moved(("inaturalist/train_val2018", "inaturalist/train_val2018/train_val2018")),
    ),
    "train_val2018 linked twice": Mess("inaturalist", linked_twice("inaturalist/train_val2018")),
    "inaturalist packed": Mess("inaturalist", inaturalist_packed),
}

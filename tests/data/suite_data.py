"""Small datasets in the published layouts of the classification suite."""

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from virtex.data.voc import VOC_CLASSES

PER_CLASS = 6  # images of each class and split


class Drawer:
    """Writes images that all differ."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def array(self, *shape: int) -> np.ndarray:
        return self.rng.integers(256, size=shape, dtype=np.uint8)

    def image(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.array(9, 12, 3)).save(path)


def write_lines(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_pickle(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def write_food101(root: Path, draw: Drawer) -> None:
    folder = root / "food-101"
    write_lines(folder / "meta" / "classes.txt", ["apple_pie", "waffles"])
    for start, split in ((0, "train"), (50, "test")):
        listed = {
            name: [f"{name}/{number}" for number in range(start, start + PER_CLASS)]
            for name in ("waffles", "apple_pie")  # not in alphabetical order
        }
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))
        for file in (*listed["waffles"], *listed["apple_pie"]):
            draw.image(folder / "images" / f"{file}.jpg")


def write_cifar10(root: Path, draw: Drawer) -> None:
    folder = root / "cifar-10-batches-py"
    write_pickle(folder / "batches.meta", {"label_names": ["airplane", "automobile", "bird"]})
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write_pickle(folder / name, {"data": draw.array(3, 3072), "labels": [2, 0, 1]})


def write_cifar100(root: Path, draw: Drawer) -> None:
    folder = root / "cifar-100-python"
    names = {"fine_label_names": ["apple", "bed"], "coarse_label_names": ["all"]}
    write_pickle(folder / "meta", names)
    for split in ("train", "test"):
        content = {
            "data": draw.array(10, 3072),
            "fine_labels": [1, 0] * 5,
            "coarse_labels": [0] * 10,
        }
        write_pickle(folder / split, content)


def write_sun397(root: Path, draw: Drawer) -> None:
    folder = root / "SUN397"
    classes = ["/a/abbey", "/a/apartment_building/outdoor", "/c/church/outdoor"]
    write_lines(folder / "ClassName.txt", classes)
    for split in ("Training", "Testing"):
        files = [
            f"{name}/sun_{split}{number}.jpg" for name in classes for number in range(PER_CLASS)
        ]
        write_lines(folder / f"{split}_01.txt", files)
        for file in files:
            draw.image(folder / file[1:])


def write_cars(root: Path, draw: Drawer) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for split, path in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for number in range(2 * PER_CLASS):
            file = f"{number + 1:05}.jpg"
            draw.image(folder / f"cars_{split}" / file)
            rows.append((1, 1, 9, 9, np.uint8(number % 2 + 1), file))
        annotations = np.array([rows], dtype=[(field, object) for field in fields])
        scipy.io.savemat(folder / path, {"annotations": np.array(rows, annotations.dtype)})


def write_aircraft(root: Path, draw: Drawer) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    classes = ["A300B4", "Boeing 707-320"]
    write_lines(folder / "variants.txt", classes)
    for start, split in enumerate(("train", "val", "test")):
        numbers = range(1000 * start, 1000 * start + 2 * PER_CLASS)
        lines = [f"{number:07} {classes[number % 2]}" for number in numbers]
        write_lines(folder / f"images_variant_{split}.txt", lines)
        for number in numbers:
            draw.image(folder / "images" / f"{number:07}.jpg")


def write_voc2007(root: Path, draw: Drawer) -> None:
    lists = root / "VOC2007" / "ImageSets" / "Main"
    for start, split in enumerate(("train", "val", "test")):
        stems = [f"{1000 * start + number:06}" for number in range(25)]
        write_lines(lists / f"{split}.txt", stems)
        for number, name in enumerate(VOC_CLASSES):
            labels = draw.rng.permutation([1, 0, *[-1] * (len(stems) - 2)])
            labels[number] = 1
            write_lines(
                lists / f"{name}_{split}.txt",
                (f"{stem} {label:2}" for stem, label in zip(stems, labels, strict=True)),
            )
        for stem in stems:
            draw.image(root / "VOC2007" / "JPEGImages" / f"{stem}.jpg")


def write_dtd(root: Path, draw: Drawer) -> None:
    folder = root / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        files = [
            f"{name}/{name}_{split}{number}.jpg"
            for name in ("banded", "zigzagged")
            for number in range(PER_CLASS)
        ]
        write_lines(folder / "labels" / f"{split}1.txt", files)
        for file in files:
            draw.image(folder / "images" / file)


def write_pets(root: Path, draw: Drawer) -> None:
    folder = root / "oxford-iiit-pet"
    for start, split in ((0, "trainval"), (100, "test")):
        lines = []
        for label, name in enumerate(("Abyssinian", "american_bulldog"), 1):
            for number in range(start, start + PER_CLASS):
                lines.append(f"{name}_{number} {label} {label} 1")
                draw.image(folder / "images" / f"{name}_{number}.jpg")
        write_lines(folder / "annotations" / f"{split}.txt", lines)


def write_caltech101(root: Path, draw: Drawer) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for name, images in (("BACKGROUND_Google", 40), ("Faces", 5), ("accordion", 33)):
        for number in range(1, images + 1):
            draw.image(folder / name / f"image_{number:04}.jpg")


def write_flowers102(root: Path, draw: Drawer) -> None:
    folder = root / "flowers-102"
    count = 102 + 20
    for number in range(1, count + 1):
        draw.image(folder / "jpg" / f"image_{number:05}.jpg")
    labels = np.arange(count) % 102 + 1
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels.astype(np.uint8)})
    val, train, test = np.split(np.arange(1, count + 1), [10, 112])
    ids = {"trnid": train, "valid": val, "tstid": test}
    scipy.io.savemat(folder / "setid.mat", {k: v.astype(np.uint16) for k, v in ids.items()})


def write_eurosat(root: Path, draw: Drawer) -> None:
    for name in ("AnnualCrop", "Forest"):
        for number in range(1, 16):
            draw.image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg")


def write_gtsrb(root: Path, draw: Drawer) -> None:
    folder = root / "gtsrb"
    head = ["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
    for label in range(3):
        for number in range(PER_CLASS):
            draw.image(folder / f"GTSRB/Training/{label:05}/00000_{number:05}.ppm")
        write_lines(folder / f"GTSRB/Training/{label:05}/GT-{label:05}.csv", [";".join(head)])
    with open(folder / "GT-final_test.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(head)
        for number in range(2 * PER_CLASS):
            writer.writerow([f"{number:05}.ppm", 12, 9, 0, 0, 9, 9, number % 3])
            draw.image(folder / f"GTSRB/Final_Test/Images/{number:05}.ppm")


def write_svhn(root: Path, draw: Drawer) -> None:
    (root / "svhn").mkdir()
    for split in ("train", "test"):
        labels = (np.arange(30) % 10 + 1).astype(np.uint8)  # 10 is the digit 0
        content = {"X": draw.array(32, 32, 3, 30), "y": labels[:, None]}
        scipy.io.savemat(root / "svhn" / f"{split}_32x32.mat", content)


def write_stl10(root: Path, draw: Drawer) -> None:
    folder = root / "stl10_binary"
    write_lines(folder / "class_names.txt", ["airplane", "bird"])
    for split in ("train", "test"):
        draw.array(10, 3, 96, 96).tofile(folder / f"{split}_X.bin")
        (np.arange(10) % 2 + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")


def write_pcam(root: Path, draw: Drawer) -> None:
    import h5py

    folder = root / "pcam"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        stem = folder / f"camelyonpatch_level_2_split_{split}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = draw.array(8, 96, 96, 3)
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = (np.arange(8) % 2).astype(np.uint8).reshape(8, 1, 1, 1)


def write_country211(root: Path, draw: Drawer) -> None:
    for split in ("train", "valid", "test"):
        for name in ("AD", "ZW"):
            for number in range(PER_CLASS):
                draw.image(root / "country211" / split / name / f"{number}.jpg")


def write_set(name: str, root: Path) -> Path:
    """Write a dataset of the suite to ``root``, and return ``root``."""
    globals()[f"write_{name}"](root, Drawer())
    return root

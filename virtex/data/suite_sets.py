"""The datasets of the classification suite: their files in the data root, sizes and metrics.

The first eleven are those of ssl-transfer's ``linear.py`` (Ericsson et al., arXiv 2011.13377), with
its metrics and splits; the others are common in linear probes, such as CLIP's (arXiv 2103.00020).
Folders are named as torchvision's dataset classes expect them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import VOC2007_IMAGES, VOC_SOURCE, Layout, Need

if TYPE_CHECKING:
    from virtex.data.image_sets import ImageSet

TOP1, MEAN_PER_CLASS, MEAN_AP = "top1", "mean_per_class", "mAP"


@dataclass(frozen=True)
class Splits:
    """The images of a dataset, named ``<name>_train``, ``<name>_val`` and ``<name>_test``.

    Attributes:
        train: without the images of ``val``.
        val: the published validation split or, where there is none, a random fifth of the training
            images.
    """

    train: "ImageSet"
    val: "ImageSet"
    test: "ImageSet"


@dataclass(frozen=True)
class SuiteSet:
    """A dataset.

    Attributes:
        name: key of ``SUITE``.
        metric: "top1" accuracy, accuracy "mean_per_class", or VOC2007's 11-point "mAP", as in
            ssl-transfer's ``LINEAR_DATASETS``; "top1" for the sets that it does not have.
        num_classes: of the published data.
        images: name of an image set -> number of images in the published data.
    """

    name: str
    title: str
    metric: str
    num_classes: int
    images: Mapping[str, int]
    layout: Layout

    def read(self, data_root: str | Path) -> Splits:
        """Read and check the dataset; nothing is downloaded.

        Raises:
            UserError: files or images are missing, or the data are invalid.
        """
        from virtex.data.suite_readers import READERS  # imports torchvision

        return READERS[self.name](Path(data_root))


def _published(name: str, train: int, val: int, test: int) -> dict[str, int]:
    return {f"{name}_train": train, f"{name}_val": val, f"{name}_test": test}


def _held_out(name: str, train: int, test: int) -> dict[str, int]:
    """Return the sizes where a fifth of the published training images is for validation."""
    return _published(name, train - train // 5, train // 5, test)


def _layout(source: str, *needs: Need) -> Layout:
    return Layout(needs, source, has_toy_data=source == VOC_SOURCE)


def _files(folder: str, *names: str) -> tuple[Need, ...]:
    return tuple(Need(f"{folder}/{name}", "file") for name in names)


def _images(path: str, images: int | None = None) -> Need:
    return Need(path, "images", {} if images is None else {"images": images})


# Published numbers of images are from the documentation of torchvision 0.29's classes (Food-101,
# Stanford Cars, Country211: per class; SUN397, EuroSAT, PCam: in total), from num_images in
# vision_datasets.json of the ELEVATER toolkit (all but the following), from the examples in
# mmpretrain's sun397.py (SUN397), from the TFDS catalog (SVHN, STL-10) and from the lines of
# ssl-transfer's split files (Caltech-101).
SETS = (
    SuiteSet(
        "food101",
        "Food-101",
        TOP1,
        101,
        _held_out("food101", 75750, 25250),
        _layout(
            "Food-101: https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            *_files("food-101/meta", "train.json", "test.json"),
            _images("food-101/images", 101000),
        ),
    ),
    SuiteSet(
        "cifar10",
        "CIFAR-10",
        TOP1,
        10,
        _held_out("cifar10", 50000, 10000),
        _layout(
            "CIFAR-10, python version: https://www.cs.toronto.edu/~kriz/cifar.html",
            *_files("cifar-10-batches-py", *(f"data_batch_{number}" for number in range(1, 6))),
            *_files("cifar-10-batches-py", "test_batch", "batches.meta"),
        ),
    ),
    SuiteSet(
        "cifar100",
        "CIFAR-100",
        TOP1,
        100,
        _held_out("cifar100", 50000, 10000),
        _layout(
            "CIFAR-100, python version: https://www.cs.toronto.edu/~kriz/cifar.html",
            *_files("cifar-100-python", "train", "test", "meta"),
        ),
    ),
    SuiteSet(
        "sun397",
        "SUN397",
        TOP1,
        397,
        _held_out("sun397", 19850, 19850),
        _layout(
            "SUN397, with the files of its Partitions.zip in SUN397/: "
            "https://vision.princeton.edu/projects/2010/SUN/",
            *_files("SUN397", "ClassName.txt", "Training_01.txt", "Testing_01.txt"),
            _images("SUN397", 108754),
        ),
    ),
    SuiteSet(
        "cars",
        "Stanford Cars",
        TOP1,
        196,
        _held_out("cars", 8144, 8041),
        _layout(
            "Stanford Cars: https://ai.stanford.edu/~jkrause/cars/car_dataset.html "
            "(no longer online)",
            *_files("stanford_cars", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat"),
            *_files("stanford_cars", "cars_test_annos_withlabels.mat"),
            _images("stanford_cars/cars_train", 8144),
            _images("stanford_cars/cars_test", 8041),
        ),
    ),
    SuiteSet(
        "aircraft",
        "FGVC Aircraft",
        MEAN_PER_CLASS,
        100,
        _published("aircraft", 3334, 3333, 3333),
        _layout(
            "FGVC Aircraft 2013b: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            *_files("fgvc-aircraft-2013b/data", "variants.txt"),
            *_files(
                "fgvc-aircraft-2013b/data",
                *(f"images_variant_{split}.txt" for split in ("train", "val", "test")),
            ),
            _images("fgvc-aircraft-2013b/data/images", 10000),
        ),
    ),
    SuiteSet(
        "voc2007",
        "VOC2007",
        MEAN_AP,
        20,
        _published("voc_2007", 2501, 2510, 4952),
        _layout(
            VOC_SOURCE,
            VOC2007_IMAGES[0],
            *(
                Need(
                    f"VOC2007/ImageSets/Main/{split}.txt",
                    "image_list",
                    {"images": images},
                    "VOC2007/JPEGImages/{}.jpg",
                )
                for split, images in (("train", 2501), ("val", 2510), ("test", 4952))
            ),
            *(
                Need(f"VOC2007/ImageSets/Main/aeroplane_{split}.txt", "voc_labels", {"classes": 20})
                for split in ("train", "val", "test")
            ),
        ),
    ),
    SuiteSet(
        "dtd",
        "DTD",
        TOP1,
        47,
        _published("dtd", 1880, 1880, 1880),
        _layout(
            "Describable Textures, release 1.0.1, unpacked in dtd/: "
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
            *_files("dtd/dtd/labels", "train1.txt", "val1.txt", "test1.txt"),
            _images("dtd/dtd/images", 5640),
        ),
    ),
    SuiteSet(
        "pets",
        "Oxford-IIIT Pets",
        MEAN_PER_CLASS,
        37,
        _held_out("pets", 3680, 3669),
        _layout(
            "Oxford-IIIT Pets, unpacked in oxford-iiit-pet/: "
            "https://www.robots.ox.ac.uk/~vgg/data/pets/",
            *_files("oxford-iiit-pet/annotations", "trainval.txt", "test.txt"),
            _images("oxford-iiit-pet/images"),
        ),
    ),
    SuiteSet(
        "caltech101",
        "Caltech-101",
        MEAN_PER_CLASS,
        102,  # with the background
        _held_out("caltech101", 2416, 6728),
        _layout(
            "Caltech-101, unpacked in caltech101/: https://data.caltech.edu/records/mzrjq-6wc02; "
            "train.txt and test.txt of ssl-transfer's caltech101-splits in caltech101/ reproduce "
            "its split: https://github.com/linusericsson/ssl-transfer",
            _images("caltech101/101_ObjectCategories", 9144),
        ),
    ),
    SuiteSet(
        "flowers102",
        "Oxford Flowers 102",
        MEAN_PER_CLASS,
        102,
        _published("flowers102", 1020, 1020, 6149),
        _layout(
            "Oxford Flowers 102, unpacked in flowers-102/: "
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            *_files("flowers-102", "imagelabels.mat", "setid.mat"),
            _images("flowers-102/jpg", 8189),
        ),
    ),
    SuiteSet(
        "eurosat",
        "EuroSAT",
        TOP1,
        10,
        _held_out("eurosat", 21600, 5400),  # a fifth of 27,000 images is for testing
        _layout(
            "EuroSAT (RGB), unpacked in eurosat/: https://github.com/phelber/EuroSAT",
            _images("eurosat/2750", 27000),
        ),
    ),
    SuiteSet(
        "gtsrb",
        "GTSRB",
        TOP1,
        43,
        _held_out("gtsrb", 26640, 12630),
        _layout(
            "GTSRB, GTSRB-Training_fixed.zip, GTSRB_Final_Test_Images.zip and "
            "GTSRB_Final_Test_GT.zip unpacked in gtsrb/: https://benchmark.ini.rub.de/",
            *_files("gtsrb", "GT-final_test.csv"),
            _images("gtsrb/GTSRB/Training", 26640),
            _images("gtsrb/GTSRB/Final_Test/Images", 12630),
        ),
    ),
    SuiteSet(
        "pcam",
        "PatchCamelyon",
        TOP1,
        2,
        _published("pcam", 262144, 32768, 32768),
        _layout(
            "PatchCamelyon, its files uncompressed in pcam/: https://github.com/basveeling/pcam",
            *_files(
                "pcam",
                *(
                    f"camelyonpatch_level_2_split_{split}_{part}.h5"
                    for split in ("train", "valid", "test")
                    for part in ("x", "y")
                ),
            ),
        ),
    ),
    SuiteSet(
        "svhn",
        "SVHN",
        TOP1,
        10,
        _held_out("svhn", 73257, 26032),
        _layout(
            "SVHN, format 2 (cropped digits), in svhn/: http://ufldl.stanford.edu/housenumbers/",
            *_files("svhn", "train_32x32.mat", "test_32x32.mat"),
        ),
    ),
    SuiteSet(
        "stl10",
        "STL-10",
        TOP1,
        10,
        _held_out("stl10", 5000, 8000),
        _layout(
            "STL-10, binary files: https://cs.stanford.edu/~acoates/stl10/",
            *_files("stl10_binary", "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
            *_files("stl10_binary", "class_names.txt"),
        ),
    ),
    SuiteSet(
        "country211",
        "Country211",
        TOP1,
        211,
        _published("country211", 31650, 10550, 21100),
        _layout(
            "Country211: https://github.com/openai/CLIP/blob/main/data/country211.md",
            _images("country211/train", 31650),
            _images("country211/valid", 10550),
            _images("country211/test", 21100),
        ),
    ),
)
SUITE: dict[str, SuiteSet] = {each.name: each for each in SETS}

"""Toy images in the layout of the Pascal VOC devkit: VOC2007 and VOC2012.

The twenty classes have VOC's real names, which detectors and evaluators require.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from xml.sax.saxutils import escape

from virtex.data.toy.drawing import Drawing, Instance, draw
from virtex.data.toy.plan import Plan, jpeg_bytes, write_file
from virtex.data.toy.segmentation import voc_label_map
from virtex.data.toy.world import SHAPES, TEXTURES, ToyObject, image_rng, sample_scene
from virtex.data.voc import VOC_CLASSES

# Every shape twice, plain and patterned: an aeroplane is a plain circle, a bicycle a patterned
# circle, …, a tvmonitor a patterned moon.
VOC_KINDS = dict(zip(VOC_CLASSES, product(SHAPES, ("plain", "patterned")), strict=True))
VOC_NAMES = {kind: name for name, kind in VOC_KINDS.items()}
DIFFICULT_BELOW = 0.85  # visible fraction below which an object is difficult

Labeled = list[tuple[str, bool]]  # the objects of one image: class, difficult


def voc_class(obj: ToyObject) -> str:
    """Return the VOC class of an object."""
    return VOC_NAMES[obj.shape, "plain" if obj.texture == "plain" else "patterned"]


def write_voc(plan: Plan) -> None:
    """Write VOC2007 trainval and test, and VOC2012 trainval; half of trainval is train.

    The images of VOC2012 have label maps.
    """
    half = plan.train_images // 2
    numbers = range(1, half + 1), range(half + 1, half + plan.val_images + 1)
    trainval = _write_images(plan, "VOC2007", [f"{number:06d}" for number in numbers[0]])
    test = _write_images(plan, "VOC2007", [f"{number:06d}" for number in numbers[1]])
    _write_sets(plan, "VOC2007", {**_halves(trainval), "test": test})
    stems = [f"2012_{number:06d}" for number in range(1, plan.train_images - half + 1)]
    subsets = _halves(_write_images(plan, "VOC2012", stems))
    _write_sets(plan, "VOC2012", subsets)
    folder = plan.out / "VOC2012" / "ImageSets" / "Segmentation"
    for subset, images in subsets.items():
        write_file(folder / f"{subset}.txt", "".join(f"{stem}\n" for stem in images))


def _halves(trainval: dict[str, Labeled]) -> dict[str, dict[str, Labeled]]:
    images = list(trainval.items())
    return {"train": dict(images[::2]), "val": dict(images[1::2]), "trainval": trainval}


def _write_images(plan: Plan, year: str, stems: Sequence[str]) -> dict[str, Labeled]:
    """Draw and annotate images; 20 of them in a row show all 20 classes."""
    labels = plan.map(partial(_write_image, plan, year), list(enumerate(stems)))
    return dict(zip(stems, labels, strict=True))


def _write_image(plan: Plan, year: str, numbered: tuple[int, str]) -> Labeled:
    index, stem = numbered
    rng = image_rng(plan.seed, f"{year}/{stem}", index)
    shape, surface = VOC_KINDS[VOC_CLASSES[index % len(VOC_CLASSES)]]
    patterned = [texture for texture in TEXTURES if texture != "plain"]
    texture = "plain" if surface == "plain" else str(rng.choice(patterned))
    drawing = draw(sample_scene(rng, {"shape": shape, "texture": texture}), rng)
    root = plan.out / year
    write_file(root / "JPEGImages" / f"{stem}.jpg", jpeg_bytes(drawing.image))
    write_file(root / "Annotations" / f"{stem}.xml", _xml(year, stem, drawing))
    if year == "VOC2012":
        labels = voc_label_map(drawing, lambda obj: 1 + VOC_CLASSES.index(voc_class(obj)))
        write_file(root / "SegmentationClass" / f"{stem}.png", labels)
    return [(voc_class(instance.obj), _difficult(instance)) for instance in drawing.instances]


def _difficult(instance: Instance) -> bool:
    return instance.visible < DIFFICULT_BELOW


def _write_sets(plan: Plan, year: str, subsets: dict[str, dict[str, Labeled]]) -> None:
    """Write ``<subset>.txt`` and ``<class>_<subset>.txt``: 1, -1, or 0 if all are difficult."""
    folder = plan.out / year / "ImageSets" / "Main"
    for subset, images in subsets.items():
        write_file(folder / f"{subset}.txt", "".join(f"{stem}\n" for stem in images))
        for name in VOC_CLASSES:
            rows = [f"{stem} {_presence(name, objects):2d}\n" for stem, objects in images.items()]
            write_file(folder / f"{name}_{subset}.txt", "".join(rows))


def _presence(name: str, objects: Labeled) -> int:
    difficult = [is_difficult for label, is_difficult in objects if label == name]
    if not difficult:
        return -1
    return 0 if all(difficult) else 1


def _xml(year: str, stem: str, drawing: Drawing) -> str:
    scene = drawing.scene
    head = f"""<annotation>
\t<folder>{year}</folder>
\t<filename>{escape(stem)}.jpg</filename>
\t<source>
\t\t<database>The toy world in the format of {year}</database>
\t\t<annotation>virtex.data.toy</annotation>
\t\t<image>drawn</image>
\t</source>
\t<size>
\t\t<width>{scene.width}</width>
\t\t<height>{scene.height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
"""
    return head + "".join(map(_xml_object, drawing.instances)) + "</annotation>\n"


def _xml_object(instance: Instance) -> str:
    """Return the XML of an object; VOC's box corners are 1-based and inclusive."""
    x, y, width, height = instance.bbox
    return f"""\t<object>
\t\t<name>{voc_class(instance.obj)}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{int(instance.truncated)}</truncated>
\t\t<difficult>{int(_difficult(instance))}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{int(x) + 1}</xmin>
\t\t\t<ymin>{int(y) + 1}</ymin>
\t\t\t<xmax>{-int(-(x + width) // 1)}</xmax>
\t\t\t<ymax>{-int(-(y + height) // 1)}</ymax>
\t\t</bndbox>
\t</object>
"""

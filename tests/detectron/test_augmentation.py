"""Augmentations of training images by name."""

import inspect

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from tests.detectron.protocol_values import sample
from tests.errors import raises_code
from virtex.detectron.augmentation import CropToSize, build_instance_mapper
from virtex.detectron.checks import validate_run
from virtex.detectron.compat import default_config

PADS = "pad" not in inspect.signature(T.FixedSizeCrop).parameters  # v0.5 cannot leave it out


@pytest.mark.parametrize("size", [(90, 120), (40, 120), (30, 20)])
def test_crop_matches_fixed_size_crop(size):
    if PADS and size != (90, 120):
        pytest.skip("Detectron2 v0.5 pads")
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    options = {} if PADS else {"pad": False}
    for seed in range(5):
        crops = []
        for crop in (CropToSize(50, 70), T.FixedSizeCrop((50, 70), **options)):
            np.random.seed(seed)
            transform = crop.get_transform(image)
            crops.append((transform.apply_image(image), transform.apply_coords(np.ones((1, 2)))))
        np.testing.assert_array_equal(crops[0][0], crops[1][0])
        np.testing.assert_array_equal(crops[0][1], crops[1][1])


@pytest.mark.skipif(PADS, reason="Detectron2 v0.5 pads")
@pytest.mark.parametrize("flip", ["horizontal", "none"])
def test_lsj_matches_detectron2(tmp_path, flip):
    pytest.importorskip("shapely")
    cfg = lsj_config(flip)
    cfg.MODEL.MASK_ON = True
    reference = DatasetMapper(
        is_train=True,
        augmentations=[
            *([T.RandomFlip(horizontal=True)] if flip == "horizontal" else []),
            T.ResizeScale(0.1, 2.0, 64, 64),
            T.FixedSizeCrop((64, 64), pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    shapes = set()
    for seed in range(12):
        samples = []
        for mapper in (build_instance_mapper(cfg, True), reference):
            np.random.seed(seed)
            samples.append(mapper(sample(tmp_path)))
        found, expected = samples
        shapes.add(found["image"].shape)
        assert found["image"].equal(expected["image"])
        boxes = [x["instances"].gt_boxes.tensor for x in samples]
        assert boxes[0].equal(boxes[1])
        assert len(found["instances"]) == len(expected["instances"])
    assert len(shapes) > 3


def lsj_config(flip="horizontal"):
    cfg = default_config()
    cfg.INPUT.FORMAT, cfg.INPUT.AUGMENTATION, cfg.INPUT.LSJ.SIZE = "RGB", "lsj", 64
    cfg.INPUT.RANDOM_FLIP = flip
    return cfg


def test_boxes_are_recomputed_from_cut_masks(tmp_path):
    cfg = lsj_config("none")
    cfg.MODEL.MASK_ON, cfg.INPUT.LSJ.MIN_SCALE = True, 2.0  # 96 x 128 pixels, cropped
    pytest.importorskip("shapely")
    mapper, cut = build_instance_mapper(cfg, True), 0
    for seed in range(20):
        np.random.seed(seed)
        instances = mapper(sample(tmp_path))["instances"]
        for box, outlines in zip(instances.gt_boxes, instances.gt_masks.polygons, strict=True):
            points = np.concatenate(outlines).reshape(-1, 2)
            np.testing.assert_allclose(box, [*points.min(0), *points.max(0)], rtol=1e-6)
            cut += len(points) != 3
            assert points.min() >= 0 and points.max() <= 64
    assert cut > 0


def test_multi_scale_crop(tmp_path):
    """Half of the images are cropped; all have a short side of ``MIN_SIZE_TRAIN``."""
    pytest.importorskip("shapely")
    cfg = default_config()
    cfg.INPUT.FORMAT, cfg.INPUT.AUGMENTATION, cfg.MODEL.MASK_ON = "RGB", "detr", True
    cfg.INPUT.MIN_SIZE_TRAIN = (66, 72)
    mapper, cropped, sides = build_instance_mapper(cfg, True), 0, set()
    for seed in range(60):
        np.random.seed(seed)
        height, width = mapper(sample(tmp_path))["image"].shape[1:]
        # whole images are 3:4; crops of 533x400 to 800x600 pixels have sides of 384 to 600
        whole = (height, width) in ((66, 88), (72, 96))
        cropped += not whole
        sides.add(min(height, width))
        assert max(height, width) / min(height, width) < 1.6
    assert 15 < cropped < 45
    assert sides == {66, 72}


def test_test_images_are_not_augmented(tmp_path):
    cfg = lsj_config()
    cfg.INPUT.MIN_SIZE_TEST = 45
    assert build_instance_mapper(cfg, False)(sample(tmp_path))["image"].shape == (3, 45, 60)


def test_unknown_augmentation():
    cfg = default_config()
    cfg.INPUT.AUGMENTATION = "mosaic"
    with raises_code("config.invalid_value", "INPUT.AUGMENTATION"):
        validate_run(cfg, (), "cpu")

"""Semantic segmentation: scores, augmentation, linear head, and runs end to end."""

import json
import random
import shutil
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from PIL import Image

from tests.detectron.backbones import make_backbone as make_resnet
from tests.detectron.tiny_networks import NETWORKS, VITS, TinyArch, TinyFamily, make_backbone
from tests.errors import raises_code
from tests.faults.processes import Process, torchrun_environments
from tests.run_states import assert_equal, content_of
from tests.selection import whole_only
from virtex.backbones import registry
from virtex.cli import run_tool
from virtex.config import flatten
from virtex.data.segmentation import IGNORED, read_labels
from virtex.detectron import heads  # noqa: F401  registers the heads
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.checks import validate_run
from virtex.detectron.compat import add_settings, default_config
from virtex.detectron.config_files import PlainConfig
from virtex.detectron.custom_data import loaded_set
from virtex.detectron.datasets import read_data, register_detection_sets
from virtex.detectron.last_map import LinearSemSegHead
from virtex.detectron.optimizer import build_lr_scheduler
from virtex.detectron.semantic import SemanticEvaluator, SemanticMapper, change_colors
from virtex.detectron.settings import build_settings, load_config
from virtex.detectron.trainer import build_detector
from virtex.detectron.verify import TOLERANCE, compare_features, load_weights
from virtex.engine.frozen import freeze
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import TASKS, packaged_protocol

IS_OFFICIAL = find_spec("detectron2.projects.point_rend") is not None
official = pytest.mark.skipif(not IS_OFFICIAL, reason="Detectron2 v0.5 lacks its projects")
NAMES = ("ade20k", "voc_seg", "cityscapes_seg")
QUICK = [
    *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP.SIZE", "[64, 64]", "INPUT.MIN_SIZE_TEST", "64"),
    *("INPUT.MIN_SIZE_TRAIN", "(64, 96)"),
]


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch):
    registry.get_families()
    monkeypatch.setitem(registry.FAMILIES, "tiny", TinyFamily())


# --- scores ----------------------------------------------------------------------------------


def reference_scores(name, samples, outputs):
    """Return the scores of Detectron2's own evaluator."""
    reference = SemSegEvaluator(name, distributed=False)
    reference.reset()
    reference.process(samples, outputs)
    return reference.evaluate()["sem_seg"]


def logits_of(labels, classes):
    return {
        "sem_seg": torch.nn.functional.one_hot(torch.as_tensor(labels), classes).permute(2, 0, 1)
    }


def predict(kind, truth, classes, rng):
    """Return predictions (height, width) for the label map of an image."""
    known = np.where(truth == IGNORED, rng.integers(0, classes, truth.shape), truth)
    noisy = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, classes, truth.shape), known)
    return {
        "perfect": known,
        "one class": np.zeros_like(truth),
        "absent class": np.full_like(truth, classes - 1),
        "random": rng.integers(0, classes, truth.shape),
        "noisy": noisy,
    }[kind].astype(np.int64)


@pytest.mark.parametrize("kind", ["perfect", "one class", "absent class", "random", "noisy"])
def test_scores_match_detectron2(toy, kind):
    """Label maps with ignored pixels, of which most classes are absent."""
    register_detection_sets(toy)
    name = "voc_2012_sem_seg_val"
    samples, rng = loaded_set(name).samples, np.random.default_rng(0)
    classes = len(MetadataCatalog.get(name).stuff_classes)
    truths = [read_labels(sample["sem_seg_file_name"], "voc_seg") for sample in samples]
    assert any((truth == IGNORED).any() for truth in truths)
    outputs = [logits_of(predict(kind, truth, classes, rng), classes) for truth in truths]
    ours = SemanticEvaluator(name)
    for sample, output in zip(samples, outputs, strict=True):
        ours.process([sample], [output])
    found, expected = ours.evaluate(), reference_scores(name, samples, outputs)
    of_classes = [v for key, v in expected.items() if key.startswith("IoU-") and not np.isnan(v)]
    assert 1 < len(of_classes) < classes
    if not IS_OFFICIAL:  # v0.5 also divides by the number of classes that are predicted only
        expected["mIoU"] = np.mean(of_classes)
    assert found == pytest.approx(
        {f"sem_seg/{key}": expected[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")}, abs=1e-9
    )


def test_scores_of_classes(toy):
    register_detection_sets(toy)
    name = "ade20k_sem_seg_val"
    samples = loaded_set(name).samples
    evaluator = SemanticEvaluator(name)
    outputs = [
        logits_of(read_labels(s["sem_seg_file_name"], "ade20k").astype(np.int64), 150)
        for s in samples
    ]
    evaluator.process(samples, outputs)
    assert evaluator.evaluate()["sem_seg/mIoU"] == 100
    rows = evaluator.per_class
    pixels = sum(sample["height"] * sample["width"] for sample in samples)
    assert len(rows) == 150 and sum(row["pixels"] for row in rows) == pixels
    assert {row["sem_seg/IoU"] for row in rows} == {None, 100.0}


# --- augmentation ----------------------------------------------------------------------------


def test_labels_follow_the_image(tmp_path):
    """An image whose colors state the label of each pixel, through resize, crop and flip."""
    labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((40, 40))).astype(np.uint8)
    Image.fromarray(np.stack([20 * labels] * 3, axis=-1)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    sample = {
        **{"file_name": str(tmp_path / "image.png"), "height": 120, "width": 160},
        **{"sem_seg_file_name": str(tmp_path / "labels.png"), "labels": "ade20k"},
    }
    cfg = load_config(packaged_protocol("ade20k", "toy"))
    cfg.INPUT.COLOR_AUG_SSD = False
    mapper, shapes = SemanticMapper(cfg, True), set()
    for seed in range(20):
        np.random.seed(seed)
        mapped = mapper(sample)
        pixels, found = mapped["image"][0].numpy(), mapped["sem_seg"].numpy()
        assert pixels.shape == found.shape
        shapes.add(found.shape)
        inner = cv2.erode(np.float32(pixels), np.ones((5, 5))) == pixels  # no blended edges
        inner &= cv2.dilate(np.float32(pixels), np.ones((5, 5))) == pixels
        assert inner.mean() > 0.4
        np.testing.assert_array_equal(pixels[inner] // 20 - 1, found[inner])
    assert (96, 128) in shapes
    tested = SemanticMapper(cfg, False)(sample)
    assert "sem_seg" not in tested and tested["image"].shape == (3, 128, 171)


def test_crops_avoid_a_dominant_class(tmp_path):
    labels = np.ones((200, 200), np.uint8)
    labels[:, 150:] = 2
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    sample = {
        **{"file_name": str(tmp_path / "image.png"), "height": 200, "width": 200},
        **{"sem_seg_file_name": str(tmp_path / "labels.png"), "labels": "ade20k"},
    }
    cfg = load_config(packaged_protocol("ade20k", "toy"))
    cfg.INPUT.MIN_SIZE_TRAIN = (200, 200)
    shares = {}
    for limit in (0.75, 1.0):
        cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = limit
        mapper = SemanticMapper(cfg, True)
        np.random.seed(0)
        shares[limit] = [float((mapper(sample)["sem_seg"] == 0).float().mean()) for _ in range(20)]
    assert np.mean(np.array(shares[0.75]) < 0.75) > np.mean(np.array(shares[1.0]) < 0.75)


@official
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("contrast_first", [True, False])
def test_colors_match_pointrend(monkeypatch, image_format, contrast_first):
    from detectron2.projects.point_rend import ColorAugSSDTransform

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    draws = (-20.5, 1.3, 0.7, 11)
    uniform = iter(draws[:3] if contrast_first else (draws[0], draws[2], draws[1]))
    coins = iter([1, contrast_first, 1, 1, 1])
    monkeypatch.setattr(random, "randrange", lambda n: next(coins))
    monkeypatch.setattr(random, "uniform", lambda low, high: next(uniform))
    monkeypatch.setattr(random, "randint", lambda low, high: draws[3])
    # its coin for brightness comes before the one for the order
    expected = ColorAugSSDTransform(image_format).apply_image(image.copy())
    found = change_colors(image, image_format, draws, contrast_first)
    np.testing.assert_array_equal(found, expected)


# --- schedule --------------------------------------------------------------------------------


def rates(scheduler, optimizer, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def poly_config(power, warmup=0, end=0.0):
    cfg = default_config()
    cfg.merge_from_list(
        [
            *("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", 50),
            *("SOLVER.POLY_LR_POWER", power, "SOLVER.WARMUP_ITERS", warmup),
            *("SOLVER.WARMUP_FACTOR", 1e-6, "SOLVER.POLY_LR_END", end),
        ]
    )
    return cfg


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize("power", [0.9, 1.0])
def test_poly_schedule_matches_torch(power):
    ours, theirs = sgd(), sgd()
    reference = torch.optim.lr_scheduler.PolynomialLR(theirs, 50, power)
    found = rates(build_lr_scheduler(poly_config(power), ours), ours, 50)
    assert found == pytest.approx(rates(reference, theirs, 50))


@official
def test_poly_schedule_matches_deeplab():
    from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

    ours, theirs = sgd(), sgd()
    reference = WarmupPolyLR(theirs, 50, warmup_factor=1e-6, warmup_iters=10, power=0.9)
    found = rates(build_lr_scheduler(poly_config(0.9, 10), ours), ours, 50)
    assert found == pytest.approx(rates(reference, theirs, 50))


def test_poly_schedule_ends_at_a_minimum():
    """mmsegmentation: (lr - min_lr) * (1 - progress) ** power + min_lr."""
    optimizer = sgd()
    found = rates(build_lr_scheduler(poly_config(0.9, end=0.01), optimizer), optimizer, 50)
    expected = [(0.1 - 0.001) * (1 - i / 50) ** 0.9 + 0.001 for i in range(50)]
    assert found == pytest.approx(expected)


# --- the linear layout -----------------------------------------------------------------------

LINEAR = {
    "resnet18": lambda: make_resnet("resnet18"),
    **{name: (lambda name=name: make_backbone(VITS[name])) for name in ("dinov2", "dinov3")},
    **{arch.family: (lambda arch=arch: make_backbone(arch)) for arch in NETWORKS},
    "tiny": lambda: make_backbone(TinyArch()),
}


def convert(backbone, task="ade20k", name="toy-linear", overrides=()):
    settings = build_settings(packaged_protocol(task, name), list(overrides), 1, "cpu")
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    return settings.cfg, converted


@pytest.mark.parametrize("name", LINEAR)
def test_linear_head_on_every_family(name):
    backbone = LINEAR[name]()
    cfg, converted = convert(backbone)
    detector = build_detector(cfg)
    freeze(detector.backbone.network)
    compared = load_weights(detector, converted)["compared"]
    assert compared == sum("num_batches" not in key for key in backbone.state_dict)
    errors = compare_features(detector, converted, backbone.input)
    assert errors["last"] <= TOLERANCE
    detector.train()
    sample = {"image": torch.randint(0, 255, (3, 90, 130)), "sem_seg": torch.ones(90, 130).long()}
    before = {k: v.clone() for k, v in detector.backbone.state_dict().items()}
    loss = detector([sample, sample])["loss_sem_seg"]
    loss.backward()
    stride = detector.backbone.size_divisibility
    labeled = 90 * 130 / (-(-90 // stride) * -(-130 // stride) * stride**2)  # without padding
    assert float(loss.detach()) == pytest.approx(np.log(150) * labeled, rel=0.1)
    trained = {n for n, p in detector.named_parameters() if p.grad is not None}
    assert trained == {f"sem_seg_head.{n}" for n, _ in detector.sem_seg_head.named_parameters()}
    assert_equal(detector.backbone.state_dict(), before)
    detector.eval()
    with torch.no_grad():
        output = detector([{**sample, "height": 45, "width": 65}])[0]["sem_seg"]
    assert output.shape == (150, 45, 65)


def test_linear_head_is_batch_norm_and_linear():
    cfg = load_config(packaged_protocol("voc_seg", "linear"))
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    head = LinearSemSegHead(cfg, {"last": ShapeSpec(channels=6, stride=4)}).train()
    x, targets = torch.randn(2, 6, 5, 7), torch.randint(0, 21, (2, 20, 28))
    targets[0, :8] = IGNORED
    _, losses = head({"last": x}, targets)
    normalized = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    weight = head.predictor.weight[:, :, 0, 0]
    cells = torch.einsum("kc,bchw->bkhw", weight, normalized)
    logits = torch.nn.functional.interpolate(cells, (20, 28), mode="bilinear", align_corners=False)
    valid = targets != IGNORED
    scores = logits.permute(0, 2, 3, 1)[valid].log_softmax(1)
    expected = -scores.gather(1, targets[valid][:, None]).sum() / targets.numel()
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    assert {n for n, _ in head.named_parameters()} == {
        *("norm.weight", "norm.bias", "predictor.weight", "predictor.bias")
    }


def test_batch_without_labels_has_no_loss():
    cfg = load_config(packaged_protocol("voc_seg", "toy"))
    cfg.MODEL.DEVICE = "cpu"
    classes = [SEM_SEG_HEADS_REGISTRY.get(n) for n in ("SparseSemSegFPNHead", "SemSegFPNHead")]
    shapes = {f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in range(2, 6)}
    ours, theirs = (head(cfg, shapes).train() for head in classes)
    theirs.load_state_dict(ours.state_dict())
    maps = {name: torch.randn(1, 8, 64 // s.stride, 64 // s.stride) for name, s in shapes.items()}
    targets = torch.randint(0, 21, (1, 64, 64))
    assert_equal(ours(maps, targets)[1], theirs(maps, targets)[1])
    loss = ours(maps, torch.full_like(targets, IGNORED))[1]["loss_sem_seg"]
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in ours.parameters())


def test_linear_head_needs_a_frozen_backbone():
    with raises_code("config.invalid_value", "MODEL.BACKBONE.FROZEN"):
        convert(make_resnet("resnet18"), overrides=["MODEL.BACKBONE.FROZEN", "False"])


def test_network_of_one_image_size_is_refused():
    with raises_code("detection.unsupported_backbone", "48x48"):
        convert(make_backbone(TinyArch(image_size=48)))


# --- protocols -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", NAMES)
def test_linear_protocol_matches_dinov2(task):
    """dinov2_*_ade20k_linear_config.py; DINOv3's config-ade20k-linear-training.yaml agrees."""
    settings = build_settings(packaged_protocol(task, None), [], 8, "cuda")
    solver, model = settings.cfg.SOLVER, settings.cfg.MODEL
    assert settings.deviations() == []
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH) == ("ADAMW", 1e-3, 16)
    decays = {solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_BIAS}
    assert decays == {1e-4}
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (40000, 1500, 1e-6)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER) == ("WarmupPolyLR", 1.0)
    assert model.BACKBONE.FROZEN and model.SEM_SEG_HEAD.NORM == "SyncBN"


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("name", ["linear", "fpn"])
def test_augmentation_matches_mmsegmentation(task, name):
    given = load_config(packaged_protocol(task, name)).INPUT
    short = 1024 if task == "cityscapes_seg" else 512
    assert list(given.MIN_SIZE_TRAIN) == [short // 2, short * 2]
    assert ("range", short) == (given.MIN_SIZE_TRAIN_SAMPLING, given.MIN_SIZE_TEST)
    assert list(given.CROP.SIZE) == [512, short]
    assert given.CROP.ENABLED and given.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert given.COLOR_AUG_SSD and given.RANDOM_FLIP == "horizontal"


@pytest.mark.parametrize(
    ("task", "iterations", "batch"),
    [("ade20k", 160000, 16), ("voc_seg", 20000, 16), ("cityscapes_seg", 80000, 8)],
)
def test_fpn_protocol_matches_mmsegmentation(task, iterations, batch):
    solver = build_settings(packaged_protocol(task, "fpn"), [], 8, "cuda").cfg.SOLVER
    assert (iterations, batch) == (solver.MAX_ITER, solver.IMS_PER_BATCH)
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (0.01, 5e-4, 5e-4)
    assert (solver.POLY_LR_POWER, solver.POLY_LR_END * solver.BASE_LR) == (0.9, 1e-4)
    assert TASKS[task].primary_metric == "sem_seg/mIoU" and not TASKS[task].is_default


@pytest.mark.parametrize("task", NAMES)
def test_protocols_do_not_depend_on_distribution_defaults(task):
    for protocol in TASKS[task].protocols.values():
        cfg = get_cfg()  # the installed distribution's own defaults
        add_settings(cfg)
        cfg = PlainConfig(cfg)
        cfg.merge_from_file(str(protocol.config))
        assert flatten(cfg) == flatten(load_config(protocol))


# --- invalid input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.MASK_ON", True),
        ("INPUT.AUGMENTATION", "lsj"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 0),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("SOLVER.POLY_LR_POWER", -1.0),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.0),
    ],
)
def test_invalid_setting(key, value):
    cfg = load_config(packaged_protocol("ade20k", "linear"))
    cfg.merge_from_list([key, value])
    with raises_code("config.invalid_value", key):
        validate_run(cfg, (), "cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("IN_FEATURES", ("p2", "p9")),
        ("IN_FEATURES", ()),
        *(("COMMON_STRIDE", n) for n in (0, 3, 8)),
    ],
)
def test_invalid_feature_maps(key, value):
    cfg = load_config(packaged_protocol("ade20k", "fpn"))
    cfg.merge_from_list([f"MODEL.SEM_SEG_HEAD.{key}", value, "MODEL.DEVICE", "meta"])
    with raises_code("config.model", f"MODEL.SEM_SEG_HEAD.{key}"):
        build_detector(cfg)


@pytest.mark.parametrize(
    ("task", "name"), [("ade20k", "coco_2017_val"), ("coco", "ade20k_sem_seg_val")]
)
def test_dataset_of_another_kind(toy, task, name):
    cfg = load_config(packaged_protocol(task, "toy"))
    cfg.DATASETS.TEST = (name,)
    with raises_code("data.architecture", name):
        read_data(cfg, toy, eval_only=False)


# --- runs ------------------------------------------------------------------------------------


def run(*arguments):
    with pytest.raises(SystemExit) as exited:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), map(str, arguments))
    return exited.value.code


def common(toy, out, task="ade20k", protocol="toy-linear"):
    return [
        *("--checkpoint", "random:resnet18", "--task", task, "--protocol", protocol),
        *("--data-root", toy, "--output-dir", out, "--num-gpus", "0", *QUICK),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(*common(toy, out)) == 0
    return out


def record(folder):
    return json.loads((folder / "result.json").read_text())


def test_record(finished, toy):
    found = record(finished)
    assert (found["task"], found["primary_metric"]) == ("ade20k", "sem_seg/mIoU")
    assert found["metrics"].keys() == {
        f"sem_seg/{name}" for name in ("mIoU", "fwIoU", "mACC", "pACC")
    }
    data = found["data"]["ade20k_sem_seg_val"]
    assert data["images"] == 4 and len(data["annotations_sha256"]) == 64
    assert found["verification"]["features"]["last"] <= 1e-4
    assert found["verification"]["frozen_backbone"]["unchanged"]
    figures = sorted((finished / "gallery").iterdir())
    images = sorted((toy / "ADEChallengeData2016/images/validation").iterdir())
    assert [path.name for path in figures] == [path.name for path in images]


def test_resume_is_bit_exact(finished, toy, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    for name in ("result.json", "model_final.pth"):
        (out / name).unlink()
    (out / "last_checkpoint").write_text("model_0000001.pth")
    assert run(*common(toy, out), "--resume") == 0
    assert_equal(content_of(out), content_of(finished))
    assert record(out)["metrics"] == record(finished)["metrics"]


@pytest.mark.parametrize(
    ("task", "protocol"),
    [("voc_seg", "toy"), *whole_only(("voc_seg", "toy-linear"), ("ade20k", "toy"))],
)
def test_other_protocols(toy, tmp_path, task, protocol):
    short = ["SOLVER.MAX_ITER", "2"]
    assert run(*common(toy, tmp_path, task, protocol), *short) == 0
    assert record(tmp_path)["metrics"]["sem_seg/pACC"] > 0


@pytest.mark.parametrize("damage", ["value", "size", "missing"])
def test_damaged_label_map_is_named(toy, tmp_path, capsys, damage):
    data = shutil.copytree(toy, tmp_path / "data")
    path = sorted((data / "ADEChallengeData2016/annotations/training").iterdir())[1]
    labels = np.array(Image.open(path))
    if damage == "value":
        labels[3, 4] = 151
    Image.fromarray(labels[1:] if damage == "size" else labels).save(path)
    if damage == "missing":
        path.unlink()
    assert run(*common(data, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    code = {"value": "annotation", "size": "image_size", "missing": "missing"}[damage]
    assert f"[data.{code}]" in error and path.stem in error
    assert not (tmp_path / "out/result.json").exists()


def test_hash_covers_label_maps(toy, tmp_path):
    data = shutil.copytree(toy, tmp_path / "data")
    hashes = []
    for _ in range(2):
        register_detection_sets(data)
        hashes.append(loaded_set("ade20k_sem_seg_val").annotations_sha256)
        path = sorted((data / "ADEChallengeData2016/annotations/validation").iterdir())[0]
        labels = np.array(Image.open(path))
        labels[0, 0] = 17
        Image.fromarray(labels).save(path)
    assert hashes[0] != hashes[1]


@pytest.mark.whole
def test_two_processes_score_the_same(finished, toy, tmp_path, started):
    """Each reads half of the label maps and scores half of the images."""
    out = tmp_path / "out"
    weights = ["--eval-only", "--weights", finished / "model_final.pth"]
    processes = [
        started(
            Process(
                detectron2_transfer.__name__,
                [*common(toy, out), *weights],
                tmp_path / f"{rank}",
                environment,
            )
        )
        for rank, environment in enumerate(torchrun_environments(2))
    ]
    for process in processes:
        process.succeeds()
    assert record(out)["environment"]["processes"] == 2
    for key in ("metrics", "data"):
        found, expected = record(out)[key], record(finished)[key]
        assert {name: found[name] for name in found} == {name: expected[name] for name in found}

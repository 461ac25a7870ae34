"""Settings of a run and their deviations from the protocol."""

import itertools
import re

import pytest

from tests.errors import raises_code
from virtex.config import flatten
from virtex.detectron.settings import build_settings, load_config
from virtex.errors import UserError
from virtex.tasks import TASKS, packaged_protocol
from virtex.tasks.detection import protocol_from_config

ALL = [
    p for task in ("coco", "lvis", "voc", "coco_keypoints") for p in TASKS[task].protocols.values()
]


def settings(task="coco", name=None, overrides=(), world_size=8, device="cuda"):
    return build_settings(packaged_protocol(task, name), list(overrides), world_size, device)


@pytest.mark.parametrize("protocol", ALL, ids=lambda p: f"{p.task}-{p.name}")
def test_protocols_share_input_and_norm_settings(protocol):
    cfg = load_config(protocol)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    # ViTDet has no batch norm
    assert ("vitdet" not in protocol.name) == cfg.TEST.PRECISE_BN.ENABLED


@pytest.mark.parametrize(
    ("task", "name", "iterations", "steps", "classes"),
    [
        ("coco", "2x", 180000, [120000, 160000], 80),
        ("coco", "1x", 90000, [60000, 80000], 80),
        ("coco_keypoints", "2x", 180000, [120000, 160000], 1),
        ("coco_keypoints", "1x", 90000, [60000, 80000], 1),
        ("lvis", "2x", 180000, [120000, 160000], 1203),
        ("voc", "24k", 24000, [18000, 22000], 20),
    ],
)
def test_schedules_match_published_ones(task, name, iterations, steps, classes):
    run = settings(task, name)
    assert run.deviations() == []
    solver = run.cfg.SOLVER
    assert (16, 0.02, iterations) == (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER)
    assert list(solver.STEPS) == steps
    assert classes == run.cfg.MODEL.ROI_HEADS.NUM_CLASSES


def test_keypoint_protocol_matches_detectron2_except_norms():
    """The zoo's config, on the base of all protocols: trained norms, torchvision's network."""
    ours = flatten(load_config(packaged_protocol("coco_keypoints", "1x")))
    zoo = protocol_from_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml")
    coco = flatten(load_config(packaged_protocol("coco", "1x")))
    mask = flatten(
        load_config(protocol_from_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"))
    )
    theirs = flatten(load_config(zoo))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {key for key in coco if coco[key] != mask[key]}
    assert "MODEL.ROI_KEYPOINT_HEAD.NAME" not in differing and "SOLVER.STEPS" not in differing


def test_scratch_protocol_is_detectron2s_9x_recipe():
    run = settings("coco", "scratch")
    solver, model = run.cfg.SOLVER, run.cfg.MODEL
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (64, 0.08, 202500)
    assert list(solver.STEPS) == [187500, 197500]
    assert (model.ROI_BOX_HEAD.NORM, model.ROI_MASK_HEAD.NORM) == ("SyncBN", "SyncBN")
    assert run.deviations() == []


def test_lvis_resamples_and_keeps_300_detections():
    cfg = settings("lvis").cfg
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    assert cfg.DATALOADER.REPEAT_THRESHOLD == 0.001
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 1e-4
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300


def test_imagenet_init_freezes_norms():
    cfg = settings("lvis", "imagenet-init").cfg
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) == ("FrozenBN", "")


def test_one_gpu_scales_batch_and_schedule():
    run = settings(world_size=1)
    solver = run.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (2, 0.0025, 1440000)
    assert list(solver.STEPS) == [960000, 1280000]
    assert solver.WARMUP_ITERS == 8000
    assert {d.key for d in run.deviations() if d.reason == "scaled"} == {
        "SOLVER.BASE_LR",
        "SOLVER.IMS_PER_BATCH",
        "SOLVER.MAX_ITER",
        "SOLVER.STEPS",
        "SOLVER.WARMUP_ITERS",
    }
    assert any("learning rate 0.0025 instead of 0.02" in note for note in run.notes)


def test_full_batch_on_one_gpu_is_not_scaled():
    run = settings(world_size=1, overrides=["SOLVER.IMS_PER_BATCH", "16"])
    assert run.cfg.SOLVER.MAX_ITER == 180000
    assert run.deviations() == []


@pytest.mark.parametrize(
    "overrides",
    [["SOLVER.IMS_PER_BATCH", "16", "SOLVER.ACCUMULATE", "8"], ["SOLVER.ACCUMULATE", "8"]],
)
def test_accumulation_on_one_gpu_keeps_batch_and_schedule(overrides):
    run = settings(world_size=1, overrides=overrides)
    solver = run.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (16, 0.02, 180000)
    assert [(d.key, d.run, d.reason) for d in run.deviations()] == [
        ("SOLVER.ACCUMULATE", 8, "override")
    ]


@pytest.mark.parametrize(
    ("world_size", "accumulate", "batch"), [(1, 2, 4), (1, 16, 16), (4, 4, 16), (16, 2, 32)]
)
def test_accumulation_raises_batch_up_to_protocol(world_size, accumulate, batch):
    overrides = ["SOLVER.ACCUMULATE", str(accumulate)]
    assert batch == settings(world_size=world_size, overrides=overrides).cfg.SOLVER.IMS_PER_BATCH


@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
@pytest.mark.parametrize("overrides", [[], ["SOLVER.IMS_PER_BATCH", "20"]])
def test_few_gpus_log_how_to_keep_the_batch(world_size, overrides):
    run = settings(world_size=world_size, overrides=overrides)
    (note,) = [note for note in run.notes if "SOLVER." in note or "processes" in note]
    solver = run.cfg.SOLVER
    for value in (solver.IMS_PER_BATCH, f"{solver.BASE_LR:g}", solver.MAX_ITER):
        assert str(value) in note
    hint = re.findall(r"(SOLVER\.\S+) (\d+)", note)
    assert bool(hint) == (world_size != 5)  # which does not divide 16
    if hint:
        kept = settings(world_size=world_size, overrides=itertools.chain(*hint))
        assert [d.key for d in kept.deviations()] == ["SOLVER.ACCUMULATE"]
        images = kept.cfg.SOLVER.IMS_PER_BATCH / kept.cfg.SOLVER.ACCUMULATE / world_size
        assert images == 2  # as many as on each of 8 GPUs


def test_schedule_without_steps():
    """A polynomial has none; those of Detectron2's defaults are neither scaled nor described."""
    found = build_settings(packaged_protocol("ade20k", "linear"), [], 1, "cuda")
    assert found.cfg.SOLVER.MAX_ITER == 320_000
    assert "SOLVER.STEPS" not in {item.key for item in found.deviations()}
    assert "warm-up 12000 instead of 1500" in found.notes[0] and "steps" not in found.notes[0]


def test_enough_gpus_need_no_note():
    assert settings(world_size=8).notes == []


def test_reference_world_size_enables_scaling():
    overrides = ["SOLVER.REFERENCE_WORLD_SIZE", "4"]
    cfg = settings("coco", "toy", overrides, world_size=1).cfg
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (1, 0.005)


def test_overrides_are_not_scaled():
    run = settings(world_size=1, overrides=["SOLVER.MAX_ITER", "50"])
    assert (run.cfg.SOLVER.MAX_ITER, run.cfg.SOLVER.BASE_LR) == (50, 0.0025)


def test_batch_must_be_divisible():
    with raises_code("config.batch_size", "SOLVER.IMS_PER_BATCH"):
        settings(world_size=3, overrides=["SOLVER.IMS_PER_BATCH", "16"])
    with raises_code("config.batch_size", "SOLVER.ACCUMULATE"):
        settings(world_size=2, overrides=["SOLVER.IMS_PER_BATCH", "16", "SOLVER.ACCUMULATE", "3"])


def test_sync_bn_in_one_process_is_bn():
    run = settings(world_size=1, device="cpu", overrides=["SOLVER.IMS_PER_BATCH", "16"])
    assert (run.cfg.MODEL.RESNETS.NORM, run.cfg.MODEL.FPN.NORM) == ("BN", "BN")
    assert run.deviations() == []


def test_sync_bn_of_the_simple_pyramid_on_cpus_is_naive():
    cfg = settings(world_size=2, device="cpu", overrides=["MODEL.VIT.NORM", "SyncBN"]).cfg
    assert cfg.MODEL.VIT.NORM == "naiveSyncBN"


def test_other_norm_is_a_deviation():
    run = settings(overrides=["MODEL.RESNETS.NORM", "BN"])
    assert [d.key for d in run.deviations()] == ["MODEL.RESNETS.NORM"]


@pytest.mark.parametrize(
    ("overrides", "reason", "named"),
    [
        (["SOLVER.BASELR", "0.1"], "unknown_key", "did you mean SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR"], "unpaired_override", "SOLVER.BASE_LR"),
        (["SOLVER.MAX_ITER", "many"], "invalid_value", "SOLVER.MAX_ITER"),
        (
            ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"],
            *("invalid_value", "SOLVER.AMP.DTYPE"),
        ),
        (["SOLVER.AMP.DTYPE", "half"], "invalid_value", "SOLVER.AMP.DTYPE"),
        (["SOLVER.ACCUMULATE", "0"], "invalid_value", "SOLVER.ACCUMULATE"),
        (["MODEL_EMA.DECAY", "1.0"], "invalid_value", "MODEL_EMA.DECAY"),
        (["SOLVER.IMS_PER_BATCH", "0"], "invalid_value", "SOLVER.IMS_PER_BATCH"),
        (["SOLVER.MAX_ITER", "-1"], "invalid_value", "SOLVER.MAX_ITER"),
        (["SOLVER.BASE_LR", "1e999"], "invalid_value", "SOLVER.BASE_LR"),
        (["SOLVER.NO_WEIGHT_DECAY", "(1,)"], "invalid_value", "SOLVER.NO_WEIGHT_DECAY"),
        (["SOLVER.NO_WEIGHT_DECAY", "[['a']]"], "invalid_value", "SOLVER.NO_WEIGHT_DECAY"),
        (["INPUT.LSJ.MIN_SCALE", "2.5"], "invalid_value", "INPUT.LSJ.MIN_SCALE"),
        (
            ["INPUT.AUGMENTATION", "lsj", "INPUT.CROP.ENABLED", "True"],
            *("invalid_value", "INPUT.CROP.ENABLED"),
        ),
        (["DATALOADER.SAMPLER_TRAIN", "x"], "invalid_value", "DATALOADER.SAMPLER_TRAIN"),
        (["SOLVER.WEIGHT_DECAY_BIAS", "x"], "invalid_value", "SOLVER.WEIGHT_DECAY_BIAS"),
        (["SOLVER.WEIGHT_DECAY_BIAS", "[1]"], "invalid_value", "SOLVER.WEIGHT_DECAY_BIAS"),
        (["MODEL.WEIGHTS", "x"], "invalid_override", "--checkpoint"),
    ],
)
def test_invalid_override(overrides, reason, named):
    with raises_code(f"config.{reason}", named):
        settings(world_size=1, device="cpu", overrides=overrides)


def test_list_overrides_keep_their_types():
    overrides = ["SOLVER.STEPS", "[3, 5]", "MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]"]
    cfg = settings(world_size=8, overrides=overrides).cfg
    assert (cfg.SOLVER.STEPS, cfg.MODEL.ANCHOR_GENERATOR.SIZES) == ((3, 5), [[16], [32]])


def test_unknown_protocol_lists_the_known():
    with pytest.raises(UserError, match=r"2x, 1x, .*toy"):
        packaged_protocol("coco", "3x")


def test_custom_yaml_is_versioned_by_hash(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 7\n")
    first = protocol_from_config(str(path))
    path.write_text("SOLVER:\n  MAX_ITER: 8\n")
    second = protocol_from_config(str(path))
    assert first.name == second.name == "mine"
    assert first.version != second.version


def test_integer_is_a_valid_float(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("SOLVER: {BASE_LR: 1}\nINPUT: {CROP: {SIZE: [1, 1]}}\n")
    cfg = load_config(protocol_from_config(str(path)))
    assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)
    assert settings(overrides=["SOLVER.BASE_LR", "1"]).cfg.SOLVER.BASE_LR == 1.0


def test_zoo_config_has_the_defaults_of_both_distributions():
    cfg = load_config(protocol_from_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS is None


def test_zoo_config_is_found_by_name():
    name = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    assert load_config(protocol_from_config(name)).MODEL.META_ARCHITECTURE == "RetinaNet"


def test_unknown_config_suggests_the_closest():
    with raises_code("config.not_found", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"):
        protocol_from_config("COCO-Detection/retinanet_R50_FPN_1x.yaml")


@pytest.mark.parametrize(
    "text", ["SOLVER: [", "SOLVER:\n  NO_SUCH: 1\n", "", "<html></html>", "_BASE_: no.yaml\n"]
)
def test_broken_yaml_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        settings_of = protocol_from_config(str(path))
        build_settings(settings_of, [], 1, "cpu")

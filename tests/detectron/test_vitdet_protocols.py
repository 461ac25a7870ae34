"""The ViTDet protocols: their settings, and their parts, are those of Detectron2's project."""

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from tests.detectron.tiny_networks import NETWORKS, VITS, make_backbone
from tests.detectron.vitdet_values import CONFIGS, FILE, leaves
from tests.errors import raises_code
from tests.run_states import assert_equal, content_of
from tests.selection import whole_only
from virtex.backbones.registry import get_family
from virtex.backbones.vit import ViTArch
from virtex.checkpoints.backbone import Backbone, Source
from virtex.checkpoints.coverage import Coverage
from virtex.checkpoints.loading import load_backbone
from virtex.cli import run_tool
from virtex.detectron import heads, vit_blocks
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.datasets import register_detection_sets
from virtex.detectron.federated import SigmoidOutputLayers, count_images, set_category_weights
from virtex.detectron.optimizer import build_optimizer
from virtex.detectron.settings import build_settings
from virtex.detectron.trainer import build_detector
from virtex.detectron.verify import compare_features, load_weights
from virtex.detectron.vit import attends_globally
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import packaged_protocol

official_only = pytest.mark.skipif(
    not find_spec("detectron2.modeling.backbone.vit"), reason="Detectron2 v0.5 has no ViT"
)
VALUES = json.loads(FILE.read_text())
ARCHS = {
    12: ViTArch(768, 12, 16, 14, 3072, heads=12, interpolation="plain"),
    24: ViTArch(1024, 24, 16, 14, 4096, heads=16, interpolation="plain"),
    32: ViTArch(1280, 32, 16, 14, 5120, heads=16, interpolation="plain"),
}


def official(name):
    """Return the leaves of a config of the project."""
    found = VALUES["coco/vitdet"] | VALUES[name]
    found = {key: value for key, value in found.items() if value is not None}
    # of vitdet-h, 187.5: it keeps the relative length of the longer schedule
    length = found.pop("lr_multiplier.warmup_length") * found["train.max_iter"]
    return found | {"lr_multiplier.warmup_iterations": round(length)}


def settings_of(name, backbone=None, *overrides, processes=64, device="cuda"):
    """Return the complete settings of a protocol, and the converted backbone."""
    settings = build_settings(
        packaged_protocol(*name.split("/")), list(overrides), processes, device
    )
    if backbone is None:
        arch = ARCHS[settings.cfg.MODEL.VIT.DEPTH]
        with torch.device("meta"):
            weights = get_family(arch).build(arch).state_dict()
        source = Source(arch.name, "made in a test", "0" * 64, "mae", Coverage({}))
        backbone = Backbone(arch, weights, make_backbone(VITS["mae"]).input, source)
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    return settings, converted


def detector_of(name):
    """Return the settings and the detector of a protocol, without memory."""
    settings, converted = settings_of(name)
    settings.cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return settings, converted, build_detector(settings.cfg)


# --- settings --------------------------------------------------------------------------------

# Of the project's training script, which our trainer replaces, or determined by the checkpoint.
NO_COUNTERPART = (
    "train.output_dir", "train.init_checkpoint", "train.ddp.", "train.checkpointer.",
    "train.eval_period", "train.log_period", "train.device", "dataloader.train.num_workers",
    "dataloader.test.num_workers", "model.backbone.net.out_feature", "model.backbone.in_feature",
    "model.backbone.net.residual_block_indexes", "dataloader.test.dataset.filter_empty",
    "dataloader.train.mapper.is_train", "dataloader.test.mapper.is_train",
    "model.roi_heads.box_predictor.get_fed_loss_cls_weights",
)  # fmt: skip
CLASSES = {  # ours -> the project's
    "AnyNormConvFCHead": "FastRCNNConvFCHead",
    "AnyNormMaskHead": "MaskRCNNConvUpsampleHead",
    "SigmoidROIHeads": "StandardROIHeads",
}


def described(cfg, arch):
    """Return our settings under the names of the project's."""
    model, vit, rpn = cfg.MODEL, cfg.MODEL.VIT, cfg.MODEL.RPN
    roi, box, mask = model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    channels, solver, lsj = model.FPN.OUT_CHANNELS, cfg.SOLVER, cfg.INPUT.LSJ
    levels = [int(name.removeprefix("res")) for name in model.FPN.IN_FEATURES]
    windows = sorted({*range(vit.DEPTH)} - attends_globally(cfg, arch))
    has_class = {"num_classes": roi.NUM_CLASSES}
    pool = {"scales": [2.0**-level for level in levels]}
    train, test = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    found = {
        "model": {
            "backbone": {
                "net": {
                    "img_size": vit.SQUARE_PAD,
                    "patch_size": vit.PATCH_SIZE,
                    "embed_dim": arch.embed_dim,
                    "depth": vit.DEPTH,
                    "num_heads": arch.heads,
                    "drop_path_rate": model.NETWORK.DROP_PATH,
                    "window_size": vit.WINDOW_SIZE,
                    "mlp_ratio": arch.mlp_dim / arch.embed_dim,
                    "qkv_bias": arch.qkv_bias,
                    "norm_layer": {"eps": arch.norm_eps},
                    "window_block_indexes": windows,
                    "use_rel_pos": vit.REL_POS,
                },
                "out_channels": channels,
                "scale_factors": [vit.PATCH_SIZE / 2**level for level in levels],
                "norm": vit.NORM,
                "square_pad": vit.SQUARE_PAD,
            },
            "proposal_generator": {
                "in_features": rpn.IN_FEATURES,
                "head": {
                    "in_channels": channels,
                    "num_anchors": len(model.ANCHOR_GENERATOR.ASPECT_RATIOS[0]),
                    "conv_dims": rpn.CONV_DIMS,
                },
                "anchor_generator": {
                    "sizes": model.ANCHOR_GENERATOR.SIZES,
                    "aspect_ratios": model.ANCHOR_GENERATOR.ASPECT_RATIOS[0],
                    "strides": [2**level for level in (*levels, levels[-1] + 1)],
                    "offset": model.ANCHOR_GENERATOR.OFFSET,
                },
                "anchor_matcher": {
                    "thresholds": rpn.IOU_THRESHOLDS,
                    "labels": rpn.IOU_LABELS,
                    "allow_low_quality_matches": True,
                },
                "box2box_transform": {"weights": list(rpn.BBOX_REG_WEIGHTS)},
                "batch_size_per_image": rpn.BATCH_SIZE_PER_IMAGE,
                "positive_fraction": rpn.POSITIVE_FRACTION,
                "pre_nms_topk": [rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST],
                "post_nms_topk": [rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST],
                "nms_thresh": rpn.NMS_THRESH,
            },
            "roi_heads": {
                **has_class,
                "batch_size_per_image": roi.BATCH_SIZE_PER_IMAGE,
                "positive_fraction": roi.POSITIVE_FRACTION,
                "proposal_matcher": {
                    "thresholds": roi.IOU_THRESHOLDS,
                    "labels": roi.IOU_LABELS,
                    "allow_low_quality_matches": False,
                },
                "_target_": CLASSES.get(roi.NAME, roi.NAME),
                "box_head": {
                    "input_shape": {
                        "channels": channels,
                        "height": box.POOLER_RESOLUTION,
                        "width": box.POOLER_RESOLUTION,
                    },
                    "conv_dims": [box.CONV_DIM] * box.NUM_CONV,
                    "fc_dims": [box.FC_DIM] * box.NUM_FC,
                    "conv_norm": box.NORM,
                    "_target_": CLASSES[box.NAME],
                },
                "box_predictor": {
                    **has_class,
                    "input_shape": {"channels": box.FC_DIM},
                    "test_score_thresh": roi.SCORE_THRESH_TEST,
                    "box2box_transform": {"weights": list(box.BBOX_REG_WEIGHTS)},
                    "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
                    "use_sigmoid_ce": box.USE_SIGMOID_CE,
                    "use_fed_loss": box.USE_FED_LOSS,
                },
                "mask_head": {
                    **has_class,
                    "input_shape": {
                        "channels": channels,
                        "height": mask.POOLER_RESOLUTION,
                        "width": mask.POOLER_RESOLUTION,
                    },
                    "conv_dims": [mask.CONV_DIM] * (mask.NUM_CONV + 1),
                    "conv_norm": mask.NORM,
                    "_target_": CLASSES[mask.NAME],
                },
                **{
                    f"{kind}_pooler": {
                        **pool,
                        "output_size": head.POOLER_RESOLUTION,
                        "sampling_ratio": head.POOLER_SAMPLING_RATIO,
                        "pooler_type": head.POOLER_TYPE,
                    }
                    for kind, head in (("box", box), ("mask", mask))
                },
                "box_in_features": roi.IN_FEATURES,
                "mask_in_features": roi.IN_FEATURES,
            },
            "pixel_mean": list(model.PIXEL_MEAN),
            "pixel_std": list(model.PIXEL_STD),
            "input_format": cfg.INPUT.FORMAT,
            "_target_": model.META_ARCHITECTURE,
        },
        "dataloader": {
            "train": {
                "dataset": {"names": train},
                "mapper": {
                    "augmentations": {
                        0: {"horizontal": cfg.INPUT.RANDOM_FLIP == "horizontal"},
                        1: {
                            "min_scale": lsj.MIN_SCALE,
                            "max_scale": lsj.MAX_SCALE,
                            "target_height": lsj.SIZE,
                            "target_width": lsj.SIZE,
                        },
                        2: {"crop_size": [lsj.SIZE, lsj.SIZE], "pad": False},
                    },
                    "image_format": cfg.INPUT.FORMAT,
                    "use_instance_mask": model.MASK_ON,
                    "recompute_boxes": model.MASK_ON,
                },
                "sampler": {
                    "repeat_factors": {
                        "dataset_dicts": {"names": train},
                        "repeat_thresh": cfg.DATALOADER.REPEAT_THRESHOLD,
                    },
                    "_target_": cfg.DATALOADER.SAMPLER_TRAIN,
                },
                "total_batch_size": solver.IMS_PER_BATCH,
            },
            "test": {
                "dataset": {"names": test},
                "mapper": {
                    "augmentations": {
                        0: {
                            "short_edge_length": cfg.INPUT.MIN_SIZE_TEST,
                            "max_size": cfg.INPUT.MAX_SIZE_TEST,
                        }
                    },
                    "image_format": cfg.INPUT.FORMAT,
                },
            },
            "evaluator": {
                "dataset_name": test,
                "max_dets_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            },
        },
        "train": {"max_iter": solver.MAX_ITER, "amp": {"enabled": solver.AMP.ENABLED}},
        "optimizer": {
            "params": {
                "base_lr": solver.BASE_LR,
                "lr_factor_func": {
                    "num_layers": vit.DEPTH,
                    "lr_decay_rate": solver.LAYER_DECAY,
                },
            },
            "lr": solver.BASE_LR,
            "weight_decay": solver.WEIGHT_DECAY,
            "_target_": {"ADAMW": "AdamW"}[solver.OPTIMIZER],
        },
        "lr_multiplier": {
            "scheduler": {
                "values": [solver.GAMMA**step for step in range(len(solver.STEPS) + 1)],
                "milestones": list(solver.STEPS),
                "num_updates": solver.MAX_ITER,
            },
            "warmup_iterations": solver.WARMUP_ITERS,
            "warmup_factor": solver.WARMUP_FACTOR,
        },
    }
    return json.loads(json.dumps(leaves(found)))


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_match_the_project(name):
    settings, _ = settings_of(name)
    assert settings.deviations() == []
    found = described(settings.cfg, ARCHS[settings.cfg.MODEL.VIT.DEPTH])
    # parameter groups are compared by test_parameter_groups_match_the_project
    skipped = (*NO_COUNTERPART, "optimizer.betas", "optimizer.params.weight_decay_norm",
               "optimizer.params.overrides")  # fmt: skip
    for key, value in official(name).items():
        if key not in found:
            assert key.startswith(skipped) or key.endswith("._target_"), key
        else:
            rounded = key == "lr_multiplier.scheduler.values"  # powers of 0.1
            assert found[key] == (pytest.approx(value) if rounded else value), key


@official_only
def test_recorded_values_are_those_of_the_installed_model_zoo():
    from detectron2 import model_zoo
    from omegaconf import OmegaConf

    def plain(config):
        found = leaves(OmegaConf.to_container(config, resolve=True))
        return json.loads(json.dumps(found))

    recorded = {key: value for key, value in VALUES["coco/vitdet"].items()}
    model = plain(model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model)
    assert {f"model.{key}": value for key, value in model.items()} == {
        key: value for key, value in recorded.items() if key.startswith("model.")
    }
    optimizer = plain(model_zoo.get_config("common/optim.py").AdamW)
    assert {f"optimizer.{key}": value for key, value in optimizer.items()}.items() <= (
        recorded.items()
    )


def official_model(name):
    """Return the detector that the project builds, without memory."""
    from detectron2 import model_zoo
    from detectron2.config import instantiate

    values = official(name)
    config = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    for key in ("embed_dim", "depth", "num_heads", "drop_path_rate", "window_block_indexes"):
        config.backbone.net[key] = values[f"model.backbone.net.{key}"]
    for key in ("num_classes", "test_score_thresh", "test_topk_per_image", "use_sigmoid_ce"):
        if f"model.roi_heads.box_predictor.{key}" in values and key != "num_classes":
            config.roi_heads.box_predictor[key] = values[f"model.roi_heads.box_predictor.{key}"]
    config.roi_heads.num_classes = values["model.roi_heads.num_classes"]
    if "lvis" in name:
        predictor = config.roi_heads.box_predictor
        predictor.use_fed_loss = True
        predictor.get_fed_loss_cls_weights = lambda: torch.ones(1203)
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        # whose numbers, the rates of drop path, are read
        patch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
        return instantiate(config)


@official_only
@pytest.mark.parametrize(
    "name", ["coco/vitdet", "lvis/vitdet-h", *whole_only(*sorted({*CONFIGS} - {"coco/vitdet"}))]
)
def test_parameter_groups_match_the_project(name):
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
    from detectron2.solver.build import get_default_optimizer_params

    settings, converted, detector = detector_of(name)
    reference, values = official_model(name), official(name)
    rate = values["optimizer.params.lr_factor_func.lr_decay_rate"]
    depth = values["optimizer.params.lr_factor_func.num_layers"]
    embed = values.get("optimizer.params.overrides.pos_embed.weight_decay")
    groups = get_default_optimizer_params(
        reference,
        base_lr=values["optimizer.params.base_lr"],
        weight_decay_norm=values.get("optimizer.params.weight_decay_norm"),
        lr_factor_func=lambda key: get_vit_lr_decay_rate(key, rate, depth),
        overrides={} if embed is None else {"pos_embed": {"weight_decay": embed}},
    )
    expected = torch.optim.AdamW(groups, values["optimizer.lr"], weight_decay=0.1)
    found = build_optimizer(settings.cfg, detector, converted.layer_ids)
    of_found, of_expected = (
        {
            names[id(parameter)]: (
                f"{group['lr']:.9g}", group["weight_decay"], group["betas"], group["eps"],
                tuple(parameter.shape),
            )
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for optimizer, names in (
            (found, {id(p): n for n, p in detector.named_parameters()}),
            (expected, {id(p): n for n, p in reference.named_parameters()}),
        )
    )  # fmt: skip
    assert of_found == of_expected


def is_plain(value):
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return isinstance(value, int | float | str)


@official_only
@pytest.mark.parametrize("name", ["coco/vitdet", "lvis/vitdet"])
def test_detector_attributes_match_the_project(name):
    """Also of what the project leaves to Detectron2's defaults, such as NMS thresholds."""
    *_, detector = detector_of(name)
    modules, compared = dict(detector.named_modules()), 0
    ours = {"use_sigmoid_ce", "use_fed_loss", "_square_pad", "_size_divisibility", "vis_period"}
    for path, module in official_model(name).named_modules():
        if path.startswith("backbone"):  # compared by its features
            continue
        for key, value in vars(module).items():
            if is_plain(value) and not key.startswith("_") and key not in ours:
                assert getattr(modules[path], key) == value, (path, key)
                compared += 1
    assert compared > 100


# --- relative positions ----------------------------------------------------------------------


def test_relative_bias_is_the_sum_over_both_axes():
    torch.manual_seed(0)
    grid, q = (2, 3), torch.randn(1, 2, 6, 4)
    rows, columns = torch.randn(3, 4), torch.randn(5, 4)
    found = vit_blocks.relative_bias(q, rows, columns, grid)
    for i in range(6):
        for j in range(6):
            down, right = i // 3 - j // 3, i % 3 - j % 3
            vector = rows[down + 1] + columns[right + 2]
            torch.testing.assert_close(found[0, :, i, j], q[0, :, i] @ vector)


def vitdet_pyramid(arch, *overrides):
    """Return a pyramid with random relative positions."""
    options = ["MODEL.VIT.WINDOW_SIZE", "5", "MODEL.VIT.PATCH_SIZE", "16", *overrides]
    settings, converted = settings_of(
        "coco/toy-vitdet", make_backbone(arch), *options, processes=1, device="cpu"
    )
    pyramid = build_backbone(settings.cfg)
    weights = {name.removeprefix("backbone."): w for name, w in converted.weights.items()}
    pyramid.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for name, parameter in pyramid.named_parameters():
            if "rel_pos" in name:
                assert not parameter.any()
                parameter.normal_(0, 0.5)
    return pyramid


DEEP = replace(VITS["mae"], depth=8, final_norm="norm")


@official_only
@pytest.mark.parametrize("size", [(128, 128), (96, 224)])  # interpolated in global blocks
def test_pyramid_matches_detectron2(size):
    from detectron2.modeling.backbone import vit as reference
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    pyramid = vitdet_pyramid(DEEP).eval()
    network = reference.ViT(
        *(128, 16, 3, 48, 8, 3),
        mlp_ratio=2,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        window_size=5,
        window_block_indexes=[0, 2, 4, 6],
        use_rel_pos=True,
        pretrain_img_size=112,
    )
    expected = reference.SimpleFeaturePyramid(
        network, "last_feat", 64, (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool(), "LN"
    ).eval()
    frozen = {name for name, p in pyramid.named_parameters() if not p.requires_grad}
    assert frozen == {"net.cls_token", "net.norm.weight", "net.norm.bias"}
    weights = {k: v for k, v in pyramid.state_dict().items() if k not in frozen}
    expected.load_state_dict(weights)  # the same names and shapes
    images = torch.randn(2, 3, *size)
    maps = [x(images) for x in (pyramid, expected)]
    assert maps[0].keys() == maps[1].keys()
    for level, x in maps[1].items():
        assert (maps[0][level] - x).abs().max() / x.abs().max() < 1e-5
    gradients = []
    factors = {level: torch.randn_like(x) for level, x in maps[1].items()}
    for module, found in zip((pyramid, expected), maps, strict=True):
        sum((x * factors[level]).mean() for level, x in found.items()).backward()
        gradients.append({n: p.grad for n, p in module.named_parameters() if n not in frozen})
    for name, gradient in gradients[1].items():
        found = gradients[0][name]
        assert (found - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


def test_kept_tokens_have_no_relative_position():
    pyramid = vitdet_pyramid(DEEP, "MODEL.VIT.TOKENS", "True")
    block, x = pyramid.net.blocks[1], torch.randn(1, 1 + 64, 48)
    before = block.attn.rel_pos_h.detach().clone()
    first = vit_blocks.attend(block.attn, x, None, (8, 8), 1)
    block.attn.rel_pos_h.data.add_(1)
    torch.testing.assert_close(vit_blocks.attend(block.attn, x, None, (8, 8), 1)[:, 0], first[:, 0])
    block.attn.rel_pos_h.data.copy_(before).mul_(2)
    assert not torch.allclose(vit_blocks.attend(block.attn, x, None, (8, 8), 1), first)


@pytest.mark.parametrize("name", ["mae", "dinov2", "dinov3"])
def test_detector_is_verified_and_trains_every_parameter(name):
    backbone = make_backbone(VITS[name])
    options = ["MODEL.VIT.GLOBAL_BLOCKS", "1", "MODEL.VIT.PATCH_SIZE", "16"]
    settings, converted = settings_of(
        "coco/toy-vitdet", backbone, *options, processes=1, device="cpu"
    )
    detector = build_detector(settings.cfg)
    assert load_weights(detector, converted)["compared"] == len(backbone.state_dict)
    compare_features(detector, converted, backbone.input)
    images = detector.preprocess_image([{"image": torch.ones(3, 50, 90)}])
    assert images.tensor.shape == (1, 3, 128, 128)
    maps = detector.backbone(images.tensor)
    sum(x.square().mean() for x in maps.values()).backward()
    trained = {n for n, p in detector.backbone.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in detector.backbone.named_parameters() if p.grad is not None}
    has_bias = any("rel_pos" in name for name in trained)
    assert has_bias == (name != "dinov3")
    assert any("relative position" in note for note in converted.notes)


def test_checkpointing_has_equal_gradients():
    gradients = []
    for flag in ("False", "True"):
        torch.manual_seed(0)
        options = ["MODEL.NETWORK.CHECKPOINTING", flag, "MODEL.NETWORK.DROP_PATH", "0.4"]
        pyramid = vitdet_pyramid(VITS["mae"], *options, "MODEL.VIT.GLOBAL_BLOCKS", "1")
        torch.manual_seed(1)
        maps = pyramid(torch.ones(2, 3, 128, 128))
        sum(x.square().mean() for x in maps.values()).backward()
        gradients.append([p.grad for p in pyramid.parameters() if p.grad is not None])
    assert_equal(*gradients)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["MODEL.VIT.SQUARE_PAD", "0"], "MODEL.VIT.REL_POS"),
        (["MODEL.VIT.SQUARE_PAD", "100"], "MODEL.VIT.SQUARE_PAD"),
    ],
)
def test_invalid_padding(overrides, key):
    with raises_code("config.invalid_value", key):
        vitdet_pyramid(VITS["mae"], *overrides)


# --- the protocol and the checkpoint ---------------------------------------------------------


def test_network_of_another_depth_is_a_deviation():
    settings, converted = settings_of("coco/vitdet-l", make_backbone(VITS["mae"]))
    deviation = next(d for d in settings.deviations() if d.key == "MODEL.VIT.DEPTH")
    assert (deviation.protocol, deviation.run, deviation.reason) == (24, 3, "checkpoint")
    assert "vitdet-l" in converted.notes[0]
    with raises_code("config.invalid_override", "MODEL.VIT.DEPTH"):
        settings_of("coco/vitdet", make_backbone(VITS["mae"]), "MODEL.VIT.DEPTH", "4")


def test_other_networks_are_refused():
    with raises_code("detection.unsupported_backbone", "adamw-3x"):
        settings_of("coco/vitdet", make_backbone(NETWORKS[0]))


@pytest.mark.parametrize("processes", [1, 8, 64])
def test_batch_and_learning_rate_do_not_depend_on_the_gpus(processes):
    solver = build_settings(packaged_protocol("coco", "vitdet"), [], processes, "cuda").cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (64, 1e-4, 184375)


# --- layer norm in heads ---------------------------------------------------------------------


@official_only
@pytest.mark.parametrize(
    ("kind", "ours", "reference"),
    [
        ("BOX", "AnyNormConvFCHead", "FastRCNNConvFCHead"),
        ("MASK", "AnyNormMaskHead", "MaskRCNNConvUpsampleHead"),
    ],
)
def test_heads_match_detectron2(kind, ours, reference):
    from detectron2.modeling import roi_heads

    cfg = build_settings(packaged_protocol("coco", "toy-vitdet"), [], 1, "cpu").cfg
    shape = ShapeSpec(channels=64, height=7, width=7)
    found = getattr(heads, ours)(cfg, shape)
    expected = getattr(roi_heads, reference)(cfg, shape)
    expected.load_state_dict(found.state_dict())
    layers = [x.layers if kind == "MASK" else x for x in (found, expected)]
    x = 3 + 5 * torch.randn(4, 64, 7, 7)
    torch.testing.assert_close(layers[0](x), layers[1](x), rtol=1e-4, atol=1e-5)


def test_heads_normalize_over_channels():
    cfg = build_settings(packaged_protocol("coco", "toy-vitdet"), [], 1, "cpu").cfg
    head = heads.AnyNormConvFCHead(cfg, ShapeSpec(channels=64, height=7, width=7))
    seen = []
    head.conv1.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    head(torch.randn(2, 64, 7, 7))
    assert seen[0].mean(dim=1).abs().max() < 1e-5
    assert head(torch.zeros(0, 64, 7, 7)).shape == (0, 128)  # no regions
    cfg.MODEL.ROI_BOX_HEAD.NORM = "GN"
    assert isinstance(
        heads.AnyNormConvFCHead(cfg, ShapeSpec(channels=64, height=7, width=7)).conv1.norm,
        nn.GroupNorm,
    )


# --- federated loss --------------------------------------------------------------------------


def predictor_of(categories, *overrides):
    options = ["MODEL.ROI_HEADS.NUM_CLASSES", str(categories), *overrides]
    cfg = build_settings(packaged_protocol("lvis", "toy-vitdet"), options, 1, "cpu").cfg
    torch.manual_seed(0)
    return SigmoidOutputLayers(cfg, ShapeSpec(channels=8))


def regions(classes):
    """Return proposals of two images with these classes."""
    found = []
    for part in classes.split(len(classes) // 2):
        corners = torch.rand(len(part), 2) * 50
        proposals = Instances((100, 100))
        proposals.proposal_boxes = Boxes(torch.cat([corners, corners + 20], dim=1))
        proposals.gt_boxes = Boxes(torch.cat([corners + 2, corners + 23], dim=1))
        proposals.gt_classes = part
        found.append(proposals)
    return found


@official_only
@pytest.mark.parametrize("federated", ["True", "False"])
def test_losses_match_detectron2(federated):
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers

    ours = predictor_of(60, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", federated)
    counts = torch.arange(60) ** 2 + 1
    if federated == "True":
        ours.set_category_weights(counts)
    reference = FastRCNNOutputLayers(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
        num_classes=60,
        test_score_thresh=0.02,
        use_sigmoid_ce=True,
        use_fed_loss=federated == "True",
        get_fed_loss_cls_weights=lambda: counts.float() ** 0.5,
        fed_loss_num_classes=20,
    )
    reference.load_state_dict(ours.state_dict())
    classes = torch.randint(50, 61, (24,))
    proposals, features = regions(classes), torch.randn(24, 8)
    results = []
    for predictor in (ours, reference):
        torch.manual_seed(3)
        predictions = predictor(features)
        with EventStorage():
            losses = predictor.losses(predictions, proposals)
        predictor.zero_grad()
        sum(losses.values()).backward()
        probabilities = predictor.predict_probs(predictions, proposals)
        results.append((losses, [p.grad for p in predictor.parameters()], probabilities))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_categories_are_drawn_by_their_images():
    predictor = predictor_of(60)
    counts = torch.zeros(60)
    counts[40:] = 100
    counts[40] = 1e6
    predictor.set_category_weights(counts)
    classes = torch.tensor([1, 2, 60, 60])
    drawn = torch.stack([predictor.sample_categories(classes) for _ in range(30)])
    assert (drawn[:, [1, 2]] == 1).all()
    assert (drawn[:, [0, *range(3, 40)]] == 0).all()
    assert (drawn[:, 40] == 1).all()
    assert (drawn.sum(dim=1) == 2 + 17).all()  # 20, of which background is one
    predictor.set_category_weights(torch.ones(60).cumsum(0) < 4)  # fewer than are drawn
    assert predictor.sample_categories(classes).nonzero().flatten().tolist() == [0, 1, 2]
    predictor.set_category_weights(torch.ones(60))
    logits = torch.zeros(4, 61, requires_grad=True)
    predictor.sigmoid_cross_entropy_loss(logits, classes).backward()
    assert (logits.grad.abs().sum(dim=0) > 0).sum() == 19
    assert predictor.sigmoid_cross_entropy_loss(logits[:0], classes[:0]) == 0


def test_image_counts_match_lvis(toy):
    register_detection_sets(toy)
    samples = DatasetCatalog.get("lvis_v1_train")
    content = json.loads((toy / "lvis/lvis_v1_train.json").read_text())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    counts = count_images(samples, len(categories))
    assert counts.tolist() == [category["image_count"] for category in categories]
    predictor = predictor_of(len(categories))
    set_category_weights(nn.ModuleList([predictor]), samples)
    torch.testing.assert_close(predictor.fed_loss_cls_weights, counts.sqrt())


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False], "USE_FED_LOSS"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "USE_SIGMOID_CE"),
        (
            ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", False],
            "SigmoidROIHeads",
        ),
        (["MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", 0], "FED_LOSS_NUM_CLASSES"),
    ],
)
def test_incomplete_settings_of_the_loss(overrides, key):
    with raises_code("config.invalid_value", key):
        build_settings(packaged_protocol("lvis", "vitdet"), list(map(str, overrides)), 64, "cuda")


# --- runs ------------------------------------------------------------------------------------

QUICK = [
    *("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.VIT.PATCH_SIZE", "16", "MODEL.VIT.WINDOW_SIZE", "3", "MODEL.VIT.GLOBAL_BLOCKS", "1"),
    *("TEST.DETECTIONS_PER_IMAGE", "5", "MODEL.NETWORK.CHECKPOINTING", "True"),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "10", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50"),
]


def run(task, checkpoint, toy, out, *arguments):
    """Run the tool in this process; it must succeed."""
    common = [
        *("--checkpoint", checkpoint, "--format", "dino_vit", "--task", task),
        *("--protocol", "toy-vitdet", "--data-root", toy, "--output-dir", out, "--num-gpus", "0"),
    ]
    with pytest.raises(SystemExit) as exited:
        arguments = map(str, [*common, *QUICK, *arguments])
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), arguments)
    assert exited.value.code == 0
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("task", ["coco", *whole_only("lvis")])
def test_run_and_resume(tmp_path, toy, task):
    arch = ViTArch(128, 2, 16, 7, 128, heads=2, interpolation="offset")
    path, out = tmp_path / "dino.pth", tmp_path / "out"
    torch.save(make_backbone(arch).state_dict, path)
    record = run(task, path, toy, out)
    assert record["protocol"]["name"] == f"toy/{task}_vitdet"
    reasons = {item["key"]: item["reason"] for item in record["protocol"]["overrides"]}
    assert reasons["MODEL.VIT.DEPTH"] == "checkpoint"
    trained = content_of(out)["model"]
    assert trained["backbone.net.blocks.0.attn.rel_pos_h"].any()
    if task == "lvis":
        assert trained["roi_heads.box_predictor.fed_loss_cls_weights"].max() > 1

    resumed = shutil.copytree(out, tmp_path / "resumed")
    for name in ("result.json", "model_final.pth"):
        (resumed / name).unlink()
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    again = run(task, path, toy, resumed, "--resume")
    assert_equal(content_of(resumed), content_of(out))
    assert again["metrics"] == record["metrics"]
    # its backbone is a checkpoint again, with relative positions and windows
    backbone = load_backbone(str(out / "model_final.pth"))
    assert (backbone.arch.implementation, backbone.arch.relative_sides) == ("ViTDet", (3, 8))

"""Networks of other families than ResNet in detectors."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.solver import build_optimizer as detectron2_optimizer
from torch import nn

from tests.detectron import backbones
from tests.detectron.tiny_networks import NETWORKS, VITS, TinyArch, TinyFamily, make_backbone
from tests.errors import raises_code
from tests.run_states import assert_equal, content_of
from virtex.backbones import registry
from virtex.backbones.vit import ViTArch, last_blocks
from virtex.checkpoints.backbone import build_network
from virtex.checkpoints.loading import load_backbone
from virtex.cli import run_tool
from virtex.config import flatten
from virtex.detectron import heads, vit, vit_blocks  # noqa: F401  register heads and pyramids
from virtex.detectron.adapters import convert_backbone, decode_arch, encode_arch
from virtex.detectron.checkpointing import load_detector
from virtex.detectron.config_files import read_config_file
from virtex.detectron.optimizer import build_optimizer
from virtex.detectron.settings import build_settings
from virtex.detectron.trainer import build_detector
from virtex.detectron.verify import TOLERANCE, compare_features, load_weights
from virtex.eval_tools import detectron2_transfer
from virtex.tasks import packaged_protocol
from virtex.tasks.detection import protocol_from_config


@pytest.fixture(autouse=True)
def tiny_family(monkeypatch):
    registry.get_families()
    monkeypatch.setitem(registry.FAMILIES, "tiny", TinyFamily())


def convert(backbone, *overrides, task="coco"):
    settings = build_settings(packaged_protocol(task, "toy"), list(overrides), 1, "cpu")
    converted = convert_backbone(backbone, settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    return settings.cfg, converted


def verified(backbone, *overrides):
    """Return the errors of the features in a detector, and the number of compared tensors."""
    cfg, converted = convert(backbone, *overrides)
    detector = build_detector(cfg)
    compared = load_weights(detector, converted)["compared"]
    return compare_features(detector, converted, backbone.input), compared


def pyramid_of(backbone, *overrides):
    """Return the backbone of a detector with its weights, without the heads."""
    cfg, converted = convert(backbone, *overrides)
    pyramid = build_backbone(cfg)
    weights = {name.removeprefix("backbone."): w for name, w in converted.weights.items()}
    loaded = pyramid.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys
    return pyramid


# --- vision transformers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patch_size"), [("dinov2", "16"), ("dinov2", "0"), ("dinov3", "16")]
)
def test_vit_features_match(name, patch_size):
    backbone = make_backbone(VITS[name])
    errors, compared = verified(backbone, "MODEL.VIT.PATCH_SIZE", patch_size)
    assert errors.keys() == {"final"}
    assert errors["final"] <= TOLERANCE
    assert compared == len(backbone.state_dict)


@pytest.mark.parametrize("name", VITS)
def test_vit_pyramid_of_any_size_trains_every_parameter(name):
    pyramid = pyramid_of(make_backbone(VITS[name]), "MODEL.VIT.GLOBAL_BLOCKS", "1")
    images = torch.randn(2, 3, 96, 256)
    maps = pyramid(images)
    sizes = {level: tuple(x.shape[-2:]) for level, x in maps.items()}
    assert sizes == {"p2": (24, 64), "p3": (12, 32), "p4": (6, 16), "p5": (3, 8), "p6": (2, 4)}
    sum(x.square().mean() for x in maps.values()).backward()
    without = {name for name, p in pyramid.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    assert pyramid.size_divisibility == 32


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "siglip"])
def test_one_window_is_global_attention(name):
    network = build_network(make_backbone(replace(VITS[name], patch_size=16))).eval()
    grid = (7, 7)
    x = network._pos_embed(torch.randn(2, *grid, 48))
    x, rope = x if isinstance(x, tuple) else (x, None)
    block, prefix = network.blocks[0], network.num_prefix_tokens
    expected = block(x) if rope is None else block(x, rope=rope)
    found = vit_blocks.run_block(block, x, rope, grid, 7, prefix)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_patches_attend_to_their_window_and_the_tokens(name):
    """Compared with masked global attention, whose rotary positions are those of the image."""
    network = build_network(make_backbone(replace(VITS[name], patch_size=16))).eval()
    grid, size, prefix = (6, 9), 3, network.num_prefix_tokens
    x = network._pos_embed(torch.randn(2, *grid, 48))
    x, rope = x if isinstance(x, tuple) else (x, None)
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    window = (rows // size * 100 + columns // size).flatten()
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    mask[prefix:, prefix:] = window[:, None] == window
    options = {} if rope is None else {"rope": rope}
    expected = network.blocks[0](x, attn_mask=mask, **options)
    found = vit_blocks.run_block(network.blocks[0], x, rope, grid, size, prefix)
    torch.testing.assert_close(found[:, prefix:], expected[:, prefix:], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(
    not find_spec("detectron2.modeling.backbone.vit"), reason="Detectron2 v0.5 has no ViT"
)
def test_pyramid_matches_detectron2s_vitdet():
    from detectron2.modeling.backbone import vit as official
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    arch = ViTArch(
        *(48, 8, 16, 7, 96),
        heads=3,
        class_token=False,
        final_norm="fc_norm",
        interpolation="plain",
    )
    pyramid = pyramid_of(make_backbone(arch), "MODEL.VIT.WINDOW_SIZE", "5").eval()
    assert pyramid.global_blocks == {1, 3, 5, 7}
    network = official.ViT(
        *(256, 16, 3, 48, 8, 3),
        mlp_ratio=2,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        window_size=5,
        window_block_indexes=[0, 2, 4, 6],
        pretrain_img_size=112,
        pretrain_use_cls_token=False,
    )
    reference = official.SimpleFeaturePyramid(
        network, "last_feat", 64, (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool(), "LN"
    ).eval()
    weights = {k: v for k, v in pyramid.state_dict().items() if "fc_norm" not in k}
    reference.load_state_dict(weights)
    images = torch.randn(1, 3, 128, 224)  # 8 x 14 patches: windows are padded
    with torch.no_grad():
        found, expected = pyramid(images), reference(images)
    assert found.keys() == expected.keys()
    for level, x in expected.items():
        assert (found[level] - x).abs().max() / x.abs().max() < 1e-5


def test_checkpointing_and_drop_path():
    backbone = make_backbone(VITS["dinov2"])
    gradients = []
    for flag in ("False", "True"):
        options = ["MODEL.NETWORK.CHECKPOINTING", flag, "MODEL.NETWORK.DROP_PATH", "0.4"]
        torch.manual_seed(0)
        pyramid = pyramid_of(backbone, *options, "MODEL.VIT.GLOBAL_BLOCKS", "1")
        torch.manual_seed(0)
        sum(x.mean() for x in pyramid(torch.ones(2, 3, 64, 64)).values()).backward()
        gradients.append([p.grad for p in pyramid.parameters() if p.grad is not None])
        rates = [block.drop_path2.drop_prob for block in pyramid.net.blocks]
        assert rates == pytest.approx([0, 0.2, 0.4])
    assert_equal(*gradients)


def test_patch_size_of_the_checkpoint_is_aligned():
    """The map of stride 14 is sampled at the centers of cells of stride 16."""
    pyramid = pyramid_of(make_backbone(VITS["dinov2"]), "MODEL.VIT.PATCH_SIZE", "0")
    rows = torch.arange(16.0) * 14 + 7  # the centers of 16 patches in 224 pixels
    pyramid.last_map = lambda images: rows[None, None, :, None].expand(1, 48, 16, 16)
    seen = []
    pyramid.simfp_4 = nn.Sequential()
    pyramid.simfp_4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pyramid(torch.zeros(1, 3, 224, 224))
    inner = seen[0][0, 0, 1:-1, 5]
    torch.testing.assert_close(inner, torch.arange(1.0, 13) * 16 + 8)


def test_notes_state_what_the_detector_changes():
    notes = " ".join(
        convert(make_backbone(VITS["dinov2"]), "MODEL.VIT.GLOBAL_BLOCKS", "1")[1].notes
    )
    assert "14x14 to 16x16" in notes
    assert "9x9" in notes
    assert "windows of 14x14" in notes


def test_relative_position_bias_is_refused():
    arch = replace(VITS["mae"], implementation="Beit", relative_bias="per_block", positions="none")
    with raises_code("detection.unsupported_backbone", "112x112"):
        convert(make_backbone(arch))


@pytest.mark.parametrize("arch", [VITS["mae"], TinyArch()])
def test_layout_without_converter_names_protocols(arch):
    with raises_code("detection.unsupported_backbone", "C4", "fpn-24k"):
        convert(make_backbone(arch), task="voc")


# --- hierarchical networks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "norm"),
    [(TinyArch(), "BN"), (TinyArch(), "FrozenBN"), *((arch, "BN") for arch in NETWORKS)],
)
def test_network_features_match(arch, norm):
    backbone = make_backbone(arch)
    errors, compared = verified(backbone, "MODEL.RESNETS.NORM", norm)
    assert errors.keys() == {"res2", "res3", "res4", "res5"}
    assert max(errors.values()) <= TOLERANCE
    assert compared == sum("num_batches" not in name for name in backbone.state_dict)


@pytest.mark.parametrize("arch", NETWORKS)
def test_network_trains_what_its_maps_depend_on(arch):
    options = ["MODEL.NETWORK.DROP_PATH", "0.2", "MODEL.NETWORK.CHECKPOINTING", "True"]
    pyramid = pyramid_of(make_backbone(arch), *options)
    maps = pyramid(torch.randn(2, 3, 64, 96))
    sum(x.square().mean() for x in maps.values()).backward()
    trained = {
        name: p.grad is not None for name, p in pyramid.named_parameters() if p.requires_grad
    }
    assert all(trained.values())
    frozen = {name for name, p in pyramid.named_parameters() if not p.requires_grad}
    assert len(frozen) <= 4  # of norms or layers after the last map
    rates = [m.drop_prob for m in pyramid.modules() if type(m).__name__ == "DropPath"]
    assert (min(rates), max(rates)) == pytest.approx((0, 0.2))


def test_output_norms():
    pyramid = pyramid_of(make_backbone(TinyArch("group"))).bottom_up
    maps = pyramid(torch.randn(1, 3, 64, 64))
    for x in maps.values():
        assert x.mean(dim=1).abs().max() < 1e-5
    assert not pyramid_of(make_backbone(TinyArch())).bottom_up.out_norms
    without = pyramid_of(make_backbone(TinyArch("group")), "MODEL.NETWORK.OUT_NORM", "none")
    assert not without.bottom_up.out_norms
    assert any("LayerNorm" in note for note in convert(make_backbone(TinyArch("group")))[1].notes)


def test_stages_are_frozen_as_in_a_resnet():
    bottom_up = pyramid_of(make_backbone(TinyArch()), "MODEL.BACKBONE.FREEZE_AT", "2").bottom_up
    trained = {n.rpartition(".")[0] for n, p in bottom_up.named_parameters() if p.requires_grad}
    assert trained == {f"network.stages.{i}.{k}" for i in (2, 3, 4) for k in (0, 1)}
    kinds = [type(stage[1]).__name__ for stage in bottom_up.network.stages]
    assert kinds == ["FrozenBatchNorm2d"] * 2 + ["BatchNorm2d"] * 3
    # the final norm is part of no feature map
    assert type(bottom_up.network.final).__name__ == "FrozenBatchNorm2d"


@pytest.mark.parametrize(
    ("arch", "overrides", "code"),
    [
        (TinyArch(strides=(8, 16, 32)), [], "detection.unsupported_backbone"),
        (TinyArch(image_size=224), [], "detection.unsupported_backbone"),
        (TinyArch(), ["MODEL.RESNETS.NORM", "GN"], "config.invalid_value"),
        (TinyArch(), ["MODEL.NETWORK.DROP_PATH", "0.1"], "config.invalid_override"),
        (TinyArch(), ["MODEL.NETWORK.CHECKPOINTING", "True"], "config.no_effect"),
        (TinyArch(), ["MODEL.NETWORK.ARCH", "tiny {}"], "config.invalid_override"),
        (TinyArch(), ["MODEL.NETWORK.OUT_NORM", "BN"], "config.invalid_value"),
    ],
)
def test_unsupported_settings(arch, overrides, code):
    with raises_code(code):
        pyramid_of(make_backbone(arch), *overrides)


@pytest.mark.parametrize("arch", [VITS["mae"], TinyArch()])
def test_retinanet(arch):
    protocol = protocol_from_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    settings = build_settings(protocol, ["MODEL.RESNETS.NORM", "BN"], 1, "cpu")
    converted = convert_backbone(make_backbone(arch), settings.cfg)
    settings.set_from_checkpoint(converted.settings)
    shapes = build_backbone(settings.cfg).output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {
        f"p{level}": 2**level for level in range(3, 8)
    }


@pytest.mark.parametrize("arch", [*VITS.values(), *NETWORKS])
def test_arch_is_restored_from_text(arch, tmp_path):
    assert decode_arch(encode_arch(arch)) == arch
    # a Python literal in YAML would be evaluated
    cfg = convert(make_backbone(arch))[0]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert flatten(read_config_file(tmp_path / "config.yaml")) == flatten(cfg)


@pytest.mark.parametrize("text", ["vit", "vit {}", "vit []", "other {}", 'vit {"a": 1}'])
def test_invalid_arch(text):
    with raises_code("config.invalid_value", "MODEL.NETWORK.ARCH"):
        decode_arch(text)


# --- optimizer -------------------------------------------------------------------------------


def optimizer_of(backbone, *overrides, **options):
    """Return the optimizer and parameter name -> (learning rate, weight decay)."""
    cfg, converted = convert(backbone, "SOLVER.BASE_LR", "1.0", *overrides, **options)
    detector = build_detector(cfg)
    optimizer = build_optimizer(cfg, detector, converted.layer_ids)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {n: groups.pop(id(p)) for n, p in detector.named_parameters() if p.requires_grad}
    assert not groups
    return optimizer, found, detector, cfg


def test_default_optimizer_is_detectron2s():
    optimizer, _, detector, cfg = optimizer_of(make_backbone(VITS["mae"]))
    assert_equal(optimizer.state_dict(), detectron2_optimizer(cfg, detector).state_dict())


def test_layer_decay_and_weight_decay_of_a_vit():
    optimizer, found, *_ = optimizer_of(
        make_backbone(VITS["dinov2"]),
        *("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.LAYER_DECAY", "0.5", "SOLVER.WEIGHT_DECAY", "0.1"),
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    # the embeddings, three blocks, and with the final norm the heads
    expected = {
        "backbone.net.cls_token": (1 / 16, 0),
        "backbone.net.reg_token": (1 / 16, 0),
        "backbone.net.pos_embed": (1 / 16, 0),
        "backbone.net.patch_embed.proj.weight": (1 / 16, 0.1),
        "backbone.net.patch_embed.proj.bias": (1 / 16, 0),
        "backbone.net.blocks.0.norm1.weight": (1 / 8, 0),
        "backbone.net.blocks.1.attn.qkv.weight": (1 / 4, 0.1),
        "backbone.net.blocks.2.ls1.gamma": (1 / 2, 0),
        "backbone.net.norm.weight": (1, 0),
        "backbone.simfp_2.0.weight": (1, 0.1),
        "backbone.simfp_2.1.weight": (1, 0),
        "roi_heads.box_predictor.cls_score.weight": (1, 0.1),
        "roi_heads.box_predictor.cls_score.bias": (1, 0),
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("task", ["coco", "voc"])
def test_layer_decay_of_a_resnet(task):
    _, found, *_ = optimizer_of(
        backbones.make_backbone("resnet18"), "SOLVER.LAYER_DECAY", "0.5", task=task
    )
    stem, res5 = (
        {name: rate for name, (rate, _) in found.items() if part in name}
        for part in (".stem.", ".res5.1.conv2")
    )
    assert set(stem.values()) == {2**-9}  # 8 blocks
    assert set(res5.values()) == {1 / 2}
    assert found["proposal_generator.rpn_head.conv.weight"][0] == 1


# --- a run -----------------------------------------------------------------------------------

ITERATIONS = 4
QUICK = [
    *("SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "2", "TEST.PRECISE_BN.NUM_ITER", "2"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.BASE_LR", "0.0001", "SOLVER.OPTIMIZER", "ADAMW"),
    *("SOLVER.LAYER_DECAY", "0.8", "SOLVER.WEIGHT_DECAY_EMBED", "0.0"),
    *("MODEL.NETWORK.DROP_PATH", "0.2", "MODEL.NETWORK.CHECKPOINTING", "True"),
    *("MODEL.VIT.WINDOW_SIZE", "3", "MODEL.VIT.GLOBAL_BLOCKS", "1"),
    *("MODEL.MASK_ON", "False", "TEST.DETECTIONS_PER_IMAGE", "5"),
]


def run(checkpoint, toy, out, *arguments):
    """Run the tool in this process; it must succeed."""
    common = [
        *(
            "--checkpoint",
            checkpoint,
            "--format",
            "dino_vit",
            "--task",
            "coco",
            "--protocol",
            "toy",
        ),
        *("--data-root", toy, "--output-dir", out, "--num-gpus", "0", *arguments),
    ]
    with pytest.raises(SystemExit) as exited:
        run_tool(detectron2_transfer.main, detectron2_transfer.build_parser(), map(str, common))
    assert exited.value.code == 0
    return json.loads((out / "result.json").read_text())


def test_run_of_a_vit(tmp_path, toy):
    arch = ViTArch(128, 2, 16, 7, 128, heads=2, interpolation="offset")
    path, out = tmp_path / "dino.pth", tmp_path / "out"
    torch.save(make_backbone(arch).state_dict, path)
    record = run(path, toy, out, *QUICK)
    assert record["verification"]["tensors"]["equal"]
    assert record["verification"]["features"]["final"] <= TOLERANCE
    assert any("windows of 3x3" in note for note in record["notes"])
    keys = {override["key"] for override in record["protocol"]["overrides"]}
    assert "MODEL.NETWORK.ARCH" not in keys
    assert "SOLVER.LAYER_DECAY" in keys

    # the run's config rebuilds the detector
    detector = build_detector(read_config_file(out / "config.yaml"))
    load_detector(detector, out / "model_final.pth")
    # whose backbone is a checkpoint again
    trained = load_backbone(str(out / "model_final.pth"))
    assert (trained.source.format, trained.arch) == ("virtex_detector", arch)
    with torch.no_grad():
        ((expected, _),) = last_blocks(build_network(trained), torch.ones(1, 3, 64, 64), 1)
        found = detector.eval().backbone.last_map(torch.ones(1, 3, 64, 64), as_pretrained=True)
    torch.testing.assert_close(found, expected)

    resumed = shutil.copytree(out, tmp_path / "resumed")
    for name in ("result.json", "model_final.pth"):
        (resumed / name).unlink()
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    again = run(path, toy, resumed, *QUICK, "--resume")
    assert_equal(content_of(resumed), content_of(out))
    assert again["metrics"] == record["metrics"]
    (resumed / "result.json").unlink()
    assert run(path, toy, resumed, *QUICK, "--eval-only")["metrics"] == record["metrics"]

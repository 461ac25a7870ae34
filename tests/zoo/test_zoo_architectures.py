"""Entries of networks other than ResNets: a file with the names of its project and the sizes of the
published network, without data, is what the entry states."""

from functools import partial

import pytest
import timm
import torch
import torchvision

from tests.backbones import convnext_writers, swin_writers, vit_files
from virtex import zoo
from virtex.backbones.registry import expected_shapes, get_family
from virtex.checkpoints.coverage import compute_coverage
from virtex.checkpoints.detect import detect_format
from virtex.checkpoints.formats import get_format
from virtex.checkpoints.inputs import resolve_input
from virtex.checkpoints.statements import read_statements

RESNETS = ("resnet", "resnext", "wide_resnet")
ENTRIES = {
    name: entry for name, entry in zoo.entries().items() if not entry.arch.startswith(RESNETS)
}
SHARED_BIAS = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"}
IBOT_NORM = {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6)}


def ibot_swin(network):
    return {"state_dict": swin_writers.official(network, masks=False)}


SWIN_WRITERS = (swin_writers.swin_file, swin_writers.simmim_file, ibot_swin)  # of networks
# timm's network of the published sizes, its options, how its project writes it, and the entries
FILES = [
    (
        "vit_small_patch16_224",
        {},
        vit_files.flat,
        ["dino/dino_vits16", "ibot/ibot_vits_16"],
    ),
    ("vit_small_patch8_224", {}, vit_files.flat, ["dino/dino_vits8"]),
    (
        "vit_base_patch16_224",
        {},
        vit_files.flat,
        [
            *("dino/dino_vitb16", "ibot/ibot_vitb_16", "ibot/ibot_vitb_16_rand_mask"),
            "ibot/ibot_vitb_16_pt22k",
        ],
    ),
    ("vit_base_patch8_224", {}, vit_files.flat, ["dino/dino_vitb8"]),
    (
        "vit_large_patch16_224",
        {},
        vit_files.flat,
        ["ibot/ibot_vitl_16", "ibot/ibot_vitl_16_rand_mask", "ibot/ibot_vitl_16_pt22k"],
    ),
    ("vit_small_patch14_dinov2", {}, vit_files.dinov2, ["dinov2/dinov2_vits14"]),
    ("vit_base_patch14_dinov2", {}, vit_files.dinov2, ["dinov2/dinov2_vitb14"]),
    ("vit_large_patch14_dinov2", {}, vit_files.dinov2, ["dinov2/dinov2_vitl14"]),
    ("vit_giant_patch14_dinov2", {}, vit_files.dinov2_giant, ["dinov2/dinov2_vitg14"]),
    *(
        (
            f"vit_{size}_patch14_reg4_dinov2",
            {},
            vit_files.dinov2_registers,
            [f"dinov2/dinov2_vit{size[0]}14_reg"],
        )
        for size in ("small", "base", "large")
    ),
    (
        "vit_giant_patch14_reg4_dinov2",
        {},
        lambda tensors: vit_files.dinov2_giant(vit_files.dinov2_registers(tensors)),
        ["dinov2/dinov2_vitg14_reg"],
    ),
    ("vit_small_patch16_224", {"num_heads": 12}, vit_files.moco_v3, ["moco_v3/vits_300ep"]),
    ("vit_base_patch16_224", {}, vit_files.moco_v3, ["moco_v3/vitb_300ep"]),
    *(
        (name, {}, vit_files.in_model, [f"mae/mae_pretrain_vit_{name.split('_')[1]}"])
        for name in ("vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224")
    ),
    *(
        (
            name,
            {"global_pool": "avg", "fc_norm": True},
            vit_files.mae_finetuned,
            [f"mae/mae_finetuned_vit_{name.split('_')[1]}"],
        )
        for name in ("vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224")
    ),
    (
        "vit_huge_patch14_gap_224",
        {},
        vit_files.ijepa,
        ["ijepa/IN1K-vit.h.14-300e", "ijepa/IN22K-vit.h.14-900e"],
    ),
    ("vit_huge_patch16_gap_448", {}, vit_files.ijepa, ["ijepa/IN1K-vit.h.16-448px-300e"]),
    ("vit_giant_patch16_gap_224", {}, vit_files.ijepa, ["ijepa/IN22K-vit.g.16-600e"]),
    *(
        row
        for size in ("base", "large")
        for row in (
            (
                f"beit_{size}_patch16_224",
                SHARED_BIAS,
                vit_files.beit,
                [f"beit/beit_{size}_patch16_224_pt22k"],
            ),
            (
                f"beit_{size}_patch16_224",
                {},
                vit_files.in_model,
                [
                    f"beit/beit_{size}_patch16_224_pt22k_ft22k",
                    f"beit/beit_{size}_patch16_224_pt22k_ft22kto1k",
                ],
            ),
            (
                f"beitv2_{size}_patch16_224",
                SHARED_BIAS,
                vit_files.beit_v2,
                [f"beit_v2/beitv2_{size}_patch16_224_pt1k"],
            ),
            (
                f"beitv2_{size}_patch16_224",
                {},
                vit_files.in_model,
                [
                    f"beit_v2/beitv2_{size}_patch16_224_pt1k_ft21k",
                    f"beit_v2/beitv2_{size}_patch16_224_pt1k_ft21kto1k",
                ],
            ),
        )
    ),
    ("eva02_tiny_patch14_224", {}, vit_files.eva, ["eva02/eva02_Ti_pt_in21k_p14"]),
    (
        "eva_giant_patch14_224",
        {},
        vit_files.eva,
        ["eva/eva_psz14", "eva/eva_21k_224px_psz14"],
    ),
    ("eva_giant_patch14_224", {"patch_size": 16}, vit_files.eva, ["eva/eva_psz14to16"]),
    ("eva02_small_patch14_224", {}, vit_files.eva, ["eva02/eva02_S_pt_in21k_p14"]),
    ("eva02_base_patch14_224", {}, vit_files.eva, ["eva02/eva02_B_pt_in21k_p14"]),
    (
        "eva02_base_patch14_224",
        {"patch_size": 16},
        vit_files.eva,
        ["eva02/eva02_B_pt_in21k_p14to16"],
    ),
    (
        "eva02_large_patch14_224",
        {},
        vit_files.eva,
        ["eva02/eva02_L_pt_in21k_p14", "eva02/eva02_L_pt_m38m_p14"],
    ),
    (
        "eva02_large_patch14_224",
        {"patch_size": 16},
        vit_files.eva,
        ["eva02/eva02_L_pt_in21k_p14to16", "eva02/eva02_L_pt_m38m_p14to16"],
    ),
    ("eva02_base_patch16_clip_224", {}, vit_files.eva_clip, ["eva_clip/EVA02_CLIP_B_psz16_s8B"]),
    (
        "eva_giant_patch14_clip_224",
        {},
        vit_files.eva_clip,
        ["eva_clip/EVA01_CLIP_g_14_psz14_s11B", "eva_clip/EVA01_CLIP_g_14_plus_psz14_s11B"],
    ),
    ("eva02_large_patch14_clip_224", {}, vit_files.eva_clip, ["eva_clip/EVA02_CLIP_L_psz14_s4B"]),
    (
        "eva02_large_patch14_clip_336",
        {},
        vit_files.eva_clip,
        ["eva_clip/EVA02_CLIP_L_336_psz14_s6B"],
    ),
    ("vit_base_patch32_clip_quickgelu_224", {}, vit_files.clip, ["clip/ViT-B-32"]),
    ("vit_base_patch16_clip_quickgelu_224", {}, vit_files.clip, ["clip/ViT-B-16"]),
    ("vit_large_patch14_clip_quickgelu_224", {}, vit_files.clip, ["clip/ViT-L-14"]),
    ("vit_large_patch14_clip_quickgelu_336", {}, vit_files.clip, ["clip/ViT-L-14-336px"]),
    *(
        (f"deit_{name}", {}, vit_files.in_model, [f"deit/deit_{name}"])
        for name in (
            *("tiny_patch16_224", "small_patch16_224", "base_patch16_224", "base_patch16_384"),
        )
    ),
    *(
        (
            f"deit3_{size}_patch{patch}_224",
            {},
            vit_files.deit3,
            [
                f"deit3/deit_3_{size}_224_1k",
                f"deit3/deit_3_{size}_224_21k{'_v1' if size == 'huge' else ''}",
            ],
        )
        for size, patch in (
            *(("small", 16), ("medium", 16), ("base", 16), ("large", 16), ("huge", 14)),
        )
    ),
    *(
        (
            f"convnext_{size}",
            {},
            convnext_writers.official,
            [
                *([f"convnext/convnext_{size}_1k_224_ema"] * (size != "xlarge")),
                f"convnext/convnext_{size}_22k_224",
            ],
        )
        for size in ("tiny", "small", "base", "large", "xlarge")
    ),
    *(
        row
        for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
        for row in (
            (
                f"convnextv2_{size}",
                {},
                convnext_writers.fcmae,
                [f"convnext_v2/convnextv2_{size}_1k_224_fcmae"],
            ),
            (
                f"convnextv2_{size}",
                {},
                convnext_writers.official,
                [
                    f"convnext_v2/convnextv2_{size}_1k_224_ema",
                    *(
                        [f"convnext_v2/convnextv2_{size}_22k_224_ema"]
                        * (size in ("nano", "tiny", "base", "large"))
                    ),
                ],
            ),
        )
    ),
    *(
        (
            f"swin_{name}",
            {},
            swin_writers.swin_file,
            [
                *([f"swin/swin_{name}"] * ("large" not in name)),
                f"swin/swin_{name}_22k",
            ],
        )
        for name in (
            *("tiny_patch4_window7_224", "small_patch4_window7_224", "base_patch4_window7_224"),
            *("large_patch4_window7_224", "base_patch4_window12_384"),
            "large_patch4_window12_384",
        )
    ),
    *(
        (
            f"swinv2_{size}_window{window}_256",
            {},
            swin_writers.swin_file,
            [f"swin_v2/swinv2_{size}_patch4_window{window}_256"],
        )
        for size in ("tiny", "small", "base")
        for window in (8, 16)
    ),
    *(
        (
            f"swinv2_{size}_window12_192",
            {},
            swin_writers.swin_file,
            [f"swin_v2/swinv2_{size}_patch4_window12_192_22k"],
        )
        for size in ("base", "large")
    ),
    *(
        (
            f"swinv2_{size}_window8_256",
            {"img_size": 192, "window_size": 12},
            swin_writers.simmim_file,
            [f"simmim/swinv2_{size}_1k_500k"],
        )
        for size in ("small", "base")
    ),
    (
        "swinv2_large_window12_192",
        {},
        swin_writers.simmim_file,
        ["simmim/swinv2_large_1k_500k", "simmim/swinv2_large_22k_500k"],
    ),
    ("swin_tiny_patch4_window7_224", IBOT_NORM, ibot_swin, ["ibot/ibot_swint_7"]),
    (
        "swin_tiny_patch4_window7_224",
        {"window_size": 14, **IBOT_NORM},
        ibot_swin,
        ["ibot/ibot_swint_14"],
    ),
]
# by default the first of each format, because building large networks takes seconds
FIRST = {ENTRIES[names[0]].format: names for _, _, _, names in reversed(FILES)}
PARAMETERS = [
    pytest.param(
        *row,
        id=row[-1][0].partition("/")[2],
        marks=[] if row[-1] in FIRST.values() else [pytest.mark.whole],
    )
    for row in FILES
]
TORCHVISION = {
    weights.url: (name, weights.transforms.keywords["crop_size"])
    for name in torchvision.models.list_models()
    if name.startswith(("vit_", "convnext_", "swin_"))
    for weights in torchvision.models.get_model_weights(name)
}
QUICK = ("torchvision/vit_b_16", "torchvision/convnext_tiny", "torchvision/swin_t")


def assert_entry_fits(entry, content, fields):
    """Check the architecture and input that an entry states against the content of its file."""
    row = get_format(entry.format)
    parsed = detect_format(content, entry.format)
    statements = read_statements(content, entry.file, row.sidecars)
    spec, arch, _ = resolve_input(row, parsed.arch, statements, explicit=True)
    assert arch.name == entry.arch, entry.name
    assert spec == entry.input, entry.name
    assert {name: getattr(arch, name) for name in fields} == fields, entry.name
    coverage = compute_coverage(
        expected_shapes(arch), parsed.tensors, parsed.unused, get_family(arch).get_stage
    )
    assert coverage.complete, entry.name


@pytest.mark.parametrize(("name", "options", "write", "names"), PARAMETERS)
def test_entry_states_the_architecture(name, options, write, names):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, **options)
    for entry in map(ENTRIES.__getitem__, names):
        family = get_format(entry.format).get_families()[-1]
        content = write(network if write in SWIN_WRITERS else network.state_dict())
        assert_entry_fits(entry, content, family.read_fields(network))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.whole] * (name not in QUICK))
        for name in ENTRIES
        if name.startswith("torchvision/")
    ],
)
def test_torchvision_entry_states_the_architecture(name):
    [url] = ENTRIES[name].urls
    model, size = TORCHVISION[url]
    with torch.device("meta"):
        options = {"image_size": size} if model.startswith("vit_") else {}
        network = torchvision.models.get_model(model, **options)
    assert f"-{ENTRIES[name].sha256}." in url
    assert_entry_fits(ENTRIES[name], network.state_dict(), {})


def test_every_entry_is_tested():
    tested = [name for _, _, _, names in FILES for name in names]
    assert len(tested) == len(set(tested))
    assert {*tested} | {name for name in ENTRIES if "torchvision/" in name} == ENTRIES.keys()

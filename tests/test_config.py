"""Configs: packaged files, files of earlier versions, ``_BASE_``, overrides, validation."""

import logging
import subprocess
import sys

import pytest

from tests.errors import raises_code
from virtex.config import (
    TransformerSize,
    default_config,
    flatten,
    get_setting,
    load_config,
    packaged_configs,
    parse_textual_name,
    save_config,
)
from virtex.config.older import OLD_KEYS

BEST = "width_ablations/bicaptioning_R_50_L1_H2048"

# The keys of a run's config as VirTex v0.9, v1.0 and v1.4 wrote it.
V09 = """
FP16_OPT: 2
RANDOM_SEED: 0
DATA: {EOS_INDEX: 2, IMAGE_CROP_SIZE: 224, MASK_INDEX: 3, MAX_CAPTION_LENGTH: 30,
  IMAGE_TRANSFORM_TRAIN: [random_resized_crop, horizontal_flip, color_jitter, normalize],
  IMAGE_TRANSFORM_VAL: [smallest_resize, center_crop, normalize], ROOT: datasets/coco,
  SOS_INDEX: 1, TOKENIZER_MODEL: datasets/vocab/coco_10k.model,
  TOKENIZER_VOCAB: datasets/vocab/coco_10k.vocab, UNK_INDEX: 0, USE_PERCENTAGE: 100.0,
  USE_SINGLE_CAPTION: false, VOCAB_SIZE: 10000}
MODEL:
  NAME: bicaptioning
  TEXTUAL: {DROPOUT: 0.1, NAME: transformer_postnorm::L1_H1024_A16_F4096}
  VISUAL: {FEATURE_SIZE: 2048, FROZEN: false, NAME: "torchvision::wide_resnet50_2x",
    PRETRAINED: false}
OPTIM: {BATCH_SIZE: 256, CLIP_GRAD_NORM: 10, CNN_LR: 0.2, LOOKAHEAD_ALPHA: 0.5,
  LOOKAHEAD_STEPS: 6, LR: 0.001, LR_DECAY_NAME: cosine, LR_GAMMA: 0.1, LR_STEPS: [],
  NO_DECAY: ".*textual.(embedding|transformer|output).*(norm.*|bias)", NUM_ITERATIONS: 500000,
  OPTIMIZER_NAME: sgd, SGD_MOMENTUM: 0.9, USE_LOOKAHEAD: false, WARMUP_STEPS: 10000,
  WEIGHT_DECAY: 0.0001}
"""
V10 = (
    V09.replace("FP16_OPT: 2", "AMP: false\nCUDNN_BENCHMARK: true\nCUDNN_DETERMINISTIC: true")
    .replace("TOKENIZER_VOCAB: datasets/vocab/coco_10k.vocab, ", "")
    .replace("wide_resnet50_2x", "resnet50")
    .replace(
        "MASK_INDEX: 3,",
        "MASK_INDEX: 3, MASKED_LM: {MASK_PROBABILITY: 0.8,"
        " MASK_PROPORTION: 0.15, REPLACE_PROBABILITY: 0.1},",
    )
)
V14 = (
    V10.replace("transformer_postnorm", "transdec_prenorm")
    .replace("NAME: bicaptioning", "NAME: virtex\n  DECODER: {BEAM_SIZE: 3, NAME: beam_search}")
    .replace(" LOOKAHEAD_ALPHA: 0.5,\n  LOOKAHEAD_STEPS: 6,", "")
    .replace("USE_LOOKAHEAD: false", "LOOKAHEAD: {ALPHA: 0.5, STEPS: 6, USE: false}")
    .replace(" USE_PERCENTAGE: 100.0,\n  USE_SINGLE_CAPTION: false,", "")
)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_import_without_torch():
    code = "import sys, virtex.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ----- packaged configs


def test_defaults_are_the_published_model():
    assert load_config(BEST) == default_config()


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_config_loads_frozen(name):
    with pytest.raises(AttributeError, match="immutable"):
        load_config(name).OPTIM.LR = 1.0


def test_published_ablations_are_packaged():
    groups = {
        "task": "bicaptioning_R_50_L1_H2048 captioning_R_50_L1_H2048 masked_lm_R_50_L1_H2048 "
        "token_classification_R_50 multilabel_classification_R_50",
        "width": "bicaptioning_R_50_L1_H512 bicaptioning_R_50_L1_H768 "
        "bicaptioning_R_50_L1_H1024 bicaptioning_R_50_L1_H2048",
        "depth": "bicaptioning_R_50_L1_H1024 bicaptioning_R_50_L2_H1024 "
        "bicaptioning_R_50_L3_H1024 bicaptioning_R_50_L4_H1024",
        "backbone": "bicaptioning_R_50_L1_H1024 bicaptioning_R_50W2X_L1_H1024 "
        "bicaptioning_R_101_L1_H1024",
    }
    published = {f"{g}_ablations/{stem}" for g, stems in groups.items() for stem in stems.split()}
    toy = {"toy/bicaptioning_R_18_L1_H256", "toy/multilabel_classification_R_18"}
    assert published | toy == set(packaged_configs())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("width_ablations/bicaptioning_R_50_L1_H512", "TEXTUAL.NAME", "L1_H512_A8_F2048"),
        ("width_ablations/bicaptioning_R_50_L1_H768", "TEXTUAL.NAME", "L1_H768_A12_F3072"),
        ("depth_ablations/bicaptioning_R_50_L4_H1024", "TEXTUAL.NAME", "L4_H1024_A16_F4096"),
        ("backbone_ablations/bicaptioning_R_50W2X_L1_H1024", "VISUAL.NAME", "wide_resnet50_2"),
        ("backbone_ablations/bicaptioning_R_101_L1_H1024", "VISUAL.NAME", "resnet101"),
    ],
)
def test_ablation_changes_one_setting(name, key, value):
    base = flatten(load_config("width_ablations/bicaptioning_R_50_L1_H1024"))
    changed = {k: v for k, v in flatten(load_config(name)).items() if v != base[k]}
    assert {k: v.partition("::")[2] for k, v in changed.items()} == {f"MODEL.{key}": value}


def test_multilabel_classification_has_81_classes():
    config = load_config("multilabel_classification_R_50")
    assert (config.DATA.VOCAB_SIZE, config.MODEL.TEXTUAL.NAME) == (81, "none")


def test_configs_of_one_stem_are_equal():
    by_stem = {}
    for name in packaged_configs():
        by_stem.setdefault(name.rpartition("/")[2], []).append(load_config(name))
    shared = [configs for configs in by_stem.values() if len(configs) > 1]
    assert len(shared) == 2  # L1_H1024 in three groups, L1_H2048 in two
    assert all(config == configs[0] for configs in shared for config in configs)


@pytest.mark.parametrize("folder", ["", "task_ablations/", "configs/task_ablations/"])
@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_packaged_names(folder, suffix):
    assert load_config(f"{folder}captioning_R_50_L1_H2048{suffix}").MODEL.NAME == "captioning"


def test_unknown_config_names_the_nearest(tmp_path):
    with raises_code("config.not_found", "bicaptioning_R_50_L1_H512"):
        load_config("bicaptioning_R50_L1_H512")
    with raises_code("config.not_found"):  # a mistyped path is not a packaged name
        load_config("/nowhere/width_ablations/bicaptioning_R_50_L1_H2048.yaml")
    with raises_code("config.not_found", tmp_path):
        load_config(tmp_path)


# ----- earlier versions


@pytest.mark.parametrize("text", [V09, V10, V14], ids=["v0.9", "v1.0", "v1.4"])
def test_published_dumps_load(yaml_file, text):
    config = load_config(yaml_file(text))
    assert (config.OPTIM.LOOKAHEAD.USE, config.OPTIM.LOOKAHEAD.STEPS) == (False, 6)
    assert (config.OPTIM.CLIP_GRAD_NORM, config.MODEL.VISUAL.FEATURE_SIZE) == (10.0, 2048)


def test_names_of_v09_are_translated(yaml_file, caplog):
    with caplog.at_level(logging.INFO, logger="virtex.config"):
        config = load_config(yaml_file(V09))
    assert config.MODEL.TEXTUAL.NAME == "transdec_postnorm::L1_H1024_A16_F4096"
    assert config.MODEL.VISUAL.NAME == "torchvision::wide_resnet50_2"
    assert all(f"{key} is a key of an earlier VirTex" in caplog.text for key in OLD_KEYS)


def test_v14_needs_no_translation(yaml_file, caplog):
    with caplog.at_level(logging.INFO, logger="virtex.config"):
        load_config(yaml_file(V14))
    assert caplog.text == ""


@pytest.mark.parametrize(("level", "amp"), [("0", False), ("1", True), ("2", True)])
def test_apex_level_becomes_amp(yaml_file, level, amp):
    assert load_config(yaml_file(f"FP16_OPT: {level}\n")).AMP is amp


@pytest.mark.parametrize(
    ("old", "text", "key", "value"),
    [
        ("FP16_OPT", "0", "AMP", False),
        ("OPTIM.USE_LOOKAHEAD", "False", "OPTIM.LOOKAHEAD.USE", False),
        ("OPTIM.LOOKAHEAD_ALPHA", "0.8", "OPTIM.LOOKAHEAD.ALPHA", 0.8),
        ("OPTIM.LOOKAHEAD_STEPS", "10", "OPTIM.LOOKAHEAD.STEPS", 10),
        (
            "MODEL.TEXTUAL.NAME",
            "transformer_prenorm::L2_H64_A2_F128",
            "MODEL.TEXTUAL.NAME",
            "transdec_prenorm::L2_H64_A2_F128",
        ),
    ],
)
def test_old_keys_as_overrides(old, text, key, value):
    assert get_setting(load_config(BEST, [old, text]), key) == value


# ----- files


def test_bases_apply_in_order(yaml_file):
    yaml_file("OPTIM: {LR: 0.5, BATCH_SIZE: 8, CNN_LR: 0.5}\n", "first.yaml")
    yaml_file("OPTIM: {LR: 0.125, CNN_LR: 0.125}\n", "second.yaml")
    config = load_config(
        yaml_file("_BASE_: [masked_lm_R_50_L1_H2048, first.yaml, second.yaml]\nOPTIM: {LR: 0.25}\n")
    )
    optim = config.OPTIM
    assert (config.MODEL.NAME, optim.BATCH_SIZE) == ("masked_lm", 8)
    assert (optim.LR, optim.CNN_LR) == (0.25, 0.125)


def test_a_base_named_twice_applies_last(yaml_file):
    yaml_file("OPTIM: {LR: 0.5}\n", "a.yaml")
    yaml_file("OPTIM: {LR: 0.25}\n", "b.yaml")
    assert load_config(yaml_file("_BASE_: [a.yaml, b.yaml, a.yaml]\n")).OPTIM.LR == 0.5


def test_number_with_exponent_but_no_dot(yaml_file):
    assert load_config(yaml_file("OPTIM: {LR: 1e-4}\n")).OPTIM.LR == 1e-4


@pytest.mark.parametrize(
    ("text", "reason", "named"),
    [
        ("", "unreadable", ""),
        ("- OPTIM\n", "unreadable", ""),
        ("<html></html>", "unreadable", ""),
        ("OPTIM: [", "unreadable", "line 1"),
        ("RANDOM_SEED: !!int ''\n", "unreadable", ""),
        ("[" * 900, "unreadable", ""),
        ("_BASE_: missing.yaml\n", "not_found", "missing.yaml"),
        ("_BASE_: mine.yaml\n", "unreadable", "_BASE_"),
        ("_BASE_: 3\n", "unreadable", "_BASE_"),
        ("_BASE_: https://example.org/base.yaml\n", "not_found", "_BASE_"),
        ("MODEL: 3\n", "invalid_value", "MODEL"),
        ("MODEL:\n", "invalid_value", "MODEL"),
        ("OPTIMS: {LR: 1.0}\n", "unknown_key", "did you mean OPTIM"),
        ("OPTIM: {LOOKAHAED: {USE: true}}\n", "unknown_key", "did you mean OPTIM.LOOKAHEAD"),
        ("MODEL: {NAEM: virtex}\n", "unknown_key", "did you mean MODEL.NAME"),
        ("OPTIM: {LR: fast}\n", "invalid_value", "OPTIM.LR"),
        ("OPTIM: {LR: {CNN: 1}}\n", "invalid_value", "OPTIM.LR"),
        ("OPTIM: {LR: .inf}\n", "invalid_value", "OPTIM.LR"),
        ("OPTIM: {BATCH_SIZE: 2.5}\n", "invalid_value", "OPTIM.BATCH_SIZE"),
        ("AMP: 1\n", "invalid_value", "AMP"),
        ("FP16_OPT: O1\n", "invalid_value", "FP16_OPT (now AMP)"),
        ("MODEL: {NAME: null}\n", "invalid_value", "MODEL.NAME"),
    ],
)
def test_invalid_file(yaml_file, text, reason, named):
    with raises_code(f"config.{reason}", "mine.yaml", named) as caught:
        load_config(yaml_file(text))
    assert "\n" not in str(caught.value)


def test_circular_bases(yaml_file):
    yaml_file("_BASE_: mine.yaml\n", "other.yaml")
    with raises_code("config.unreadable", "mine.yaml", "_BASE_"):
        load_config(yaml_file("_BASE_: other.yaml\n"))


def test_binary_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"PK\x03\x04\x80\xff" * 9)
    with raises_code("config.unreadable", path):
        load_config(path)


def test_strings_are_not_executed(yaml_file, tmp_path):
    ran = tmp_path / "ran"
    call = f"__import__('os').mkdir('{ran}') or 1"
    with raises_code("config.unreadable", "line 1"):
        load_config(yaml_file(f"RANDOM_SEED: !!python/object/apply:os.mkdir [{ran}]\n"))
    with raises_code("config.invalid_value", "RANDOM_SEED"):
        load_config(yaml_file(f'RANDOM_SEED: "{call}"\n'))
    with raises_code("config.invalid_value", "RANDOM_SEED"):
        load_config(BEST, ["RANDOM_SEED", call])
    load_config(BEST, ["DATA.IMAGE_TRANSFORM_VAL", f"[{call!r}]", "DATA.ROOT", call])
    assert not ran.exists()


# ----- overrides


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("OPTIM.LR", "1e-3", 0.001),
        ("OPTIM.LR", "2", 2.0),
        ("AMP", "False", False),
        ("DATA.ROOT", "2017", "2017"),
        ("DATA.ROOT", "'quoted'", "quoted"),
        ("DATA.IMAGE_TRANSFORM_VAL", "('center_crop',)", ["center_crop"]),
        ("OPTIM.LR_STEPS", "3,5", [3, 5]),
        ("OPTIM.BATCH_SIZE", 64, 64),
    ],
)
def test_override_is_a_literal(key, text, value):
    found = get_setting(load_config(BEST, [key, text]), key)
    assert (found, type(found)) == (value, type(value))


def test_last_override_wins():
    assert load_config(BEST, ["OPTIM.LR", "1", "OPTIM.LR", "0.5"]).OPTIM.LR == 0.5


@pytest.mark.parametrize(
    ("overrides", "reason", "named"),
    [
        (["OPTIM.LR"], "unpaired_override", "OPTIM.LR"),
        (["OPTIM.LR=0.1"], "unpaired_override", "OPTIM.LR 0.1"),
        (["OPTIM.LRR", "1"], "unknown_key", "did you mean OPTIM.LR"),
        (["OPTIM", "1"], "unknown_key", "OPTIM"),
        (["_BASE_", "x.yaml"], "unknown_key", "_BASE_"),
        (["OPTIM.NUM_ITERATIONS", "many"], "invalid_value", "OPTIM.NUM_ITERATIONS"),
        (["OPTIM.LR", "1e999"], "invalid_value", "OPTIM.LR"),
        (["OPTIM.LR_STEPS", "3"], "invalid_value", "OPTIM.LR_STEPS"),
        (["OPTIM.LR_STEPS", "(1, (2,))"], "invalid_value", "OPTIM.LR_STEPS"),
        (["OPTIM.LR_STEPS", "[None]"], "invalid_value", "OPTIM.LR_STEPS"),
    ],
)
def test_invalid_override(overrides, reason, named):
    with raises_code(f"config.{reason}", named):
        load_config(BEST, overrides)


# ----- validation


@pytest.mark.parametrize(
    "settings",
    [
        "MODEL.NAME bicaptionning",
        "AMP_DTYPE float32",
        "OPTIM.OPTIMIZER_NAME adam",
        "OPTIM.LR_DECAY_NAME cosin",
        "MODEL.DECODER.NAME beam",
        "MODEL.TEXTUAL.NAME transdec_postnorm::L1_H64",
        "MODEL.TEXTUAL.NAME transdec_postnorm::L0_H64_A2_F8",
        "MODEL.TEXTUAL.NAME transdec_postnorm::L1_H64_A3_F8",
        "MODEL.TEXTUAL.NAME none",
        "OPTIM.BATCH_SIZE 0",
        "OPTIM.NUM_ITERATIONS -1",
        "OPTIM.LOOKAHEAD.STEPS 0",
        "OPTIM.LOOKAHEAD.ALPHA 0",
        "OPTIM.CLIP_GRAD_NORM -1",
        "OPTIM.LR -0.1",
        "OPTIM.WARMUP_STEPS 500001",
        "OPTIM.LR_STEPS () OPTIM.LR_DECAY_NAME multistep",
        "OPTIM.LR_STEPS (30000,20000) OPTIM.LR_DECAY_NAME multistep",
        "OPTIM.LR_STEPS (20000,20000) OPTIM.LR_DECAY_NAME multistep",
        "OPTIM.LR_STEPS (20000.5,) OPTIM.LR_DECAY_NAME multistep",
        "OPTIM.LR_STEPS (10000,) OPTIM.LR_DECAY_NAME multistep",
        "OPTIM.NO_DECAY *bias",
        "DATA.MAX_CAPTION_LENGTH 2",
        "DATA.MAX_CAPTION_LENGTH 10001",
        "DATA.MAX_CAPTION_LENGTH 20",  # fewer than MAX_DECODING_STEPS
        "DATA.USE_PERCENTAGE 0",
        "DATA.USE_PERCENTAGE 100.5",
        "DATA.MASKED_LM.MASK_PROPORTION 1.5",
        "DATA.MASKED_LM.MASK_PROBABILITY 0.95",  # with REPLACE_PROBABILITY above 1
        "DATA.EOS_INDEX 1",
        "DATA.VOCAB_SIZE 3",
        "DATA.IMAGE_TRANSFORM_TRAIN [1]",
        "MODEL.VISUAL.FEATURE_SIZE -1",
        "MODEL.DECODER.NUCLEUS_SIZE 1.5",
        "MODEL.TEXTUAL.DROPOUT 1",
    ],
)
def test_invalid_value(settings):
    with raises_code("config.invalid_value", settings.split()[0]):
        load_config(BEST, settings.split())


def test_classifiers_have_no_transformer():
    with raises_code("config.invalid_value", "MODEL.TEXTUAL.NAME"):
        load_config(BEST, ["MODEL.NAME", "token_classification"])


@pytest.mark.parametrize(
    "settings",
    [
        "OPTIM.CLIP_GRAD_NORM 0",
        "OPTIM.NO_DECAY none",
        "OPTIM.WARMUP_STEPS 500000",
        "DATA.MASKED_LM.MASK_PROBABILITY 0.7 DATA.MASKED_LM.REPLACE_PROBABILITY 0.3",
        "OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (20000,30000)",
    ],
)
def test_valid_limits(settings):
    load_config(BEST, settings.split())


def test_classes_need_no_special_tokens():
    load_config("multilabel_classification_R_50", ["DATA.VOCAB_SIZE", "2"])


def test_parse_textual_name():
    size = TransformerSize(layers=2, hidden=64, heads=4, feedforward=256, norm_first=True)
    assert parse_textual_name("transdec_prenorm::L2_H64_A4_F256") == size
    assert parse_textual_name("none") is None


def test_saved_config_loads_equal(tmp_path):
    overrides = ["DATA.ROOT", "ä: '1'", "OPTIM.LR", "1e-5", "OPTIM.LR_STEPS", "(3,)"]
    config = load_config("toy/bicaptioning_R_18_L1_H256", overrides)
    config.defrost()
    config.DATA.TOKENIZER_MODEL = "'quoted'"  # a string that looks like a literal
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config

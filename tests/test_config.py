"""Settings come from defaults, YAML files and overrides; what cannot work is refused."""

import logging
import subprocess
import sys

import pytest

from virtex.config import (
    TransformerSize,
    check_config,
    default_config,
    get_setting,
    leaves,
    load_config,
    packaged_configs,
    parse_textual_name,
    save_config,
)
from virtex.config.older import OLD_KEYS
from virtex.errors import UserError

WIDEST = "width_ablations/bicaptioning_R_50_L1_H2048"

# The keys of a run's config as VirTex v0.9, v1.0 and v1.4 wrote it: facts, no prose.
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
    """Write a YAML text, give its path."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


# ----- defaults and packaged configs


def test_importing_it_imports_no_torch():
    code = "import sys, virtex.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_defaults_pass_their_own_checks():
    check_config(default_config())


def test_the_published_model_is_the_default():
    best = load_config(WIDEST)
    assert dict(leaves(best)) == dict(leaves(default_config()))


@pytest.mark.parametrize("name", packaged_configs())
def test_every_packaged_config_loads_and_is_frozen(name):
    with pytest.raises(AttributeError, match="immutable"):
        load_config(name).OPTIM.LR = 1.0


def test_every_published_ablation_is_packaged():
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
    ("name", "settings"),
    [
        ("width_ablations/bicaptioning_R_50_L1_H512", "TEXTUAL.NAME L1_H512_A8_F2048"),
        ("width_ablations/bicaptioning_R_50_L1_H768", "TEXTUAL.NAME L1_H768_A12_F3072"),
        ("depth_ablations/bicaptioning_R_50_L4_H1024", "TEXTUAL.NAME L4_H1024_A16_F4096"),
        ("backbone_ablations/bicaptioning_R_50W2X_L1_H1024", "VISUAL.NAME wide_resnet50_2"),
        ("backbone_ablations/bicaptioning_R_101_L1_H1024", "VISUAL.NAME resnet101"),
    ],
)
def test_an_ablation_changes_one_thing(name, settings):
    key, value = settings.split()
    base = dict(leaves(load_config("width_ablations/bicaptioning_R_50_L1_H1024")))
    changed = {k: v for k, v in leaves(load_config(name)) if v != base[k]}
    assert {k: v.partition("::")[2] for k, v in changed.items()} == {f"MODEL.{key}": value}


def test_multilabel_classification_has_81_classes_and_no_transformer():
    config = load_config("multilabel_classification_R_50")
    assert (config.DATA.VOCAB_SIZE, config.MODEL.TEXTUAL.NAME) == (81, "none")


def test_configs_of_the_same_stem_are_the_same_config():
    by_stem = {}
    for name in packaged_configs():
        by_stem.setdefault(name.rpartition("/")[2], []).append(load_config(name))
    shared = [configs for configs in by_stem.values() if len(configs) > 1]
    assert len(shared) == 2  # L1_H1024 in three groups, L1_H2048 in two
    assert all(config == configs[0] for configs in shared for config in configs)


@pytest.mark.parametrize(
    "name",
    [
        "task_ablations/captioning_R_50_L1_H2048",
        "task_ablations/captioning_R_50_L1_H2048.yaml",
        "configs/task_ablations/captioning_R_50_L1_H2048.yaml",
        "captioning_R_50_L1_H2048",
        "captioning_R_50_L1_H2048.yaml",
    ],
)
def test_a_packaged_config_has_several_names(name):
    assert load_config(name).MODEL.NAME == "captioning"


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(UserError, match=r"no config 'bicaptioning_R50_L1_H512'.*R_50_L1_H512"):
        load_config("bicaptioning_R50_L1_H512")


def test_a_mistyped_path_is_not_taken_for_a_packaged_config():
    with pytest.raises(UserError, match="no such file"):
        load_config("/nowhere/width_ablations/bicaptioning_R_50_L1_H2048.yaml")


# ----- published files of every version


@pytest.mark.parametrize("text", [V09, V10, V14], ids=["v0.9", "v1.0", "v1.4"])
def test_a_published_dump_loads_unchanged(yaml_file, text):
    config = load_config(yaml_file(text))
    assert (config.OPTIM.LOOKAHEAD.USE, config.OPTIM.LOOKAHEAD.STEPS) == (False, 6)
    assert (config.OPTIM.CLIP_GRAD_NORM, config.MODEL.VISUAL.FEATURE_SIZE) == (10.0, 2048)


def test_the_names_of_v09_are_todays(yaml_file):
    config = load_config(yaml_file(V09))
    assert config.MODEL.TEXTUAL.NAME == "transdec_postnorm::L1_H1024_A16_F4096"
    assert config.MODEL.VISUAL.NAME == "torchvision::wide_resnet50_2"


@pytest.mark.parametrize(("level", "amp"), [("0", False), ("1", True), ("2", True)])
def test_apexs_level_is_amp(yaml_file, level, amp):
    assert load_config(yaml_file(f"FP16_OPT: {level}\n")).AMP is amp


def test_a_prenorm_transformer_stays_prenorm():
    old = "transformer_prenorm::L2_H64_A2_F128"
    config = load_config(WIDEST, ["MODEL.TEXTUAL.NAME", old])
    assert parse_textual_name(config.MODEL.TEXTUAL.NAME).norm_first


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["FP16_OPT", "0"], "AMP", False),
        (["OPTIM.USE_LOOKAHEAD", "False"], "OPTIM.LOOKAHEAD.USE", False),
        (["OPTIM.LOOKAHEAD_ALPHA", "0.8"], "OPTIM.LOOKAHEAD.ALPHA", 0.8),
        (["OPTIM.LOOKAHEAD_STEPS", "10"], "OPTIM.LOOKAHEAD.STEPS", 10),
    ],
)
def test_old_keys_work_as_overrides(overrides, key, value):
    assert get_setting(load_config(WIDEST, overrides), key) == value


def test_every_old_key_is_read_with_a_note(yaml_file, caplog):
    with caplog.at_level(logging.INFO, logger="virtex.config"):
        load_config(yaml_file(V09))
    assert all(f"{key} of an earlier VirTex" in caplog.text for key in OLD_KEYS)


def test_nothing_of_v14_is_old(yaml_file, caplog):
    with caplog.at_level(logging.INFO, logger="virtex.config"):
        load_config(yaml_file(V14))
    assert caplog.text == ""


def test_data_efficiency_keys_of_v10_are_kept(yaml_file):
    config = load_config(yaml_file("DATA:\n  USE_SINGLE_CAPTION: true\n  USE_PERCENTAGE: 10\n"))
    assert (config.DATA.USE_SINGLE_CAPTION, config.DATA.USE_PERCENTAGE) == (True, 10.0)


# ----- files


def test_a_file_is_based_on_another(yaml_file):
    yaml_file("OPTIM: {LR: 0.5, BATCH_SIZE: 8}\n", "base.yaml")
    config = load_config(yaml_file("_BASE_: base.yaml\nOPTIM: {LR: 0.25}\n"))
    assert (config.OPTIM.LR, config.OPTIM.BATCH_SIZE) == (0.25, 8)


def test_of_several_bases_the_later_ones_win(yaml_file):
    yaml_file("OPTIM: {LR: 0.5, BATCH_SIZE: 8}\n", "first.yaml")
    yaml_file("OPTIM: {LR: 0.125}\n", "second.yaml")
    config = load_config(yaml_file("_BASE_: [first.yaml, second.yaml]\n"))
    assert (config.OPTIM.LR, config.OPTIM.BATCH_SIZE) == (0.125, 8)


def test_a_file_is_based_on_a_packaged_config(yaml_file):
    config = load_config(yaml_file("_BASE_: task_ablations/masked_lm_R_50_L1_H2048\n"))
    assert config.MODEL.NAME == "masked_lm"


def test_a_number_without_a_dot_in_its_exponent_form_is_a_number(yaml_file):
    assert load_config(yaml_file("OPTIM: {LR: 1e-4}\n")).OPTIM.LR == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold settings"),
        ("- OPTIM\n", "must hold settings"),
        ("<html></html>", "must hold settings"),
        ("<html>\n<a href='x'>: y: z</a>\n", "is not YAML"),
        ("OPTIM: [", "is not YAML with plain values in line 1"),
        ("RANDOM_SEED: !!int ''\n", "is not YAML"),
        ("[" * 2000, "nested too deeply"),
        ("_BASE_: missing.yaml\n", r"_BASE_: there is no config '.*missing\.yaml'"),
        ("_BASE_: mine.yaml\n", "based on itself"),
        ("_BASE_: 3\n", "must be a file or a list of files"),
        ("_BASE_: https://example.org/base.yaml\n", "there is no config"),
        ("MODEL: 3\n", "MODEL is a section"),
        ("MODEL:\n", "MODEL is a section"),
        ("OPTIMS: {LR: 1.0}\n", "no section OPTIMS; the nearest is OPTIM"),
        ("OPTIM: {LOOKAHAED: {USE: true}}\n", "the nearest is OPTIM.LOOKAHEAD"),
        ("OPTIM: {LEARNING_RATE: 1.0}\n", r"no setting OPTIM\.LEARNING_RATE; the nearest is"),
        ("MODEL: {NAEM: virtex}\n", r"no setting MODEL\.NAEM; the nearest is MODEL\.NAME"),
        ("OPTIM: {LR: fast}\n", r"OPTIM\.LR must be a number, not 'fast'"),
        ("OPTIM: {LR: {CNN: 1}}\n", r"OPTIM\.LR must be a number"),
        ("OPTIM: {LR: .inf}\n", r"OPTIM\.LR must be a finite number"),
        ("OPTIM: {BATCH_SIZE: 2.5}\n", r"OPTIM\.BATCH_SIZE must be a whole number"),
        ("AMP: 1\n", "AMP must be True or False"),
        ("FP16_OPT: O1\n", r"FP16_OPT \(now AMP\) must be True or False"),
        ("MODEL: {NAME: null}\n", r"MODEL\.NAME must be text"),
    ],
)
def test_a_wrong_file_is_named_in_one_sentence(yaml_file, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(yaml_file(text))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_files_based_on_each_other_are_refused(yaml_file):
    yaml_file("_BASE_: mine.yaml\n", "other.yaml")
    with pytest.raises(UserError, match="based on itself"):
        load_config(yaml_file("_BASE_: other.yaml\n"))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"PK\x03\x04\x80\xff" * 9)
    with pytest.raises(UserError, match="is not YAML"):
        load_config(path)


def test_a_tag_in_a_file_runs_no_code(yaml_file, tmp_path):
    ran = tmp_path / "ran"
    call = f"RANDOM_SEED: !!python/object/apply:os.mkdir [{ran}]\n"
    with pytest.raises(UserError, match="could not determine a constructor"):
        load_config(yaml_file(call))
    assert not ran.exists()


def test_a_string_in_a_config_runs_no_code(yaml_file, tmp_path):
    ran = tmp_path / "ran"
    call = f"__import__('os').mkdir('{ran}') or 1"
    with pytest.raises(UserError, match="must be a whole number"):
        load_config(yaml_file(f'RANDOM_SEED: "{call}"\n'))
    with pytest.raises(UserError, match="must be a whole number"):
        load_config(WIDEST, ["RANDOM_SEED", call])
    load_config(WIDEST, ["DATA.IMAGE_TRANSFORM_VAL", f"[{call!r}]", "DATA.ROOT", call])
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
def test_an_override_is_read_as_a_literal(key, text, value):
    found = get_setting(load_config(WIDEST, [key, text]), key)
    assert (found, type(found)) == (value, type(value))


def test_the_last_of_equal_overrides_wins():
    assert load_config(WIDEST, ["OPTIM.LR", "1", "OPTIM.LR", "0.5"]).OPTIM.LR == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["OPTIM.LR"], "with a space; 'OPTIM.LR' stands alone"),
        (["OPTIM.LRR", "1"], r"no setting OPTIM\.LRR; the nearest is OPTIM\.LR"),
        (["OPTIM", "1"], "no setting OPTIM;"),
        (["_BASE_", "x.yaml"], "no setting _BASE_"),
        (["OPTIM.NUM_ITERATIONS", "many"], "NUM_ITERATIONS must be a whole number, not 'many'"),
        (["OPTIM.LR", "1e999"], "must be a finite number"),
        (["OPTIM.LR_STEPS", "3"], "LR_STEPS must be a list"),
        (["OPTIM.LR_STEPS", "(1, (2,))"], r"LR_STEPS must hold numbers or texts, not \(2,\)"),
    ],
)
def test_a_wrong_override_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(WIDEST, overrides)


# ----- checks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("MODEL.NAME bicaptionning", "it can be virtex, .*the nearest is bicaptioning"),
        ("AMP_DTYPE float32", "it can be auto, bfloat16, float16"),
        ("OPTIM.OPTIMIZER_NAME adam", "nearest is adamw"),
        ("OPTIM.LR_DECAY_NAME cosin", "nearest is cosine"),
        ("MODEL.DECODER.NAME beam", "nearest is beam_search"),
        ("MODEL.TEXTUAL.NAME transdec_postnorm::L1_H64", "transdec_postnorm or"),
        ("MODEL.TEXTUAL.NAME transdec_postnorm::L0_H64_A2_F8", "transdec_postnorm or"),
        ("MODEL.TEXTUAL.NAME transdec_postnorm::L1_H64_A3_F8", "3 attention heads"),
        ("MODEL.TEXTUAL.NAME none", "virtex needs a transformer"),
        ("MODEL.NAME token_classification", "has no transformer: set it to none"),
        ("OPTIM.BATCH_SIZE 0", "it must be a positive number"),
        ("OPTIM.NUM_ITERATIONS -1", "0 or more"),
        ("OPTIM.LOOKAHEAD.STEPS 0", "it must be a positive number"),
        ("OPTIM.LOOKAHEAD.ALPHA 0", "more than 0"),
        ("OPTIM.CLIP_GRAD_NORM -1", "0 or more"),
        ("OPTIM.LR -0.1", "0 or more"),
        ("OPTIM.WARMUP_STEPS 500001", "WARMUP_STEPS is 500001; it cannot be more"),
        ("OPTIM.LR_DECAY_NAME multistep", r"LR_STEPS is \[\]"),
        ("OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (30000,20000)", "ascending"),
        ("OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (20000,20000)", "ascending"),
        ("OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (20000.5,)", "whole numbers"),
        ("OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (10000,)", "must begin after"),
        ("OPTIM.NO_DECAY *bias", "no regular expression"),
        ("DATA.MAX_CAPTION_LENGTH 2", "from 3"),
        ("DATA.MAX_CAPTION_LENGTH 10001", "from 3"),
        ("DATA.MAX_CAPTION_LENGTH 20", "MAX_DECODING_STEPS is 30; it cannot be more"),
        ("DATA.USE_PERCENTAGE 0", "at most 100"),
        ("DATA.USE_PERCENTAGE 100.5", "at most 100"),
        ("DATA.MASKED_LM.MASK_PROPORTION 1.5", "between 0 and 1"),
        ("DATA.MASKED_LM.REPLACE_PROBABILITY 0.2", "they sum to 1.05"),
        ("DATA.EOS_INDEX 1", "must differ"),
        ("DATA.VOCAB_SIZE 3", "MASK_INDEX is 3; it must be less than DATA.VOCAB_SIZE, 3"),
        ("DATA.IMAGE_TRANSFORM_TRAIN [1]", "list of transform names"),
        ("MODEL.VISUAL.FEATURE_SIZE -1", "0 or more"),
        ("MODEL.DECODER.NUCLEUS_SIZE 1.5", "at most 1"),
        ("MODEL.TEXTUAL.DROPOUT 1", "less than 1"),
    ],
)
def test_values_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_config(WIDEST, settings.split())


@pytest.mark.parametrize(
    "settings",
    [
        "OPTIM.CLIP_GRAD_NORM 0",  # off
        "OPTIM.NO_DECAY none",
        "OPTIM.WARMUP_STEPS 500000",
        "DATA.MASKED_LM.MASK_PROBABILITY 0.7 DATA.MASKED_LM.REPLACE_PROBABILITY 0.3",
        "OPTIM.LR_DECAY_NAME multistep OPTIM.LR_STEPS (20000,30000)",
    ],
)
def test_values_at_the_edge_are_accepted(settings):
    load_config(WIDEST, settings.split())


def test_classes_need_no_special_tokens():
    load_config("multilabel_classification_R_50", ["DATA.VOCAB_SIZE", "2"])


# ----- names and files written


def test_a_textual_name_is_read():
    size = TransformerSize(layers=2, hidden=64, heads=4, feedforward=256, norm_first=True)
    assert parse_textual_name("transdec_prenorm::L2_H64_A4_F256") == size
    assert parse_textual_name("none") is None


def test_a_saved_config_is_read_back_equal(tmp_path):
    overrides = ["DATA.ROOT", "ä: '1'", "OPTIM.LR", "1e-5", "OPTIM.LR_STEPS", "(3,)"]
    config = load_config("toy/bicaptioning_R_18_L1_H256", overrides)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_text_that_looks_like_a_literal_is_read_back_as_it_was(tmp_path):
    config = default_config()
    config.DATA.ROOT = "'quoted'"
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").DATA.ROOT == "'quoted'"

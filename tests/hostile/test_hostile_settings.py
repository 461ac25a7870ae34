"""KEY VALUE pairs of unknown origin are set, or raise a UserError."""

import os

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.checkpoint_runs import nothing_happens
from tests.hostile.data_runs import run
from tests.hostile.odd_settings import (
    CANARY,
    DETECTION,
    DETECTORS,
    PRETRAINING,
    PROBES,
    TASKS,
    overrides,
    settled,
)
from virtex import pretrain
from virtex.config import load_config, packaged_configs, save_config
from virtex.detectron.settings import build_settings
from virtex.probes import settings as probes
from virtex.tasks import packaged_protocol

pytestmark = pytest.mark.timeout(3000)  # two thousand cases a test, if all is asked for


@given(overrides(PRETRAINING), st.sampled_from(sorted(packaged_configs())))
@example(["OPTIM.BATCH_SIZE", "0x" + "f" * 20_000], "bicaptioning_R_50_L1_H2048")
@example(["x" * 200_000, "1"], "bicaptioning_R_50_L1_H2048")
def test_pretraining_overrides(settings_folder, pairs, name):
    config = settled(lambda: load_config(name, pairs))
    if config is not None:  # a saved config loads equal
        save_config(config, settings_folder / "config.yaml")
        assert load_config(str(settings_folder / "config.yaml")) == config


@given(overrides(PRETRAINING))
def test_print_config(settings_folder, pairs):
    with nothing_happens():
        status, _, err = run(
            pretrain, "--config", "bicaptioning_R_50_L1_H2048", "--print-config", *pairs
        )
    assert status in (0, 2) and bool(err) is (status == 2)
    assert "Traceback" not in err and "error: " in (err or "error: ")
    assert not os.path.exists(CANARY)


@given(overrides(PROBES), st.sampled_from(TASKS))
def test_probe_overrides(settings_folder, pairs, task):
    settled(lambda: probes.load_settings(packaged_protocol(*task), pairs))


@given(overrides(DETECTORS), st.sampled_from(DETECTION), st.sampled_from([1, 2, 8, 64]))
@example(["SOLVER.MAX_ITER", "None"], ("coco", "2x"), 1)
@example(["SOLVER.STEPS", "['a']"], ("coco", "2x"), 1)
@example(["SOLVER.STEPS", "[" * 30_000], ("coco", "2x"), 1)
@example(["MODEL.PIXEL_MEAN", "{[]: 1}"], ("coco", "2x"), 1)
def test_detector_overrides(settings_folder, pairs, task, processes):
    settings = settled(lambda: build_settings(packaged_protocol(*task), pairs, processes, "cpu"))
    if settings is not None:
        settings.deviations()
        assert yaml.safe_load(settings.cfg.dump())

"""The packaged protocols mean the same with both Detectron2 distributions.

The suite runs on one distribution at a time; the expected values are those of the official main.
"""

import json

import pytest
from detectron2.config import get_cfg

from tests.detectron.protocol_values import FILE, ONLY_IN_MAIN, PROTOCOLS, protocol_values
from virtex.config import flatten
from virtex.detectron.compat import add_settings, default_config
from virtex.detectron.config_files import PlainConfig
from virtex.detectron.settings import load_config

EXPECTED = json.loads(FILE.read_text())


def test_defaults_agree():
    found = {k: v for k, v in flatten(default_config()).items() if k in EXPECTED["defaults"]}
    lacking = EXPECTED["defaults"].keys() - found.keys()
    assert lacking in (set(), ONLY_IN_MAIN)
    assert found == {k: v for k, v in EXPECTED["defaults"].items() if k not in lacking}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_depends_on_no_differing_default(name):
    cfg = get_cfg()  # the installed distribution's own defaults
    add_settings(cfg)
    cfg = PlainConfig(cfg)
    cfg.merge_from_file(str(PROTOCOLS[name].config))
    assert flatten(cfg) == flatten(load_config(PROTOCOLS[name]))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_agrees(tmp_path, name):
    expected = EXPECTED[name]
    assert not ONLY_IN_MAIN & expected["settings"].keys()
    # through JSON: tuples are lists
    assert json.loads(json.dumps(protocol_values(name, tmp_path))) == expected


def test_norm_biases_have_no_weight_decay():
    for name in PROTOCOLS:
        if name.endswith("vitdet"):  # whose other norm layers have it
            continue
        for group, found in EXPECTED[name]["parameter_groups"].items():
            assert found["norm_biases"] == 0 or "weight_decay 0.0," in group, name

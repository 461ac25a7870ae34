"""Configs: packaged YAML files, ``KEY VALUE`` overrides, validation.

Pretraining configs have the keys and file layout of VirTex (arXiv 2006.06666), so that its
published YAML files, and the ``pretrain_config.yaml`` written by its runs, load unchanged.
"""

from virtex.config.defaults import default_config
from virtex.config.loading import (
    find_config,
    load_config,
    load_settings,
    packaged_configs,
    save_config,
    with_overrides,
    with_settings,
)
from virtex.config.overrides import flatten, get_setting, set_setting
from virtex.config.validation import TransformerSize, parse_textual_name, validate_pretraining

__all__ = [
    "TransformerSize",
    "default_config",
    "find_config",
    "flatten",
    "get_setting",
    "load_config",
    "load_settings",
    "packaged_configs",
    "parse_textual_name",
    "save_config",
    "set_setting",
    "validate_pretraining",
    "with_overrides",
    "with_settings",
]

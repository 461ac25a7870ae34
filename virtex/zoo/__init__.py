"""The model zoo: look up, download and strictly load the models of ``model_zoo.yaml``.

>>> from virtex import zoo
>>> path = zoo.download("moco/v2_800ep")
>>> model = zoo.get("width_ablations/bicaptioning_R_50_L1_H2048", pretrained=True)

As a checkpoint, an entry is named ``virtex://NAME``.
"""

from virtex.zoo.entries import (
    PREFIX,
    VARIABLE,
    ZOO_FILE,
    Entry,
    PublishedResult,
    entries,
    find,
    find_entry,
)
from virtex.zoo.models import config_yaml, download, get, load, load_weights, resnet50
from virtex.zoo.published import match_entry, published_results

__all__ = [
    "PREFIX",
    "VARIABLE",
    "ZOO_FILE",
    "Entry",
    "PublishedResult",
    "config_yaml",
    "download",
    "entries",
    "find",
    "find_entry",
    "get",
    "load",
    "load_weights",
    "match_entry",
    "published_results",
    "resnet50",
]

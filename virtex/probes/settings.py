"""Load the settings in the YAML files of the probes' protocols.

The packaged base file of a kind of task defines the settings and their types; a toy file and
``KEY VALUE`` pairs can only change values. No file can execute code.
"""

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from virtex import config
from virtex.protocols import Protocol
from virtex.records import Deviation


def load_settings(
    protocol: Protocol, overrides: Sequence[Any] = ()
) -> tuple[CfgNode, list[Deviation]]:
    """Return the validated, frozen settings of a run and its deviations from the protocol.

    Args:
        overrides: ``KEY VALUE KEY VALUE …``, values as text or as Python objects.

    Raises:
        UserError: an unknown key, a value of the wrong type or an invalid value.
    """
    settings, changed = config.load_settings(protocol.config, overrides)
    return settings, [Deviation(*change, "override") for change in changed]

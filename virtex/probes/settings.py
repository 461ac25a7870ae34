"""The settings in the YAML files of the probes' protocols.

The packaged file of a task's kind says which settings there are and of which type; a toy file, or
``KEY VALUE`` pairs, can only change their values. Nothing in a file can run.
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
    """Return the settings of a run, checked and frozen, and their deviations from the protocol.

    Args:
        overrides: ``KEY VALUE KEY VALUE …``, values as text or as they are.

    Raises:
        UserError: an unknown key, a value of the wrong type or one that cannot work.
    """
    settings, changed = config.load_settings(protocol.config, overrides)
    return settings, [Deviation(*change, "override") for change in changed]

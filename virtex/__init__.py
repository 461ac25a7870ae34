"""VirTex transfer toolkit: judge pretrained visual backbones on downstream tasks.

This module imports no library, so that ``--help`` of every tool answers at once.
"""

from virtex import lazy_dynamo

__version__ = "2.0.0"

lazy_dynamo.install()

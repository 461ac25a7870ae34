"""VirTex transfer toolkit: judge pretrained visual backbones on downstream tasks.

This module imports only the standard library, so that ``--help`` of every tool is fast.
"""

from virtex import lazy_dynamo

__version__ = "2.0.0"

lazy_dynamo.install()

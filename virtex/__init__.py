"""VirTex transfer toolkit: judge pretrained visual backbones on downstream tasks.

This module imports nothing, so that ``--help`` of every tool answers at once.
"""

__version__ = "2.0.0"

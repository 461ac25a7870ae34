"""Former place of ``virtex.text.escape``."""

from virtex.text import escape as quoted

__all__ = ["quoted"]

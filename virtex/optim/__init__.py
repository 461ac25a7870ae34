"""Optimizers with parameter groups, learning rate schedules, Lookahead."""

from virtex.optim.build import build_optimizer
from virtex.optim.lookahead import Lookahead
from virtex.optim.schedules import build_schedule

__all__ = ["Lookahead", "build_optimizer", "build_schedule"]

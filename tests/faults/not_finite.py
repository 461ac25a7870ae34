"""``detectron2_transfer`` with heads of one's own, whose loss is NaN in one process of two.

As any head of one's own it is registered, and named by MODEL.ROI_HEADS.NAME.
"""

import os

import virtex.detectron  # noqa: F401 (makes Detectron2 fit for today's libraries)

# isort: split
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from virtex.eval_tools.detectron2_transfer import build_parser, main  # noqa: F401


@ROI_HEADS_REGISTRY.register()
class LostInOneProcess(StandardROIHeads):
    """From iteration 3 on there is no loss in the process that $LOST_IN names."""

    def forward(self, *inputs):
        found, losses = super().forward(*inputs)
        here = comm.get_rank() == int(os.environ["LOST_IN"])
        if losses and here and get_event_storage().iter >= 3:
            losses = {name: loss * float("nan") for name, loss in losses.items()}
        return found, losses

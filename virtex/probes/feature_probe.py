"""Base class of the probes on frozen features: extract, score, verify."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from fvcore.common.config import CfgNode

from virtex.backbones.registry import check_input_size
from virtex.checkpoints.backbone import Backbone
from virtex.data.image_sets import ImageSet
from virtex.evaluator import Report
from virtex.probes.features import FeatureExtractor, View, center_view


class FeatureProbe(ABC):
    """An evaluator that scores the pooled features of a frozen backbone.

    Subclasses implement ``score``.

    Attributes:
        images, report: see ``virtex.evaluator.Evaluator``.
        timing_key: key of the time of ``score`` in the record.
    """

    timing_key: ClassVar[str] = "probe_seconds"

    def __init__(
        self,
        train: ImageSet,
        val: ImageSet,
        settings: CfgNode,
        extractor: FeatureExtractor,
        selection: ImageSet | None = None,
    ):
        """
        Args:
            val: the images to evaluate on.
            settings: of a protocol of the task.
            selection: validation images, to choose settings with or to train on.
        """
        known = (train, val) if selection is None else (train, selection, val)
        self.images = {images.name: images for images in known}
        self.train, self.val, self.settings, self.selection = train, val, settings, selection
        self.extractor, self.report = extractor, Report()

    def train_views(self) -> list[View]:
        """Return the views of the training images to extract features of."""
        return [center_view(self.settings.DATA)]

    def train_sets(self) -> list[tuple[ImageSet, View]]:
        """Return the image sets to extract features of, in order, with a view each; not ``val``."""
        views = self.train_views()
        known = [self.train] if self.selection is None else [self.train, self.selection]
        return [(images, view) for images in known for view in views]

    def check(self, backbone: Backbone) -> None:
        """See ``virtex.evaluator.Evaluator``."""
        size = self.settings.DATA.IMAGE_CROP_SIZE
        check_input_size(backbone.arch, size, size)
        images = sum(len(images) for images, _ in self.train_sets()) + len(self.val)
        self.extractor.check(backbone, images)

    def __call__(self, backbone: Backbone) -> dict[str, float]:
        """Return the metrics of ``score`` in every process.

        Raises:
            UserError: an image cannot be read, or the backbone changed.
        """
        extractor = self.extractor
        extractor.open(backbone)
        self.report.details["representation"] = extractor.network.describe()
        train = [extractor.extract(images, view) for images, view in self.train_sets()]
        val = extractor.extract(self.val, center_view(self.settings.DATA))
        start = time.perf_counter()
        metrics = self.score(train, val)
        self.report.verification["backbone"] = extractor.close()
        seconds = time.perf_counter() - start
        self.report.timing |= {**extractor.timing(), self.timing_key: seconds}
        return metrics

    @abstractmethod
    def score(self, train: Sequence[np.ndarray], val: np.ndarray) -> dict[str, float]:
        """Compute the metrics in percent.

        Args:
            train: an array (images, features) for each of ``train_sets``.
            val: (images, features).
        """

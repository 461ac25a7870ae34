"""Evaluate captioning: write captions, score them, and show them on a page."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from virtex.captioning.captioner import Captioner, CaptionerOptions, identity_of, load_captioner
from virtex.captioning.generation import RESULTS, CaptioningSet, Captions, write_captions
from virtex.captioning.images import CaptioningImages
from virtex.captioning.page import CaptionedImage, thumbnail, write_page
from virtex.captioning.scoring import CaptionScores, choose_scorer, score
from virtex.checkpoints.backbone import Backbone
from virtex.data.decoding import decode_image
from virtex.data.transforms import build_transform, parse_transform
from virtex.engine.distributed import broadcast_object, rank
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.records import Deviation

logger = logging.getLogger("virtex.captioning")

PAGE = "captions.html"
MAX_NAMED = 5  # unreadable images in a note; the record names all
MANY_IMAGES = 1000  # above which thumbnails are smaller
THUMBNAIL, SMALL_THUMBNAIL = 320, 224  # pixels of the longer side


class Captioning:
    """Caption images, and score the captions if there are references.

    Attributes:
        images: dataset name -> images.
        report: see ``virtex.evaluator``.
        transformed: the images to caption, since ``check``.
    """

    transformed: CaptioningSet

    def __init__(
        self,
        data: CaptioningImages,
        settings: CfgNode,
        options: CaptionerOptions,
        scorer: str,
        folder: Path,
        device: torch.device,
        seed: int,
        batch_size: int,
        num_workers: int,
    ):
        """
        Args:
            settings: of a ``coco_captioning`` protocol.
            scorer: "auto", "java" or "python", see ``virtex.captioning.scoring``.

        Raises:
            UserError: the scorer is not available.
        """
        self.data, self.settings, self.options = data, settings, options
        self.folder, self.device, self.seed = folder, device, seed
        self.batch_size, self.num_workers = batch_size, num_workers
        self.images = {data.name: data}
        self.report = Report()
        self._captioner: Captioner | None = None
        if data.references:
            self.scorer = choose_scorer(scorer)

    def check(self, backbone: Backbone) -> None:
        """Load the captioning model that ``backbone`` is part of.

        Raises:
            UserError: see ``load_captioner``.
        """
        self._captioner = load_captioner(backbone, self.settings.MODEL.DECODER, self.options)
        self.transformed = self._build_set()

    @property
    def captioner(self) -> Captioner:
        """Return the model that ``check`` loaded."""
        assert self._captioner is not None
        return self._captioner

    def __call__(self, backbone: Backbone) -> dict[str, float] | None:
        """Return the scores in percent; None without references.

        Raises:
            UserError: no image can be read, a file cannot be written, or a scorer fails.
        """
        if self._captioner is None:
            self.check(backbone)
        start = time.perf_counter()
        captions = write_captions(
            self.captioner,
            self.transformed,
            self.folder,
            self.device,
            self.batch_size,
            self.num_workers,
        )
        if captions.fresh:
            seconds = time.perf_counter() - start
            self.report.timing["caption_seconds"] = seconds
            self.report.timing["caption_images_per_second"] = captions.fresh / seconds
        self._report_unreadable(captions)
        self.report.verification["textual_head"] = "complete"
        self.report.details |= {"captions": RESULTS, "page": PAGE}
        self.report.details |= identity_of(self.captioner.config, self.captioner.tokenizer)
        return broadcast_object(self._conclude(backbone, captions) if rank() == 0 else None)

    def _build_set(self) -> CaptioningSet:
        """Build the dataset, with the transforms of the model's pretraining."""
        names, data = self.captioner.config.DATA.IMAGE_TRANSFORM_VAL, self.settings.DATA
        transform = build_transform(names, data.IMAGE_CROP_SIZE, data.IMAGE_RESIZE_SIZE)
        self.report.preprocessing["IMAGE_TRANSFORM"] = [
            {"name": name, **arguments} for name, arguments in map(parse_transform, names)
        ]
        steps = self.settings.MODEL.DECODER.MAX_DECODING_STEPS
        return CaptioningSet(self.data, transform, self.seed, steps)

    def _report_unreadable(self, captions: Captions) -> None:
        """Report the images that are skipped.

        Raises:
            UserError: no image can be read.
        """
        if not captions.written:
            reason = next(iter(captions.unreadable.values()))
            raise UserError(
                f"none of the {len(self.data)} images can be read: {reason}",
                code="captioning.no_readable_image",
            )
        if not captions.unreadable:
            return
        names = [self.data.files[index] for index in captions.unreadable]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        self.report.notes.append(
            f"{len(names)} of {len(self.data)} images cannot be read and are skipped: "
            f"{', '.join(names[:MAX_NAMED])}{more}; restore them and restart with --overwrite"
        )
        for reason in captions.unreadable.values():
            logger.warning("skipped: %s", reason)
        self.report.details["unreadable"] = names
        self.report.late_deviations.append(
            Deviation(f"{self.data.name}: unreadable images", 0, len(names), "data")
        )

    def _conclude(self, backbone: Backbone, captions: Captions) -> dict[str, float] | None:
        """Score the captions and write the page, in the main process."""
        scores = self._score(captions) if self.data.references else None
        self._write_page(backbone, captions, scores)
        logger.info(
            "%d images captioned, %d skipped", len(captions.written), len(captions.unreadable)
        )
        logger.info("captions: %s", self.folder / RESULTS)
        logger.info("page:     %s", self.folder / PAGE)
        return None if scores is None else scores.metrics

    def _score(self, captions: Captions) -> CaptionScores:
        references = {index: self.data.references[index] for index in captions.written}
        scores = score(captions.written, references, self.scorer)
        if self.scorer != "java":  # a resumed run may use another scorer, so it is added late
            self.report.late_deviations.append(
                Deviation("caption scorer", "java", self.scorer, "software")
            )
        self.report.notes += scores.notes
        self.report.setup |= scores.setup
        self.report.timing |= scores.timing
        return scores

    def _write_page(
        self, backbone: Backbone, captions: Captions, scores: CaptionScores | None
    ) -> None:
        start = time.perf_counter()
        decoder = self.settings.MODEL.DECODER
        decoding = (
            f"beam search, {decoder.BEAM_SIZE} beams"
            if decoder.NAME == "beam_search"
            else f"nucleus sampling, {decoder.NUCLEUS_SIZE}, seed {self.seed}"
        )
        about = [
            ("Checkpoint", backbone.source.requested),
            ("Checkpoint sha256", backbone.source.sha256),
            ("Vocabulary", str(self.captioner.tokenizer.path)),
            ("Vocabulary sha256", self.report.details["vocabulary_sha256"]),
            ("Images", f"{self.data.name}, {len(captions.written)} captioned"),
            ("Decoding", f"{decoding}, at most {decoder.MAX_DECODING_STEPS} tokens"),
        ]
        about += [
            (name.capitalize(), value) for name, value in (scores.setup if scores else {}).items()
        ]
        skipped = [
            (self.data.files[index], reason) for index, reason in captions.unreadable.items()
        ]
        try:
            write_page(
                self.folder / PAGE,
                self._cards(captions, scores.per_image if scores else {}),
                scores.metrics if scores else {},
                about,
                skipped,
                f"Captions of {self.data.name}",
            )
        except OSError as error:
            raise UserError(
                f"{self.folder / PAGE} cannot be written ({error.strerror or error}); free space "
                "there, then rerun with --resume",
                code="captioning.page_not_writable",
            ) from error
        self.report.timing["page_seconds"] = time.perf_counter() - start

    def _cards(self, captions: Captions, per_image: Mapping) -> Iterator[CaptionedImage]:
        """Yield images one at a time, so that they are not all in memory."""
        longest = SMALL_THUMBNAIL if len(captions.written) > MANY_IMAGES else THUMBNAIL
        references = self.data.references
        with progress_bar(len(captions.written), "image", "page") as bar:
            for place, (index, caption) in enumerate(captions.written.items()):
                jpeg, size = thumbnail(decode_image(self.data.path(index)), longest)
                yield CaptionedImage(
                    self.data.files[index],
                    caption,
                    references[index] if references else (),
                    {name: float(values[place]) for name, values in per_image.items()},
                    jpeg,
                    size,
                )
                bar.update(1)

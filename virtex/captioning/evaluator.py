"""Captioning as an evaluation: captions, their scores, the page that shows them."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from virtex.captioning.captioner import Captioner, Naming, identity_of, load_captioner
from virtex.captioning.generation import RESULTS, Captions, PictureSet, write_captions
from virtex.captioning.page import CaptionedImage, thumbnail, write_page
from virtex.captioning.pictures import Pictures
from virtex.captioning.scoring import CaptionScores, choose_scorer, score
from virtex.checkpoints.backbone import Backbone
from virtex.data.transforms import build_transform, decode_image
from virtex.engine.distributed import broadcast_object, rank
from virtex.engine.progress import progress_bar
from virtex.errors import UserError
from virtex.evaluator import Report
from virtex.records import Deviation

logger = logging.getLogger("virtex.captioning")

PAGE = "captions.html"
JAVA = "java"
MOST_NAMED = 5  # unreadable pictures, in a note; the record names all
MANY = 1000  # pictures, from which on the page's are smaller
THUMBNAIL, SMALL_THUMBNAIL = 320, 224  # pixels of the longer side


class Captioning:
    """Captions pictures, and scores the captions where there are references.

    Attributes:
        images: the pictures, by the name of their set.
        report: see ``virtex.evaluator``.
    """

    def __init__(
        self,
        pictures: Pictures,
        settings: CfgNode,
        naming: Naming,
        scorer: str,
        folder: Path,
        device: torch.device,
        seed: int,
        batch_size: int,
        num_workers: int,
    ):
        """
        Args:
            settings: of a packaged protocol of ``coco_captioning``.
            scorer: "auto", "java" or "python", see ``virtex.captioning.scoring``.

        Raises:
            UserError: the scorer cannot be had, or the settings' transform cannot be.
        """
        self.pictures, self.settings, self.naming = pictures, settings, naming
        self.folder, self.device, self.seed = folder, device, seed
        self.batch_size, self.num_workers = batch_size, num_workers
        self.images = {pictures.name: pictures}
        self.report = Report()
        self.loaded: Captioner | None = None
        build_transform(*self.transform_settings())
        if pictures.references:
            self.scorer = choose_scorer(scorer)

    def transform_settings(self) -> tuple[list[str], int, int]:
        data = self.settings.DATA
        return list(data.IMAGE_TRANSFORM), data.IMAGE_CROP_SIZE, data.IMAGE_RESIZE_SIZE

    def check(self, backbone: Backbone) -> None:
        """Load the model, of which ``backbone`` is a part.

        Raises:
            UserError: as ``load_captioner``.
        """
        self.loaded = load_captioner(backbone, self.settings.MODEL.DECODER, self.naming)

    @property
    def captioner(self) -> Captioner:
        """The model, once ``check`` has loaded it."""
        assert self.loaded is not None
        return self.loaded

    def __call__(self, backbone: Backbone) -> dict[str, float] | None:
        """Scores in percent; None where there are no references.

        Raises:
            UserError: no picture can be read, nothing can be written, or a scorer fails.
        """
        if self.loaded is None:
            self.check(backbone)
        start = time.perf_counter()
        captions = write_captions(
            self.captioner,
            self.picture_set(),
            self.folder,
            self.device,
            self.batch_size,
            self.num_workers,
        )
        if captions.fresh:
            seconds = time.perf_counter() - start
            self.report.timing["caption_seconds"] = seconds
            self.report.timing["caption_images_per_second"] = captions.fresh / seconds
        self.tell_unreadable(captions)
        self.report.verification["textual head"] = "all tensors loaded, none left over"
        self.report.details |= {"captions": RESULTS, "page": PAGE}
        self.report.details |= identity_of(self.captioner.config, self.captioner.tokenizer)
        metrics = broadcast_object(self.conclude(backbone, captions) if rank() == 0 else None)
        return metrics

    def picture_set(self) -> PictureSet:
        """The pictures as the model takes them: normalized as in its pretraining."""
        names, crop, resize = self.transform_settings()
        pretraining = self.captioner.config.DATA.IMAGE_TRANSFORM_VAL
        names += [name for name in pretraining if name.partition("::")[0] == "normalize"]
        steps = self.settings.MODEL.DECODER.MAX_DECODING_STEPS
        return PictureSet(self.pictures, build_transform(names, crop, resize), self.seed, steps)

    def tell_unreadable(self, captions: Captions) -> None:
        """Name the pictures that are left out.

        Raises:
            UserError: those are all of them.
        """
        if not captions.written:
            reason = next(iter(captions.unreadable.values()))
            raise UserError(f"not one of the {len(self.pictures)} pictures can be read: {reason}")
        if not captions.unreadable:
            return
        names = [self.pictures.files[index] for index in captions.unreadable]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        self.report.notes.append(
            f"{len(names)} of {len(self.pictures)} pictures cannot be read and are left out: "
            f"{', '.join(names[:MOST_NAMED])}{more}; restore them and start anew (--overwrite)"
        )
        for reason in captions.unreadable.values():
            logger.warning("left out: %s", reason)
        self.report.details["unreadable"] = names
        self.report.late_deviations.append(
            Deviation(f"{self.pictures.name}: unreadable images", 0, len(names), "data")
        )

    def conclude(self, backbone: Backbone, captions: Captions) -> dict[str, float] | None:
        """Score the captions and write the page; of the main process alone."""
        scores = self.score(captions) if self.pictures.references else None
        self.write_page(backbone, captions, scores)
        logger.info(
            "%d pictures captioned, %d left out", len(captions.written), len(captions.unreadable)
        )
        logger.info("captions: %s", self.folder / RESULTS)
        logger.info("page:     %s", self.folder / PAGE)
        return None if scores is None else scores.metrics

    def score(self, captions: Captions) -> CaptionScores:
        references = {index: self.pictures.references[index] for index in captions.written}
        scores = score(captions.written, references, self.scorer)
        if self.scorer != JAVA:  # not known before: another may score what this run has written
            self.report.late_deviations.append(
                Deviation("caption scorer", JAVA, self.scorer, "software")
            )
        self.report.notes += scores.notes
        self.report.setup |= scores.setup
        self.report.timing |= scores.timing
        return scores

    def write_page(
        self, backbone: Backbone, captions: Captions, scores: CaptionScores | None
    ) -> None:
        start = time.perf_counter()
        decoder = self.settings.MODEL.DECODER
        how = (
            f"beam search, {decoder.BEAM_SIZE} beams"
            if decoder.NAME == "beam_search"
            else f"nucleus sampling, {decoder.NUCLEUS_SIZE}, seed {self.seed}"
        )
        about = [
            ("Checkpoint", backbone.source.requested),
            ("sha256", backbone.source.sha256),
            ("Vocabulary", str(self.captioner.tokenizer.path)),
            ("Its sha256", self.report.details["vocabulary sha256"]),
            ("Pictures", f"{self.pictures.name}, {len(captions.written)} captioned"),
            ("Decoding", f"{how}, at most {decoder.MAX_DECODING_STEPS} tokens"),
        ]
        about += [
            (name.capitalize(), said) for name, said in (scores.setup if scores else {}).items()
        ]
        skipped = [
            (self.pictures.files[index], reason) for index, reason in captions.unreadable.items()
        ]
        try:
            write_page(
                self.folder / PAGE,
                self.cards(captions, scores.per_image if scores else {}),
                scores.metrics if scores else {},
                about,
                skipped,
                f"Captions of {self.pictures.name}",
            )
        except OSError as error:
            raise UserError(
                f"{self.folder / PAGE} cannot be written: {error.strerror or error}; make room "
                "there, then go on with --resume"
            ) from error
        self.report.timing["page_seconds"] = time.perf_counter() - start

    def cards(self, captions: Captions, per_image: Mapping) -> Iterator[CaptionedImage]:
        """The pictures one after the other, so that they are not all in memory."""
        longest = SMALL_THUMBNAIL if len(captions.written) > MANY else THUMBNAIL
        references = self.pictures.references
        with progress_bar(len(captions.written), "picture", "page") as bar:
            for place, (index, caption) in enumerate(captions.written.items()):
                jpeg, size = thumbnail(decode_image(self.pictures.path(index)), longest)
                yield CaptionedImage(
                    self.pictures.files[index],
                    caption,
                    references[index] if references else (),
                    {name: float(values[place]) for name, values in per_image.items()},
                    jpeg,
                    size,
                )
                bar.update(1)

"""Load a captioning model from a checkpoint: its config, its vocabulary and all weights."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from virtex.checkpoints.backbone import Backbone
from virtex.config import find_config, load_config, with_settings
from virtex.config.validation import CAPTIONING_MODELS
from virtex.data.tokenizer import Tokenizer
from virtex.errors import UserError
from virtex.pretraining.models.build import build_decoder, build_model
from virtex.pretraining.models.captioning import CaptioningModel
from virtex.pretraining.vocabulary import (
    TOKENIZER,
    replace_data_root,
    tokenizer_command,
    validate_vocabulary,
)
from virtex.run_folder import RUN_FILE, read_run_file
from virtex.zoo.entries import find_entry
from virtex.zoo.models import config_of, fill, find_pretraining_config, resolve_zoo_path, weights_in

logger = logging.getLogger("virtex.captioning")

TEXTUAL = "textual."  # prefix of the tensors of a textual head
WORDS = "textual.embedding."  # prefix of its word embeddings, which a classifier lacks
BACKBONE_SOURCES = ("random:", "torchvision://")  # URIs of backbones without a textual head
FIX = (
    "use a model pretrained with bicaptioning or captioning by virtex.pretrain, or one from "
    "eval_tools/model_zoo.py list"
)


@dataclass(frozen=True)
class CaptionerOptions:
    """Files of the model, if they are not next to the checkpoint.

    Attributes:
        config: pretraining config, a YAML file or the name of a packaged one.
        tokenizer: a sentencepiece model.
        data_root: replaces the leading ``datasets/`` of the tokenizer's path in the config.
        trust_pickle: allow a checkpoint to run arbitrary code.
    """

    config: str | None = None
    tokenizer: str | None = None
    data_root: str | None = None
    trust_pickle: bool = False


@dataclass
class Captioner:
    """A captioning model with its vocabulary.

    Attributes:
        config: of its pretraining.
        model: in eval mode.
    """

    config: CfgNode
    model: CaptioningModel
    tokenizer: Tokenizer

    def to(self, device: torch.device) -> Captioner:
        self.model.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor, draws: Tensor | None = None) -> list[str]:
        """Caption normalized images (batch, 3, height, width).

        Args:
            draws: random numbers, see ``virtex.pretraining.models.decoding.NucleusSampling``.
        """
        return [self.tokenizer.decode(ids) for ids in self.model.caption(images, draws)]


def captioner_identity(backbone: Backbone, options: CaptionerOptions) -> dict[str, str]:
    """Return the identity keys of a run for what captions depend on besides the weights.

    Raises:
        UserError: see ``load_captioner``.
    """
    checkpoint = backbone.source.reopen_name
    require_captioning(checkpoint, weights_of(backbone, options), options)
    config = find_captioning_config(checkpoint, options)
    return identity_of(config, find_tokenizer(backbone, config, options))


def weights_of(backbone: Backbone, options: CaptionerOptions) -> dict[str, Any]:
    """Return the state_dict in the checkpoint that ``backbone`` came from.

    Raises:
        UserError: the file could not be loaded, or is another one now.
    """
    source = backbone.source
    return weights_in(source.reopen_name, options.trust_pickle, source.sha256)


def identity_of(config: CfgNode, tokenizer: Tokenizer) -> dict[str, str]:
    """Hash the vocabulary, and the settings that affect captions other than the decoder's."""
    model, data = config.MODEL, config.DATA
    settings = [model.NAME, model.VISUAL.NAME, model.TEXTUAL, data.IMAGE_TRANSFORM_VAL]
    settings += [data[key] for key in ("UNK_INDEX", "SOS_INDEX", "EOS_INDEX", "MAX_CAPTION_LENGTH")]
    return {
        "vocabulary_sha256": tokenizer.sha256,
        "pretraining_config_sha256": hashlib.sha256(json.dumps(settings).encode()).hexdigest(),
    }


def load_captioner(backbone: Backbone, decoding: CfgNode, options: CaptionerOptions) -> Captioner:
    """Load the captioning model in the checkpoint that ``backbone`` came from.

    Verifies that its backbone is ``backbone`` and that its textual head is complete.

    Args:
        decoding: the ``MODEL.DECODER`` section to use instead of the config's.

    Raises:
        UserError: the checkpoint is not a captioning model, its config or vocabulary is missing,
            or they do not match.
    """
    checkpoint = backbone.source.reopen_name
    weights = weights_of(backbone, options)
    require_captioning(checkpoint, weights, options)
    settings = {f"MODEL.DECODER.{key}": value for key, value in decoding.items()}
    settings["MODEL.VISUAL.PRETRAINED"] = False  # all weights are in the file
    config = with_settings(find_captioning_config(checkpoint, options), settings)
    tokenizer = find_tokenizer(backbone, config, options)
    check_tokenizer(tokenizer, config, backbone)
    model = build_model(config)
    assert isinstance(model, CaptioningModel)  # see require_captioning
    fill(model, weights, checkpoint)
    check_backbone(model, backbone)
    model.decoder = build_decoder(config)
    return Captioner(config, model.eval(), tokenizer)


def check_backbone(model: CaptioningModel, backbone: Backbone) -> None:
    """Verify that the captioning model contains the backbone that the record describes.

    Raises:
        UserError: a tensor differs.
    """
    loaded = model.visual.cnn.state_dict()
    for name, tensor in backbone.state_dict.items():
        if not torch.equal(loaded[name].to(tensor), tensor):
            raise UserError(
                f"{backbone.source.requested}: {name} of the captioning model differs from the "
                f"tensor that format {backbone.source.format} loads; omit --format",
                code="captioning.backbone_mismatch",
            )


def check_tokenizer(tokenizer: Tokenizer, config: CfgNode, backbone: Backbone) -> None:
    """Verify that the vocabulary is the one of the model's pretraining.

    Its hash is known if the checkpoint is in the run folder of the pretraining.

    Raises:
        UserError: it is a different vocabulary.
    """
    validate_vocabulary(tokenizer, config.DATA)
    folder = Path(backbone.source.path).parent
    path = folder / RUN_FILE
    run = (read_run_file(folder) if path.is_file() else None) or {}
    expected = run.get("identity", {}).get("tokenizer_sha256")
    if expected not in (None, tokenizer.sha256):
        raise UserError(
            f"{backbone.source.requested} was trained with the vocabulary of sha256 "
            f"{expected[:12]}… (see {path}), but {tokenizer.path} is a different one; select the "
            "right one with --tokenizer",
            code="captioning.wrong_vocabulary",
        )
    if len(tokenizer) < config.DATA.VOCAB_SIZE and expected is None:
        logger.warning(
            "the vocabulary %s has %d tokens, the model %d: the captions are meaningless unless it "
            "is the vocabulary the model was trained with",
            tokenizer.path,
            len(tokenizer),
            config.DATA.VOCAB_SIZE,
        )


def require_captioning(checkpoint: str, weights: dict[str, Any], options: CaptionerOptions) -> None:
    """Raise UserError unless the weights are those of a captioning model."""
    if reason := not_captioning_reason(checkpoint, weights, options):
        raise UserError(reason, code="captioning.not_a_captioning_model")


def not_captioning_reason(
    checkpoint: str, weights: dict[str, Any], options: CaptionerOptions
) -> str:
    """Return why the weights are not those of a captioning model; "" if they are.

    Raises:
        UserError: they may be a captioning model's, but its config is missing.
    """
    names = [str(name) for name in weights]
    if not any(name.startswith(TEXTUAL) for name in names):
        return f"{checkpoint} is a backbone without a textual head; {FIX}"
    if not any(name.startswith(WORDS) for name in names):
        return f"{checkpoint} was trained for classification, not captioning; {FIX}"
    task = find_captioning_config(checkpoint, options).MODEL.NAME
    if task not in CAPTIONING_MODELS:
        return f"{checkpoint} was trained for {task}, not captioning; {FIX}"
    return ""


def unsupported_reason(args: argparse.Namespace, may_open: bool) -> str:
    """Return why ``coco_captioning.py`` cannot evaluate the checkpoint of its arguments, or "".

    Args:
        may_open: whether the checkpoint is on this machine.

    Raises:
        UserError: it cannot be opened, or its config is missing.
    """
    entry = find_entry(args.checkpoint)
    is_backbone = args.checkpoint.startswith(BACKBONE_SOURCES)
    if is_backbone or (entry is not None and entry.holds == "backbone"):
        return f"{args.checkpoint} is a backbone without a textual head; {FIX}"
    if not may_open:
        return ""
    options = CaptionerOptions(args.config, args.tokenizer, args.data_root, args.trust_pickle)
    weights = weights_in(args.checkpoint, args.trust_pickle)
    return not_captioning_reason(args.checkpoint, weights, options)


def find_captioning_config(checkpoint: str, options: CaptionerOptions) -> CfgNode:
    """Load the config of ``--config``, of the zoo entry, or next to the checkpoint.

    Raises:
        UserError: it was not found.
    """
    if options.config is not None:
        return load_config(find_config(options.config))
    entry = find_entry(checkpoint)
    if entry is not None and entry.config:
        return load_config(config_of(entry))
    try:
        return load_config(find_pretraining_config(checkpoint))
    except UserError as error:
        raise UserError(f"{error}, or use --config", error.code) from error


def find_tokenizer(backbone: Backbone, config: CfgNode, options: CaptionerOptions) -> Tokenizer:
    """Load the vocabulary of ``--tokenizer``, of the zoo entry, next to the checkpoint, or of
    the config.

    Raises:
        UserError: it was not found.
    """
    if options.tokenizer is not None:
        return Tokenizer(options.tokenizer)
    entry = find_entry(backbone.source.requested)
    if entry is not None and entry.tokenizer:
        return Tokenizer(resolve_zoo_path(entry, entry.tokenizer))
    candidate = Path(backbone.source.path).with_name(TOKENIZER)
    if candidate.is_file():
        return Tokenizer(candidate)
    data = replace_data_root(config, options.data_root).DATA
    if Path(data.TOKENIZER_MODEL).is_file():
        return Tokenizer(data.TOKENIZER_MODEL)
    raise UserError(
        f"the vocabulary of {backbone.source.requested} was found neither at {candidate} nor at "
        f"{data.TOKENIZER_MODEL}; select it with --tokenizer, or train it again from the same "
        f"captions: {tokenizer_command(data)}",
        code="captioning.no_vocabulary",
    )

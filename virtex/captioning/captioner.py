"""From a checkpoint's name to a model that writes captions: config, vocabulary and all weights."""

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
from virtex.checkpoints.hashing import sha256_of
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
from virtex.zoo.entries import entry_named
from virtex.zoo.models import beside_zoo_file, config_beside, config_of, fill, weights_in

logger = logging.getLogger("virtex.captioning")

TEXTUAL = "textual."  # what a captioning model's tensors are called beside those of its backbone
WORDS = "textual.embedding."  # of a model that reads or writes words, not only names classes
NETWORKS_ALONE = ("random:", "torchvision://")  # names of networks of torchvision
REMEDY = (
    "give a model that virtex.pretrain trained by bicaptioning or captioning, or one that "
    "eval_tools/model_zoo.py list shows as such"
)


@dataclass(frozen=True)
class Naming:
    """What the user names beside the checkpoint; None: it is found.

    Attributes:
        config: a YAML file or a packaged pretraining config.
        tokenizer: a sentencepiece model.
        data_root: stands for the leading ``datasets/`` of the config's path to one.
    """

    config: str | None = None
    tokenizer: str | None = None
    data_root: str | None = None
    trust_pickle: bool = False


@dataclass
class Captioner:
    """Writes captions of pictures.

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
        """A caption of each normalized image (batch, 3, height, width).

        Args:
            draws: of nucleus sampling, see ``virtex.pretraining.models.decoding.NucleusSampling``.
        """
        return [self.tokenizer.decode(ids) for ids in self.model.caption(images, draws)]


def captioner_identity(backbone: Backbone, naming: Naming) -> dict[str, str]:
    """What captions depend on beside the weights: settings of the pretraining, the vocabulary.

    Raises:
        UserError: as ``load_captioner``.
    """
    checkpoint = backbone.source.requested
    if reason := why_no_captions(checkpoint, weights_in(checkpoint, naming.trust_pickle), naming):
        raise UserError(reason)
    config = find_captioning_config(checkpoint, naming)
    return identity_of(config, find_tokenizer(backbone, config, naming))


def identity_of(config: CfgNode, tokenizer: Tokenizer) -> dict[str, str]:
    """Hashes of a vocabulary, and of what of a config changes captions but is not decoding."""
    model, data = config.MODEL, config.DATA
    said = [model.NAME, model.VISUAL.NAME, model.TEXTUAL, data.IMAGE_TRANSFORM_VAL]
    said += [data[key] for key in ("UNK_INDEX", "SOS_INDEX", "EOS_INDEX", "MAX_CAPTION_LENGTH")]
    return {
        "vocabulary sha256": sha256_of(tokenizer.path),
        "pretraining config sha256": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
    }


def load_captioner(backbone: Backbone, decoding: CfgNode, naming: Naming) -> Captioner:
    """The whole captioning model in the checkpoint that ``backbone`` came from.

    Its backbone is proven to be ``backbone``, its textual head to be complete.

    Args:
        decoding: ``MODEL.DECODER``: how it is to look for words.

    Raises:
        UserError: the checkpoint writes no captions; it lacks a config or a vocabulary, or they
            do not fit it or the decoding.
    """
    checkpoint = backbone.source.requested
    weights = weights_in(checkpoint, naming.trust_pickle)
    if reason := why_no_captions(checkpoint, weights, naming):
        raise UserError(reason)
    settings = {f"MODEL.DECODER.{key}": value for key, value in decoding.items()}
    settings["MODEL.VISUAL.PRETRAINED"] = False  # all weights are in the file
    config = with_settings(find_captioning_config(checkpoint, naming), settings)
    tokenizer = find_tokenizer(backbone, config, naming)
    require_own_vocabulary(tokenizer, config, backbone)
    model = build_model(config)
    assert isinstance(model, CaptioningModel)  # why_no_captions lets no other pass
    fill(model, weights, checkpoint)
    require_backbone(model, backbone)
    model.decoder = build_decoder(config)
    return Captioner(config, model.eval(), tokenizer)


def require_backbone(model: CaptioningModel, backbone: Backbone) -> None:
    """The captioning model sees through the backbone that the record tells of.

    Raises:
        UserError: a tensor is another.
    """
    own = model.visual.cnn.state_dict()
    for name, tensor in backbone.state_dict.items():
        if not torch.equal(own[name].to(tensor), tensor):
            raise UserError(
                f"{backbone.source.requested}: {name} is another tensor in the captioning model "
                f"than format {backbone.source.format} reads; leave --format out"
            )


def require_own_vocabulary(tokenizer: Tokenizer, config: CfgNode, backbone: Backbone) -> None:
    """The vocabulary is the one the model learnt: of another its words would be nonsense.

    Where the run that trained it lies beside the checkpoint, that tells its hash.

    Raises:
        UserError: it is another.
    """
    validate_vocabulary(tokenizer, config.DATA)
    folder = Path(backbone.source.path).parent
    trained = folder / RUN_FILE
    run = (read_run_file(folder) if trained.is_file() else None) or {}
    wanted = run.get("identity", {}).get("tokenizer_sha256")
    if wanted not in (None, sha256_of(tokenizer.path)):
        raise UserError(
            f"{tokenizer.path} is not the vocabulary that {backbone.source.requested} was trained "
            f"with (sha256 {wanted[:12]}…, by {trained}); name that one with --tokenizer"
        )
    if len(tokenizer) < config.DATA.VOCAB_SIZE and wanted is None:
        logger.warning(
            "the vocabulary %s has %d tokens, the model %d: captions are nonsense if it is another "
            "than the one that the model was trained with",
            tokenizer.path,
            len(tokenizer),
            config.DATA.VOCAB_SIZE,
        )


def why_no_captions(checkpoint: str, weights: dict[str, Any], naming: Naming) -> str:
    """Why the weights in a checkpoint write no captions, in a sentence; "" if they do.

    Raises:
        UserError: they are of a model that may write captions, but there is no config of it.
    """
    names = [str(name) for name in weights]
    if not any(name.startswith(TEXTUAL) for name in names):
        return f"{checkpoint} is a backbone alone, without a textual head; {REMEDY}"
    if not any(name.startswith(WORDS) for name in names):
        return f"{checkpoint} names classes and writes no captions; {REMEDY}"
    task = find_captioning_config(checkpoint, naming).MODEL.NAME
    if task not in CAPTIONING_MODELS:
        return f"{checkpoint} was trained by {task}, which learns to write no captions; {REMEDY}"
    return ""


def why_unsuited(args: argparse.Namespace, at_hand: bool) -> str:
    """Why ``coco_captioning.py`` is not for the checkpoint of its arguments; "" if it may be.

    Args:
        at_hand: the checkpoint is on this machine and may be opened.

    Raises:
        UserError: it cannot be opened, or its config cannot be found.
    """
    entry = entry_named(args.checkpoint)
    made = args.checkpoint.startswith(NETWORKS_ALONE)
    if made or (entry is not None and entry.holds == "backbone"):
        return f"{args.checkpoint} is a backbone alone, without a textual head; {REMEDY}"
    if not at_hand:
        return ""
    naming = Naming(args.config, args.tokenizer, args.data_root, args.trust_pickle)
    return why_no_captions(args.checkpoint, weights_in(args.checkpoint, args.trust_pickle), naming)


def find_captioning_config(checkpoint: str, naming: Naming) -> CfgNode:
    """The config that is named, of the zoo's entry, or beside the file.

    Raises:
        UserError: there is none.
    """
    if naming.config is not None:
        return load_config(find_config(naming.config))
    entry = entry_named(checkpoint)
    if entry is not None and entry.config:
        return load_config(config_of(entry))
    try:
        return load_config(config_beside(checkpoint))
    except UserError as error:
        raise UserError(f"{error}, or name it with --config") from error


def find_tokenizer(backbone: Backbone, config: CfgNode, naming: Naming) -> Tokenizer:
    """The vocabulary that is named, of the zoo's entry, beside the file, or of the config.

    Raises:
        UserError: there is none; how to train it is told.
    """
    if naming.tokenizer is not None:
        return Tokenizer(naming.tokenizer)
    entry = entry_named(backbone.source.requested)
    if entry is not None and entry.tokenizer:
        return Tokenizer(beside_zoo_file(entry, entry.tokenizer))
    beside = Path(backbone.source.path).with_name(TOKENIZER)
    if beside.is_file():
        return Tokenizer(beside)
    data = replace_data_root(config, naming.data_root).DATA
    if Path(data.TOKENIZER_MODEL).is_file():
        return Tokenizer(data.TOKENIZER_MODEL)
    raise UserError(
        f"there is no vocabulary of {backbone.source.requested}, neither {beside} nor "
        f"{data.TOKENIZER_MODEL}; name it with --tokenizer FILE, or train it again, which the same "
        f"captions make the same: {tokenizer_command(data)}"
    )

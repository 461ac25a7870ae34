"""Build a pretraining model from a config."""

from collections.abc import Callable

from fvcore.common.config import CfgNode

from virtex.config import parse_textual_name
from virtex.pretraining.models.captioning import CaptioningModel
from virtex.pretraining.models.classification import ClassificationModel
from virtex.pretraining.models.decoding import BeamSearch, NucleusSampling
from virtex.pretraining.models.masked_lm import MaskedLMModel
from virtex.pretraining.models.textual import LinearTextualHead, TransformerTextualHead
from virtex.pretraining.models.transformer import TransformerDecoder
from virtex.pretraining.models.visual import VisualBackbone, build_visual

PretrainingModel = CaptioningModel | MaskedLMModel | ClassificationModel


def build_model(config: CfgNode) -> PretrainingModel:
    """Build the model of a config that ``load_config`` has validated.

    It is initialized from torch's generator; its state_dict has the published names.

    Raises:
        UserError: the backbone is unknown.
    """
    visual = config.MODEL.VISUAL
    backbone = build_visual(
        visual.NAME,
        visual.FEATURE_SIZE,
        visual.PRETRAINED,
        visual.FROZEN,
        visual.ZERO_INIT_RESIDUAL,
    )
    return MODELS[config.MODEL.NAME](config, backbone)


def build_transformer_head(config: CfgNode, feature_size: int) -> TransformerTextualHead:
    """Build the head of ``MODEL.TEXTUAL`` for a backbone of ``feature_size`` channels."""
    size, dropout = parse_textual_name(config.MODEL.TEXTUAL.NAME), config.MODEL.TEXTUAL.DROPOUT
    assert size is not None  # validated by load_config
    transformer = TransformerDecoder(
        size.layers, size.hidden, size.heads, size.feedforward, dropout, size.norm_first
    )
    return TransformerTextualHead(
        feature_size,
        config.DATA.VOCAB_SIZE,
        transformer,
        size.hidden,
        dropout,
        config.DATA.MAX_CAPTION_LENGTH,
        config.DATA.UNK_INDEX,
    )


def build_decoder(config: CfgNode) -> BeamSearch | NucleusSampling:
    """Build the decoder of ``MODEL.DECODER``."""
    decoder = config.MODEL.DECODER
    if decoder.NAME == "beam_search":
        return BeamSearch(decoder.BEAM_SIZE, decoder.MAX_DECODING_STEPS, decoder.PER_NODE_BEAM_SIZE)
    return NucleusSampling(decoder.NUCLEUS_SIZE, decoder.MAX_DECODING_STEPS)


def captioning(config: CfgNode, visual: VisualBackbone) -> CaptioningModel:
    return CaptioningModel(
        visual,
        build_transformer_head(config, visual.feature_size),
        bidirectional=config.MODEL.NAME != "captioning",
        sos=config.DATA.SOS_INDEX,
        eos=config.DATA.EOS_INDEX,
        decoder=build_decoder(config),
    )


def masked_lm(config: CfgNode, visual: VisualBackbone) -> MaskedLMModel:
    return MaskedLMModel(visual, build_transformer_head(config, visual.feature_size))


def token_classification(config: CfgNode, visual: VisualBackbone) -> ClassificationModel:
    data = config.DATA
    ignored = (data.UNK_INDEX, data.SOS_INDEX, data.EOS_INDEX, data.MASK_INDEX)
    return ClassificationModel(
        visual, LinearTextualHead(visual.feature_size, data.VOCAB_SIZE), ignored
    )


def multilabel_classification(config: CfgNode, visual: VisualBackbone) -> ClassificationModel:
    background = (0,)
    return ClassificationModel(
        visual, LinearTextualHead(visual.feature_size, config.DATA.VOCAB_SIZE), background
    )


MODELS: dict[str, Callable[[CfgNode, VisualBackbone], PretrainingModel]] = {
    "virtex": captioning,
    "bicaptioning": captioning,
    "captioning": captioning,
    "masked_lm": masked_lm,
    "token_classification": token_classification,
    "multilabel_classification": multilabel_classification,
}

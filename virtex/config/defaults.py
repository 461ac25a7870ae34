"""Every setting of a pretraining run, with its published default."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from fvcore.common.config import CfgNode


def default_config() -> CfgNode:
    """Every key with its published default: VirTex's best model, trained on COCO Captions."""
    config = CfgNode()
    # Seed of weights, data order, augmentation and dropout.
    config.RANDOM_SEED = 0
    # Mixed precision on GPUs.
    config.AMP = True
    # Number type of mixed precision: auto (bfloat16 where the GPU has it), bfloat16, float16.
    config.AMP_DTYPE = "auto"
    # Only those cuDNN kernels that give the same bits every time; slower.
    config.CUDNN_DETERMINISTIC = False
    # Let cuDNN time its kernels and keep the fastest; the choice may alter the last digits.
    config.CUDNN_BENCHMARK = True
    config.DATA = _data_defaults()
    config.MODEL = _model_defaults()
    config.OPTIM = _optim_defaults()
    return config


def _data_defaults() -> CfgNode:
    data = CfgNode()
    # Folder of the data set.
    data.ROOT = "datasets/coco"
    # The sentencepiece model that splits captions into tokens.
    data.TOKENIZER_MODEL = "datasets/vocab/coco_10k.model"
    # Number of tokens it knows; classes (background included) for multilabel_classification.
    data.VOCAB_SIZE = 10000
    # Ids of the special tokens: unknown and padding, start, end, masked.
    data.UNK_INDEX = 0
    data.SOS_INDEX = 1
    data.EOS_INDEX = 2
    data.MASK_INDEX = 3
    # Height and width, in pixels, of the images a model sees.
    data.IMAGE_CROP_SIZE = 224
    # Tokens of a caption at most, start and end included; longer ones are cut.
    data.MAX_CAPTION_LENGTH = 30
    # Train on the first caption of an image alone, not on all of them.
    data.USE_SINGLE_CAPTION = False
    # Share of the training images to train on, in (0, 100].
    data.USE_PERCENTAGE = 100.0
    # Transforms in their order, each "name" or "name::{'argument': value}".
    data.IMAGE_TRANSFORM_TRAIN = [
        "random_resized_crop",
        "horizontal_flip",
        "color_jitter",
        "normalize",
    ]
    data.IMAGE_TRANSFORM_VAL = ["smallest_resize", "center_crop", "normalize"]
    data.MASKED_LM = CfgNode()
    # Share of a caption's tokens that masked_lm has to predict.
    data.MASKED_LM.MASK_PROPORTION = 0.15
    # Of these, how many become [MASK], and how many a random token; the rest stay.
    data.MASKED_LM.MASK_PROBABILITY = 0.85
    data.MASKED_LM.REPLACE_PROBABILITY = 0.10
    return data


def _model_defaults() -> CfgNode:
    model = CfgNode()
    # The pretraining task; "virtex" is another name of "bicaptioning".
    model.NAME = "virtex"
    model.VISUAL = CfgNode()
    # "torchvision::" and the name of a ResNet there.
    model.VISUAL.NAME = "torchvision::resnet50"
    # Channels of its last stage; 0: as many as the network has.
    model.VISUAL.FEATURE_SIZE = 0
    # Start from torchvision's ImageNet weights.
    model.VISUAL.PRETRAINED = False
    # Start each residual block as the identity (scale 0 in its last BatchNorm), as published. A
    # short training hardly leaves that point: then False is better.
    model.VISUAL.ZERO_INIT_RESIDUAL = True
    # Leave the backbone as it is and train the textual head alone.
    model.VISUAL.FROZEN = False
    model.TEXTUAL = CfgNode()
    # transdec_postnorm or transdec_prenorm, then layers, hidden size, attention heads and
    # feedforward size (mostly A = H / 64, F = 4 H); "none" for the classification models.
    model.TEXTUAL.NAME = "transdec_postnorm::L1_H2048_A32_F8192"
    # Dropout of embeddings and transformer layers.
    model.TEXTUAL.DROPOUT = 0.1
    model.DECODER = CfgNode()
    # How captions are written: beam_search or nucleus_sampling.
    model.DECODER.NAME = "beam_search"
    # Captions kept at each step of beam search; 1 is greedy.
    model.DECODER.BEAM_SIZE = 5
    # Continuations of each of them that compete for the next step.
    model.DECODER.PER_NODE_BEAM_SIZE = 2
    # Probability mass that nucleus sampling draws from.
    model.DECODER.NUCLEUS_SIZE = 0.9
    # Tokens written at most.
    model.DECODER.MAX_DECODING_STEPS = 30
    return model


def _optim_defaults() -> CfgNode:
    optim = CfgNode()
    # sgd or adamw (with torch's betas).
    optim.OPTIMIZER_NAME = "sgd"
    # Momentum of sgd.
    optim.SGD_MOMENTUM = 0.9
    optim.WEIGHT_DECAY = 0.0001
    # Regular expression; parameters whose name it matches from the start have no weight decay.
    optim.NO_DECAY = ".*textual.(embedding|transformer).*(norm.*|bias)"
    # Gradients longer than this are scaled down to it; 0: never.
    optim.CLIP_GRAD_NORM = 10.0
    optim.LOOKAHEAD = CfgNode()
    # Lookahead (arXiv 1907.08610): each STEPS steps, slow weights go ALPHA of the way.
    optim.LOOKAHEAD.USE = True
    optim.LOOKAHEAD.ALPHA = 0.5
    optim.LOOKAHEAD.STEPS = 5
    # Images of a step, over all processes.
    optim.BATCH_SIZE = 256
    # Highest learning rate of the backbone, and of everything else.
    optim.CNN_LR = 0.2
    optim.LR = 0.001
    # Steps of the whole training; 0 saves the model as it is initialized, to compare with.
    optim.NUM_ITERATIONS = 500000
    # Steps in which the learning rate rises from 0.
    optim.WARMUP_STEPS = 10000
    # What it does then: none, linear, cosine (both to 0), multistep.
    optim.LR_DECAY_NAME = "cosine"
    # At these steps multistep multiplies it by LR_GAMMA.
    optim.LR_STEPS = []
    optim.LR_GAMMA = 0.1
    return optim


def get_setting(config: CfgNode, key: str) -> Any:
    """The value (or section) behind a dotted key; the config itself for an empty one."""
    return functools.reduce(CfgNode.__getitem__, key.split("."), config) if key else config


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, value) of a config."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

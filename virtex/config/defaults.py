"""Default values of all pretraining settings, as published."""

from fvcore.common.config import CfgNode


def default_config() -> CfgNode:
    """Return the defaults: VirTex's best model, trained on COCO Captions."""
    config = CfgNode()
    # Seeds initialization, data order, augmentation and dropout.
    config.RANDOM_SEED = 0
    # Mixed precision on GPUs.
    config.AMP = True
    # dtype of mixed precision: auto (bfloat16 if the GPU supports it), bfloat16, float16.
    config.AMP_DTYPE = "auto"
    # Use deterministic cuDNN kernels only; slower.
    config.CUDNN_DETERMINISTIC = False
    # Let cuDNN choose the fastest kernels; the choice may change the last digits.
    config.CUDNN_BENCHMARK = True
    config.DATA = _data_defaults()
    config.MODEL = _model_defaults()
    config.OPTIM = _optim_defaults()
    return config


def _data_defaults() -> CfgNode:
    data = CfgNode()
    # Root folder of the dataset.
    data.ROOT = "datasets/coco"
    # SentencePiece model that tokenizes captions.
    data.TOKENIZER_MODEL = "datasets/vocab/coco_10k.model"
    # Size of its vocabulary; classes (with background) for multilabel_classification.
    data.VOCAB_SIZE = 10000
    # Ids of the special tokens: unknown and padding, start, end, mask.
    data.UNK_INDEX = 0
    data.SOS_INDEX = 1
    data.EOS_INDEX = 2
    data.MASK_INDEX = 3
    # Height and width of the input images, in pixels.
    data.IMAGE_CROP_SIZE = 224
    # Maximum tokens of a caption, with start and end; longer ones are truncated.
    data.MAX_CAPTION_LENGTH = 30
    # Train on the first caption of each image only.
    data.USE_SINGLE_CAPTION = False
    # Percentage of the training images to use, in (0, 100].
    data.USE_PERCENTAGE = 100.0
    # Transforms in order, each "name" or "name::{'argument': value}".
    data.IMAGE_TRANSFORM_TRAIN = [
        "random_resized_crop",
        "horizontal_flip",
        "color_jitter",
        "normalize",
    ]
    data.IMAGE_TRANSFORM_VAL = ["smallest_resize", "center_crop", "normalize"]
    data.MASKED_LM = CfgNode()
    # Fraction of a caption's tokens that masked_lm predicts.
    data.MASKED_LM.MASK_PROPORTION = 0.15
    # Fractions of these replaced by [MASK] and by a random token; the rest are kept.
    data.MASKED_LM.MASK_PROBABILITY = 0.85
    data.MASKED_LM.REPLACE_PROBABILITY = 0.10
    return data


def _model_defaults() -> CfgNode:
    model = CfgNode()
    # The pretraining task; "virtex" is an alias of "bicaptioning".
    model.NAME = "virtex"
    model.VISUAL = CfgNode()
    # "torchvision::" and the name of a torchvision ResNet.
    model.VISUAL.NAME = "torchvision::resnet50"
    # Channels of its last stage; 0: taken from the network.
    model.VISUAL.FEATURE_SIZE = 0
    # Initialize from torchvision's ImageNet weights.
    model.VISUAL.PRETRAINED = False
    # Initialize each residual block as the identity (scale 0 in its last BatchNorm), as
    # published. False is better for short trainings, which hardly leave this initial state.
    model.VISUAL.ZERO_INIT_RESIDUAL = True
    # Freeze the backbone and train the textual head only.
    model.VISUAL.FROZEN = False
    model.TEXTUAL = CfgNode()
    # transdec_postnorm or transdec_prenorm, then layers, hidden size, attention heads and
    # feedforward size (mostly A = H / 64, F = 4 H); "none" for the classification models.
    model.TEXTUAL.NAME = "transdec_postnorm::L1_H2048_A32_F8192"
    # Dropout of embeddings and transformer layers.
    model.TEXTUAL.DROPOUT = 0.1
    model.DECODER = CfgNode()
    # How captions are generated: beam_search or nucleus_sampling.
    model.DECODER.NAME = "beam_search"
    # Beams of beam search; 1 is greedy decoding.
    model.DECODER.BEAM_SIZE = 5
    # Candidates that each beam contributes to the next step.
    model.DECODER.PER_NODE_BEAM_SIZE = 2
    # Probability mass that nucleus sampling draws from (top-p).
    model.DECODER.NUCLEUS_SIZE = 0.9
    # Maximum number of generated tokens.
    model.DECODER.MAX_DECODING_STEPS = 30
    return model


def _optim_defaults() -> CfgNode:
    optim = CfgNode()
    # sgd or adamw (with torch's default betas).
    optim.OPTIMIZER_NAME = "sgd"
    # Momentum of SGD.
    optim.SGD_MOMENTUM = 0.9
    optim.WEIGHT_DECAY = 0.0001
    # Parameters whose name matches (re.match) this regular expression have no weight decay, nor do
    # those that the family of the backbone exempts (``Family.has_weight_decay``).
    optim.NO_DECAY = ".*textual.(embedding|transformer).*(norm.*|bias)"
    # Maximum gradient norm; 0: no clipping.
    optim.CLIP_GRAD_NORM = 10.0
    optim.LOOKAHEAD = CfgNode()
    # Lookahead (arXiv 1907.08610): every STEPS steps, slow weights move by ALPHA.
    optim.LOOKAHEAD.USE = True
    optim.LOOKAHEAD.ALPHA = 0.5
    optim.LOOKAHEAD.STEPS = 5
    # Images per step, over all processes.
    optim.BATCH_SIZE = 256
    # Peak learning rates of the backbone and of everything else.
    optim.CNN_LR = 0.2
    optim.LR = 0.001
    # The backbone's learning rate is multiplied by this for every layer below the head; 1: never.
    optim.LAYER_DECAY = 1.0
    # Total training steps; 0 saves the initialized model.
    optim.NUM_ITERATIONS = 500000
    # Steps of linear warmup from 0.
    optim.WARMUP_STEPS = 10000
    # Decay after it: none, linear, cosine (both to 0), multistep.
    optim.LR_DECAY_NAME = "cosine"
    # Steps at which multistep multiplies the learning rate by LR_GAMMA.
    optim.LR_STEPS = []
    optim.LR_GAMMA = 0.1
    return optim

"""The differences between Detectron2 v0.5, the official 0.6 and today's libraries, in one place."""

import builtins
import importlib.metadata
import importlib.util
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any, NoReturn


def detectron2_version() -> str | None:
    """Return the version of the installed Detectron2 without importing it, or None."""
    if importlib.util.find_spec("detectron2") is None:
        return None
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None  # importable without metadata, e.g. a source tree on sys.path


def default_config() -> Any:
    """Return Detectron2's default ``CfgNode`` with our settings, the same with both distributions.

    With ``WEIGHT_DECAY_BIAS`` None, ``WEIGHT_DECAY_NORM`` applies to the biases of norm layers,
    too: the default of 0.6, and what 0.1 to 0.3 did. The default of v0.5, 1e-4, decays them.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None
    add_settings(cfg)
    return cfg


def add_settings(cfg: Any) -> None:
    """Add the settings that Detectron2's YAML configs do not have.

    They are settings of backbones that are not ResNets (``virtex.detectron.pyramid`` and ``vit``),
    augmentation (``augmentation``), semantic segmentation (``semantic``), box heads
    (``federated``), optimizer and schedule (``optimizer``) and the training step
    (``training_step`` and ``ema``). With their defaults, a ResNet is trained as by Detectron2
    itself.
    """
    from detectron2.config import CfgNode

    cfg.INPUT.AUGMENTATION = "default"  # Detectron2's, from INPUT; or "lsj", "detr"
    cfg.INPUT.LSJ = CfgNode()  # large-scale jitter
    cfg.INPUT.LSJ.SIZE = 1024  # side in pixels of the square that scale 1 fills, and of the crop
    cfg.INPUT.LSJ.MIN_SCALE = 0.1
    cfg.INPUT.LSJ.MAX_SCALE = 2.0
    cfg.MODEL.BACKBONE.FROZEN = False  # in eval mode, without gradients (virtex.engine.frozen)
    cfg.MODEL.NETWORK = CfgNode()
    cfg.MODEL.NETWORK.ARCH = ""  # set by the checkpoint: adapters.encode_arch
    cfg.MODEL.NETWORK.DROP_PATH = 0.0  # rate of the last block; grows linearly from 0
    cfg.MODEL.NETWORK.CHECKPOINTING = False  # recompute activations in the backward pass
    # norm of the feature maps: "LN", "none", or "auto": LN unless the network has batch norm
    cfg.MODEL.NETWORK.OUT_NORM = "auto"
    cfg.MODEL.VIT = CfgNode()
    cfg.MODEL.VIT.WINDOW_SIZE = 14  # patches along each side; 0: all blocks are global
    cfg.MODEL.VIT.GLOBAL_BLOCKS = 4  # evenly spaced; the other blocks have window attention
    # other patch embeddings are resampled to this size in pixels; 0: none is
    cfg.MODEL.VIT.PATCH_SIZE = 16
    cfg.MODEL.VIT.NORM = "LN"  # of the pyramid
    # keep class and register tokens; apply the final norm to the feature map. ViTDet does neither
    cfg.MODEL.VIT.TOKENS = True
    cfg.MODEL.VIT.FINAL_NORM = True
    # decomposed relative position embeddings, initialized to zero
    cfg.MODEL.VIT.REL_POS = False
    # pad images to multiples of this many pixels, in ViTDet to squares; 0: of the stride
    cfg.MODEL.VIT.SQUARE_PAD = 0
    # number of blocks that the protocol is for, 0: any; another number is a deviation
    cfg.MODEL.VIT.DEPTH = 0
    cfg.MODEL.BACKBONE.COMPILE = False  # train the backbone with torch.compile
    # evaluate a moving average of the weights; names as in d2go
    cfg.MODEL_EMA = CfgNode()
    cfg.MODEL_EMA.ENABLED = False
    cfg.MODEL_EMA.DECAY = 0.999  # per iteration
    # micro-batches into which each process splits its share of IMS_PER_BATCH
    cfg.SOLVER.ACCUMULATE = 1
    # or "bfloat16", "float16"; "auto" is bfloat16, except on GPUs without support for it
    cfg.SOLVER.AMP.DTYPE = "auto"
    # for semantic segmentation, named as in Detectron2's projects PointRend and DeepLab: redraw a
    # crop, up to 10 times, if a class has a larger fraction of it; color augmentation of SSD
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.SOLVER.POLY_LR_POWER = 0.9  # for LR_SCHEDULER_NAME WarmupPolyLR
    cfg.SOLVER.POLY_LR_END = 0.0  # the final learning rate as a fraction of BASE_LR
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW"
    cfg.SOLVER.LAYER_DECAY = 1.0  # factor of the learning rate from each layer to the one before
    # of parameters that are no weight or bias of a layer: tokens, position embeddings,
    # relative position biases, layer scales; None: 0 with ADAMW or LAYER_DECAY, else WEIGHT_DECAY
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # shell patterns of parameters without weight decay; precedence over the settings above
    cfg.SOLVER.NO_WEIGHT_DECAY = []
    box_head = cfg.MODEL.ROI_BOX_HEAD  # as in 0.6; see virtex.detectron.federated
    box_head.USE_SIGMOID_CE = False
    box_head.USE_FED_LOSS = False
    box_head.FED_LOSS_FREQ_WEIGHT_POWER = 0.5
    box_head.FED_LOSS_NUM_CLASSES = 50


def patch_libraries() -> None:
    """Provide what Detectron2 expects of its dependencies. Call before importing it."""
    # all versions: Detectron2 scripts a function at import, which torch 2.14 deprecates
    warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
    add_pkg_resources_stub()
    if (detectron2_version() or "").startswith("0.5"):
        add_pillow_aliases()
        add_numpy_aliases()
        add_compiled_ops_stub()
        ignore_deprecation_warnings()


def add_pillow_aliases() -> None:
    from PIL import Image

    if not hasattr(Image, "LINEAR"):  # data/transforms/transform.py; removed in Pillow 10
        vars(Image)["LINEAR"] = Image.Resampling.BILINEAR


def add_numpy_aliases() -> None:
    import numpy as np

    # structures, evaluation and utils.visualizer use them; removed in numpy 1.24
    for name in ("str", "int", "float", "bool", "object"):
        if name not in vars(np):
            setattr(np, name, getattr(builtins, name))


def add_pkg_resources_stub() -> None:
    """model_zoo.py (0.6 too) locates its configs with it; recent setuptools do not ship it."""
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    from importlib.resources import files

    stub = types.ModuleType("pkg_resources")
    vars(stub)["resource_filename"] = lambda package, name: str(files(package) / name)
    sys.modules["pkg_resources"] = stub


def add_compiled_ops_stub() -> None:
    """Make ``import detectron2._C`` succeed in an installation without compiled code.

    Four modules import it: evaluation/fast_eval_api.py, layers/deform_conv.py,
    layers/rotated_boxes.py and layers/roi_align_rotated.py. None of them is used here.
    """
    # find_spec("detectron2._C") would import detectron2, and with it torch
    package = importlib.util.find_spec("detectron2")
    folders = (package.submodule_search_locations or ()) if package else ()
    compiled = any(path for folder in folders for path in Path(folder).glob("_C.*"))
    if "detectron2._C" not in sys.modules and not compiled:
        sys.modules["detectron2._C"] = CompiledOpsStub("detectron2._C")


class CompiledOpMissingError(RuntimeError, AttributeError):
    """Also an AttributeError: pickle looks up names in every loaded module."""


class CompiledOpsStub(types.ModuleType):
    """Replaces detectron2._C; raises when one of its operators is used."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # looked up by the import system
            raise AttributeError(name)
        raise CompiledOpMissingError(
            f"the compiled operator detectron2._C.{name} (deformable convolutions, rotated boxes) "
            "is not part of this installation; build the official Detectron2 with a C++ compiler"
        )


def ignore_deprecation_warnings() -> None:
    """Silence warnings for every image: structures/boxes.py, modeling/anchor_generator.py."""
    warnings.filterwarnings("ignore", r"Creating a tensor from a list of numpy", UserWarning)
    warnings.filterwarnings("ignore", r"torch\.meshgrid", UserWarning)


def create_local_process_group() -> None:
    """Create the process group of each machine that ``detectron2.utils.comm`` expects.

    Detectron2's own launcher does this, but our processes are started without importing
    Detectron2, and 0.5 has no public function for it.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    if not dist.is_initialized():
        return
    size = int(os.environ["LOCAL_WORLD_SIZE"])
    for first in range(0, dist.get_world_size(), size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= dist.get_rank() < first + size:
            comm._LOCAL_PROCESS_GROUP = group

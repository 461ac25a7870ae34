"""Tensors that are not the weights of a whole network: adapters and quantized weights.

Their files contain names of the network, or even complete networks whose results would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtex.checkpoints.backbone import CheckpointError


@dataclass(frozen=True)
class Refusal:
    """A kind of tensors.

    Attributes:
        names: pattern that is searched in the names of tensors.
        code: of the error.
        found, fix: for its message.
    """

    names: re.Pattern[str]
    code: str
    found: str
    fix: str


ADAPTER = Refusal(
    # huggingface/peft: LoRA and its variants, in base_model.model. if saved alone; loralib
    re.compile(r"^base_model\.model\.|(?:^|\.)lora_(?:[AB]|embedding_[AB]|magnitude_vector)\b"),
    "checkpoint.adapter",
    "an adapter (LoRA)",
    "merge it into its network and save that, with peft: "
    "PeftModel.from_pretrained(network, FOLDER).merge_and_unload().save_pretrained(NEW)",
)
QUANTIZED = Refusal(
    re.compile(
        r"\.(?:"
        r"qweight|qzeros|g_idx"  # GPTQ, AWQ
        r"|SCB|weight_format|(?:nested_)?absmax|quant_map|quant_state\.[\w.]+"  # bitsandbytes
        r"|weight_(?:scale|scale_inv|zero_point|packed)"  # compressed-tensors, FP8
        r"|weight\._(?:data|scale)|_packed_params(?:\.\w+)*|W_q"  # quanto, torch, HQQ
        r")$"
    ),
    "checkpoint.quantized",
    "quantized weights",
    "use the original weights, in float32, float16 or bfloat16",
)


def refuse_content(by_path: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that no tensor belongs to an adapter or to quantized weights.

    Args:
        by_path: dotted path in the file -> name -> tensor.

    Raises:
        CheckpointError: one does (``checkpoint.adapter``, ``checkpoint.quantized``).
    """
    for tensors in by_path.values():
        for name, tensor in tensors.items():
            # 8 bits need scales, wherever they are
            is_float8 = str(tensor.dtype).startswith("torch.float8") and name.endswith("weight")
            for refusal in (ADAPTER, QUANTIZED):
                if refusal.names.search(name) or (is_float8 and refusal is QUANTIZED):
                    raise CheckpointError(
                        f"expected the weights of a network, found {refusal.found}, such as "
                        f"{name}; {refusal.fix}",
                        code=refusal.code,
                    )

"""Base weights in 4 bits (QLoRA, arXiv 2305.14314): loading them, and getting 16-bit weights back.

The linear layers of the language model are held in NF4 with doubly quantized scales and computed in the type of the
other weights. The vision tower, the projector, the embeddings and the output layer stay as they are: they hold little
of a model, and where a picture is and which digit is said depend on them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from grounding.errors import UsageError

# Modules that stay as they are, as transformers matches them against a module's whole name
KEPT = [r"(.*\.)?(visual|vision_tower|vision_model|multi_modal_projector)", r"(.*\.)?lm_head"]
# 4 bits, an 8-bit scale for 64 weights, and a 32-bit scale for 256 of these
BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


def check_installed() -> None:
    """Raise `UsageError` when bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UsageError("model.quantize needs bitsandbytes: pip install -e '.[qlora]'")


def quantization(compute: torch.dtype) -> BitsAndBytesConfig:
    """What `from_pretrained` takes; layers multiply in the type `compute`. Raises as `check_installed`."""
    check_installed()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=KEPT,  # its name says int8, it serves both
    )


def is_quantized(model: nn.Module) -> bool:
    """Whether a model, adapted or not, has 4-bit weights."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def quantizable(model: nn.Module) -> int:
    """How many weights of a model that is not quantized would be."""
    layers = (module for name, module in model.named_modules() if should_convert_module(name, KEPT))
    return sum(layer.weight.numel() for layer in layers if type(layer) is nn.Linear)


def keep_plain_kernels(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking the weights for AVX-512 while a model answers on a CPU.

    Repacked weights are multiplied in bfloat16 whatever the compute type, and by a kernel without a backward pass: a
    training step after the first rollouts would miss gradients.
    """
    for layer in _layers(model).values():
        layer.support_avx512bf16_for_cpu = False


def dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """The model with plain weights on the CPU: the numbers that its 4-bit layers multiplied with."""
    import bitsandbytes as bnb  # noqa: PLC0415 - an optional package

    for name, layer in _layers(model).items():
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.to("cpu", layer.compute_dtype))
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    model.hf_quantizer.remove_quantization_config(model)
    model.is_loaded_in_4bit = False
    return model.to("cpu")


def _layers(model: nn.Module) -> dict[str, Any]:
    import bitsandbytes as bnb  # noqa: PLC0415 - an optional package

    return {name: module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}

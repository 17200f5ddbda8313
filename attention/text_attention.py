"""A transformers model's text attention: its modules, and the function that computes it.

transformers looks that function up by name (`AttentionInterface`), so another can be set without touching a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from grounding.errors import UsageError

Attention = Callable[..., tuple[Tensor, Any]]


def pretrained(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside any wrapping (PEFT, DDP, DeepSpeed)."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UsageError(f"{type(model).__name__} holds no transformers model")


def attention_modules(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The text decoder's attention modules by layer index; the vision tower has none that know theirs."""
    text = model.config.get_text_config()
    return {
        module.layer_idx: module
        for module in model.modules()
        if hasattr(module, "layer_idx")
        and hasattr(module, "num_key_value_groups")
        and getattr(module, "config", None) is text
    }


def text_attention(model: PreTrainedModel) -> str:
    """The name of the text decoder's attention function."""
    return model.config.get_text_config()._attn_implementation or "eager"


def set_text_attention(model: PreTrainedModel, name: str) -> None:
    """Let the text decoder compute its attention with the function registered as `name`.

    Raises:
        UsageError: the model's class does not take its attention from transformers' registry.
    """
    config = model.config
    text = config.get_text_config()
    if text is config:
        model.set_attn_implementation(name)
    else:
        key = next(key for key in config.sub_configs if getattr(config, key, None) is text)
        model.set_attn_implementation({key: name})
    if text._attn_implementation != name:
        raise UsageError(f"{type(model).__name__} does not let its attention be set")


def attention_function(name: str, module: nn.Module) -> Attention:
    """The function registered as `name`; "eager" lives beside the module's class instead."""
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    if function is None:
        function = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise UsageError(f"{type(module).__name__} has no eager attention function; load the model with sdpa")
    return function

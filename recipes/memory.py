"""A rough estimate of the memory one process of a training stage needs, from the model's configuration alone."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from transformers.integrations import unset_hf_deepspeed_config

from models.parts import part_of, save_whole
from models.quantizing import BYTES, quantizable
from recipes.config import TrainConfig

GIB = 2**30
# Bytes that a transformer layer keeps for its backward pass per token and hidden unit, in 16-bit with
# memory-efficient attention: Korthikanti et al., arXiv 2205.05198, table 2, without the attention map.
LAYER_BYTES = 34


@dataclass(frozen=True)
class Memory:
    """Bytes, without any sharding over processes; ZeRO divides the parts of its stage by their number.

    Attributes:
        parameters, trainable: how many there are.
        weights: of the model.
        gradients: of what is trained.
        optimizer: two moments in 32-bit per trained parameter, and the master copy where trained weights are 16-bit.
        activations: of one forward and backward pass of a batch.
        cache: keys and values of one batch while generating.
    """

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.cache

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "KV cache": self.cache,
        }
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        return f"about {self.total / GIB:.2f} GiB per process before sharding ({listed})"


def estimate(
    config: PreTrainedConfig,
    lora: LoraConfig | None,
    *,
    batch: int,
    tokens: int,
    generated_batch: int = 0,
    checkpointing: bool = True,
    dtype: torch.dtype | None = None,
    train: TrainConfig | None = None,
    quantize: str | None = None,
) -> Memory:
    """Estimate a stage's memory without making the weights.

    Args:
        config: of the model.
        lora: None trains every weight.
        batch: sequences per process in a forward pass.
        tokens: length of a sequence, image tokens included.
        generated_batch: sequences generated at once, 0 where the stage generates none (or vLLM does).
        checkpointing: whether activations are recomputed layer by layer.
        dtype: of the weights; None is what the configuration says.
        train: which parts are trained, as in a recipe's stage; None trains what `lora` says.
        quantize: as in a recipe's `model` section.
    """
    dtype = dtype or config.dtype or config.get_text_config().dtype or torch.float32
    weights = weights_of(config, lora, train)
    parameters = weights.total
    small = 0 if quantize is None else weights.quantizable
    trainable = sum(weights.trained.values())
    text = config.get_text_config()
    copies = sum(size for name, size in weights.trained.items() if "modules_to_save" in name)  # peft's, in 32-bit
    trained_bytes = 4 if lora is not None else dtype.itemsize  # peft keeps adapters in 32-bit
    master = 4 * trainable if trained_bytes < 4 else 0
    kept = 2 * text.num_hidden_layers + LAYER_BYTES if checkpointing else LAYER_BYTES * text.num_hidden_layers
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head * dtype.itemsize
    return Memory(
        parameters=parameters,
        trainable=trainable,
        weights=round((parameters - small) * dtype.itemsize + small * BYTES + 4 * copies),
        gradients=trainable * trained_bytes,
        optimizer=8 * trainable + master,
        activations=batch * tokens * text.hidden_size * kept,
        cache=generated_batch * tokens * per_token,
    )


@dataclass(frozen=True)
class Weights:
    """How many weights a model has without an adapter, how many of these can be held in 4 bits, and the names of what
    is trained, with how many each has."""

    total: int
    quantizable: int
    trained: Mapping[str, int]


def weights_of(config: PreTrainedConfig, lora: LoraConfig | None, train: TrainConfig | None = None) -> Weights:
    """Count without memory for the weights. To be called before a training's arguments are made, whose DeepSpeed
    configuration it lets go: stage 3 would split weights that are not there.

    Raises:
        ValueError: the adapter fits no layer.
    """
    adapter = None if lora is None else json.dumps(lora.to_dict(), default=sorted)
    full = None if train is None else train.parts("full")
    return _count(_Asked(f"{config.to_json_string(use_diff=False)}\n{adapter}\n{full}", config, lora, full))


@dataclass(frozen=True)
class _Asked:
    """Arguments of `weights_of`, equal where their content is."""

    content: str
    config: PreTrainedConfig = field(compare=False)
    lora: LoraConfig | None = field(compare=False)
    full: tuple[str, ...] | None = field(compare=False)


@functools.lru_cache(maxsize=32)  # a recipe's stages ask alike, each more than once, and a large model takes seconds
def _count(asked: _Asked) -> Weights:
    unset_hf_deepspeed_config()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(asked.config))  # writes its dtype into it
        total, small = sum(weight.numel() for weight in model.parameters()), quantizable(model)
        if asked.lora is not None:
            lora = copy.deepcopy(asked.lora)  # peft writes the layers it found into it
            save_whole(lora, model, asked.full or ())
            model = get_peft_model(model, lora)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    if asked.lora is None and asked.full is not None:
        trained = {name: size for name, size in trained.items() if part_of(name) in asked.full}
    return Weights(total, small, trained)

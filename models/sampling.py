"""Sampling parameters: the same in GRPO, rejection and evaluation, whatever the model's folder recommends.

A published generation_config.json may hold a repetition penalty, a top-k or forbidden n-grams, and transformers takes
from it whatever a caller leaves out. `forget_published` keeps only its token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from grounding.decoding import Decoder


def forget_published(model: PreTrainedModel, processor: Any) -> None:
    """Reduce a model's generation configuration to its token ids: those that end an answer, and padding."""
    published, tokenizer = model.generation_config, processor.tokenizer
    decoder = Decoder.of(processor, published.eos_token_id)
    padding = published.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ends = decoder.ends - ({padding} - {tokenizer.eos_token_id, *_listed(published.eos_token_id)})
    model.generation_config = GenerationConfig(
        eos_token_id=min(ends) if len(ends) == 1 else sorted(ends) or None,
        pad_token_id=padding,
        bos_token_id=published.bos_token_id,
        decoder_start_token_id=published.decoder_start_token_id,
    )


def generation_config(
    model: PreTrainedModel,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    answers: int = 1,
    more: Mapping[str, Any] | None = None,
) -> GenerationConfig:
    """The generation configuration that TRL's GRPO samples with, for a model that `load_policy` loaded.

    Args:
        temperature: 0 is greedy; then top_p, top_k and min_p are ignored.
        answers: per prompt.
        more: further fields of `GenerationConfig`; they come before the others.
    """
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": temperature > 0,
        "repetition_penalty": repetition_penalty,
        "num_return_sequences": answers,
        "eos_token_id": model.generation_config.eos_token_id,
        "pad_token_id": model.generation_config.pad_token_id or 0,
    }
    if temperature > 0:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": top_k or 0, "min_p": min_p}
    image = getattr(model.config, "image_token_id", None)
    if image is not None:  # a sampled image token would have no image
        settings["suppress_tokens"] = [image]
    return GenerationConfig(**{**settings, **(more or {})})


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids

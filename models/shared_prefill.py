"""One prefill for every distinct prompt of a batch that is answered: the rollouts of a question read the same.

`generate` runs all prompts once, into its cache, before it draws tokens. Here a prompt that occurs several times in a
batch runs once, and its keys, values and logits are handed to all its rows: the numbers are the same but for the
order of floating-point sums, and there are as many forward passes as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from attention.text_attention import text_attention
from models.shared_prompts import FAMILIES
from models.sharing import Pictures, distinct_prompts, image_tokens

# Another attention function may remember something of every row it read.
KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
PER_ROW = ("input_ids", "attention_mask", "mm_token_type_ids", "position_ids")
PICTURES = ("pixel_values", "image_grid_thw", "mm_encoder_outputs")
OTHERS = ("cache", "past_key_values", "use_cache", "logits_to_keep", "return_dict")


class PrefillSharing:
    """Hooks on a model that `generate` runs.

    Attributes:
        prompts: rows of the batches that were prefilled since the hooks were set.
        run: how many of them went through the model.
    """

    def __init__(self, model: PreTrainedModel):
        self.prompts = self.run = 0
        self._group: Tensor | None = None
        self._cache: DynamicCache | None = None
        model.register_forward_pre_hook(self._keep_distinct, with_kwargs=True)
        model.register_forward_hook(self._hand_out)

    def _keep_distinct(self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._group = None
        given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
        ids, cache = given.get("input_ids"), given.get("cache", given.get("past_key_values"))
        if ids is None or not isinstance(cache, DynamicCache) or min(ids.shape) < 2 or cache.get_seq_length():
            return None
        features = given.get("mm_encoder_outputs") or {}
        known = given.keys() <= {*PER_ROW, *PICTURES, *OTHERS} and features.keys() <= {"image"}
        if args or not known or not text_attention(model).endswith(KERNELS):
            return None
        counts = image_tokens(model.config, ids)
        if features:
            pictures = Pictures.of_features(counts, features["image"])
        else:
            pictures = Pictures.of_pixels(model.config, counts, given)
        valid = given.get("attention_mask", torch.ones_like(ids))
        first, group = distinct_prompts(ids, valid, pictures.sources(range(len(ids))))
        self.prompts += len(ids)
        self.run += len(first)
        if len(first) == len(ids):
            return None
        self._group, self._cache = group, cache
        changed = {name: _rows(given[name], first, len(ids)) for name in PER_ROW if name in given}
        chosen = pictures.of(first.tolist())
        if features:
            changed["mm_encoder_outputs"] = {"image": _features(features["image"], chosen)}
        elif "pixel_values" in given:
            changed["pixel_values"] = torch.cat([pictures.parts[0][index] for index in chosen])
            if "image_grid_thw" in given:
                changed["image_grid_thw"] = given["image_grid_thw"][chosen]
        return args, {**kwargs, **changed}

    def _hand_out(self, model: PreTrainedModel, args: tuple[Any, ...], output: Any) -> Any:
        if self._group is None:
            return None
        self._cache.batch_select_indices(self._group)
        output.logits = output.logits.index_select(0, self._group)
        self._group = self._cache = None
        return output


def share_prefill(model: PreTrainedModel) -> PrefillSharing | None:
    """Let `model` prefill every distinct prompt of a batch once; None for models that were not compared."""
    return PrefillSharing(model) if model.config.model_type in FAMILIES else None


def _rows(table: Tensor, first: Tensor, count: int) -> Tensor:
    """Some rows of (B, P) or (axes, B, P); positions that all rows share have none to choose."""
    return table.index_select(-2, first) if table.shape[-2] == count else table


def _features(features: Any, chosen: list[int]) -> Any:
    """Those of some pictures."""
    changed = {"pooler_output": _pick(features.pooler_output, chosen)}
    if getattr(features, "deepstack_features", None):
        changed["deepstack_features"] = [_pick(level, chosen) for level in features.deepstack_features]
    return type(features)(**changed)


def _pick(pictures: Any, chosen: list[int]) -> Any:
    return pictures[chosen] if isinstance(pictures, Tensor) else [pictures[index] for index in chosen]

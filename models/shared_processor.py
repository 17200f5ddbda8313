"""A processor that prepares every distinct prompt of a call once: the rollouts of a question have the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from models.sharing import Pictures

PER_ROW = frozenset({"input_ids", "attention_mask", "mm_token_type_ids"})
PICTURES = frozenset({"pixel_values", "image_grid_thw"})


class PreparingOnce:
    """Stands for a processor in calls over batches; everything else is the processor's own.

    Args:
        processor: prepares text and pictures.
        config: its model's configuration.
    """

    def __init__(self, processor: Any, config: Any):
        self._processor, self._config = processor, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        if isinstance(text, str) or not isinstance(images, list | None):
            return self._processor(images=images, text=text, **kwargs)
        rows = [(own, None if images is None else images[index]) for index, own in enumerate(text)]

        def prepare(chosen: Sequence[int]) -> Any:
            shown = None if images is None else [images[index] for index in chosen]
            return self._processor(images=shown, text=[text[index] for index in chosen], **kwargs)

        return self._once(rows, prepare)

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        if not (kwargs.get("tokenize") and kwargs.get("return_dict") and isinstance(conversation[0], list)):
            return self._processor.apply_chat_template(conversation, **kwargs)

        def prepare(chosen: Sequence[int]) -> Any:
            return self._processor.apply_chat_template([conversation[index] for index in chosen], **kwargs)

        return self._once(conversation, prepare)

    def _once(self, rows: Sequence[Any], prepare: Any) -> Any:
        first, group = alike(rows)
        prepared = prepare(first)
        if prepared.keys() - PER_ROW - PICTURES:
            return prepare(range(len(rows)))  # what else there is cannot be handed out
        return BatchFeature(self._hand_out(prepared, group))

    def _hand_out(self, prepared: Mapping[str, Any], group: Sequence[int]) -> dict[str, Any]:
        """What was made of distinct prompts, row by row of the batch."""
        output = {name: _rows(value, group) for name, value in prepared.items() if name in PER_ROW}
        if "pixel_values" not in prepared:
            return output
        fields = {name: _tensor(prepared[name]) for name in PICTURES if name in prepared}
        token = self._config.image_token_id
        counts = [int((np.asarray(ids) == token).sum()) for ids in prepared["input_ids"]]
        pictures = Pictures.of_pixels(self._config, counts, fields)
        chosen = pictures.of(group)
        output["pixel_values"] = torch.cat([pictures.parts[0][index] for index in chosen])
        if "image_grid_thw" in fields:
            output["image_grid_thw"] = fields["image_grid_thw"][chosen]
        return output


def alike(rows: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The first of each kind of row, and the index of every row's kind. Equal rows mostly stand together."""
    first: list[int] = []
    group: list[int] = []
    for index, row in enumerate(rows):
        known = next((place for place in reversed(range(len(first))) if rows[first[place]] == row), len(first))
        if known == len(first):
            first.append(index)
        group.append(known)
    return first, group


def _rows(table: Any, group: Sequence[int]) -> Any:
    return table[list(group)] if isinstance(table, Tensor) else [list(table[index]) for index in group]


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))

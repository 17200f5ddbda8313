"""Batches of episodes to learn from, for supervised stages: only what the model is to write has labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

TAUGHT = "taught"  # column of the rows: `tools.teaching.Taught`
IGNORED = -100


def collate_taught(processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows with `taught` and `images` as a batch, padded on the right, with the pictures of all turns."""
    episodes = [row[TAUGHT] for row in rows]
    ids = [[*own.prompt, *own.completion] for own in episodes]
    labels = [
        [IGNORED] * len(own.prompt)
        + [token if learned else IGNORED for token, learned in zip(own.completion, own.learned, strict=True)]
        for own in episodes
    ]
    pad = processor.tokenizer.pad_token_id
    longest = max(map(len, ids))
    pictures = [
        picture for row, own in zip(rows, episodes, strict=True) for picture in (*row["images"], *own.pictures)
    ]
    batch = dict(processor.image_processor(images=pictures, return_tensors="pt"))
    batch["input_ids"] = torch.tensor([own + [pad] * (longest - len(own)) for own in ids])
    batch["attention_mask"] = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in ids])
    batch["labels"] = torch.tensor([own + [IGNORED] * (longest - len(own)) for own in labels])
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    batch["mm_token_type_ids"] = (batch["input_ids"] == image).long()
    return batch

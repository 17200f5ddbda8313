"""Attention of a transformers model during evaluation: read it for one row, or redistribute it while it generates.

Axis letters: B requests, H heads, Q query positions, N key positions, V image tokens, K heads of all layers read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from attention.capture import REFUSED
from attention.maps import PromptAttention
from attention.reading import MAP, AttentionReader, ResponseBatch, StepLog
from attention.sinks import TAU, watching
from attention.specification import AttentionSpec
from attention.text_attention import attention_modules, set_text_attention, text_attention
from attention.visual import image_cells
from grounding.errors import UsageError

RHO, MASS, KEEP = 0.5, 0.2, 0.6  # of `redistribute`, as published
FIRST_LAYER = 2  # sinks form in the first two layers
_NAME = "fovea_var"


def redistribute(
    weights: Tensor,
    sinks: Tensor,
    image: Tensor,
    rows: Tensor,
    *,
    rho: float = RHO,
    mass: float = MASS,
    keep: float = KEEP,
) -> Tensor:
    """Attention in which heads that read the image give some of what they spend on sinks to other image tokens (VAR).

    A head reads the image at a row when its image tokens get at least `mass`, of which visual sinks have at most the
    share `rho`. There every sink, of text or image, keeps `keep` of its attention; the rest goes to the image tokens
    that are no sinks, in proportion to what they have. Rows keep their sum; a layer without visual sinks is left
    alone (as in the authors' code).

    Args:
        weights: (B, H, Q, N), row-stochastic.
        sinks, image: (B, N) bool.
        rows: (B, Q) bool, the rows that may change: the ones after the image.
    """
    visual, others = (sinks & image)[:, None, None], (image & ~sinks)[:, None, None]
    on_image = (weights * image[:, None, None]).sum(-1)
    on_sinks = (weights * visual).sum(-1)
    open_to = weights * others
    room = open_to.sum(-1, keepdim=True)
    reads = (on_image >= mass) & (on_sinks <= rho * on_image) & visual.any(-1) & rows[:, None] & (room[..., 0] > 0)
    all_sinks = sinks[:, None, None]
    budget = (1 - keep) * (weights * all_sinks).sum(-1, keepdim=True)
    moved = torch.where(all_sinks, keep * weights, weights) + budget * open_to / room.clamp(min=1e-12)
    return torch.where(reads.unsqueeze(-1), moved, weights)


def read_prompts(model: Any, inputs: Mapping[str, Any], merge: int, images: Sequence[int]) -> list[PromptAttention]:
    """Attention of the last token of each prompt on its images, in the middle layers; one forward pass.

    Args:
        inputs: the processor's, left-padded.
        merge: image tokens per patch side.
        images: how many images each request has.

    Raises:
        UsageError: the model does not say where its image tokens stand, or does not let its attention be seen.
    """
    token = image_token(model)
    if "image_grid_thw" not in inputs:
        raise UsageError(f"{type(model).__name__}: its processor gives no image_grid_thw, so its map has no rows")
    valid, ids = inputs["attention_mask"].bool(), inputs["input_ids"]
    batch = ResponseBatch.of(ids, valid, valid[:, -1:], token, first=ids.shape[1] - 1)
    reader = AttentionReader(model, AttentionSpec(), MAP, StepLog("attention"))
    try:
        with torch.no_grad(), reader.reading_prompts(batch, sinks=True) as shown:
            model(**inputs, logits_to_keep=1)
    finally:
        reader.detach()
    heads, sinks = shown.head_maps().double().cpu().numpy(), shown.sinks().cpu().numpy()
    present, grids = batch.image.present.cpu().numpy(), iter(image_cells(inputs["image_grid_thw"], merge))
    return [
        PromptAttention(heads[row][:, own], sinks[row, own], tuple(islice(grids, images[row])))
        for row, own in enumerate(present)
    ]


def image_token(model: Any) -> int:
    """The id that stands for an image token. Raises UsageError when the configuration does not name one."""
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        raise UsageError(f"{type(model).__name__}: its configuration has no image_token_id")
    return int(token)


@contextmanager
def redistribution(model: Any, tau: float = TAU) -> Iterator[None]:
    """Within it, the model's text layers run with `redistribute`; all but the first two and the last, as published.

    Attention is then computed in full, (B, H, Q, N) in float32, whatever implementation the model had.

    Raises:
        UsageError: the model does not take its attention from transformers' registry, or it is no plain softmax over
            all earlier keys.
    """
    count = model.config.get_text_config().num_hidden_layers
    layers = [layer for layer in range(min(FIRST_LAYER, count), count - 1) if layer in attention_modules(model)]
    if not layers:
        raise UsageError(
            f"--method var: {type(model).__name__} has {count} layers, at least {FIRST_LAYER + 2} are needed"
        )
    token, before = image_token(model), text_attention(model)
    image: list[Tensor] = []

    def remember(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        if ids is not None:
            image[:] = [torch.cat([*image, ids == token], 1) if ids.shape[1] == 1 and image else ids == token]

    with watching(model, layers, tau) as sinks:

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, None]:
            for option, meaning in REFUSED.items():
                if kwargs.get(option) is not None:
                    raise UsageError(f"--method var: {type(model).__name__} uses {meaning}: no plain softmax")
            weights = _softmax(query, key, mask, float(kwargs.get("scaling") or query.shape[-1] ** -0.5))
            layer = int(module.layer_idx)  # type: ignore[arg-type]
            if layer in sinks and image and image[0].shape[1] == key.shape[2]:
                weights = redistribute(weights, sinks[layer], image[0], _after(image[0], query.shape[2]))
            groups = query.shape[1] // value.shape[1]
            output = weights.to(value.dtype) @ value.repeat_interleave(groups, dim=1)
            return output.transpose(1, 2).contiguous(), None

        AttentionInterface.register(_NAME, attention)
        AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        handle = model.register_forward_pre_hook(remember, with_kwargs=True)
        set_text_attention(model, _NAME)
        try:
            yield
        finally:
            set_text_attention(model, before)
            handle.remove()


def _softmax(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention weights in float32, (B, H, Q, N)."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ keys.transpose(2, 3)).float() * scale
    if mask is not None:
        scores = scores + mask[..., : key.shape[2]]
    return scores.softmax(-1)


def _after(image: Tensor, queries: int) -> Tensor:
    """(B, Q) bool: which of the last Q positions come after all image tokens."""
    left = image.flip(1).cumsum(1).flip(1)
    return (left == 0)[:, -queries:]

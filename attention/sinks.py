"""Attention sinks: tokens that draw attention whatever the text says, and say nothing about where the model looks.

One rule for every reader of attention. A token is a sink when it draws attention by itself, which is seen
  * `persistent` (signals and maps of responses): from attention. In a head, the token's attention, in the median over
    evenly spaced response rows, is more than `ratio` times what an image token gets on average; it is a sink of the
    image when that holds in at least half of the image-reading heads of all captured layers together.
  * `massive` (the attention of a prompt's last token, and VAR): from hidden states, as published. One row alone
    cannot tell a token that always draws attention from the place the row looks for, and the methods that read one
    row, or change attention, come before any response is there.

The observation is from Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models" (ICLR
2025, arXiv 2503.03321), which finds sinks by massive activations. `massive` needs a wide model (see there) and the
hidden states; `persistent` works for any, on what is captured anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attention.signals import Rows
from attention.text_attention import attention_modules
from attention.visual import ImageTokens, some_attention_over_image

HEADS = 0.5  # the share of the heads that have to agree
TAU = 20.0  # a hidden state this many times its root mean square in one dimension is massive


def persistent(rows: Rows, image: ImageTokens, mask: Tensor, ratio: float = 8.0, *, sample: int = 64) -> Tensor:
    """In which heads an image token is a persistent sink: (B, H, V) bool. Needs more than `ratio` image tokens to
    find any.

    Args:
        rows: of the response, R of them.
        mask: (B, R) bool, rows that are response tokens.
        sample: rows looked at, at most.
    """
    picked = torch.arange(0, len(rows), max(1, -(-len(rows) // sample)), device=rows.q.device)
    block = some_attention_over_image(rows, image, picked)
    block = torch.where(mask[:, None, picked, None], block, torch.nan)
    median = block.nanmedian(dim=2).values  # (B, H, V)
    average = block.nanmean(dim=2).sum(-1) / image.present.sum(-1).clamp(min=1).unsqueeze(1)
    return (median > ratio * average.unsqueeze(-1)) & image.present.unsqueeze(1)


def agreed(share: Tensor) -> Tensor:
    """Sinks of the image, by the share of the heads that take each token for one."""
    return share >= HEADS


def massive(hidden: Tensor, tau: float = TAU) -> Tensor:
    """Tokens with a massive activation: (B, N, d) hidden states -> (B, N) bool.

    A token is one when some dimension of its state, divided by the state's root mean square, exceeds `tau`. The
    authors look at two dimensions they list per language model; massive activations have not been seen in others, so
    every dimension is looked at here. No state of fewer than tau^2 = 400 dimensions can have one.
    """
    states = hidden.float()
    return states.abs().amax(-1) > tau * states.square().mean(-1).clamp(min=1e-12).sqrt()


@contextmanager
def watching(model: Any, layers: Sequence[int], tau: float = TAU) -> Iterator[dict[int, Tensor]]:
    """Fills in, per layer, which tokens of the positions seen so far are `massive` on entering it: (B, N) bool."""
    found: dict[int, Tensor] = {}
    modules = attention_modules(model)
    blocks = {id(child): block for block in model.modules() for child in block.children()}

    def watch(layer: int) -> Any:
        def look(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            new = massive(hidden, tau)
            # One position more is a step of generation, anything else a new prompt.
            found[layer] = torch.cat([found[layer], new], 1) if new.shape[1] == 1 and layer in found else new

        return blocks[id(modules[layer])].register_forward_pre_hook(look, with_kwargs=True)

    handles = [watch(layer) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

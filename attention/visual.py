"""Attention on the image, per response token. Shared arguments as in `attention.signals`, and `ImageTokens`.

Cost O(T V) in time, O(chunk * V) in memory: only image columns are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention.signals import Map, Rows, exclusion
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon


@dataclass(frozen=True)
class ImageTokens:
    """Where the images stand in each response's sequence.

    Attributes:
        columns: (B, V) long, positions of the image tokens, padded with anything.
        present: (B, V) bool, False for the padding.
        coverage: (B, V) in [0, 1], share of the token's image cell that the target covers.
    """

    columns: Tensor
    present: Tensor
    coverage: Tensor

    def __len__(self) -> int:
        """V."""
        return self.columns.shape[1]

    def keys(self, rows: Rows) -> Tensor:
        """Their keys, (B, Hkv, V, d)."""
        index = self.columns[:, None, :, None].expand(-1, rows.k.shape[1], -1, rows.k.shape[3])
        return rows.k.gather(2, index)

    def seen(self, positions: Tensor) -> Tensor:
        """(B, 1, R, V) bool: image tokens not after the row (an image a tool returned comes late)."""
        return (self.present.unsqueeze(1) & (self.columns.unsqueeze(1) <= positions[:, None])).unsqueeze(1)


def image_columns(ids: Tensor, valid: Tensor, image_token: int | None) -> tuple[Tensor, Tensor]:
    """Positions of the image tokens in order, (B, V) long, and (B, V) bool, False for the padding of shorter rows.

    Args:
        ids, valid: (B, N).
        image_token: None for a model without images.
    """
    image = (ids == image_token) & valid.bool() if image_token is not None else torch.zeros_like(valid.bool())
    width = int(image.sum(-1).max()) if len(image) else 0
    columns = (~image).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]  # image positions first, in order
    return columns, image.gather(1, columns)


def visual_sinks(
    rows: Rows, image: ImageTokens, mask: Tensor, ratio: float = 8.0, *, heads: float = 0.5, sample: int = 64
) -> Tensor:
    """Image tokens that draw attention whatever the text says: (B, V) bool.

    A token is a sink of the image when it is one (`sink_votes`) in at least the share `heads` of the heads.
    """
    return (sink_votes(rows, image, mask, ratio, sample=sample).float().mean(1) >= heads) & image.present


def sink_votes(rows: Rows, image: ImageTokens, mask: Tensor, ratio: float = 8.0, *, sample: int = 64) -> Tensor:
    """In which heads an image token draws attention whatever the text says: (B, H, V) bool.

    In a head, a token is a sink when its attention, in the median over up to `sample` evenly spaced response rows,
    is more than `ratio` times what an image token gets on average over these rows. The observation is from "See What
    You Are Told: Visual Attention Sink in Large Multimodal Models" (ICLR 2025), which finds them by massive
    activations of the hidden state; from attention alone, persistence over the text is what tells a sink from a token
    that some words look at. Needs more than `ratio` image tokens to find any.
    """
    step = max(1, -(-len(rows) // sample))
    picked = torch.arange(0, len(rows), step, device=rows.q.device)
    some = rows.picked(picked)
    block = _block(Map(some, image.keys(rows)), image, rows.first + picked, 0, len(picked))
    block = torch.where(mask[:, None, picked, None], block, torch.nan)
    median = block.nanmedian(dim=2).values  # (B, H, V)
    average = block.nanmean(dim=2).sum(-1) / image.present.sum(-1).clamp(min=1).unsqueeze(1)
    return (median > ratio * average.unsqueeze(-1)) & image.present.unsqueeze(1)


@dataclass(frozen=True)
class ImageAttention:
    """What `image_attention` returns, (B, H, R) each."""

    mass: Tensor
    target: Tensor
    entropy: Tensor
    everything: Tensor


def image_attention(
    rows: Rows, image: ImageTokens, sinks: Tensor | None = None, chunk: int | None = None
) -> ImageAttention:
    """Mass on the image, mass inside the target's region, and entropy within the image, per row and head.

        mass_t = sum_{s in image} A(t, s), sinks left out here and in the next two
        target_t = sum_{s in image} coverage_s A(t, s)
        entropy_t = - sum_{s in image} p_s log p_s, p_s = A(t, s) / mass_t, nats, in [0, log V]
        everything_t = the mass with the sinks

    Args:
        sinks: (B, V) bool of `visual_sinks`.
    """
    attention = Map(rows, image.keys(rows))
    positions = torch.arange(rows.first, rows.first + len(rows), device=rows.q.device)
    parts = []
    for low, high in rows.chunks(chunk or rows.affordable(len(image))):
        block = _block(attention, image, positions, low, high)
        everything = block.sum(-1)
        if sinks is not None:
            block = block.masked_fill_(sinks[:, None, None, :], 0.0)
        mass = block.sum(-1)
        target = (block @ image.coverage.to(block.dtype)[:, None, :, None]).squeeze(-1)
        safe = mass.clamp(min=torch.finfo(mass.dtype).tiny)
        entropy = safe.log() - torch.special.xlogy(block, block).sum(-1) / safe
        parts.append((mass, target, torch.where(mass > 0, entropy, 0.0), everything))
    return ImageAttention(*(torch.cat(part, dim=-1) for part in zip(*parts, strict=True)))


def image_map(rows: Rows, image: ImageTokens, weights: Tensor, chunk: int | None = None) -> Tensor:
    """Where some rows together look: map_s = sum_t w_t A(t, s) for the image tokens s, (B, H, V).

    Args:
        weights: (B, R); rows that weigh nothing in any response are not computed.
    """
    picked = (weights != 0).any(0).nonzero().squeeze(-1)
    some, weights = rows.picked(picked), weights[:, picked].to(rows.lse.dtype)[:, None, :, None]
    attention, positions = Map(some, image.keys(rows)), rows.first + picked
    total = torch.zeros(*rows.q.shape[:2], len(image), dtype=attention.dtype, device=rows.q.device)
    for low, high in some.chunks(chunk or some.affordable(len(image))):
        own = weights[:, :, low:high]
        block = _block(attention, image, positions, low, high).masked_fill_(own == 0, 0.0)  # padding may hold NaN
        total += (block * own).sum(-2)
    return total


def attention_over_image(rows: Rows, image: ImageTokens) -> Tensor:
    """The attention itself, (B, H, R, V): for the viewer, which shows single tokens. Not for long responses."""
    positions = torch.arange(rows.first, rows.first + len(rows), device=rows.q.device)
    return _block(Map(rows, image.keys(rows)), image, positions, 0, len(rows))


def _block(attention: Map, image: ImageTokens, positions: Tensor, low: int, high: int) -> Tensor:
    """Rows low .. high - 1 on the image tokens before them."""
    excluded = exclusion(image.seen(positions[low:high]), attention.dtype)
    return attention.block(low, high, 0, len(image), excluded)


def merge_size(processor: Any) -> int:
    """How many patches of each side make one image token."""
    return getattr(getattr(processor, "image_processor", None), "merge_size", None) or 1


def image_cells(grids: Tensor, merge: int) -> list[tuple[int, int]]:
    """(rows, columns) of image tokens per image, from (N, 3) frames, rows and columns of patches; a video's frames
    stand one below the other."""
    return [(frames * rows // merge, columns // merge) for frames, rows, columns in grids.tolist()]


def region_coverage(ids: Tensor, image_token: int, grids: Sequence[tuple[int, int]], sample: Sample) -> Tensor:
    """Share of each token's image cell that the target covers, 0 for text.

    Args:
        ids: (P,) prompt; its image tokens are, image by image, the cells of the grids in reading order.
        grids: (rows, columns) of image tokens per image; for a video frame by frame.

    Returns:
        (P,) float32. A point fills the cell it lies in; overlapping targets add up to at most 1; a polygon counts as
        its bounding box. All 0 when the image tokens do not match the grids (a truncated prompt).
    """
    cover = torch.zeros(len(ids))
    places = (ids == image_token).nonzero().squeeze(-1)
    if len(places) != sum(rows * columns for rows, columns in grids):
        return cover
    parts = [
        sum(
            (
                _cells(region, rows, columns)
                for region in regions_of(sample.target)
                if getattr(region, "image", 0) == image
            ),
            torch.zeros(rows, columns),
        ).clamp(max=1.0)
        for image, (rows, columns) in enumerate(grids)
    ]
    if parts:
        cover[places.cpu()] = torch.cat([part.flatten() for part in parts])
    return cover


def _cells(region: Any, rows: int, columns: int) -> Tensor:
    """(rows, columns) share of each cell inside the region."""
    if isinstance(region, Polygon):
        region = region.bounds
    if isinstance(region, Point):
        cover = torch.zeros(rows, columns)
        cover[min(int(region.y * rows), rows - 1), min(int(region.x * columns), columns - 1)] = 1.0
        return cover
    if not isinstance(region, Box):
        return torch.zeros(rows, columns)
    across = _overlap(region.x1, region.x2, columns)
    down = _overlap(region.y1, region.y2, rows)
    return down[:, None] * across[None, :]


def _overlap(low: float, high: float, count: int) -> Tensor:
    """(count,) share of each of `count` equal cells of [0, 1] inside [low, high]."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    inside = torch.minimum(edges[1:], torch.tensor(high)) - torch.maximum(edges[:-1], torch.tensor(low))
    return (inside.clamp(min=0.0) * count).float()

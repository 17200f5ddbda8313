"""Attention on the image, per response token. Shared arguments as in `attention.signals`, and `ImageTokens`.

Cost O(T V) in time, O(chunk * V) in memory: only image columns are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention.maps import coverage
from attention.signals import Map, Rows, exclusion
from grounding.errors import UsageError
from grounding.sample import Sample, regions_of


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

    def part(self, start: int, count: int) -> ImageTokens:
        """Those of responses start .. start + count - 1."""
        part = slice(start, start + count)
        return ImageTokens(self.columns[part], self.present[part], self.coverage[part])

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


@dataclass(frozen=True)
class ImageAttention:
    """What `image_attention` returns, (B, H, R) each."""

    mass: Tensor
    target: Tensor
    entropy: Tensor
    everything: Tensor


def image_attention(
    rows: Rows,
    image: ImageTokens,
    sinks: Tensor | None = None,
    chunk: int | None = None,
    *,
    keys: Tensor | None = None,
) -> ImageAttention:
    """Mass on the image, mass inside the target's region, and entropy within the image, per row and head.

        mass_t = sum_{s in image} A(t, s), sinks left out here and in the next two
        target_t = sum_{s in image} coverage_s A(t, s)
        entropy_t = - sum_{s in image} p_s log p_s, p_s = A(t, s) / mass_t, nats, in [0, log V]
        everything_t = the mass with the sinks

    Args:
        sinks: (B, V) bool, see `attention.sinks`.
        keys: (B, Hkv, V, d) of the image tokens, where the rows no longer have those of all positions.
    """
    attention = Map(rows, image.keys(rows) if keys is None else keys)
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


def attention_over_image(rows: Rows, image: ImageTokens, keys: Tensor | None = None) -> Tensor:
    """The attention itself, (B, H, R, V): for the viewer, which shows single tokens. Not for long responses."""
    return some_attention_over_image(rows, image, torch.arange(len(rows), device=rows.q.device), keys)


def some_attention_over_image(rows: Rows, image: ImageTokens, picked: Tensor, keys: Tensor | None = None) -> Tensor:
    """The same of some rows, by a tensor of their indices."""
    attention = Map(rows.picked(picked), image.keys(rows) if keys is None else keys)
    return _block(attention, image, rows.first + picked, 0, len(picked))


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
        (P,) float32. Regions as in `attention.maps.coverage`; overlapping ones add up to at most 1. All 0 when the
        image tokens do not match the grids (a truncated prompt).
    """
    cover = torch.zeros(len(ids))
    places = (ids == image_token).nonzero().squeeze(-1).cpu()
    if not grids or len(places) != sum(rows * columns for rows, columns in grids):
        return cover
    cells = [np.zeros(shape) for shape in grids]
    for region in regions_of(sample.target):
        image = getattr(region, "image", 0)
        if image < len(grids):
            cells[image] += coverage(*grids[image], region)
    cover[places] = torch.from_numpy(np.concatenate([own.ravel() for own in cells])).clamp(max=1.0).float()
    return cover


def batch_coverage(
    ids: Tensor,
    image_token: int,
    cells: Sequence[tuple[int, int]],
    counts: Sequence[int],
    samples: Sequence[Sample],
) -> Tensor:
    """`region_coverage` of (B, P) prompts: (B, P).

    Args:
        cells: (rows, columns) of image tokens of all images, prompt by prompt.
        counts: how many images each prompt has.
    """
    parts, start = [], 0
    for prompt, sample, count in zip(ids, samples, counts, strict=True):
        parts.append(region_coverage(prompt, image_token, cells[start : start + count], sample))
        start += count
    return torch.stack(parts)


def mask_patches(
    pixels: Tensor, grids: Tensor | None, share: float, merge: int, generator: torch.Generator
) -> Tensor:
    """Blank a random share of each image's cells.

    Args:
        pixels: (patches, values), the flat patches of Qwen-VL processors, or (images, channels, height, width).
        grids: (images, 3) long, frames, rows and columns of patches; None for plain images.
        share: of cells that become 0, which is mid-grey after the usual normalization; rounded down per image.
        merge: cells are `merge` x `merge` patches, one token each. For plain images: cells are 14 pixels wide.
        generator: on the CPU.

    Returns:
        A new tensor of the same shape. VPPO (arXiv 2510.09285) masks 50 % of 14-pixel patches.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"credit.params.masked is {share}, must be in [0, 1]")
    if grids is None:
        if pixels.dim() != 4:
            raise UsageError("credit: images of this model cannot be masked patch by patch; choose another strategy")
        height, width = pixels.shape[-2:]
        cells = torch.rand(len(pixels), 1, -(-height // 14), -(-width // 14), generator=generator) >= share
        keep = cells.repeat_interleave(14, -2).repeat_interleave(14, -1)[..., :height, :width]
        return pixels * keep.to(pixels)
    result, start = pixels.clone(), 0
    for frames, rows, columns in grids.tolist():
        count = frames * rows * columns
        size = merge * merge  # patches of one cell follow each other
        order = torch.randperm(count // size, generator=generator)[: int(share * (count // size))]
        blank = torch.zeros(count // size, dtype=torch.bool)
        blank[order] = True
        result[start : start + count][blank.repeat_interleave(size).to(pixels.device)] = 0
        start += count
    return result

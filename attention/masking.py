"""Images with part of their patches blanked, for the strategies that ask what the image contributed."""

from __future__ import annotations

import torch
from torch import Tensor

from grounding.errors import UsageError


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

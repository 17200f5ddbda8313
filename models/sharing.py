"""One pass of the vision tower for every distinct image of a batch.

The rollouts of a group look at the same picture, and several questions may share one, yet a batch carries a copy for
each row and the model encodes every copy. Encoding each distinct image once and handing its features to all its rows
changes nothing in values or gradients but the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

TOWERS = ("visual", "vision_tower")  # their names in transformers' models


class ImageSharing:
    """Hooks on a vision tower that gives its features in the order of the pixels.

    Two kinds are known: `tower(pixels (P, D), grid_thw=(N, 3))`, patches of N images in a row (Qwen-VL), and
    `tower(pixel_values=(N, C, H, W))`, N images or tiles of images, each for itself (InternVL, LLaVA).

    Attributes:
        images: images (or tiles) seen since the hooks were set.
        encoded: of these, how many went through the tower.
    """

    def __init__(self, tower: nn.Module):
        self.images = self.encoded = 0
        self._source: list[int] | None = None
        self._lengths: list[int] = []
        tower.register_forward_pre_hook(self._keep_distinct, with_kwargs=True)
        tower.register_forward_hook(self._hand_out)

    def _keep_distinct(self, tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._source = None
        tensors = {name for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        if tensors - {"grid_thw", "pixel_values"} or len(args) + ("pixel_values" in tensors) != 1:
            return None  # what was made for the whole batch beforehand (positions, lengths) would no longer fit
        pixels = args[0] if args else kwargs["pixel_values"]
        grid = kwargs.get("grid_thw")
        self._lengths = [1] * len(pixels) if grid is None else grid.prod(-1).tolist()
        shapes = [()] * len(pixels) if grid is None else [tuple(row) for row in grid.tolist()]
        pictures = pixels.split(self._lengths)
        source = first_alike(pictures, shapes)
        kept = [index for index, first in enumerate(source) if index == first]
        self.images += len(source)
        self.encoded += len(kept)
        if len(kept) == len(source):
            return None
        self._source = source
        distinct = torch.cat([pictures[index] for index in kept])
        changed = dict(kwargs) if args else {**kwargs, "pixel_values": distinct}
        if grid is not None:
            changed["grid_thw"] = grid[torch.tensor(kept, device=grid.device)]
        return ((distinct,) if args else ()), changed

    def _hand_out(self, tower: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._source is None:
            return None
        return _map_tensors(output, self._expand)

    def _expand(self, features: torch.Tensor) -> torch.Tensor:
        """Features (R, ...) of the distinct images to those of all images; R is a whole part of the patches."""
        kept = [index for index, first in enumerate(self._source) if index == first]
        merged = sum(self._lengths[index] for index in kept) // len(features)  # patches behind one row
        starts, at = {}, 0
        for index in kept:
            starts[index] = at
            at += self._lengths[index] // merged
        rows = [torch.arange(starts[first], starts[first] + self._lengths[first] // merged) for first in self._source]
        return features.index_select(0, torch.cat(rows).to(features.device))


def share_images(model: PreTrainedModel) -> ImageSharing | None:
    """Let `model` encode every distinct image of a batch once; None for models without a tower of a known kind."""
    tower = next((getattr(model.base_model, name, None) for name in TOWERS if hasattr(model.base_model, name)), None)
    return None if tower is None else ImageSharing(tower)


def first_alike(pictures: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """For each picture, the index of the first one with the same shape (of its grid) and the same values."""
    sums = torch.stack([picture.sum() for picture in pictures]).tolist()  # one wait for the device
    candidates: dict[tuple[Any, ...], list[int]] = {}
    source = []
    for index, (shape, total) in enumerate(zip(shapes, sums, strict=True)):
        same = candidates.setdefault((shape, total), [])
        first = next((other for other in same if torch.equal(pictures[other], pictures[index])), index)
        if first == index:
            same.append(index)
        source.append(first)
    return source


def _map_tensors(output: Any, change: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, (list, tuple)):
        return type(output)(_map_tensors(item, change) for item in output)
    if is_dataclass(output):
        values = {field.name: getattr(output, field.name) for field in fields(output)}
        return type(output)(**{name: _map_tensors(value, change) for name, value in values.items()})
    return output

"""One pass of the vision tower for every distinct image of a batch.

The rollouts of a group look at the same picture, and several questions may share one, yet a batch carries a copy for
each row and the model encodes every copy. Encoding each distinct image once and handing its features to all its rows
changes nothing in values or gradients but the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import accumulate, islice
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from grounding.errors import FoveaError

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


@dataclass(frozen=True)
class Pictures:
    """The pictures (or tiles of pictures) of some texts, in their order.

    Attributes:
        parts: of every picture, what there is of it: its pixels, or its features of each level.
        shapes: (time, height, width) in patches where the pixels alone do not say it.
        starts: of each text's pictures, and the end of the last one's.
    """

    parts: tuple[Sequence[torch.Tensor], ...]
    shapes: Sequence[tuple[int, ...]]
    starts: tuple[int, ...]

    @classmethod
    def of_pixels(cls, config: Any, counts: Sequence[int], fields: Mapping[str, Any]) -> Pictures:
        """Give every text the pictures that its image tokens stand for.

        Args:
            config: the model's configuration.
            counts: image tokens of each text.
            fields: `pixel_values` of all texts, and `image_grid_thw` where the processor makes one.

        Raises:
            FoveaError: image tokens that do not fit the pictures.
        """
        pixels, grid = fields.get("pixel_values"), fields.get("image_grid_thw")
        if pixels is None:
            return cls((), (), (0,) * (len(counts) + 1))
        if grid is None:
            parts, shapes, tokens = pixels.split(1), [()] * len(pixels), [config.image_seq_length] * len(pixels)
        else:
            parts, shapes = pixels.split(grid.prod(-1).tolist()), [tuple(row) for row in grid.tolist()]
            tokens = (grid.prod(-1) // config.vision_config.spatial_merge_size**2).tolist()
        return cls((parts,), shapes, _starts(counts, tokens))

    @classmethod
    def of_features(cls, counts: Sequence[int], features: Any) -> Pictures:
        """The same for what the vision tower made of the pictures: transformers' output."""
        pooled = list(features.pooler_output)
        levels = getattr(features, "deepstack_features", None) or ()
        starts = _starts(counts, [len(picture) for picture in pooled])
        return cls((pooled, *levels), [()] * len(pooled), starts)

    def of(self, texts: Sequence[int]) -> list[int]:
        """The indices of the pictures of some texts, in that order."""
        return [index for text in texts for index in range(self.starts[text], self.starts[text + 1])]

    def sources(self, texts: Sequence[int]) -> list[tuple[Any, ...]]:
        """The pictures of some texts, each by the index of the first one that is alike, part by part."""
        chosen = self.of(texts)
        if not chosen:
            return [()] * len(texts)
        shapes = [self.shapes[index] for index in chosen]
        alike = [first_alike([part[index] for index in chosen], shapes) for part in self.parts]
        source = zip(*alike, strict=True)
        return [tuple(islice(source, self.starts[text + 1] - self.starts[text])) for text in texts]


def image_tokens(config: Any, *tables: torch.Tensor) -> list[int]:
    """How many image tokens each text has: row by row of `tables` (B, ...), one after the other within a row."""
    token = getattr(config, "image_token_id", -1)
    return torch.stack([(table == token).sum(1) for table in tables], 1).flatten().tolist()


def _starts(counts: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
    """Where the pictures of each text start, and the last one's end, when they take so many `tokens` each."""
    ends = {end: index + 1 for index, end in enumerate(accumulate(tokens))}
    starts = [{0: 0, **ends}.get(total) for total in accumulate(counts, initial=0)]
    if None in starts or starts[-1] != len(tokens):
        raise FoveaError(
            f"{sum(counts)} image tokens do not fit pictures of {list(tokens)} tokens; was a prompt cut off, or did "
            "the model write an image token?"
        )
    return tuple(starts)


def distinct_prompts(
    ids: torch.Tensor, valid: torch.Tensor, pictures: Sequence[tuple[Any, ...]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows have the same prompt: tokens, padding and pictures.

    Args:
        ids, valid: (B, P) tokens, and non-zero where they are no padding.
        pictures: of each row, equal where they are alike.

    Returns:
        (U,) the first row of each distinct prompt; (B,) the index of each row's prompt among them.
    """
    seen: dict[tuple[Any, ...], int] = {}
    tokens = ids.masked_fill(valid == 0, -1).cpu().numpy()
    group = [seen.setdefault((row.tobytes(), own), len(seen)) for row, own in zip(tokens, pictures, strict=True)]
    first = [group.index(prompt) for prompt in range(len(seen))]
    return torch.tensor(first, device=ids.device), torch.tensor(group, device=ids.device)


def first_alike(pictures: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """For each picture, the index of the first one with the same shape (of its grid) and the same values."""
    # a sample of the rows tells most apart; one wait for the device
    sums = torch.stack([picture[:: max(1, len(picture) // 64)].sum() for picture in pictures]).tolist()
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

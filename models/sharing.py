"""What the rollouts of a group have in common is computed once: pictures, prepared prompts, the prefill.

The rows of a batch repeat their prompts and pictures. Three places compute each distinct one once and hand the result
to all rows that share it:

- `share_images`: the vision tower encodes every distinct picture once.
- `PreparingOnce`: the processor resizes and tokenizes every distinct prompt once.
- `share_prefill`: `generate` runs every distinct prompt once into its cache. There are as many forward passes as
  before. The cache then grows in place (`GrowingLayer`), where transformers copies all of it for every token.

Values and gradients change in nothing but the order of floating-point sums. `models.packing` does the same for a
training pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchFeature, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from attention.text_attention import text_attention
from grounding.errors import FoveaError

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "internvl", "qwen2", "qwen3", "llama")  # compared with the plain pass by tests
TOWERS = ("visual", "vision_tower")  # their names in transformers' models
PER_ROW = frozenset({"input_ids", "attention_mask", "mm_token_type_ids"})  # columns that a processor makes
PIXELS = frozenset({"pixel_values", "image_grid_thw"})
# Another attention function may remember something of every row it read
PREFILL_KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
PREFILL_INPUTS = PER_ROW | PIXELS | {"position_ids", "mm_encoder_outputs", "cache", "past_key_values", "use_cache"}
PREFILL_INPUTS |= {"logits_to_keep", "return_dict"}


@dataclass(frozen=True)
class EncodedPictures:
    """What a vision tower made of distinct pictures.

    Attributes:
        pictures, shapes: their pixels, and their grids where the pixels alone do not say them.
        lengths: of each, rows of its pixels.
        version: PyTorch's count of changes in place to the pixels.
        weights: what the tower was then (`_untrained`); None where it is trained.
        output: the tower's, or None while it is not known.
    """

    pictures: tuple[Tensor, ...]
    shapes: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    version: int
    weights: tuple[int, ...] | None
    output: Any = None

    def find(self, pictures: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int] | None:
        """Of each picture, the index of the one like it; None where one is missing or the pixels have changed."""
        if self.version != self.pictures[0]._version:
            return None
        known = len(self.pictures)
        source = first_alike((*self.pictures, *pictures), (*self.shapes, *shapes))[known:]
        return source if all(index < known for index in source) else None

    def hand_out(self, source: Sequence[int]) -> Any:
        """The output for the pictures of these indices, in this order: an object of its own, callers change it."""
        if [*source] == [*range(len(self.pictures))]:
            return _map_tensors(self.output, lambda features: features)
        return _map_tensors(self.output, lambda features: self._rows(features, source))

    def _rows(self, features: Tensor, source: Sequence[int]) -> Tensor:
        """Rows of features (R, ...); R is a whole part of the pixels' rows."""
        merged = sum(self.lengths) // len(features)  # rows of pixels behind one row
        ends = [end // merged for end in accumulate(self.lengths)]
        rows = [torch.arange(ends[index] - self.lengths[index] // merged, ends[index]) for index in source]
        return features.index_select(0, torch.cat(rows).to(features.device))


class ImageSharing:
    """Hooks on a vision tower that gives its features in the order of the pixels.

    Two kinds are known: `tower(pixels (P, D), grid_thw=(N, 3))`, patches of N images in a row (Qwen-VL), and
    `tower(pixel_values=(N, C, H, W))`, N images or tiles of images, each for itself (InternVL, LLaVA).

    Of a tower that is not trained the last features are kept: those of the rollouts serve the training pass. It then
    encodes one picture instead of all and not none, since under ZeRO-3 all processes have to run it equally often.

    Attributes:
        images: images (or tiles) seen since the hooks were set.
        encoded: of these, how many went through the tower.
    """

    def __init__(self, tower: nn.Module):
        self.images = self.encoded = 0
        self._source: list[int] | None = None
        self._encoded: EncodedPictures | None = None
        tower.register_forward_pre_hook(self._keep_distinct, with_kwargs=True)
        tower.register_forward_hook(self._hand_out)

    def _keep_distinct(self, tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._source = None
        tensors = {name for name, value in kwargs.items() if isinstance(value, Tensor)}
        if tensors - {"grid_thw", "pixel_values"} or len(args) + ("pixel_values" in tensors) != 1:
            self._encoded = None
            return None  # what was made for the whole batch beforehand (positions, lengths) would no longer fit
        pixels = args[0] if args else kwargs["pixel_values"]
        grid = kwargs.get("grid_thw")
        lengths = [1] * len(pixels) if grid is None else grid.prod(-1).tolist()
        shapes = [()] * len(pixels) if grid is None else [tuple(row) for row in grid.tolist()]
        pictures = pixels.split(lengths)
        weights = None if pixels.is_inference() else _untrained(tower)
        self.images += len(pictures)
        known = self._encoded
        if known is not None and known.output is not None and weights is not None and known.weights == weights:
            self._source = known.find(pictures, shapes)
        if self._source is not None:
            kept = [min(range(len(pictures)), key=lengths.__getitem__)]
        else:
            self._encoded = None  # before others are encoded: their memory is free then
            source = first_alike(pictures, shapes)
            kept = [index for index, first in enumerate(source) if index == first]
            place = {index: number for number, index in enumerate(kept)}
            self._source = [place[first] for first in source]
            chosen = [tuple(of[index] for index in kept) for of in (pictures, shapes, lengths)]
            self._encoded = EncodedPictures(*chosen, 0 if weights is None else pixels._version, weights)
        self.encoded += len(kept)
        if len(kept) == len(pictures):
            return None
        distinct = torch.cat([pictures[index] for index in kept])
        changed = dict(kwargs) if args else {**kwargs, "pixel_values": distinct}
        if grid is not None:
            changed["grid_thw"] = grid[torch.tensor(kept, device=grid.device)]
        return ((distinct,) if args else ()), changed

    def _hand_out(self, tower: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        encoded, source = self._encoded, self._source
        if encoded is None or source is None:
            return None
        if encoded.output is None:
            encoded = replace(encoded, output=_map_tensors(output, lambda features: features))
            self._encoded = encoded if encoded.weights is not None else None
        return encoded.hand_out(source)


def _untrained(tower: nn.Module) -> tuple[int, ...] | None:
    """Changes when the weights of a tower do, or how it computes; None where they are trained, or it drops out."""
    state: list[int] = []
    for module in tower.modules():
        if module.training and getattr(module, "p", 0) and isinstance(module, nn.Dropout):
            return None
    for weight in tower.parameters():
        if weight.requires_grad:
            return None
        state += [id(weight), weight._version]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    casts = torch.is_autocast_enabled(device)
    return (*state, casts, hash(torch.get_autocast_dtype(device)) if casts else 0)


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

    parts: tuple[Sequence[Tensor], ...]
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

    def pixels(self, texts: Sequence[int], fields: Mapping[str, Any]) -> dict[str, Tensor]:
        """`fields` as in `of_pixels`, of the pictures of some texts."""
        chosen = self.of(texts)
        made = {"pixel_values": torch.cat([self.parts[0][index] for index in chosen])}
        grid = fields.get("image_grid_thw")
        return made if grid is None else {**made, "image_grid_thw": grid[chosen]}

    def sources(self, texts: Sequence[int]) -> list[tuple[Any, ...]]:
        """The pictures of some texts, each by the index of the first one that is alike, part by part."""
        chosen = self.of(texts)
        if not chosen:
            return [()] * len(texts)
        shapes = [self.shapes[index] for index in chosen]
        alike = [first_alike([part[index] for index in chosen], shapes) for part in self.parts]
        source = zip(*alike, strict=True)
        return [tuple(islice(source, self.starts[text + 1] - self.starts[text])) for text in texts]


def image_tokens(config: Any, *tables: Tensor) -> list[int]:
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


def distinct_prompts(ids: Tensor, valid: Tensor, pictures: Sequence[tuple[Any, ...]]) -> tuple[Tensor, Tensor]:
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


def first_alike(pictures: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
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
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, (list, tuple)):
        return type(output)(_map_tensors(item, change) for item in output)
    if is_dataclass(output):
        values = {field.name: getattr(output, field.name) for field in fields(output)}
        return type(output)(**{name: _map_tensors(value, change) for name, value in values.items()})
    return output


class PreparingOnce:
    """Stands for a processor, and prepares every distinct prompt of a call once; everything else is the processor's.

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
        if prepared.keys() - PER_ROW - PIXELS:
            return prepare(range(len(rows)))  # what else there is cannot be handed out
        return BatchFeature(self._hand_out(prepared, group))

    def _hand_out(self, prepared: Mapping[str, Any], group: Sequence[int]) -> dict[str, Any]:
        """What was made of distinct prompts, row by row of the batch."""
        output = {name: _rows(value, group) for name, value in prepared.items() if name in PER_ROW}
        if "pixel_values" not in prepared:
            return output
        fields = {name: _tensor(prepared[name]) for name in PIXELS if name in prepared}
        token = self._config.image_token_id
        counts = [int((np.asarray(ids) == token).sum()) for ids in prepared["input_ids"]]
        return {**output, **Pictures.of_pixels(self._config, counts, fields).pixels(group, fields)}


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


class GrowingLayer(DynamicLayer):
    """Keys and values (B, H, T, d): the beginning of a larger tensor, so that a new token is written behind them."""

    SPARE = 64  # tokens

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self._fits(key_states, after):
            shape = (*key_states.shape[:-2], after + max(self.SPARE, before // 8))
            self._room = (
                key_states.new_empty((*shape, key_states.shape[-1])),
                value_states.new_empty((*shape, value_states.shape[-1])),
            )
            if before:
                self._room[0][..., :before, :], self._room[1][..., :before, :] = self.keys, self.values
        keys, values = self._room
        keys[..., before:after, :], values[..., before:after, :] = key_states, value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def _fits(self, states: Tensor, length: int) -> bool:
        """Whether the tensor has room, and still is the one that the cache shows: choosing rows makes another."""
        room = self._room and self._room[0]
        return room is not None and len(room) == len(states) and room.shape[-2] >= length and self._is_in(room)

    def _is_in(self, room: Tensor) -> bool:
        return self.keys.data_ptr() == room.data_ptr() and self.keys.stride() == room.stride()


def grow_in_place(cache: DynamicCache) -> None:
    """Make an empty cache grow in place; layers that are not plain (sliding windows, states) stay as they are."""
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer


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
        if ids is None or not isinstance(cache, DynamicCache) or cache.get_seq_length():
            return None
        if not torch.is_grad_enabled():
            grow_in_place(cache)
        if min(ids.shape) < 2:
            return None
        features = given.get("mm_encoder_outputs") or {}
        known = given.keys() <= PREFILL_INPUTS and features.keys() <= {"image"}
        if args or not known or not text_attention(model).endswith(PREFILL_KERNELS):
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
        changed = {name: given[name] for name in (*PER_ROW, "position_ids") if name in given}
        for (
            name,
            table,
        ) in changed.items():  # (B, P) or (axes, B, P); positions that all rows share have none to choose
            changed[name] = table.index_select(-2, first) if table.shape[-2] == len(ids) else table
        if features:
            chosen = pictures.of(first.tolist())
            changed["mm_encoder_outputs"] = {"image": _features(features["image"], chosen)}
        elif "pixel_values" in given:
            changed |= pictures.pixels(first.tolist(), given)
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


def _features(features: Any, chosen: list[int]) -> Any:
    """Those of some pictures."""
    changed = {"pooler_output": _pick(features.pooler_output, chosen)}
    if getattr(features, "deepstack_features", None):
        changed["deepstack_features"] = [_pick(level, chosen) for level in features.deepstack_features]
    return type(features)(**changed)


def _pick(pictures: Any, chosen: list[int]) -> Any:
    return pictures[chosen] if isinstance(pictures, Tensor) else [pictures[index] for index in chosen]

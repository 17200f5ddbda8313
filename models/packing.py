"""One pass over a batch of rollouts that computes every distinct prompt once, exactly.

The B rows [prompt | completion] of a batch hold U distinct prompts. They are run as one packed row

    [prefix 0] .. [prefix U-1] [row 0] .. [row B-1]

where a *prefix* is a prompt without its last token, and a *row* that last token and the completion: T + 1 tokens, of
which the first predicts the completion's first. Padding is left out. Only attention has to know: prefixes are causal
among themselves, and a row's queries look at the keys of its prompt and its own, gathered into the N columns of the
batch. Both are calls of the attention function the model had, so masks and kernels stay the ordinary ones. Positions
are those of the batch, by the model's own rule. Log-probabilities and gradients are those of the plain pass, except
for the order of floating-point sums; dropout draws one mask per prompt instead of one per row.

The packed row holds at most U (P - 1) + B (T + 1) tokens where the batch had B (P + T).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from attention.text_attention import (
    attention_function,
    attention_modules,
    pretrained,
    set_text_attention,
    text_attention,
)
from grounding.errors import FoveaError
from models.sharing import FAMILIES, Pictures, distinct_prompts, image_tokens

PREFIX = "shared_"
KERNELS = ("sdpa", "eager")
FIELDS = frozenset({"pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images", "num_tiles"})


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch stand in the packed row of L tokens.

    Attributes:
        prefixes: (U, P - 1) place of each prefix column; padding points at some token.
        rows: (B, T + 1) place of each row's tokens; padding points at the row's first.
        keys: (B, N) place of each column of the batch.
        packed_prefixes, packed_rows: which flat places of (U, P - 1) and of (B, T + 1) are tokens, in packed order.
        prefix_mask, row_mask: attention masks in the form the model's attention function takes.
    """

    prefixes: Tensor
    rows: Tensor
    keys: Tensor
    packed_prefixes: Tensor
    packed_rows: Tensor
    prefix_mask: Any
    row_mask: Any

    def pack(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        """(..., U, P - 1) and (..., B, T + 1) -> (..., 1, L)."""
        parts = (prefixes.flatten(-2)[..., self.packed_prefixes], rows.flatten(-2)[..., self.packed_rows])
        return torch.cat(parts, -1).unsqueeze(-2)

    def pack_states(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        """(U, P - 1, H, d) and (B, T + 1, H, d) -> (1, L, H, d)."""
        parts = (
            prefixes.flatten(0, 1).index_select(0, self.packed_prefixes),
            rows.flatten(0, 1).index_select(0, self.packed_rows),
        )
        return torch.cat(parts).unsqueeze(0)


@dataclass(frozen=True)
class Packed:
    """A batch ready to be run.

    Attributes:
        inputs: keyword arguments of the model's forward pass, with labels already shifted.
        places: (B, T) place in the packed row of the token that predicts each completion token.
        mask: (B, T) bool, completion tokens.
    """

    inputs: dict[str, Any]
    places: Tensor
    mask: Tensor

    def unpack(self, values: Tensor) -> Tensor:
        """(1, L) values per packed token -> (B, T), 0 in the padding."""
        return torch.where(self.mask, values[0][self.places], 0.0)


def why_not(model: nn.Module) -> str | None:
    """Why the passes over `model` cannot share prompts; None when they can."""
    config = pretrained(model).config
    text = config.get_text_config()
    kernel = text_attention(pretrained(model))
    peft = getattr(model, "active_peft_config", None)
    if getattr(peft, "is_prompt_learning", False):
        return "a prompt-learning adapter puts tokens before every row"
    if len(attention_modules(pretrained(model))) != text.num_hidden_layers:
        return f"{config.model_type} has layers without softmax attention"
    if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
        return f"{config.model_type} has layers with a sliding window"
    for name in (config.model_type, text.model_type.removesuffix("_text")):
        if name not in FAMILIES:
            return f"{name} has not been compared with the plain pass (known: {', '.join(FAMILIES)})"
    if kernel not in KERNELS:
        return f"{kernel} has not been compared with the plain pass; set model.attn_implementation to sdpa"
    return None


def share_prompts(model: PreTrainedModel) -> None:
    """Let `model` understand packed rows; passes without a layout run as before. May be called again.

    To be called after everything else that sets the model's attention, so that it is the outermost function.
    """
    kernel = text_attention(model)
    if not kernel.startswith(PREFIX):
        _register(kernel)
        set_text_attention(model, PREFIX + kernel)


def pack(
    model: nn.Module,
    ids: Tensor,
    valid: Tensor,
    keep: int,
    *,
    fields: Mapping[str, Any],
    part: range | None = None,
) -> Packed:
    """A batch as TRL hands it to a pass over it, or a part of its rows.

    Args:
        model: wrapped or not; `share_prompts` has been called on it.
        ids, valid: (B, N) tokens, and the attention mask: left-padded prompts, right-padded completions.
        keep: T, tokens of a completion.
        fields: what the processor made besides: `pixel_values` and `image_grid_thw` of all pictures, row by row,
            `mm_token_type_ids` (B, N). Pictures may stand in completions too.
        part: rows to run, all by default.

    Raises:
        FoveaError: the model's attention function was replaced, or a field is not known.
    """
    inner = pretrained(model)
    kernel = text_attention(inner)
    if not kernel.startswith(PREFIX):
        raise FoveaError(f"{type(inner).__name__}: its attention was set to {kernel} after prompts were shared")
    unknown = [name for name, value in fields.items() if value is not None and name not in FIELDS]
    if unknown:
        raise FoveaError(f"shared prompts: inputs {', '.join(unknown)} of {type(inner).__name__} are not known")
    part = range(len(ids)) if part is None else part
    # texts 2 b and 2 b + 1 are the prompt and the completion of row b
    pictures = Pictures.of_pixels(inner.config, image_tokens(inner.config, ids[:, :-keep], ids[:, -keep:]), fields)
    ids, valid = ids[part.start : part.stop], valid[part.start : part.stop].bool()
    first, group = distinct_prompts(ids[:, :-keep], valid[:, :-keep], pictures.sources([2 * row for row in part]))
    batch = _Batch(ids, valid, keep, first, group)
    shown = [2 * part[row] for row in first.tolist()]
    grid = fields.get("image_grid_thw")
    layout = batch.layout(inner, kernel.removeprefix(PREFIX))

    labels = torch.nn.functional.pad(ids[:, -keep:].masked_fill(~valid[:, -keep:], -100), (0, 1), value=-100)
    if grid is None or fields.get("mm_token_type_ids") is None:
        positions = batch.columns()
    else:
        kinds = fields["mm_token_type_ids"][part.start : part.stop]
        grids = grid[pictures.of(shown)], grid[pictures.of(range(2 * part.start, 2 * part.stop))]
        positions = batch.rope(inner.base_model.get_rope_index, kinds, *grids)
    inputs = {
        "input_ids": layout.pack(batch.prefixes(ids), batch.rows(ids)),
        "position_ids": layout.pack(*positions),
        "shift_labels": layout.pack(torch.full_like(batch.prefixes(ids), -100), labels),
        # four axes: transformers takes it for a finished mask and makes none of L x L
        "attention_mask": torch.ones(1, 1, 1, 1, device=ids.device),
        "shared": layout,
    }
    chosen = pictures.of(shown + [2 * row + 1 for row in part])
    if chosen:
        inputs["pixel_values"] = torch.cat([pictures.parts[0][index] for index in chosen])
        if grid is not None:
            inputs["image_grid_thw"] = grid[chosen]
    return Packed(inputs, layout.rows[:, :-1], valid[:, -keep:])


@dataclass(frozen=True)
class _Batch:
    """(B, N) tokens and attention mask, T, the first row of each distinct prompt (U,), and each row's prompt (B,)."""

    ids: Tensor
    valid: Tensor
    keep: int
    first: Tensor
    group: Tensor

    @property
    def begin(self) -> int:
        """P - 1, the column where rows begin."""
        return self.ids.shape[1] - self.keep - 1

    def prefixes(self, table: Tensor) -> Tensor:
        """(..., B, N) -> (..., U, P - 1)."""
        return table[..., self.first, : self.begin]

    def rows(self, table: Tensor) -> Tensor:
        """(..., B, N) -> (..., B, T + 1)."""
        return table[..., self.begin :]

    def layout(self, model: PreTrainedModel, kernel: str) -> Layout:
        prefix_valid, row_valid = self.prefixes(self.valid), self.rows(self.valid)
        packed_prefixes = prefix_valid.flatten().nonzero()[:, 0]
        packed_rows = row_valid.flatten().nonzero()[:, 0]
        prefixes = _places(packed_prefixes, prefix_valid.shape, 0)
        rows = _places(packed_rows, row_valid.shape, len(packed_prefixes))
        rows = torch.where(row_valid, rows, rows[:, :1])
        mask = functools.partial(
            ALL_MASK_ATTENTION_FUNCTIONS[kernel],
            mask_function=causal_mask_function,
            config=model.config.get_text_config(),
            dtype=model.dtype,
            device=self.ids.device,
        )
        (count, length), begin = self.ids.shape, self.begin
        return Layout(
            prefixes,
            rows,
            torch.cat([prefixes[self.group], rows], 1),
            packed_prefixes,
            packed_rows,
            mask(batch_size=len(self.first), q_length=begin, kv_length=begin, attention_mask=prefix_valid),
            mask(
                batch_size=count, q_length=length - begin, kv_length=length, q_offset=begin, attention_mask=self.valid
            ),
        )

    def columns(self) -> tuple[Tensor, Tensor]:
        """Positions of prefixes and rows, (U, P - 1) and (B, T + 1), as transformers counts without pictures:
        columns, padding and all."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device).expand(self.ids.shape)
        return self.prefixes(columns), self.rows(columns)

    def rope(self, rule: Any, kinds: Tensor, prompt_grids: Tensor, all_grids: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the three axes of Qwen-VL, (3, U, P - 1) and (3, B, T + 1), by the model's own `rule`.

        Args:
            kinds: (B, N) 1 for image tokens.
            prompt_grids, all_grids: of the pictures in the distinct prompts, and in all rows.
        """
        if kinds[:, -self.keep :].any():  # pictures in completions
            whole, _ = rule(self.ids, kinds, image_grid_thw=all_grids, attention_mask=self.valid)
            return self.prefixes(whole), self.rows(whole)
        ids, kinds, valid = (table[self.first, : -self.keep] for table in (self.ids, kinds, self.valid))
        prompts, _ = rule(ids, kinds, image_grid_thw=prompt_grids, attention_mask=valid)
        last = prompts[:, self.group, -1:]
        return prompts[:, :, :-1], torch.cat([last, last + self.valid[:, -self.keep :].cumsum(1)], 2)


def _places(packed: Tensor, shape: torch.Size, start: int) -> Tensor:
    """The place in the packed row of everything in a table of this shape, 0 for what is left out."""
    places = packed.new_zeros(shape.numel())
    places[packed] = torch.arange(start, start + len(packed), device=packed.device)
    return places.view(shape)


def _register(kernel: str) -> None:
    """Register `shared_<kernel>`, which computes packed rows with `kernel`, and everything else as `kernel` does."""

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        shared: Layout | None = kwargs.pop("shared", None)
        inner = attention_function(kernel, module)
        if shared is None:
            return inner(module, query, key, value, attention_mask, **kwargs)
        kwargs.pop("position_ids", None)  # of the packed row
        states = [take(state, shared.prefixes) for state in (query, key, value)]
        prefixes, _ = inner(module, *states, shared.prefix_mask, **kwargs)
        states = [take(query, shared.rows), take(key, shared.keys), take(value, shared.keys)]
        rows, _ = inner(module, *states, shared.row_mask, **kwargs)
        return shared.pack_states(prefixes, rows), None

    AttentionInterface.register(PREFIX + kernel, attention)
    AttentionMaskInterface.register(PREFIX + kernel, ALL_MASK_ATTENTION_FUNCTIONS[kernel])


def take(states: Tensor, places: Tensor) -> Tensor:
    """(1, H, L, d) at `places` (n, m) -> (n, H, m, d)."""
    chosen = states[0].index_select(1, places.flatten())
    return chosen.unflatten(1, places.shape).transpose(0, 1)

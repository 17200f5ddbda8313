"""Where the policy looked while it wrote: one grid over the image per response, for rewards that read it.

attention:                     # a section of a grpo stage, for rewards on attention
  rows: answer                 # who looks: answer (the tokens of its coordinates) | thought | response
  layers: middle               # five in the middle third, or a list of layer indices
  image_share: 0.2             # of the captured heads: those with most attention on the image
  refresh: 0                   # choose heads again every so many batches of rollouts; 0 means once
  sink_ratio: 8.0              # an image token with so many times the average attention, always, is a sink
  query: Write a general description of the image.   # what the contrast divides by

The attention of a token is that of the row that predicted it. Only rows that are asked for are computed, and of these
only their image columns: nothing of size N x N, nor rows x N, exists.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attention.capture import AttentionCapture, LayerRows, middle_layers, pretrained
from attention.gather import mean_over_rows
from attention.heads import HeadSelection, HeadStats, select_heads
from attention.response import TextReader, answer_and_thought, decoder_of
from attention.visual import (
    ImageTokens,
    image_attention,
    image_cells,
    image_columns,
    image_map,
    merge_size,
    sink_votes,
)
from grounding.answer import ImageSize
from grounding.errors import FoveaError, UsageError
from grounding.registry import nearest

ROWS = ("answer", "thought", "response")


@dataclass(frozen=True)
class MapConfig:
    """See the module's docstring; `from_mapping` reads and checks a recipe's mapping."""

    rows: str = "answer"
    layers: str | tuple[int, ...] = "middle"
    image_share: float = 0.2
    refresh: int = 0
    sink_ratio: float = 8.0
    query: str = "Write a general description of the image."

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise UsageError(f"attention.rows is {self.rows!r}, must be one of {', '.join(ROWS)}")
        if isinstance(self.layers, str) and self.layers != "middle":
            raise UsageError(f"attention.layers is {self.layers!r}, must be 'middle' or a list of layer indices")
        if not 0 < self.image_share <= 1:
            raise UsageError(f"attention.image_share is {self.image_share}, must be in (0, 1]")
        if self.refresh < 0 or self.sink_ratio <= 1:
            raise UsageError("attention: refresh must be at least 0, and sink_ratio more than 1")
        if not isinstance(self.query, str) or not self.query.strip():
            raise UsageError("attention.query is empty")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> MapConfig:
        """Read a recipe's mapping.

        Raises:
            UsageError: naming an unknown key (with the nearest valid one) or a value out of range.
        """
        values = dict(mapping)
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise UsageError(f"attention: unknown key {key!r}{nearest(key, known)}")
        if "layers" in values and not isinstance(values["layers"], str):
            values["layers"] = tuple(values["layers"])
        return cls(**values)

    def layers_of(self, model_config: Any) -> tuple[int, ...]:
        """The layer indices, in a model of this transformers configuration."""
        if self.layers == "middle":
            return middle_layers(model_config.get_text_config().num_hidden_layers)
        return tuple(self.layers)


class CapturedMaps:
    """What one captured pass showed; filled when `AttentionMaps.capturing` is left.

    Attributes:
        image: where the image tokens stand.
        values: (B, V) attention on each of them, mean over the image-reading heads.
        sinks: (B, V) bool; None when it was not asked for.
    """

    def __init__(self, image: ImageTokens, weights: Tensor, mask: Tensor | None, ratio: float):
        self.image = image
        self.values = torch.zeros(image.present.shape, device=image.present.device)
        self.sinks: Tensor | None = None
        self._weights, self._mask, self._ratio = weights, mask, ratio
        self._votes = torch.zeros_like(self.values)
        self._kept: list[tuple[int, int, Tensor, Tensor, Tensor]] = []  # layer, start, maps, votes, mass

    def add(self, shown: LayerRows, heads: HeadSelection | None) -> None:
        """Take a layer: of the heads in their role, or of all heads where roles are still to be given."""
        if not len(self.image):
            return
        part = slice(shown.start, shown.start + len(shown.rows.q))
        image = ImageTokens(self.image.columns[part], self.image.present[part], self.image.coverage[part])
        weights = self._weights[part]
        rows = shown.rows.part(0, weights.shape[1])
        if heads is not None:
            chosen = heads.of("image", shown.layer)
            if not chosen:
                return
            rows = rows.of(chosen)
        maps = image_map(rows, image, weights)
        votes = None if self._mask is None else sink_votes(rows, image, self._mask[part], self._ratio)
        if heads is not None:
            self._sum(part, maps, votes)
            return
        mass = mean_over_rows(image_attention(rows, image).mass, self._mask[part])
        self._kept.append((shown.layer, shown.start, maps, votes, mass))

    def measure(self, stats: HeadStats) -> None:
        """Add the image mass of all heads, where roles are still to be given."""
        for layer, _, _, _, mass in self._kept:
            stats.add("image_mass", layer, mass)

    def settle(self, heads: HeadSelection) -> None:
        """The mean over the heads; to be called once."""
        for layer, start, maps, votes, _ in self._kept:
            chosen = heads.of("image", layer)
            self._sum(slice(start, start + len(maps)), maps[:, chosen], votes[:, chosen])
        self._kept.clear()
        self.values /= heads.count("image")
        if self._mask is not None:
            self.sinks = (self._votes >= 0.5 * heads.count("image")) & self.image.present

    def _sum(self, part: slice, maps: Tensor, votes: Tensor | None) -> None:
        self.values = self.values.to(maps.dtype)
        self.values[part] += maps.sum(1)
        if votes is not None:
            self._votes[part] += votes.sum(1)


class AttentionMaps:
    """Grids of attention on the image, out of forward passes somebody else makes.

    Args:
        config: the recipe's `attention:` mapping.
        model: the policy, wrapped or not.
        processor: the policy's processor.
        dialect, grammar: how it answers, to find the tokens whose rows are wanted.

    Raises:
        UsageError: layers that cannot be captured, or a model without image tokens.
    """

    def __init__(
        self,
        config: MapConfig | Mapping[str, Any],
        model: nn.Module,
        processor: Any,
        dialect: Any = None,
        grammar: str = "think",
    ):
        self.config = config if isinstance(config, MapConfig) else MapConfig.from_mapping(config)
        base = pretrained(model).config
        self._image_token = getattr(base, "image_token_id", None)
        if self._image_token is None:
            raise UsageError(f"attention: {type(pretrained(model)).__name__} has no image tokens to look at")
        if dialect is None and self.config.rows != "response":
            raise UsageError(f"attention.rows: {self.config.rows!r} reads the text and needs the dialect")
        self._capture = AttentionCapture(model, self.config.layers_of(base), "attention")
        self._heads_per_layer = base.get_text_config().num_attention_heads
        self._merge = merge_size(processor)

        def read(text: str, sizes: Sequence[ImageSize]) -> Any:
            return dialect.parse(text, sizes, grammar=grammar)

        self._reader = TextReader(decoder_of(model, processor, grammar), read, read)
        self.heads: HeadSelection | None = None
        self.seconds = 0.0  # that the last captured pass took beyond the model's own time
        self._passes = 0

    def state(self) -> dict[str, Any]:
        """The heads chosen so far and the number of passes, in plain JSON types."""
        return {"passes": self._passes, "heads": None if self.heads is None else self.heads.encode()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Raises `UsageError` where it speaks of other layers or heads."""
        self._passes = state["passes"]
        if state["heads"] is not None:
            found = HeadSelection.decode(state["heads"], "the checkpoint")
            found.check(self._capture.layers, self._heads_per_layer, "the checkpoint")
            self.heads = found

    def row_weights(self, ids: Tensor, mask: Tensor, sizes: Sequence[Sequence[ImageSize]]) -> Tensor:
        """How much each token's row counts in its response's map: (B, T) float on the device of `ids`, 1 in sum, or
        all 0 where there is no such token (an answer that cannot be read).

        Args:
            ids: (B, T) response tokens.
            mask: (B, T) non-zero for tokens.
            sizes: of the images, response by response.
        """
        wanted = mask.bool()
        if self.config.rows != "response":
            chosen = torch.zeros(ids.shape, dtype=torch.bool)
            own = mask.bool().cpu()
            for index, tokens in enumerate(ids.cpu()):
                answer, thought = answer_and_thought(self._reader, tokens[own[index]].tolist(), sizes[index])
                chosen[index, own[index]] = torch.tensor(answer if self.config.rows == "answer" else thought)
            wanted = chosen.to(ids.device)
        return wanted.float() / wanted.sum(-1, keepdim=True).clamp(min=1)

    @contextmanager
    def capturing(
        self, ids: Tensor, valid: Tensor, weights: Tensor, mask: Tensor | None = None, first: int | None = None
    ) -> Iterator[CapturedMaps]:
        """Around one forward pass over the whole batch, in groups or not, without cache.

        Args:
            ids: (B, N) tokens.
            valid: (B, N) attention mask.
            weights: (B, R) how much each row counts.
            mask: (B, R) bool, the response's rows: heads are chosen and sinks found by them. Without it, no sinks,
                and heads must be known.
            first: position of row 0; by default R rows that predicted the last R tokens.

        Raises:
            FoveaError: on leaving, when the model did not show what was expected of it.
        """
        first = ids.shape[1] - weights.shape[1] - 1 if first is None else first
        columns, present = image_columns(ids, valid, self._image_token)
        look = CapturedMaps(
            ImageTokens(columns, present, torch.zeros(present.shape)), weights, mask, self.config.sink_ratio
        )
        refresh = self.config.refresh
        stale = refresh > 0 and self._passes > 0 and self._passes % refresh == 0
        again = mask is not None and (self.heads is None or stale)
        if self.heads is None and mask is None:
            raise RuntimeError("heads are chosen on responses: capture a pass with a mask first")
        heads = None if again else self.heads
        self.seconds = 0.0

        def consume(shown: LayerRows) -> None:
            started = time.perf_counter()
            look.add(shown, heads)
            self.seconds += time.perf_counter() - started

        with self._capture.open(valid, first, consume):
            yield look
        started = time.perf_counter()
        if again:
            stats = HeadStats(self._capture.layers, self._heads_per_layer)
            look.measure(stats)
            means = stats.means(ids.device)
            heads = select_heads(means, self._capture.layers, image_share=self.config.image_share)
            if means["image_mass"].isfinite().any():
                self.heads = heads
        if mask is not None:
            self._passes += 1
        look.settle(heads)
        self.seconds += time.perf_counter() - started

    def grids(
        self, look: CapturedMaps, grids: Tensor, images: Sequence[int], wanted: Sequence[int], names: Sequence[str]
    ) -> list[tuple[np.ndarray, np.ndarray | None] | None]:
        """A look as grids: (attention, sinks) of one image per response, (rows, columns) each; None without an image.

        Args:
            grids: (images of the batch, 3) frames, rows and columns of patches.
            images: how many of them belong to each response.
            wanted: which of its images.
            names: of the samples, for messages.

        Raises:
            FoveaError: a prompt whose image tokens do not fit its images.
        """
        cells = image_cells(grids, self._merge)
        values, present = look.values.double().cpu().numpy(), look.image.present.cpu().numpy()
        sinks = None if look.sinks is None else look.sinks.cpu().numpy()
        found: list[tuple[np.ndarray, np.ndarray | None] | None] = []
        start = 0
        for index, count in enumerate(images):
            own = cells[start : start + count]
            start += count
            if not count:
                found.append(None)
                continue
            lengths = [rows * columns for rows, columns in own]
            if present[index].sum() != sum(lengths):
                raise FoveaError(
                    f"attention: the prompt of sample {names[index]!r} holds {present[index].sum()} image tokens, "
                    f"its images have {sum(lengths)} cells; was the prompt cut off?"
                )
            begin, shape = sum(lengths[: wanted[index]]), own[wanted[index]]
            part = slice(begin, begin + lengths[wanted[index]])
            found.append(
                (values[index, part].reshape(shape), None if sinks is None else sinks[index, part].reshape(shape))
            )
        return found

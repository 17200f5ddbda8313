"""From captured layers to the attention fields of `Signals`, for one batch of responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from attention.capture import LayerRows
from attention.heads import HeadSelection, HeadStats
from attention.signals import Rows, fai, kurtosis, mean_distance, sentence_influence, sentence_map, waad
from attention.visual import ImageTokens, image_attention, image_columns, visual_sinks

IMAGE_FIELDS = frozenset({"image_mass", "target_mass", "image_entropy", "text_mass"})
ATTENTION_FIELDS = IMAGE_FIELDS | {"waad", "fai", "sentence"}


class SignalOptions(Protocol):
    """How signals are computed; the part of `credit.config.CreditConfig` that is read here."""

    @property
    def window(self) -> int: ...
    @property
    def horizon(self) -> tuple[int, int | None]: ...
    @property
    def tail(self) -> str: ...
    @property
    def sentence_skip(self) -> int: ...
    @property
    def sink_ratio(self) -> float: ...


@dataclass(frozen=True)
class ResponseBatch:
    """The part of TRL's inputs that credit looks at.

    Attributes:
        valid: (B, N) bool, prompt and response without padding.
        mask: (B, T) bool, response tokens that are scored (no padding, no tool results).
        prompt: P, so that N = P + T.
        image: the image tokens.
        sentences: (B, T) long, index of each token's sentence, -1 for none.
    """

    valid: Tensor
    mask: Tensor
    prompt: int
    image: ImageTokens
    sentences: Tensor

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any], image_token: int | None) -> ResponseBatch:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        valid = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1).bool()
        mask = inputs["completion_mask"].bool()
        if "tool_mask" in inputs:
            mask = mask & inputs["tool_mask"].bool()
        prompt = inputs["prompt_ids"].shape[1]
        columns, present = image_columns(ids, valid, image_token)
        cover = inputs.get("credit_coverage")
        if cover is None:
            cover = torch.zeros(inputs["prompt_ids"].shape, device=ids.device)
        cover = torch.nn.functional.pad(cover, (0, ids.shape[1] - prompt)).to(ids.device)
        sentences = inputs.get("credit_sentence")
        if sentences is None:
            sentences = torch.full_like(inputs["completion_ids"], -1)
        tokens = ImageTokens(columns, present, cover.gather(1, columns))
        return cls(valid, mask, prompt, tokens, sentences.to(ids.device))

    def group(self, start: int, count: int) -> ResponseBatch:
        """Responses start .. start + count - 1."""
        part = slice(start, start + count)
        image = ImageTokens(self.image.columns[part], self.image.present[part], self.image.coverage[part])
        return ResponseBatch(self.valid[part], self.mask[part], self.prompt, image, self.sentences[part])


def prompt_and_response(inputs: Mapping[str, Any], ids: Tensor, valid: Tensor) -> dict[str, Any]:
    """A model's inputs for prompts with their responses behind them.

    Args:
        inputs: the processor's output for B prompts.
        ids: (B, T) responses.
        valid: (B, P + T) attention mask.
    """
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], ids], 1), "attention_mask": valid.long()}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1)
    return whole


class Gatherer:
    """Consumer of one forward pass.

    With heads known, each layer's signals are computed the moment it is captured and nothing else is kept. Without,
    the captured rows are kept until `measure` and `settle` have chosen heads.

    Rows are taken from one position before the response: WAAD, FAI and sentences read a token's own row (as
    published), image signals the row that *predicted* the token, since that is where the model looked to write it.
    """

    def __init__(
        self, config: SignalOptions, needs: frozenset[str], batch: ResponseBatch, heads: HeadSelection | None
    ):
        self._config = config
        self._needs = needs
        self._batch = batch
        self._heads = heads
        self._kept: list[LayerRows] = []
        self._sums: dict[str, Tensor] = {}
        self._sinks: Tensor | None = None
        self.broken = torch.zeros(len(batch.mask), dtype=torch.bool, device=batch.mask.device)

    def consume(self, shown: LayerRows) -> None:
        part = slice(shown.start, shown.start + len(shown.rows.q))
        finite = shown.rows.lse.isfinite().all(1)  # (b, R)
        self.broken[part] |= (~finite[:, 1:] & self._batch.mask[part]).any(-1)
        if self._heads is None:
            self._kept.append(shown)
        else:
            self._add(shown, self._heads)

    @property
    def waiting(self) -> bool:
        """Whether `measure` and `settle` are still to come."""
        return self._heads is None

    def measure(self, stats: HeadStats) -> None:
        """Add the kept layers' distances, image mass and kurtosis to the running means of all heads."""
        for shown in self._kept:
            batch = self._batch.group(shown.start, len(shown.rows.q))
            own, before = shown.rows.part(1, len(shown.rows)), shown.rows.part(0, len(shown.rows) - 1)
            for name, keys in (("distance", "all"), ("response_distance", "response")):
                stats.add(name, shown.layer, mean_distance(own, batch.valid, batch.mask, keys))
            if len(batch.image):
                looking = image_attention(before, batch.image).mass
                stats.add("image_mass", shown.layer, mean_over_rows(looking, batch.mask))
            if "sentence" in self._needs and (number := int(batch.sentences.max()) + 1):
                maps = sentence_map(own, batch.sentences, number)
                influence = sentence_influence(maps, batch.sentences, self._config.sentence_skip)
                stats.add("kurtosis", shown.layer, kurtosis(influence))

    def settle(self, heads: HeadSelection) -> None:
        """Compute what was kept."""
        self._heads = heads
        for shown in self._kept:
            self._add(shown, heads)
        self._kept.clear()

    def result(self) -> dict[str, Tensor]:
        """The fields of `Signals` asked for, (B, T) float32, means over the heads of each role."""
        if self._heads is None:
            raise RuntimeError("heads are not settled")
        role = {"waad": "local", "fai": "global", "sentence": "receiver"}
        fields = {}
        for name, total in self._sums.items():
            fields[name] = (total / self._heads.count(role.get(name, "image"))).float()
        if "fai" in fields:
            fields["fai"] = _tail(fields["fai"], self._batch.mask, self._config.tail)
        return fields

    def _add(self, shown: LayerRows, heads: HeadSelection) -> None:
        config, rows = self._config, shown.rows
        batch = self._batch.group(shown.start, len(rows.q))
        own, before = rows.part(1, len(rows)), rows.part(0, len(rows) - 1)
        if "waad" in self._needs and (chosen := heads.of("local", shown.layer)):
            self._accumulate("waad", shown.start, waad(own.of(chosen), batch.valid, config.window))
        if "fai" in self._needs and (chosen := heads.of("global", shown.layer)):
            self._accumulate("fai", shown.start, fai(own.of(chosen), batch.mask, *config.horizon))
        if "sentence" in self._needs and (chosen := heads.of("receiver", shown.layer)):
            self._accumulate("sentence", shown.start, self._influence(own.of(chosen), batch.sentences))
        if self._needs & IMAGE_FIELDS and (chosen := heads.of("image", shown.layer)):
            self._add_image(shown.start, before.of(chosen), batch)

    def _add_image(self, start: int, rows: Rows, batch: ResponseBatch) -> None:
        if len(batch.image):
            sinks = visual_sinks(rows, batch.image, batch.mask, self._config.sink_ratio)
            looking = image_attention(rows, batch.image, sinks)
            values = (looking.mass, looking.target, looking.entropy, 1.0 - looking.everything)
        else:
            values = (torch.full_like(rows.lse, torch.nan),) * 4  # no image, no score
        for name, value in zip(("image_mass", "target_mass", "image_entropy", "text_mass"), values, strict=True):
            self._accumulate(name, start, value)

    def _influence(self, rows: Rows, sentences: Tensor) -> Tensor:
        """(B, H, T) influence of each token's sentence, NaN for none."""
        number = int(sentences.max()) + 1
        if not number:
            return torch.full_like(rows.lse, torch.nan)
        influence = sentence_influence(sentence_map(rows, sentences, number), sentences, self._config.sentence_skip)
        index = sentences.clamp(min=0).unsqueeze(1).expand(-1, influence.shape[1], -1)
        return torch.where(sentences.unsqueeze(1) >= 0, influence.gather(2, index), torch.nan)

    def _accumulate(self, name: str, start: int, values: Tensor) -> None:
        """Add (b, h, T) summed over heads."""
        if name not in self._sums:
            self._sums[name] = torch.zeros(self._batch.mask.shape, dtype=values.dtype, device=values.device)
        self._sums[name][start : start + len(values)] += values.sum(1)


def mean_over_rows(values: Tensor, mask: Tensor) -> Tensor:
    """(B, H, T) -> (B, H) over response tokens, NaN for none."""
    count = mask.sum(-1, keepdim=True)
    total = torch.where(mask.unsqueeze(1), values, 0.0).sum(-1)
    return total / torch.where(count > 0, count, torch.nan)


def _tail(scores: Tensor, mask: Tensor, rule: str) -> Tensor:
    """What tokens without a future get: no score (neutral), the highest (amplify), or 0 (zero, as published)."""
    if rule == "neutral":
        return scores
    value = 0.0 if rule == "zero" else torch.inf
    return torch.where(scores.isnan() & mask, value, scores)

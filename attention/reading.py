"""One reader of attention, for credit, rewards, curation and inference methods: captured passes to signals and maps.

`AttentionReader` captures forward passes of one model and keeps the choice of heads to listen to; each pass it hands
out, a `CapturedPass`, knows the signals of the response's tokens and their map over the image.

Rows are taken from one position before the response: WAAD, FAI and sentences read a token's own row (as published),
image signals the row that *predicted* the token, since that is where the model looked to write it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attention.capture import AttentionCapture, LayerRows, middle_layers
from attention.heads import HeadSelection, HeadStats, select_heads
from attention.signals import Rows, fai, kurtosis, mean_distance, sentence_influence, sentence_map, waad
from attention.sinks import agreed, persistent, watching
from attention.specification import AttentionSpec
from attention.text_attention import pretrained
from attention.visual import ImageTokens, attention_over_image, image_attention, image_columns, image_map

IMAGE_FIELDS = frozenset({"image_mass", "target_mass", "image_entropy", "text_mass"})
ATTENTION_FIELDS = IMAGE_FIELDS | {"waad", "fai", "sentence"}
MAP = frozenset({"map"})  # one map over the image per response, by `ResponseBatch.weights`
ROLE = {"waad": "local", "fai": "global", "sentence": "receiver"}  # of the heads a field reads; all else: "image"


@dataclass(frozen=True)
class ResponseBatch:
    """What is read of a pass over B sequences of N tokens: their last R tokens, or the last token of a prompt.

    Attributes:
        valid: (B, N) bool, prompt and response without padding.
        mask: (B, R) bool, response tokens that are scored (no padding, no tool results).
        first: position of the row that predicts the first of them; its row and the R that follow are captured.
        image: the image tokens.
        sentences: (B, R) long, index of each token's sentence, -1 for none.
        weights: (B, R), how much each token counts in the map.
    """

    valid: Tensor
    mask: Tensor
    first: int
    image: ImageTokens
    sentences: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        ids: Tensor,
        valid: Tensor,
        mask: Tensor,
        image_token: int | None,
        *,
        first: int | None = None,
        coverage: Tensor | None = None,
        sentences: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> ResponseBatch:
        """From (B, N) `ids`; `coverage` is (B, up to N), 0 where it is left out; `weights` are even by default."""
        columns, present = image_columns(ids, valid, image_token)
        if coverage is None:
            cover = torch.zeros(present.shape, device=ids.device)
        else:
            padding = (0, ids.shape[1] - coverage.shape[1])
            cover = torch.nn.functional.pad(coverage.to(ids.device), padding).gather(1, columns)
        if sentences is None:
            sentences = torch.full(mask.shape, -1)
        first = ids.shape[1] - mask.shape[1] - 1 if first is None else first
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1) if weights is None else weights
        image = ImageTokens(columns, present, cover)
        return cls(valid.bool(), mask.bool(), first, image, sentences.to(ids.device), weights)

    def part(self, start: int, count: int) -> ResponseBatch:
        """Responses start .. start + count - 1."""
        part = slice(start, start + count)
        return replace(
            self,
            valid=self.valid[part],
            mask=self.mask[part],
            image=self.image.part(start, count),
            sentences=self.sentences[part],
            weights=self.weights[part],
        )


@dataclass(frozen=True)
class _Layer:
    """What a layer showed of a group of b responses from `start` on.

    Attributes:
        values: name -> (b, h, R) of a signal, (b, h, V) of "map" and of "votes" for sinks, by the heads of its role.
        image: for signals of the image, rows of the image-reading heads, with the keys of the image tokens alone.
    """

    layer: int
    start: int
    values: Mapping[str, Tensor]
    image: Rows | None

    def of(self, heads: HeadSelection) -> _Layer:
        """The same of the heads in their roles, where it is of all heads."""
        chosen = {name: heads.of(_role(name), self.layer) for name in self.values}
        values = {name: own[:, chosen[name]] for name, own in self.values.items() if chosen[name]}
        image = heads.of("image", self.layer)
        return replace(self, values=values, image=self.image.of(image) if self.image and image else None)


class CapturedPass:
    """Consumer of one forward pass.

    Each layer's signals are computed the moment it is captured: of the heads in their roles, or of all heads where
    those are still to be chosen, and what they are chosen by as well. Of the image-reading heads, whose sinks are
    decided by all layers together, queries and the keys of the image stay.

    Attributes:
        batch: what was asked of it.
        broken: (B,) bool, responses with numbers that are not finite.
        wants_sinks: whether `sinks` can tell them.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        needs: frozenset[str],
        batch: ResponseBatch,
        heads: HeadSelection | None,
        *,
        sinks: bool,
    ):
        self.batch, self.heads = batch, heads
        self._spec, self._needs, self.wants_sinks = spec, needs, sinks
        self._layers: list[_Layer] = []
        self._measured: list[tuple[str, int, Tensor]] = []
        self._massive: Tensor | None = None
        self.broken = torch.zeros(len(batch.mask), dtype=torch.bool, device=batch.mask.device)

    def consume(self, shown: LayerRows) -> None:
        count, tokens = len(shown.rows.q), self.batch.mask.shape[1]
        batch = self.batch.part(shown.start, count)
        finite = shown.rows.lse.isfinite().all(1)  # (b, rows)
        self.broken[shown.start : shown.start + count] |= (~finite[:, -tokens:] & batch.mask).any(-1)
        own, before = shown.rows.part(1, len(shown.rows)), shown.rows.part(0, tokens)
        self._layers.append(self._read(shown, batch, own, before))
        if self.heads is None:
            found = self._measure(batch, own, before)
            self._measured += [(name, shown.layer, values) for name, values in found.items()]

    def measure(self, stats: HeadStats) -> None:
        """Add what heads are chosen by to the running means of all heads."""
        for name, layer, values in self._measured:
            stats.add(name, layer, values)

    def settle(self, heads: HeadSelection) -> None:
        """Keep of all heads those that were chosen."""
        self.heads = heads
        self._layers = [layer.of(heads) for layer in self._layers]
        self._measured.clear()

    def signals(self) -> dict[str, Tensor]:
        """The fields asked for, (B, R) float32, means over the heads of each role."""
        fields = {name: self._mean(name) for name in ROLE if name in self._needs}
        if "fai" in fields:
            fields["fai"] = _tail(fields["fai"], self.batch.mask, self._spec.tail)
        if self._needs & IMAGE_FIELDS:
            found = [replace(one, values=self._image_fields(one)) for one in self._layers if one.image]
            fields |= {name: self._mean(name, found) for name in sorted(IMAGE_FIELDS)}
        return {name: values.float() for name, values in fields.items()}

    def map(self) -> Tensor:
        """(B, V) attention on each image token of all rows by their weights, mean over the image-reading heads."""
        return self._mean("map")

    def head_maps(self) -> Tensor:
        """(B, K, V) the maps of all heads of all layers, where none were chosen."""
        layers = sorted({one.layer for one in self._layers})
        maps = [[one.values["map"] for one in self._layers if one.layer == layer] for layer in layers]
        return torch.cat([torch.cat(own) for own in maps], 1)

    def heat(self, index: int) -> Tensor:
        """(R, V) attention of every row of one response, mean over the image-reading heads, sinks left out."""
        total = torch.zeros(self.batch.mask.shape[1], len(self.batch.image))
        for one in self._layers:
            if one.image and one.start <= index < one.start + len(one.image.q):
                image = self.batch.image.part(one.start, len(one.image.q))
                own = attention_over_image(one.image, image, one.image.k)[index - one.start].sum(0)
                total += (own * ~self.sinks()[index]).float().cpu()
        return total / self._settled().count("image")

    def sinks(self) -> Tensor:
        """(B, V) bool, see `attention.sinks`."""
        image = self.batch.image
        if self._massive is not None:
            return self._massive.gather(1, image.columns) & image.present
        return agreed(self._mean("votes")) & image.present

    def _settled(self) -> HeadSelection:
        if self.heads is None:
            raise RuntimeError("heads are not settled")
        return self.heads

    def _mean(self, name: str, layers: Sequence[_Layer] | None = None) -> Tensor:
        """(B, R) or (B, V), the mean over the heads of the name's role in all layers."""
        width = len(self.batch.image) if name in ("map", "votes") else self.batch.mask.shape[1]
        total = torch.zeros(len(self.batch.mask), width, device=self.batch.mask.device)
        for one in self._layers if layers is None else layers:
            if (values := one.values.get(name)) is not None:
                total = total.to(torch.promote_types(total.dtype, values.dtype))
                total[one.start : one.start + len(values)] += values.sum(1)
        return total / self._settled().count(_role(name))

    def _read(self, shown: LayerRows, batch: ResponseBatch, own: Rows, before: Rows) -> _Layer:
        needs, spec, image = self._needs, self._spec, None
        values: dict[str, Tensor] = {}

        def of_role(name: str, rows: Rows) -> Rows | None:
            """Of the heads that read it, if there are any in this layer."""
            if self.heads is None:
                return rows
            chosen = self.heads.of(_role(name), shown.layer)
            return rows.of(chosen) if chosen else None

        if "waad" in needs and (rows := of_role("waad", own)):
            values["waad"] = waad(rows, batch.valid, spec.window)
        if "fai" in needs and (rows := of_role("fai", own)):
            values["fai"] = fai(rows, batch.mask, *spec.horizon)
        if "sentence" in needs and (rows := of_role("sentence", own)):
            values["sentence"] = self._influence(rows, batch.sentences)
        if needs & (IMAGE_FIELDS | MAP) and (rows := of_role("map", before)):
            if needs & IMAGE_FIELDS:
                image = replace(rows, k=batch.image.keys(rows))
            if needs & MAP and len(batch.image):
                values["map"] = image_map(rows, batch.image, batch.weights)
            if self.wants_sinks and len(batch.image):
                values["votes"] = persistent(rows, batch.image, batch.mask, spec.sink_ratio)
        return _Layer(shown.layer, shown.start, values, image)

    def _measure(self, batch: ResponseBatch, own: Rows, before: Rows) -> dict[str, Tensor]:
        found = {}
        if self._needs != MAP:
            for name, keys in (("distance", "all"), ("response_distance", "response")):
                found[name] = mean_distance(own, batch.valid, batch.mask, keys)
        if len(batch.image):
            found["image_mass"] = _mean_over_rows(image_attention(before, batch.image).mass, batch.mask)
        if "sentence" in self._needs and (number := int(batch.sentences.max()) + 1):
            maps = sentence_map(own, batch.sentences, number)
            found["kurtosis"] = kurtosis(sentence_influence(maps, batch.sentences, self._spec.sentence_skip))
        return found

    def _image_fields(self, layer: _Layer) -> dict[str, Tensor]:
        """(b, h, R) each; NaN, no score, where there is no image."""
        rows, image = layer.image, self.batch.image.part(layer.start, len(layer.image.q))
        if not len(image):
            return dict.fromkeys(IMAGE_FIELDS, torch.full_like(rows.lse, torch.nan))
        sinks = self.sinks()[layer.start : layer.start + len(rows.q)]
        shown = image_attention(rows, image, sinks, keys=rows.k)
        values = (shown.mass, shown.target, shown.entropy, 1.0 - shown.everything)
        return dict(zip(("image_mass", "target_mass", "image_entropy", "text_mass"), values, strict=True))

    def _influence(self, rows: Rows, sentences: Tensor) -> Tensor:
        """(B, H, R) influence of each token's sentence, NaN for none."""
        number = int(sentences.max()) + 1
        if not number:
            return torch.full_like(rows.lse, torch.nan)
        influence = sentence_influence(sentence_map(rows, sentences, number), sentences, self._spec.sentence_skip)
        index = sentences.clamp(min=0).unsqueeze(1).expand(-1, influence.shape[1], -1)
        return torch.where(sentences.unsqueeze(1) >= 0, influence.gather(2, index), torch.nan)


def _role(name: str) -> str:
    """Of the heads that a field, a map or a vote reads."""
    return ROLE.get(name, "image")


class StepLog:
    """What is logged between two calls of `metrics`: means, and the seconds inside `timed`, nested ones once."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self._numbers: dict[str, list[float]] = defaultdict(list)
        self._seconds, self._since, self._running = 0.0, time.perf_counter(), False

    def add(self, name: str, value: float) -> None:
        self._numbers[name].append(value)

    @contextmanager
    def timed(self) -> Iterator[None]:
        outer, self._running = self._running, True
        started = time.perf_counter()
        try:
            yield
        finally:
            self._running = outer
            if not outer:
                self._seconds += time.perf_counter() - started

    def metrics(self, totals: Collection[str] = ()) -> dict[str, float]:
        """PREFIX/NAME: the mean of each number (of `totals` the sum), PREFIX/seconds, and PREFIX/time_share, of the
        wall time since the last call; empty where nothing was added."""
        if not self._numbers:
            return {}
        now = time.perf_counter()
        found = {name: sum(seen) / (1 if name in totals else len(seen)) for name, seen in self._numbers.items()}
        found |= {"seconds": self._seconds, "time_share": self._seconds / max(now - self._since, 1e-9)}
        self._numbers.clear()
        self._seconds, self._since = 0.0, now
        return {f"{self.prefix}/{name}": value for name, value in found.items()}


class AttentionReader:
    """Captures passes of a model, and keeps the choice of heads to listen to.

    Args:
        model: the policy; may be wrapped (PEFT, DDP, DeepSpeed). Its text layers' attention is taken over.
        spec: layers, heads, windows and sinks.
        needs: the fields of `CapturedPass.signals`, or `MAP`.
        log: gets the time that passes take beyond the model's own. Its prefix is the recipe's section that asks for
            it, for messages.

    Attributes:
        heads: the heads chosen; None before the first pass they are chosen by.

    Raises:
        UsageError: layers that cannot be captured, or a file of heads of another model.
    """

    def __init__(self, model: nn.Module, spec: AttentionSpec, needs: frozenset[str], log: StepLog):
        self._log = log
        self._model, self._spec, self._needs = pretrained(model), spec, needs
        config = self._model.config
        self._capture = AttentionCapture(model, layers_of(spec.layers, config), log.prefix)
        self.layers, self._head_count = self._capture.layers, config.get_text_config().num_attention_heads
        self.image_token: int | None = getattr(config, "image_token_id", None)
        self.heads: HeadSelection | None = None
        if spec.heads.path is not None and spec.heads.path.exists():
            self.heads = HeadSelection.load(spec.heads.path, self.layers, self._head_count)
        self._passes = 0

    @contextmanager
    def reading(self, batch: ResponseBatch, *, settle: bool = True) -> Iterator[CapturedPass]:
        """Around one forward pass over the whole batch, in groups or not, without cache.

        Heads are chosen by it on leaving, where there are none yet or it is their turn, unless `settle` is off:
        then `settle` is called for this and other passes together.

        Raises:
            FoveaError: on leaving, when the model did not show what was expected of it.
        """
        refresh = self._spec.heads.refresh
        stale = settle and refresh > 0 and self._passes > 0 and self._passes % refresh == 0
        found = CapturedPass(self._spec, self._needs, batch, None if stale else self.heads, sinks=True)
        with self._capturing(found):
            yield found
        if settle:
            self._passes += 1
            with self._log.timed():
                self.settle([found])

    @contextmanager
    def reading_prompts(self, batch: ResponseBatch, *, sinks: bool = False) -> Iterator[CapturedPass]:
        """The same for prompts without a response, whose map is wanted: heads are those chosen, or all of them
        (`CapturedPass.head_maps`); `sinks` wants massive ones."""
        found = CapturedPass(self._spec, MAP, batch, self.heads, sinks=False)
        with watching(self._model, self.layers) if sinks else nullcontext({}) as drawn, self._capturing(found):
            yield found
        if sinks:
            found._massive = torch.stack([drawn[layer] for layer in self.layers]).any(0)

    def settle(self, passes: Sequence[CapturedPass]) -> None:
        """Choose heads by passes that have none, and compute their signals. A collective call in a distributed run,
        where all processes choose the same heads."""
        waiting = [one for one in passes if one.heads is None]
        if waiting:
            stats = HeadStats(self.layers, self._head_count)
            for one in waiting:
                one.measure(stats)
            own = self._spec.heads
            means = stats.means(waiting[0].batch.mask.device)
            heads = select_heads(means, self.layers, own.share, own.image_share, own.keys)
            for one in waiting:
                one.settle(heads)
            # Heads that no image was there to be chosen by are used, and chosen again
            if not self._needs & (IMAGE_FIELDS | MAP) or means["image_mass"].isfinite().any():
                self.heads = heads
                if own.path is not None:
                    heads.save(own.path)

    def state(self) -> dict[str, Any]:
        """The heads chosen so far and the number of passes, in plain JSON types."""
        return {"passes": self._passes, "heads": None if self.heads is None else self.heads.encode()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Raises `UsageError` where it speaks of other layers or heads."""
        self._passes = state["passes"]
        if state["heads"] is not None:
            found = HeadSelection.decode(state["heads"], "the checkpoint")
            found.check(self.layers, self._head_count, "the checkpoint")
            self.heads = found

    def detach(self) -> None:
        """Give the model its own attention implementation back."""
        self._capture.detach()

    @contextmanager
    def _capturing(self, found: CapturedPass) -> Iterator[None]:
        def consume(shown: LayerRows) -> None:
            with self._log.timed():
                found.consume(shown)

        with self._capture.open(found.batch.valid, found.batch.first, consume):
            yield


def _mean_over_rows(values: Tensor, mask: Tensor) -> Tensor:
    """(B, H, R) -> (B, H) over response tokens, NaN for none."""
    count = mask.sum(-1, keepdim=True)
    total = torch.where(mask.unsqueeze(1), values, 0.0).sum(-1)
    return total / torch.where(count > 0, count, torch.nan)


def _tail(scores: Tensor, mask: Tensor, rule: str) -> Tensor:
    """What tokens without a future get: no score (neutral), the highest (amplify), or 0 (zero, as published)."""
    if rule == "neutral":
        return scores
    value = 0.0 if rule == "zero" else torch.inf
    return torch.where(scores.isnan() & mask, value, scores)


def layers_of(layers: str | Sequence[int], model_config: Any) -> tuple[int, ...]:
    """Layer indices, in a model of this transformers configuration."""
    if layers == "middle":
        return middle_layers(model_config.get_text_config().num_hidden_layers)
    return tuple(int(layer) for layer in layers)

"""Attention of response tokens over image tokens: a grid per rollout, for rewards that read it.

The attention of a token is that of the row that predicted it. Only rows that are asked for are computed, and of these
only their image columns: nothing of size N x N, nor rows x N, exists.

Where a trainer runs the policy over the finished rollouts anyway (TRL, for the old log-probabilities: vLLM, several
iterations, gradient accumulation out of step with generation), the grids come out of that pass. Else one more is
made, without gradients. A reward that contrasts with a general query costs a pass over each distinct prompt with that
query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from attention.reading import MAP, AttentionReader, CapturedPass, ResponseBatch, StepLog
from attention.response import TextReader, answer_and_thought, decoder_of
from attention.specification import MapConfig
from attention.text_attention import pretrained
from attention.visual import image_cells, merge_size
from grounding.answer import ImageSize
from grounding.errors import FoveaError, UsageError
from grounding.sample import Sample, regions_of

COLUMNS = frozenset({"attention", "general", "sinks"})


class PolicyPasses(Protocol):
    """What a trainer does for `RolloutAttention`: `recipes.rollout_passes` does it with TRL's."""

    device: torch.device

    def is_policy(self, model: Any) -> bool:
        """Whether a forward pass of `model` is one of the policy as it is, and not of a reference."""

    def tokenize(self, prompts: Sequence[Any]) -> tuple[Any, Any, Mapping[str, Any]]:
        """Of conversations: token ids, images, and the processor's other fields."""

    def inputs(
        self, prompts: Any, completions: Sequence[Sequence[int]], images: Any, fields: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """(B, N) tokens, their attention mask, the completions' mask (B, T), and the other inputs of `run`."""

    def run(self, ids: Tensor, valid: Tensor, keep: int, given: Mapping[str, Any]) -> None:
        """One pass of the policy over the batch without gradients; `keep` is T."""

    def most(self, count: int) -> int:
        """The largest `count` of all processes."""


class RolloutAttention:
    """Fills the columns `attention`, `sinks` and `general` of each batch of rollouts.

    Args:
        config: the recipe's `attention:` mapping.
        model: the policy, wrapped or not.
        processor: the policy's processor.
        dialect, grammar: how it answers, to find the tokens whose rows are wanted.
        passes: runs the policy. Its owner calls `tokenized` with what its tokenizing of prompts returned, wraps its
            forward passes during `scoring` in `observing`, and asks for `columns` before it calculates rewards.
        general: whether a reward needs the contrast with a general query.

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
        *,
        passes: PolicyPasses | None = None,
        general: bool = False,
    ):
        self.config = config if isinstance(config, MapConfig) else MapConfig.from_mapping(config)
        if getattr(pretrained(model).config, "image_token_id", None) is None:
            raise UsageError(f"attention: {type(pretrained(model)).__name__} has no image tokens to look at")
        if dialect is None and self.config.rows != "response":
            raise UsageError(f"attention.rows: {self.config.rows!r} reads the text and needs the dialect")
        self._log = StepLog("attention")
        self.reader = AttentionReader(model, self.config.spec, MAP, self._log)
        self._merge = merge_size(processor)

        def read(text: str, sizes: Sequence[ImageSize]) -> Any:
            return dialect.parse(text, sizes, grammar=grammar)

        self._text = TextReader(decoder_of(model, processor, grammar), read, read)
        self._passes, self._general = passes, general
        self._rows: Sequence[Mapping[str, Any]] | None = None
        self._tokenized: tuple[Any, ...] | None = None
        self._found: CapturedPass | None = None
        self._passed = False  # a pass over the rollouts has been taken, or is being made

    @contextmanager
    def scoring(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Around the generation and scoring of a batch."""
        self._rows, self._passed = rows, False
        try:
            yield
        finally:
            self._rows = self._found = self._tokenized = None

    def tokenized(self, prompts: tuple[Any, ...]) -> None:
        """Keep (prompt ids, images, fields of the processor), so that no image is prepared twice."""
        if self._rows is not None and self._tokenized is None:
            self._tokenized = (prompts[0], prompts[1], dict(prompts[2]))

    @contextmanager
    def observing(self, model: Any, ids: Tensor, valid: Tensor, keep: int) -> Iterator[None]:
        """Around a forward pass of the trainer's own: the first of the policy over the rollouts is taken."""
        if self._rows is None or self._passed or not self._passes.is_policy(model):
            yield
            return
        self._passed = True
        with self._log.timed():
            batch = self._batch(ids, valid, valid[:, -keep:])
        with self.reader.reading(batch) as self._found:
            yield

    def columns(self, prompts: Sequence[Any], completions: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """The columns of each rollout: numpy grids, None where there is no image.

        Args:
            prompts: conversations with their images in them.
            completions: token ids.
        """
        with self._log.timed():
            return self._columns(prompts, completions)

    def _columns(self, prompts: Sequence[Any], completions: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        samples = [row["sample"] for row in self._rows]
        self._log.add("own_pass", float(not self._passed))
        if not self._passed:
            ids, images, given = self._tokenized
            ids, valid, mask, given = self._passes.inputs(ids, completions, images, given)
            self._passed = True
            with self.reader.reading(self._batch(ids, valid, mask)) as self._found:
                self._passes.run(ids, valid, max(1, mask.shape[1]), given)
        found = self._grids(self._found, self._tokenized, samples)
        general = self._general_grids(prompts, samples) if self._general else {}
        self._log.add("unread", float(np.mean([pair is None or not pair[0].any() for pair in found])))
        return [
            {"attention": pair and pair[0], "sinks": pair and pair[1], "general": general.get(row["sample"])}
            for pair, row in zip(found, self._rows, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Means since the last call; empty when no rollouts were looked at.

        attention/unread (share of responses that hold no rows to read: no answer, or no thought), attention/own_pass
        (share of batches for which a pass was made on purpose), attention/seconds, and attention/time_share of the
        wall time since the last call.
        """
        return self._log.metrics()

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
                answer, thought = answer_and_thought(self._text, tokens[own[index]].tolist(), sizes[index])
                chosen[index, own[index]] = torch.tensor(answer if self.config.rows == "answer" else thought)
            wanted = chosen.to(ids.device)
        return wanted.float() / wanted.sum(-1, keepdim=True).clamp(min=1)

    def grids(
        self, found: CapturedPass, grids: Tensor, images: Sequence[int], wanted: Sequence[int], names: Sequence[str]
    ) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """A pass as grids: (attention, sinks) of one image per response, (rows, columns) each; None without an image.

        Args:
            grids: (images of the batch, 3) frames, rows and columns of patches.
            images: how many of them belong to each response.
            wanted: which of its images.
            names: of the samples, for messages.

        Raises:
            FoveaError: a prompt whose image tokens do not fit its images.
        """
        cells = image_cells(grids, self._merge)
        values, present = found.map().double().cpu().numpy(), found.batch.image.present.cpu().numpy()
        sinks = found.sinks().cpu().numpy() if found.wants_sinks else np.zeros_like(present)
        pairs: list[tuple[np.ndarray, np.ndarray] | None] = []
        start = 0
        for index, count in enumerate(images):
            own = cells[start : start + count]
            start += count
            if not count:
                pairs.append(None)
                continue
            lengths = [rows * columns for rows, columns in own]
            if present[index].sum() != sum(lengths):
                raise FoveaError(
                    f"attention: the prompt of sample {names[index]!r} holds {present[index].sum()} image tokens, "
                    f"its images have {sum(lengths)} cells; was the prompt cut off?"
                )
            begin, shape = sum(lengths[: wanted[index]]), own[wanted[index]]
            part = slice(begin, begin + lengths[wanted[index]])
            pairs.append((values[index, part].reshape(shape), sinks[index, part].reshape(shape)))
        return pairs

    def _batch(self, ids: Tensor, valid: Tensor, mask: Tensor) -> ResponseBatch:
        """What is read of the rollouts; mask: (B, T)."""
        sizes = [row["sizes"] for row in self._rows]
        weights = self.row_weights(ids[:, ids.shape[1] - mask.shape[1] :], mask, sizes)
        return ResponseBatch.of(ids, valid, mask, self.reader.image_token, weights=weights)

    def _grids(self, found: CapturedPass, tokenized: tuple[Any, ...], samples: Sequence[Sample]) -> list[Any]:
        _, images, given = tokenized
        counts = image_counts(images, len(samples))
        if "image_grid_thw" not in given and any(counts):
            raise UsageError("rewards on attention need a processor that tells image_grid_thw (the Qwen-VL kind)")
        grids = torch.as_tensor(np.array(given.get("image_grid_thw", np.zeros((0, 3), int))))
        wanted = [_target_image(sample) for sample in samples]
        return self.grids(found, grids, counts, wanted, [sample.id for sample in samples])

    def _general_grids(self, prompts: Sequence[Any], samples: Sequence[Sample]) -> dict[Sample, np.ndarray]:
        """row's sample -> the map of the general query on its image, from one pass over the distinct prompts."""
        distinct: dict[Sample, int] = {}
        for index, row in enumerate(self._rows):
            distinct.setdefault(row["sample"], index)
        chosen = [index for index in distinct.values() if samples[index].images]
        most = self._passes.most(len(chosen))
        if not most:
            return {}
        # under ZeRO-3 every process has to run the model equally often
        rows = (chosen or [0]) + (chosen or [0])[-1:] * (most - max(len(chosen), 1))
        asked = [general_prompt(prompts[index], self.config.query) for index in rows]
        tokenized = self._passes.tokenize(asked)
        ids, valid, _, given = self._passes.inputs(tokenized[0], [[]] * len(rows), *tokenized[1:])
        with self.reading_prompts(ids, valid) as found:
            self._passes.run(ids, valid, 1, given)
        pairs = self._grids(found, tokenized, [samples[index] for index in rows])
        return {
            self._rows[index]["sample"]: pair[0] for index, pair in zip(rows, pairs, strict=True) if pair is not None
        }

    @contextmanager
    def reading_prompts(self, ids: Tensor, valid: Tensor) -> Iterator[CapturedPass]:
        """Around a pass over prompts alone, whose last token looks: no sinks, and the heads chosen on responses."""
        if self.reader.heads is None:
            raise RuntimeError("heads are chosen on responses: read a pass with responses first")
        batch = ResponseBatch.of(ids, valid, valid[:, -1:], self.reader.image_token, first=ids.shape[1] - 1)
        with self.reader.reading_prompts(batch) as found:
            yield found


def general_prompt(prompt: Sequence[Mapping[str, Any]], query: str) -> list[dict[str, Any]]:
    """A conversation with its images where they were, and a general query for the words of its last user message."""
    messages = [dict(message) for message in prompt]
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    content = messages[last]["content"]
    if isinstance(content, str):
        messages[last]["content"] = query
        return messages
    words = [index for index, part in enumerate(content) if part["type"] == "text"]
    messages[last]["content"] = [
        {"type": "text", "text": query} if index == words[0] else part
        for index, part in enumerate(content)
        if index not in words[1:]
    ]
    return messages


def image_counts(images: Sequence[Any] | None, rows: int) -> list[int]:
    """How many images each row shows."""
    return [0] * rows if images is None else [len(own) if own else 0 for own in images]


def _target_image(sample: Sample) -> int:
    """The image of the sample's first region; the first one where it has none."""
    return next((region.image for region in regions_of(sample.target) if hasattr(region, "image")), 0)

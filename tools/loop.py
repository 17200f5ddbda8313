"""Episodes in batches, turn by turn: the same loop in training, selection and evaluation.

A turn's tokens are appended to what was said and shown before, never rendered again, so that the tokens a policy is
trained on are the ones it wrote. Every round runs the episodes that go on as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import GenerationConfig

from grounding.decoding import Decoder
from tools.episode import ToolEpisode
from tools.toolbox import Toolbox


@dataclass(slots=True)
class Played:
    """An episode with its tokens.

    Attributes:
        episode: its state, and once it is over its answer.
        prompt: tokens of the question.
        images: the question's pictures.
        completion: every token after the question, the tools' replies among them.
        written: for each of them 1 where the model wrote it, 0 where a tool did.
        pictures: what tools showed, in order.
        logprobs: of the sampled tokens, 0 where a tool wrote; empty where the sampler tells none.
    """

    episode: ToolEpisode
    prompt: list[int]
    images: list[Image.Image]
    completion: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Everything so far."""
        return self.prompt + self.completion


class TurnSampler(Protocol):
    """Draws the next turn of each of some episodes."""

    def __call__(self, rows: Sequence[Played]) -> tuple[list[list[int]], list[list[float]] | None]:
        """Tokens of each turn with the one that ends it, and their log-probabilities where they are known."""


def play(
    toolbox: Toolbox,
    rows: Sequence[Played],
    sampler: TurnSampler,
    decoder: Decoder,
    *,
    longest: int | None = None,
    first: tuple[list[list[int]], list[list[float]] | None] | None = None,
) -> None:
    """Play new episodes to their end.

    Args:
        rows: their prompts and pictures; what was said is added to them.
        longest: tokens of a completion at most, replies included; a reply that leaves no room for a turn ends the
            episode without an answer.
        first: the first turns, where they were drawn already.
    """
    waiting = list(rows)
    drawn = first
    while waiting:
        turns, logprobs = sampler(waiting) if drawn is None else drawn
        drawn = None
        going = []
        for at, (row, turn) in enumerate(zip(waiting, turns, strict=True)):
            room = len(turn) if longest is None else longest - len(row.completion)
            own = list(turn[:room])
            row.completion += own
            row.written += [1] * len(own)
            if logprobs is not None:
                row.logprobs += logprobs[at][:room]
            ended = bool(own) and own[-1] in decoder.ends
            reply = row.episode.take(decoder(own), ended=ended)
            if reply is None:
                continue
            told = toolbox.reply_ids(reply, own[-1])
            if longest is not None and len(row.completion) + len(told) >= longest:
                row.episode.stop(f"No room for the reply: a completion has {longest} tokens at most.")
                continue
            row.completion += told
            row.written += [0] * len(told)
            row.pictures += reply.pictures
            if logprobs is not None:
                row.logprobs += [0.0] * len(told)
            going.append(row)
        waiting = going


class LocalTurns:
    """A `TurnSampler` over a model of the Qwen-VL kind on this machine.

    Args:
        model, processor: as `models.loading.load_policy` gives them.
        generation: how turns are drawn (`models.sampling.generation_config`), one answer each.
        decoder: knows the tokens that end a turn.
        batch: turns drawn at once.
    """

    def __init__(self, model: Any, processor: Any, generation: GenerationConfig, decoder: Decoder, batch: int = 64):
        self._model, self._processor = model, processor
        self._generation, self._decoder, self._batch = generation, decoder, batch

    def __call__(self, rows: Sequence[Played]) -> tuple[list[list[int]], None]:
        turns: list[list[int]] = []
        for start in range(0, len(rows), self._batch):
            turns += self._draw(rows[start : start + self._batch])
        return turns, None

    def _draw(self, rows: Sequence[Played]) -> list[list[int]]:
        inputs = model_inputs(self._processor, self._model.config, rows).to(self._model.device)
        with torch.inference_mode():
            whole = self._model.generate(**inputs, generation_config=self._generation)
        return [self._cut(turn) for turn in whole[:, inputs["input_ids"].shape[1] :].tolist()]

    def _cut(self, turn: list[int]) -> list[int]:
        end = next((at + 1 for at, token in enumerate(turn) if token in self._decoder.ends), len(turn))
        return turn[:end]


def model_inputs(processor: Any, config: Any, rows: Sequence[Played]) -> Any:
    """The model's inputs for episodes that go on: left-padded tokens, and the pictures of every turn."""
    longest = max(len(row.ids) for row in rows)
    pad = processor.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row.ids)) + row.ids for row in rows])
    valid = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows])
    pictures = [picture for row in rows for picture in (*row.images, *row.pictures)]
    inputs = processor.image_processor(images=pictures, return_tensors="pt")
    inputs["input_ids"], inputs["attention_mask"] = ids, valid
    inputs["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return inputs

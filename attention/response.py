"""Which tokens of a response hold its answer and which its thought: whose attention a recipe may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attention.text_attention import pretrained
from grounding.answer import Answer, ImageSize
from grounding.completion import check_grammar
from grounding.decoding import Decoder

Reader = Callable[[str, Sequence[ImageSize]], Answer]  # reads an answer, or a piece of text that may hold one

NUMBER = re.compile(r"(?<![A-Za-z_\d.])\d+(?:\.\d+)?")  # the 2 of bbox_2d is part of a name


def decoder_of(model: nn.Module, processor: Any, grammar: str = "think") -> Decoder:
    """How the completions of a policy, wrapped or not, are read."""
    config = pretrained(model).generation_config
    return Decoder.of(processor, None if config is None else config.eos_token_id, check_grammar(grammar))


@dataclass(frozen=True)
class TextReader:
    """How to read responses: their tokens, the whole response's answer, and what a piece of a thought points at."""

    decoder: Decoder
    answer: Reader
    piece: Reader


def answer_and_thought(
    reader: TextReader, ids: Sequence[int], sizes: Sequence[ImageSize]
) -> tuple[list[bool], list[bool]]:
    """Per token of one response: whether the answer's coordinates are read from it, and whether it stands before the
    answer. None of either where no answer can be read."""
    text, spans = reader.decoder.spans(ids)
    answer = reader.answer(text, sizes)
    border = 0 if answer.char_span is None else answer.char_span[0]
    return coordinate_flags(text, spans, answer), [start < end <= border for start, end in spans]


def coordinate_flags(text: str, spans: Sequence[tuple[int, int]], answer: Answer) -> list[bool]:
    coordinate = [False] * len(spans)
    for start, end in coordinate_ranges(text, answer):
        for index in overlaps(spans, start, end):
            coordinate[index] = True
    return coordinate


def overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Indices of the tokens with at least one character in [start, end)."""
    return [index for index, (low, high) in enumerate(spans) if max(low, start) < min(high, end)]


def coordinate_ranges(text: str, answer: Answer) -> list[tuple[int, int]]:
    """Character ranges of the numbers the answer was read from; the whole of it when it holds none
    (location tokens)."""
    if answer.char_span is None:
        return []
    start, end = answer.char_span
    numbers = [match.span() for match in NUMBER.finditer(text, start, end)]
    return numbers or [(start, end)]

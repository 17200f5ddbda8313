"""Keeping completions short, and free of repetition. Penalties: 0 at best, -1 at worst."""

from __future__ import annotations

import re
from collections.abc import Sequence

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.sample import Sample
from rewards import reward

SENTENCE_END = re.compile(r"[.!?;\n。！？；]+|</?(?:think|answer)>")


@reward(
    "overlong", range=(-1, 0), source="soft over-long punishment, DAPO (arXiv 2503.14476) eq. 13", needs=("tokens",)
)
def overlong(answer: Answer, sample: Sample, *, tokens: Sequence[int], limit: int = 256, buffer: int = 64) -> float:
    """0 up to limit - buffer tokens, falling linearly to -1 at `limit`, -1 beyond it."""
    if not 0 < buffer <= limit:
        raise UsageError(f"buffer {buffer} must lie between 1 and limit {limit}")
    return max(-1.0, min(0.0, (limit - buffer - len(tokens)) / buffer))


@reward("repetition", range=(-1, 0), source="non-repeat reward of VisionReasoner (arXiv 2505.12081)", needs=("text",))
def repetition(answer: Answer, sample: Sample, *, text: str) -> float:
    """-(1 - distinct sentences / sentences); 0 when no sentence returns.

    A sentence has a letter in it. What the answer was read from is no prose: pretty-printed boxes are alike.
    """
    if answer.ok and answer.char_span is not None:
        text = text[: answer.char_span[0]] + "\n" + text[answer.char_span[1] :]
    sentences = [" ".join(part.split()).casefold() for part in SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if any(map(str.isalpha, sentence))]
    return len(set(sentences)) / len(sentences) - 1.0 if sentences else 0.0


@reward(
    "thought_length", range=(-1, 0), source="length collapse and rambling, as watched in VLM-R1 (arXiv 2504.07615)"
)
def thought_length(answer: Answer, sample: Sample, *, shortest: int = 5, longest: int = 100) -> float:
    """0 for `shortest` to `longest` words of thought; below, n / shortest - 1; above, linear to -1 at 2 * longest."""
    if not 0 < shortest <= longest:
        raise UsageError(f"shortest {shortest} must lie between 1 and longest {longest}")
    n = len((answer.thought or "").split())
    if n < shortest:
        return n / shortest - 1.0
    return max(-1.0, min(0.0, (longest - n) / longest))

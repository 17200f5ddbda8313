"""Rewards for a completion as a whole: format, refusal where there is nothing, length, places in its thought.

Penalties (`overlong`, `repetition`, `thought_length`) are 0 at best, -1 at worst.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Box, Point
from rewards import reward

SENTENCE_END = re.compile(r"[.!?;\n。！？；]+|</?(?:think|answer)>")


@reward("format", range=(0, 1), source="DeepSeek-R1 (arXiv 2501.12948) and every grounding RL recipe since")
def format_(answer: Answer, sample: Sample, *, strict: bool = True) -> float:
    """1 if the format holds, else 0.

    strict: the whole completion is the think/answer grammar around the model family's own coordinate schema, with
    nothing before, between or after. Not strict: an answer could be found and read, whatever stands around it.
    """
    return float(answer.strict and answer.ok) if strict else float(answer.ok)


@reward(
    "abstention", range=(0, 1), source="OSWorld-G refusal (arXiv 2505.13227), gRefCOCO no-target (arXiv 2306.00968)"
)
def abstention(answer: Answer, sample: Sample) -> float:
    """Target absent: 1 for saying so, 0 for inventing a place. Present: 1 for a readable place, 0 for denying it."""
    if sample.kind == "unlabeled":
        raise UsageError(f"reward 'abstention' needs to know what is there; sample {sample.id!r} has no label")
    if not answer.ok:
        return 0.0
    return float(answer.absent == (sample.kind == "absent"))


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


@reward("grounded_thought", range=(0, 1), source="ViGoRL (arXiv 2505.23678)", needs=("places",))
def grounded_thought(answer: Answer, sample: Sample, *, places: Sequence[Box | Point], enough: int = 1) -> float:
    """min(1, k / enough), k the number of distinct places inside the image that the thought names.

    0 for an answer that cannot be read, which is all that comes of a thought left open.
    Whether they are good ones is for the accuracy rewards: give this one a small weight, or `when: {format: strict}`.
    """
    if enough < 1:
        raise UsageError(f"enough is {enough}, must be at least 1")
    if not answer.ok:
        return 0.0
    distinct = {(p.xyxy if isinstance(p, Box) else (p.x, p.y), p.image) for p in places}
    return min(1.0, len(distinct) / enough)

"""Rewards for a thought that points: reasoning anchored to places in the image."""

from __future__ import annotations

from collections.abc import Sequence

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Box, Point
from rewards import reward


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

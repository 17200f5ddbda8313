"""Rewards for looking closer: tools that were used between the question and the final answer.

What a model writes is no tool use: it can write any call it likes, in a thought or with a name that no tool has. Paid
are the calls that whoever runs the episodes has executed, and says so in the column `executed_calls`: for each
completion a list of `ExecutedCall`. Without that column nothing was executed and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Box, Point
from rewards import reward
from rewards.point import click_in_box
from rewards.text import text_match


@dataclass(frozen=True, slots=True)
class ExecutedCall:
    """One tool call of an episode that was carried out without an error.

    Attributes:
        name: the tool's.
        region: what it looked at, canonical; None for a tool without a place.
        showed_image: the model was shown a picture in reply.
    """

    name: str
    region: Box | Point | None = None
    showed_image: bool = False


@reward("zoom_spread", range=(0, 1), source="ViGoRL multi-turn (arXiv 2505.23678)", needs=("executed_calls?",))
def zoom_spread(
    answer: Answer,
    sample: Sample,
    *,
    executed_calls: Sequence[ExecutedCall] | None,
    enough: int = 3,
    distance_px: float = 10.0,
) -> float:
    """min(1, k / enough), k the number of zooms whose center is at least `distance_px` from every earlier one.

    Pixels of the original image. Zooming on one spot again and again counts once. Only calls that showed a picture.
    """
    if enough < 1:
        raise UsageError(f"enough is {enough}, must be at least 1")
    seen: list[Point] = []
    for call in executed_calls or ():
        place = call.region.center if isinstance(call.region, Box) else call.region
        if place is None or not call.showed_image:
            continue
        if all(_pixels(place, other, sample) >= distance_px for other in seen):
            seen.append(place)
        if len(seen) >= enough:
            return 1.0
    return len(seen) / enough


def _pixels(a: Point, b: Point, sample: Sample) -> float:
    if a.image != b.image:
        return float("inf")
    image = sample.images[a.image]
    return hypot((a.x - b.x) * image.width, (a.y - b.y) * image.height)


@reward(
    "tool_when_right",
    range=(0, 1),
    source="DeepEyes (arXiv 2505.14362)",
    kinds=("box", "polygon", "text_box"),
    needs=("executed_calls?",),
)
def tool_when_right(answer: Answer, sample: Sample, *, executed_calls: Sequence[ExecutedCall] | None) -> float:
    """1 if a tool showed a picture *and* the final answer is right (click in the target, or equal words), else 0.

    Calling a tool for its own sake earns nothing.
    """
    if not any(call.showed_image for call in executed_calls or ()):
        return 0.0
    right = text_match if sample.kind == "text_box" else click_in_box
    return float(right(answer, sample))

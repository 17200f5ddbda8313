"""Rewards for looking closer: tools that were used between the question and the final answer.

What a model writes is no tool use: it can write any call it likes, in a thought or with a name that no tool has. Paid
are the calls that whoever runs the episodes has executed, and says so in the column `executed_calls`: for each
completion a list of `ExecutedCall`. Without that column nothing was executed and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Protocol

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.geometry import TIE
from grounding.sample import Sample, regions_of
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


class SpokenTurn(Protocol):
    """A turn of an episode, as far as rewards read it; `strict`: in the form asked for, to the letter."""

    strict: bool


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


@reward(
    "zoom_on_target",
    range=(0, 1),
    source="ours",
    kinds=("box", "text_box", "point"),
    needs=("executed_calls?",),
)
def zoom_on_target(answer: Answer, sample: Sample, *, executed_calls: Sequence[ExecutedCall] | None) -> float:
    """1 if the picture shown last shows the target whole (of several boxes, one of them), else 0.

    For the turns before the answer, where a policy looks at the right place before it can read it. It pays looking
    at everything alike: a whole image shows every target, so let the tool enlarge what is worth enlarging.
    """
    shown = [call.region for call in executed_calls or () if call.showed_image and isinstance(call.region, Box)]
    return float(any(_holds(shown[-1], place) for place in regions_of(sample.target))) if shown else 0.0


def _holds(region: Box, place: object) -> bool:
    if isinstance(place, Point):
        place = Box(place.x, place.y, place.x, place.y, place.image)
    if not isinstance(place, Box) or place.image != region.image:
        return False
    return (
        region.x1 <= place.x1 + TIE
        and place.x2 <= region.x2 + TIE
        and region.y1 <= place.y1 + TIE
        and place.y2 <= region.y2 + TIE
    )


@reward("turn_format", range=(0, 1), source="Ground-R1 (arXiv 2505.20272): mean over turns", needs=("turns?",))
def turn_format(answer: Answer, sample: Sample, *, turns: Sequence[SpokenTurn] | None) -> float:
    """The share of turns in the form asked for, to the letter: a thought and one call, or a thought and the answer.

    Without episodes, of the only turn there is.
    """
    strict = [turn.strict for turn in turns or ()] or [answer.strict]
    return sum(strict) / len(strict)

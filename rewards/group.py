"""Rewards that compare the answers to one prompt with each other. N: answers of the group."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot

import numpy as np

from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.geometry import TIE, FloatArray
from grounding.sample import Sample
from grounding.targets import Box
from rewards import reward
from rewards.box import iou
from rewards.single_target import SINGLE, WHOLE_IMAGE, single_box, single_click


@reward("region_consistency", range=(0, 1), source="GUI-RCPO (arXiv 2508.05615)", group=True)
def region_consistency(
    answers: Sequence[Answer], sample: Sample, *, point_size: float = 0.04, max_area: float = WHOLE_IMAGE
) -> list[float]:
    """Votes inside p over (most votes anywhere * area of p). Needs no labels.

    Every answer's box votes for the area it covers; a click counts as a square of side `point_size`. The vote is
    exact, over the grid all edges span, so it does not depend on a resolution. A box over more than `max_area` of
    the image neither votes nor scores: a group that agrees on everything has agreed on nothing. Nor does a box
    without area.
    """
    if not 0 < point_size <= 1:
        raise UsageError(f"point_size {point_size} must lie above 0 and be at most 1")
    boxes = [_voter(answer, point_size, max_area) for answer in answers]
    scores = [0.0] * len(boxes)
    for image in {box.image for box in boxes if box is not None}:
        members = [i for i, box in enumerate(boxes) if box is not None and box.image == image]
        corners = np.array([box.xyxy for box in boxes if box is not None and box.image == image])
        for i, score in zip(members, _agreement(corners), strict=True):
            scores[i] = score
    return scores


def _voter(answer: Answer, point_size: float, max_area: float) -> Box | None:
    box = single_box(answer)
    if box is None:
        click = single_click(answer)
        if click is None:
            return None
        half = point_size / 2
        return Box(
            max(0.0, click.x - half),
            max(0.0, click.y - half),
            min(1.0, click.x + half),
            min(1.0, click.y + half),
            click.image,
        )
    return box if 0.0 < box.area <= max_area else None


def _agreement(corners: FloatArray) -> list[float]:
    """corners: (N, 4) -> N values in [0, 1]."""
    xs, ys = np.unique(corners[:, [0, 2]]), np.unique(corners[:, [1, 3]])
    votes = np.zeros((len(xs) - 1, len(ys) - 1))
    cells = [
        (slice(*np.searchsorted(xs, (x1, x2))), slice(*np.searchsorted(ys, (y1, y2)))) for x1, y1, x2, y2 in corners
    ]
    for cell in cells:
        votes[cell] += 1
    area = np.outer(np.diff(xs), np.diff(ys))
    # Edges that are equal on paper may differ in the last bit; what lies between them is no place to agree on
    real = np.outer(np.diff(xs) > TIE, np.diff(ys) > TIE)
    most = votes[real].max() if real.any() else votes.max()
    return [min(1.0, float((votes[cell] * area[cell]).sum() / (most * area[cell].sum()))) for cell in cells]


@reward(
    "diversity",
    range=(0, 1),
    source="exploration against collapse to one place, cf. InfiGUI-G1 (arXiv 2508.05731)",
    group=True,
)
def diversity(answers: Sequence[Answer], sample: Sample, *, scale: float = 0.2) -> list[float]:
    """Mean over the other answers of min(1, d / scale), d the distance of the two clicks; 0 for an unreadable answer.

    It rewards spread, not truth: use a small weight and let a `schedule` take it to zero.
    """
    if scale <= 0:
        raise UsageError(f"scale {scale} must be positive")
    clicks = [single_click(answer) for answer in answers]
    scores = []
    for i, click in enumerate(clicks):
        others = [other for j, other in enumerate(clicks) if j != i and other is not None]
        if click is None or not others:
            scores.append(0.0)
            continue
        far = [
            1.0 if o.image != click.image else min(1.0, hypot(o.x - click.x, o.y - click.y) / scale) for o in others
        ]
        scores.append(sum(far) / len(far))
    return scores


@reward("difficulty_weighted_iou", range=(0, 1), source="UniVG-R1 (arXiv 2505.14231)", kinds=SINGLE, group=True)
def difficulty_weighted_iou(
    answers: Sequence[Answer],
    sample: Sample,
    *,
    form: str = "power",
    power: float = 1.0,
    max_area: float = WHOLE_IMAGE,
) -> list[float]:
    """IoU * w, with m the group's mean IoU: w = ((1.05 - m) / 1.05)^power, or exp(-m) with `form: exp`.

    Hard prompts count more. The paper gives the first form, the launch script of its code exp(1 - m), e times the
    second.

    Published as a weight on the group's loss. Scaling the rewards of a group scales its advantages, hence its loss,
    by as much when TRL runs with `scale_rewards: none`; any other setting divides the weight out again.
    """
    if power < 0:
        raise UsageError(f"power {power} must not be negative")
    if form not in ("power", "exp"):
        raise UsageError(f"form {form!r} must be power or exp")
    values = [float(iou(answer, sample, max_area=max_area)) for answer in answers]
    mean = sum(values) / len(values)
    weight = exp(-mean) if form == "exp" else ((1.05 - mean) / 1.05) ** power
    return [value * weight for value in values]

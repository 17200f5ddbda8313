"""Rewards for where a click lands. c: the click (the answer's point, else the center of its box), g: the target.

An answer without exactly one readable place scores the lowest value; a box over more than `max_area` of the image
is no place. Distances are in the canonical frame, so that every image counts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot, log, sqrt

import numpy as np

from grounding import geometry
from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Box, Point, Polygon
from rewards import reward
from rewards.single_target import SINGLE, WHOLE_IMAGE, is_whole_image, single_box, single_click, target_box


def hits(click: Point, target: Box | Polygon) -> bool:
    """Whether a click lies on the target; the border belongs to it."""
    if click.image != target.image:
        return False
    if isinstance(target, Polygon):
        return bool(geometry.point_in_polygon(np.array([click.x, click.y]), np.array(target.vertices)))
    edge = geometry.TIE
    return target.x1 - edge <= click.x <= target.x2 + edge and target.y1 - edge <= click.y <= target.y2 + edge


def _region(sample: Sample) -> Box | Polygon:
    target = sample.target
    if not isinstance(target, (Box, Polygon)):
        raise TypeError(f"sample {sample.id!r} has a target of kind {sample.kind!r}, not a box or polygon")
    return target


@reward(
    "click_in_box", range=(0, 1), source="GUI-R1 (2504.10458), UI-R1 (2503.21620), GTA1 (2507.05791)", kinds=SINGLE
)
def click_in_box(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """1 if x1 <= x <= x2 and y1 <= y <= y2, else 0; for a polygon, inside its outline (even-odd rule)."""
    region = _region(sample)
    click = single_click(answer, max_area, region.bounds if isinstance(region, Polygon) else region)
    return float(click is not None and hits(click, region))


@reward(
    "click_near",
    range=(0, 1),
    source="distance to an annotated point, as in Molmo (arXiv 2409.17146)",
    kinds=("point",),
)
def click_near(answer: Answer, sample: Sample, *, tolerance: float = 0.1, max_area: float = WHOLE_IMAGE) -> float:
    """max(0, 1 - d / tolerance), d the distance of the click to the target point in the canonical frame."""
    if tolerance <= 0:
        raise UsageError(f"tolerance {tolerance} must be positive")
    target = sample.target
    if not isinstance(target, Point):
        raise TypeError(f"sample {sample.id!r} has a target of kind {sample.kind!r}, not a point")
    click = single_click(answer, max_area)
    if click is None or click.image != target.image:
        return 0.0
    return max(0.0, 1.0 - hypot(click.x - target.x, click.y - target.y) / tolerance)


@reward("dense_point", range=(0, 1), source="SE-GUI (arXiv 2505.12370)", kinds=SINGLE)
def dense_point(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """(1{c in g} + 1 - (d / d_max)^2) / 2; published without the halving, as a reward up to 2.

    d: distance of the click to the box center; d_max: the largest distance from that center to an image corner.
    """
    box = target_box(sample)
    click = single_click(answer, max_area, box)
    if click is None or click.image != box.image:
        return 0.0
    center = box.center
    squared = (click.x - center.x) ** 2 + (click.y - center.y) ** 2
    farthest = max(center.x, 1 - center.x) ** 2 + max(center.y, 1 - center.y) ** 2
    return (hits(click, _region(sample)) + 1.0 - squared / farthest) / 2


@reward("gaussian_point", range=(0, 1), source="GUI-G2 (arXiv 2507.15846)", kinds=SINGLE)
def gaussian_point(answer: Answer, sample: Sample, *, alpha: float = 0.5, max_area: float = WHOLE_IMAGE) -> float:
    """exp(-((dx / sx)^2 + (dy / sy)^2) / 2), sx = alpha * width, sy = alpha * height of the target.

    (dx, dy) leads from the box center to the click. 1 in the center; with alpha 0.5, exp(-1/2) in the middle of an
    edge and exp(-1) in a corner of the target.
    """
    if alpha <= 0:
        raise UsageError(f"alpha {alpha} must be positive")
    box = target_box(sample)
    click = single_click(answer, max_area, box)
    if click is None or click.image != box.image:
        return 0.0
    dx = (click.x - box.center.x) / (alpha * (box.x2 - box.x1))
    dy = (click.y - box.center.y) / (alpha * (box.y2 - box.y1))
    return exp(-(dx * dx + dy * dy) / 2)


@reward("gaussian_coverage", range=(0, 1), source="GUI-G2 (arXiv 2507.15846)", kinds=SINGLE)
def gaussian_coverage(answer: Answer, sample: Sample, *, alpha: float = 0.5, max_area: float = WHOLE_IMAGE) -> float:
    """exp(-D), D the Bhattacharyya distance of the two axis-aligned Gaussians with s = alpha * side around p and g.

    Per axis, exp(-D) = sqrt(2 s_p s_g / (s_p^2 + s_g^2)) * exp(-d^2 / (4 (s_p^2 + s_g^2))): how well the answer's
    box agrees with the target's in place and size. A click without a box scores 0.
    """
    if alpha <= 0:
        raise UsageError(f"alpha {alpha} must be positive")
    target = target_box(sample)
    box = single_box(answer)
    if box is None or box.image != target.image or is_whole_image(box, target, max_area):
        return 0.0
    distance = 0.0
    for p1, p2, g1, g2 in ((box.x1, box.x2, target.x1, target.x2), (box.y1, box.y2, target.y1, target.y2)):
        p, g = alpha * (p2 - p1), alpha * (g2 - g1)
        if p <= 0.0:
            return 0.0
        gap = (p1 + p2 - g1 - g2) / 2
        variance = p * p + g * g
        ratio = p / g + g / p
        distance += gap * gap / (4 * variance) + 0.5 * log(ratio / 2)
    return exp(-distance)


MOST = 100  # guesses that are looked at; more are a scan, nobody lists so many in good faith
SLIVER = 0.5  # square pixels of the original image: twice the area below which a triangle is a line


@reward("ranked_points", range=(-1, 1), source="InfiGUI-G1 adaptive exploration (arXiv 2508.05731)", kinds=SINGLE)
def ranked_points(answer: Answer, sample: Sample, *, collinear: bool = False) -> float:
    """1 / sqrt(N k), k the rank of the first of N points that hits; -1/N if none does; -1 for an unreadable answer.

    Ask for several points. Any three points on one line are a scan across the screen, not guesses, and earn -1 unless
    `collinear`; so do more than 100 points. On one line: twice the area of their triangle is below 0.5 square pixels
    of the original image.
    """
    click = single_click(answer) if not answer.points else None
    points = (click,) if click is not None else answer.points
    target = sample.target
    if not isinstance(target, (Box, Polygon)):
        raise TypeError(f"sample {sample.id!r} has a target of kind {sample.kind!r}, not a box or polygon")
    if not answer.ok or not points or (not collinear and (len(points) > MOST or _on_a_line(points, sample))):
        return -1.0
    n = len(answer.points) or 1
    for rank, point in enumerate(points, start=1):
        if hits(point, target):
            return 1 / sqrt(n * rank)
    return -1.0 / n


def _on_a_line(points: Sequence[Point], sample: Sample) -> bool:
    """Whether any three points of one image lie on one line."""
    for index in {point.image for point in points}:
        image = sample.images[index]
        xy = np.array([(p.x * image.width, p.y * image.height) for p in points if p.image == index])
        for i in range(len(xy) - 2):
            dx, dy = (xy[i + 1 :] - xy[i]).T  # (n,) from one point to all after it
            twice_area = np.abs(np.outer(dx, dy) - np.outer(dy, dx))  # (n, n), every pair of them
            if (twice_area[np.triu_indices(len(dx), 1)] < SLIVER).any():
                return True
    return False

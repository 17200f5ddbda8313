"""Several guesses in order of confidence: exploration with one answer."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from grounding.answer import Answer
from grounding.sample import Sample
from grounding.targets import Box, Point, Polygon
from rewards import reward
from rewards.point import hits
from rewards.read import SINGLE, single_click

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

"""Rewards for pointing at several things at once. P: the answer's regions, G: the target's.

One answer may serve one target only, and every reward is divided by, or loses precision to, the larger count: listing
more boxes than there are things never pays. Boxes over the whole image stay in the count but match nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from grounding.answer import Answer
from grounding.errors import BrokenRow
from grounding.geometry import TIE, FloatArray, at_least, iou_matrix
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point
from rewards import reward
from rewards.point import hits
from rewards.single_target import WHOLE_IMAGE

BOXES = ("boxes", "box", "text_box")
RECALLS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
SHOWERS = 10  # times as many answers as targets (and over 100) are not worth the time of a matching


def _targets(sample: Sample) -> list[Box]:
    boxes = [region for region in regions_of(sample.target) if isinstance(region, Box)]
    for box in boxes:
        if box.area <= 0.0:
            raise BrokenRow(sample.id, f"target box {box.xyxy} has no area; drop the row or widen the box")
    if not boxes:
        raise BrokenRow(sample.id, "the target has no boxes")
    return boxes


def _answers(answer: Answer, targets: Sequence[object]) -> tuple[Box, ...]:
    boxes = answer.boxes if answer.ok else ()
    return () if len(boxes) > max(100, SHOWERS * len(targets)) else boxes


def overlaps(answers: Sequence[Box], targets: Sequence[Box], max_area: float) -> FloatArray:
    """IoU of every answer with every target, (P, G); 0 across images and where an answer is the whole image."""
    matrix = iou_matrix(np.array([b.xyxy for b in answers]), np.array([b.xyxy for b in targets]))
    same_image = np.equal.outer([b.image for b in answers], [b.image for b in targets])
    too_large = np.array([b.area > max_area for b in answers])[:, None] & (matrix < 0.5 - TIE)
    return np.where(same_image & ~too_large, matrix, 0.0)


def best_matching(worth: FloatArray) -> float:
    """Largest total worth of a one-to-one matching. worth: (P, G)."""
    # A second that the wrong name of a reward should not cost
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum())


@reward("matched_iou", range=(0, 1), source="Hungarian matching as in DETR (arXiv 2005.12872)", kinds=BOXES)
def matched_iou(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """Sum of the IoUs of the best one-to-one matching, divided by max(|P|, |G|). One against one it is the IoU."""
    targets = _targets(sample)
    answers = _answers(answer, targets)
    if not answers:
        return 0.0
    return best_matching(overlaps(answers, targets, max_area)) / max(len(answers), len(targets))


@reward("matched_objects", range=(0, 1), source="VisionReasoner (arXiv 2505.12081)", kinds=BOXES)
def matched_objects(
    answer: Answer,
    sample: Sample,
    *,
    box_px: float = 10.0,
    point_px: float = 30.0,
    frame: float = 840.0,
    max_area: float = WHOLE_IMAGE,
) -> float:
    """Best matching of (1{IoU > 0.5} + 1{L1 < box_px} + 1{point near and inside}) / 3, divided by max(|P|, |G|).

    L1 is the mean absolute difference of the four coordinates. Pixels are those of a `frame` x `frame` image, the
    size that recipe trains on. The k-th point belongs to the k-th box; near is within `point_px` of the target's
    center, inside is inside the box it belongs to. An answer without a point for each box earns nothing for points.
    Published as a sum up to 3.
    """
    targets = _targets(sample)
    answers = _answers(answer, targets)
    if not answers:
        return 0.0
    p, g = np.array([b.xyxy for b in answers]), np.array([b.xyxy for b in targets])
    usable = np.equal.outer([b.image for b in answers], [b.image for b in targets])
    matrix = overlaps(answers, targets, max_area)
    usable &= ~(np.array([b.area > max_area for b in answers])[:, None] & (matrix < 0.5 - TIE))
    near_box = np.abs(p[:, None] - g[None]).mean(axis=2) * frame < box_px - TIE
    right_point = np.zeros_like(near_box)
    if len(answer.points) == len(answers):
        click = np.array([(q.x, q.y) for q in answer.points])[:, None]  # (P, 1, 2)
        center = (g[None, :, :2] + g[None, :, 2:]) / 2
        near = np.hypot(*np.moveaxis(click - center, 2, 0)) * frame < point_px - TIE
        own = p[:, None]
        inside = ((own[..., :2] - TIE <= click) & (click <= own[..., 2:] + TIE)).all(axis=2)
        same = np.array([q.image == b.image for q, b in zip(answer.points, answers, strict=True)])
        right_point = near & inside & same[:, None]
    worth = ((matrix > 0.5 + TIE).astype(float) + near_box + right_point) / 3
    return best_matching(np.where(usable, worth, 0.0)) / max(len(answers), len(targets))


@reward(
    "matched_points",
    range=(0, 1),
    source="Molmo (arXiv 2409.17146), PixMo-Points counting",
    kinds=("points", "boxes"),
)
def matched_points(answer: Answer, sample: Sample, *, tolerance: float = 0.05) -> float:
    """Number of targets that get a click of their own, divided by max(|P|, |G|).

    A click belongs to a point within `tolerance` (canonical distance), to a box it lies in.
    """
    targets = regions_of(sample.target)
    clicks = answer.points if answer.ok and len(answer.points) <= max(100, SHOWERS * len(targets)) else ()
    if not clicks:
        return 0.0
    worth = np.array([[_belongs(click, target, tolerance) for target in targets] for click in clicks], dtype=float)
    return best_matching(worth) / max(len(clicks), len(targets))


def _belongs(click: Point, target: object, tolerance: float) -> bool:
    if isinstance(target, Box):
        return hits(click, target)
    if isinstance(target, Point):
        near = at_least(tolerance, float(np.hypot(click.x - target.x, click.y - target.y)))
        return target.image == click.image and near
    return False


@reward("detection_f1", range=(0, 1), source="detection F1, as in UniVG-R1 and Rex-Thinker evaluations", kinds=BOXES)
def detection_f1(answer: Answer, sample: Sample, *, threshold: float = 0.5, max_area: float = WHOLE_IMAGE) -> float:
    """2 TP / (|P| + |G|), TP the largest number of one-to-one pairs with IoU > threshold."""
    targets = _targets(sample)
    answers = _answers(answer, targets)
    if not answers:
        return 0.0
    hits = best_matching((overlaps(answers, targets, max_area) > threshold + TIE).astype(float))
    return 2 * hits / (len(answers) + len(targets))


@reward("detection_map", range=(0, 1), source="COCO mAP; VLM-R1 (arXiv 2504.07615) od and odLength", kinds=BOXES)
def detection_map(
    answer: Answer,
    sample: Sample,
    *,
    labels: bool = False,
    length_penalty: bool = True,
    max_area: float = WHOLE_IMAGE,
) -> float:
    """COCO AP averaged over IoU 0.50:0.05:0.95, answers ranked as written; with `length_penalty` * min(1, |G| / |P|).

    AP alone forgives every box listed after the right ones, so the penalty is on. With `labels`, the mean over the
    target's labels of the AP among boxes of that label.
    """
    targets = _targets(sample)
    answers = _answers(answer, targets)
    if not answers:
        return 0.0
    by_label: dict[str | None, tuple[list[Box], list[Box]]] = defaultdict(lambda: ([], []))
    for box in targets:
        by_label[box.label if labels else None][1].append(box)
    for box in answers:
        key = box.label if labels else None
        if key in by_label:
            by_label[key][0].append(box)
    precision = float(np.mean([average_precision(p, g, max_area) for p, g in by_label.values()]))
    return precision * min(1.0, len(targets) / len(answers)) if length_penalty else precision


def average_precision(answers: Sequence[Box], targets: Sequence[Box], max_area: float = WHOLE_IMAGE) -> float:
    """COCO AP of one label: mean over `THRESHOLDS` of the 101-point interpolated precision; 100 answers count."""
    if not answers:
        return 0.0
    matrix = overlaps(answers[:100], targets, max_area)
    if matrix.max() < THRESHOLDS[0] - TIE:
        return 0.0
    return float(np.mean([_precision_at(matrix, threshold) for threshold in THRESHOLDS]))


def _precision_at(matrix: FloatArray, threshold: float) -> float:
    free = np.ones(matrix.shape[1], dtype=bool)
    hit = np.zeros(matrix.shape[0], dtype=bool)
    # COCO's greedy rule: each answer in turn takes its best target still free, of equals the last one.
    for i, row in enumerate(matrix):
        candidates = np.where(free & (row >= threshold - TIE), row, -1.0)
        best = len(candidates) - 1 - int(np.argmax(candidates[::-1]))
        if candidates[best] >= 0:
            free[best] = False
            hit[i] = True
    true = np.cumsum(hit)
    recall = true / matrix.shape[1]
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.where(at < len(precision), precision[np.minimum(at, len(precision) - 1)], 0.0).mean())

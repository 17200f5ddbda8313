"""Right or wrong, for many answers at once. Each function takes N items with their N predictions.

None of them sees the output's text, and none of them touches a prediction: how an answer was read was
decided before, by the declared dialect or coordinate space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.items import XYXY, BenchmarkItem, Prediction, Rule, Verdict
from grounding import geometry

WRONG = Verdict(False, 0.0)
RIGHT = Verdict(True, 1.0)
SKIPPED = Verdict(False, 0.0, skipped=True)


def reaches(value: float, threshold: float, op: str) -> bool:
    """`value` counts at `threshold` under ``"ge"`` or ``"gt"``."""
    return value > threshold if op == "gt" else value >= threshold


def at_threshold(value: float, rule: Rule) -> Verdict:
    """The verdict on an overlap: right from `rule.main` on."""
    return Verdict(reaches(value, rule.main, rule.iou_op), value)


def unreadable(rule: Rule) -> Verdict:
    """The verdict on an output nothing could be read from."""
    return SKIPPED if rule.failure == "skip" else WRONG


def clicks(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """Is the click inside the target (any of its boxes or polygons)? On an absent target: did the model decline?"""
    verdicts: list[Verdict] = [WRONG] * len(items)
    points, boxes, rows = [], [], []
    for row, (item, prediction) in enumerate(zip(items, predictions, strict=True)):
        truth = item.truth
        click = prediction.click(rule.pick)
        if prediction.failed:
            verdicts[row] = unreadable(rule)
        elif truth.absent:
            verdicts[row] = RIGHT if prediction.absent and click is None else WRONG
        elif click is None:
            continue
        elif truth.polygons:
            hit = any(geometry.point_in_polygon(click, np.asarray(p), boundary=rule.boundary) for p in truth.polygons)
            verdicts[row] = RIGHT if hit else WRONG
        else:
            image = _image(prediction, rule)
            for index, box in enumerate(truth.boxes):
                if truth.image_of(index) == image:
                    points.append(click)
                    boxes.append(box)
                    rows.append(row)
    if rows:
        inside = geometry.point_in_box(np.asarray(points), np.asarray(boxes), boundary=rule.boundary)
        for row, hit in zip(rows, inside.tolist(), strict=True):
            if hit:
                verdicts[row] = RIGHT
    return verdicts


def boxes(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """IoU of the answered box with the true one (the best of several alternatives), right from `rule.main` on."""
    verdicts: list[Verdict] = [WRONG] * len(items)
    answered, true, rows = [], [], []
    for row, (item, prediction) in enumerate(zip(items, predictions, strict=True)):
        truth = item.truth
        box = prediction.box(rule.pick)
        if prediction.failed:
            verdicts[row] = unreadable(rule)
        elif truth.absent:
            verdicts[row] = RIGHT if prediction.absent and box is None else WRONG
        elif box is not None:
            image = _image(prediction, rule)
            for index, alternative in enumerate(truth.boxes):
                if truth.image_of(index) == image:
                    answered.append(box)
                    true.append(alternative)
                    rows.append(row)
    if rows:
        overlap = geometry.iou(np.asarray(answered), np.asarray(true)).tolist()
        _keep_best(verdicts, rows, overlap, rule)
    return verdicts


def box_sets(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """F1 of all boxes, class ignored, right where it is 1. Where there is nothing to find: did the model decline?"""
    verdicts = []
    for item, prediction in zip(items, predictions, strict=True):
        if item.truth.boxes:
            f1 = matched_f1(prediction.boxes, item.truth.boxes, rule.main)
            verdicts.append(Verdict(f1 >= 1.0, f1))
        else:
            verdicts.append(RIGHT if prediction.absent and not prediction.boxes else WRONG)
    return verdicts


def matched_f1(answered: Sequence[XYXY], true: Sequence[XYXY], threshold: float) -> float:
    """F1 of a greedy one-to-one matching, best generalized IoU first."""
    hits = 0
    if answered and true:
        table = geometry.giou(np.asarray(answered)[:, None, :], np.asarray(true)[None, :, :])
        for _ in range(min(table.shape)):
            best = np.unravel_index(int(table.argmax()), table.shape)
            if table[best] < threshold:
                break
            hits += 1
            table[best[0], :] = table[:, best[1]] = 0.0
    return 2 * hits / (len(answered) + len(true)) if answered or true else 1.0


def spans(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """Temporal IoU of the answered span that counts with the best true one, right from `rule.main` on.

    On an absent target: did the model decline?
    """
    verdicts: list[Verdict] = [WRONG] * len(items)
    answered, true, rows = [], [], []
    for row, (item, prediction) in enumerate(zip(items, predictions, strict=True)):
        span = prediction.span(rule.pick)
        if prediction.failed:
            verdicts[row] = unreadable(rule)
        elif item.truth.absent:
            verdicts[row] = RIGHT if prediction.absent and span is None else WRONG
        if span is None:
            continue
        for alternative in item.truth.spans:
            answered.append(span)
            true.append(alternative)
            rows.append(row)
    if rows:
        overlap = geometry.temporal_iou(np.asarray(answered), np.asarray(true)).tolist()
        _keep_best(verdicts, rows, overlap, rule)
    return verdicts


def _image(prediction: Prediction, rule: Rule) -> int:
    """The image of the answer that counts."""
    return prediction.images[-1 if rule.pick == "last" else 0] if prediction.images else 0


def _keep_best(verdicts: list[Verdict], rows: Sequence[int], overlap: Sequence[float], rule: Rule) -> None:
    for row, value in zip(rows, overlap, strict=True):
        if value > verdicts[row].value:
            verdicts[row] = at_threshold(value, rule)

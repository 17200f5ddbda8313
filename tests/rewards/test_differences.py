"""The table "Differences" of docs/rewards.md: every figure, ours from the rewards, theirs from the formula there.

The formulas are those of the systems' public code, written down anew, in pixels as there.
"""

from __future__ import annotations

from math import e, exp, hypot
from pathlib import Path

import pytest

from grounding.answer import Answer, Status
from grounding.targets import Box, Boxes, Point
from rewards.box import giou, iou, iou_above
from rewards.compose import build_rewards
from rewards.detection import detection_map, matched_objects
from rewards.group import difficulty_weighted_iou
from rewards.point import click_in_box, dense_point, gaussian_point
from rewards.tools import ExecutedCall, zoom_spread
from tests.rewards.making import a_sample, boxes, call, clicks

DOCS = Path(__file__).parents[2] / "docs" / "rewards.md"
WIDTH, HEIGHT = 200, 100


def canonical(x1, y1, x2, y2):
    return x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT


def iou_of_pixels(p, g):
    """VLM-R1: corners belong to the boxes, but an overlap one pixel wide counts as none."""
    w, h = min(p[2], g[2]) - max(p[0], g[0]), min(p[3], g[3]) - max(p[1], g[1])
    shared = w * h if w > 1 and h > 1 else 0
    return shared / ((p[2] - p[0]) * (p[3] - p[1]) + (g[2] - g[0]) * (g[3] - g[1]) - shared)


def iou_plus_one(p, g):
    """Seg-Zero: every side is one pixel longer."""
    w, h = min(p[2], g[2]) - max(p[0], g[0]) + 1, min(p[3], g[3]) - max(p[1], g[1]) + 1
    shared = max(w, 0) * max(h, 0)
    area = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (p, g)]
    return shared / (sum(area) - shared)


def open_border(x, y, g):
    return float(g[0] < x < g[2] and g[1] < y < g[3])


def plain_giou(p, g):
    hull = (max(p[2], g[2]) - min(p[0], g[0])) * (max(p[3], g[3]) - min(p[1], g[1]))
    union = (p[2] - p[0]) * (p[3] - p[1]) + (g[2] - g[0]) * (g[3] - g[1])  # of boxes apart
    return -(hull - union) / hull


def se_gui(x, y, g):
    """1 in the box, and 1 - d^2 with d the distance of the center in shares of the longest there is."""
    cx, cy = (g[0] + g[2]) / 2, (g[1] + g[3]) / 2
    return float(g[0] <= x <= g[2] and g[1] <= y <= g[3]) + 1 - (hypot(x - cx, y - cy) / hypot(cx, cy)) ** 2


TARGET = (80, 30, 120, 70)  # pixels; the center of a picture of 200 x 100
SAMPLE = a_sample(Box(*canonical(*TARGET)), width=WIDTH, height=HEIGHT)
ONE, OTHER = Box(0.1, 0.1, 0.2, 0.3, label="cup"), Box(0.6, 0.1, 0.7, 0.3, label="jug")
SWAPPED = Answer(Status.OK, boxes=(Box(*ONE.xyxy, label="jug"), Box(*OTHER.xyxy, label="cup")))


def of_text(name, text, target):
    (function,) = build_rewards([name], "qwen3_vl", "bare", answer_kind="box")
    return call(function, [text], [a_sample(target)])[0]


def rows():
    """(reward, system, what differs, example, theirs, ours)."""
    thin = (118, 30, 119, 70), (118, 30, 158, 70)
    half = (80, 30, 100, 70)
    yield (
        "`iou`", "VLM-R1", "an overlap one pixel wide counts as none there", "overlap of 1 x 40 px",
        iou_of_pixels(*thin), iou(boxes(canonical(*thin[0])), a_sample(Box(*canonical(*thin[1])))),
    )  # fmt: skip
    yield (
        "`iou_above`", "Seg-Zero", "sides are one pixel longer there", "half of a target of 40 x 40 px",
        float(iou_plus_one(half, TARGET) > 0.5), iou_above(boxes(canonical(*half)), SAMPLE),
    )  # fmt: skip
    apart = (0, 30, 40, 70)
    yield (
        "`giou`, `diou`, `ciou`", "their papers", "rescaled to [0, 1]", "GIoU, boxes apart by their width",
        plain_giou(apart, TARGET), giou(boxes(canonical(*apart)), SAMPLE),
    )  # fmt: skip
    yield (
        "`click_in_box`", "GUI-R1", "the border is outside there; it also checks the action",
        "a click on the left edge",
        open_border(80, 50, TARGET), click_in_box(clicks((0.4, 0.5)), SAMPLE),
    )  # fmt: skip
    yield (
        "`dense_point`", "SE-GUI", "half of it; 0 beyond d = 1 there, which no place in the picture is", "the center",
        se_gui(100, 50, TARGET), dense_point(clicks((0.5, 0.5)), SAMPLE),
    )  # fmt: skip
    yield (
        "`gaussian_point`", "GUI-G2", "rounded to three digits there", "a click in the middle of an edge",
        round(exp(-0.5), 3), gaussian_point(clicks((0.4, 0.5)), SAMPLE),
    )  # fmt: skip
    pointed = Answer(Status.OK, boxes=(Box(*canonical(*TARGET)),), points=(Point(0.5, 0.5),))
    yield (
        "`matched_objects`", "VisionReasoner", "a third of it", "the right box and point", 3.0,
        matched_objects(pointed, SAMPLE),
    )  # fmt: skip
    yield (
        "", "", "an answer without points is worth nothing there", "the right box alone", 0.0,
        matched_objects(boxes(canonical(*TARGET)), SAMPLE),
    )  # fmt: skip
    yield (
        "`detection_map`", "VLM-R1", "labels are pooled unless `labels: true`", "two boxes that swap labels", 0.0,
        detection_map(SWAPPED, a_sample(Boxes((ONE, OTHER)))),
    )  # fmt: skip
    group = [boxes(canonical(*TARGET)), boxes((0.0, 0.0, 0.1, 0.1))]
    yield (
        "`difficulty_weighted_iou`", "UniVG-R1", "divided by 1.05, so that 1 is the most",
        "mean IoU 0.5, the right one",
        1.05 - 0.5, difficulty_weighted_iou(group, SAMPLE)[0],
    )  # fmt: skip
    yield (
        "", "its launch script", "`form: exp`, divided by e", "the same", exp(1 - 0.5),
        difficulty_weighted_iou(group, SAMPLE, form="exp")[0],
    )  # fmt: skip
    zoom = [ExecutedCall("zoom", Point(0.5, 0.5), showed_image=True)]
    yield (
        "`zoom_spread`", "ViGoRL", "the first zoom counts here", "one zoom", 0.0,
        zoom_spread(group[0], SAMPLE, executed_calls=zoom),
    )  # fmt: skip
    outside = (800, 300, 1001, 700)
    inside = Box(0.8, 0.3, 1.0, 0.7)
    yield (
        "all of a place", "most", "a place that reaches one step outside the picture is none", "x2 = 1001 of 1000",
        iou_of_pixels(outside, (800, 300, 1000, 700)), of_text("iou", f'{{"bbox_2d": {list(outside)}}}', inside),
    )  # fmt: skip


def table():
    """The rows as they stand in the documentation."""
    yield "| reward | original | what differs | example | original | here |"
    yield "|---|---|---|---|---|---|"
    for reward, system, difference, example, theirs, ours in rows():
        yield f"| {reward} | {system} | {difference} | {example} | {theirs:.4g} | {ours:.4g} |"


def test_the_documented_differences_are_the_measured_ones():
    documented = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in table() if line not in documented] == []


def test_what_is_rescaled_is_the_original_after_all():
    values = {(reward, system): (theirs, ours) for reward, system, _, _, theirs, ours in rows()}
    for key, scale in (
        (("`dense_point`", "SE-GUI"), 2),
        (("`difficulty_weighted_iou`", "UniVG-R1"), 1.05),
        (("", "its launch script"), e),
    ):
        assert values[key][0] == pytest.approx(values[key][1] * scale)
    theirs, ours = values["`giou`, `diou`, `ciou`", "their papers"]
    assert ours == pytest.approx((theirs + 1) / 2)

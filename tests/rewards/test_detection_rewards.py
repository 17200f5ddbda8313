"""Many-object rewards against pycocotools, brute force and hand-worked cases."""

import contextlib
import io
import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounding.answer import Answer, Status
from grounding.errors import BrokenRow
from grounding.geometry import iou_matrix
from grounding.targets import Box, Boxes, Point, Points, TextBox
from rewards.box import iou, iou_above
from rewards.detection import (
    average_precision,
    detection_f1,
    detection_map,
    matched_iou,
    matched_objects,
    matched_points,
)
from tests.rewards.making import ABSENT, UNREADABLE, a_sample, boxes, clicks

LEFT, RIGHT, TOP = (0.1, 0.4, 0.3, 0.6), (0.7, 0.4, 0.9, 0.6), (0.4, 0.05, 0.6, 0.25)
THREE = a_sample(Boxes((Box(*LEFT), Box(*RIGHT), Box(*TOP))))
FAMILY = [matched_iou, matched_objects, detection_f1, detection_map]

some_boxes = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 4), st.integers(1, 4)).map(
        lambda v: (v[0] / 12, v[1] / 12, (v[0] + v[2]) / 12, (v[1] + v[3]) / 12)
    ),
    min_size=1,
    max_size=5,
)


def coco_map(answers, targets):
    """pycocotools' AP at IoU 0.50:0.95 for one image of 1200 x 1200 pixels."""

    def rows(items):
        for i, (x1, y1, x2, y2, label) in enumerate(items, start=1):
            box = [1200 * x1, 1200 * y1, 1200 * (x2 - x1), 1200 * (y2 - y1)]
            yield {"id": i, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}

    labels = sorted({item[4] for item in targets})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "width": 1200, "height": 1200}],
            "categories": [{"id": label} for label in labels],
            "annotations": list(rows(targets)),
        }
        truth.createIndex()
        found = truth.loadRes([{**row, "score": 1.0} for row in rows(answers) if row["category_id"] in labels])
        scorer = COCOeval(truth, found, "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats[0]


@settings(max_examples=60)
@given(some_boxes, some_boxes)
def test_map_agrees_with_pycocotools(answers, targets):
    overlaps = iou_matrix(answers, targets)[..., None]
    assume(np.abs(overlaps - np.linspace(0.5, 0.95, 10)).min() > 1e-6)  # there the two round differently
    expected = coco_map([(*a, 1) for a in answers], [(*t, 1) for t in targets])
    value = detection_map(boxes(*answers), a_sample(Boxes(tuple(Box(*t) for t in targets))), length_penalty=False)
    assert value == pytest.approx(max(expected, 0.0), abs=1e-9)


def test_map_by_label_agrees_with_pycocotools():
    targets = [(*LEFT, 1), (*RIGHT, 2), (*TOP, 2)]
    answers = [(*LEFT, 2), (*RIGHT, 2), (0.1, 0.41, 0.3, 0.6, 1)]
    expected = coco_map(answers, targets)
    sample = a_sample(Boxes(tuple(Box(*t[:4], label=str(t[4])) for t in targets)))
    answer = Answer(Status.OK, boxes=tuple(Box(*a[:4], label=str(a[4])) for a in answers))
    assert 0 < expected < 1
    assert detection_map(answer, sample, labels=True, length_penalty=False) == pytest.approx(expected, abs=1e-9)


def test_boxes_after_the_right_ones_cost_with_the_length_penalty_only():
    answer = boxes(LEFT, RIGHT, TOP, (0, 0.8, 0.1, 0.9), (0.2, 0.8, 0.3, 0.9), (0.4, 0.8, 0.5, 0.9))
    assert detection_map(answer, THREE, length_penalty=False) == pytest.approx(1.0)
    assert detection_map(answer, THREE) == pytest.approx(0.5)


@settings(max_examples=60)
@given(some_boxes, some_boxes)
def test_matched_iou_is_the_best_of_all_matchings(answers, targets):
    worth = np.array([[iou(boxes(a), a_sample(Box(*t))) for t in targets] for a in answers])
    if len(answers) < len(targets):
        worth = worth.T
    rows, columns = worth.shape
    best = max(
        sum(worth[r, c] for c, r in enumerate(order)) for order in itertools.permutations(range(rows), columns)
    )
    sample = a_sample(Boxes(tuple(Box(*t) for t in targets)))
    assert matched_iou(boxes(*answers), sample) == pytest.approx(best / rows, abs=1e-9)


@given(some_boxes, some_boxes, st.randoms())
def test_the_order_of_the_answers_does_not_matter_where_it_should_not(answers, targets, random):
    sample = a_sample(Boxes(tuple(Box(*t) for t in targets)))
    shuffled = list(answers)
    random.shuffle(shuffled)
    for reward in (matched_iou, matched_objects, detection_f1):
        assert reward(boxes(*shuffled), sample) == pytest.approx(reward(boxes(*answers), sample))


@given(some_boxes, some_boxes)
def test_values_stay_in_range(answers, targets):
    sample = a_sample(Boxes(tuple(Box(*t) for t in targets)))
    for reward in FAMILY:
        assert 0 <= reward(boxes(*answers), sample) <= 1


def test_one_against_one_is_the_iou():
    sample = a_sample(Box(*LEFT))
    near = (0.1, 0.4, 0.3, 0.7)
    assert matched_iou(boxes(near), sample) == pytest.approx(iou(boxes(near), sample))


def test_matched_objects_by_hand():
    # LEFT exactly: 3 of 3. RIGHT half as high: IoU 0.5 is not above 0.5; L1 = 0.1 * 840 / 4 = 21 px is not under 10;
    # its center is 0.05 * 840 = 42 px off: 0 of 3. TOP moved along x by 0.01: IoU 0.9, two of four coordinates differ
    # by 8.4 px, which is 4.2 in the mean, the center by 8.4 px: 3 of 3.
    found = tuple(Box(*c) for c in (LEFT, (0.7, 0.4, 0.9, 0.5), (0.41, 0.05, 0.61, 0.25)))
    pointed = Answer(Status.OK, boxes=found, points=tuple(box.center for box in found))
    assert matched_objects(pointed, THREE) == pytest.approx((1 + 0 + 1) / 3)
    assert matched_objects(Answer(Status.OK, boxes=found), THREE) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)


def test_matched_objects_uses_the_answers_own_points():
    answer = Answer(Status.OK, boxes=(Box(*LEFT), Box(*RIGHT), Box(*TOP)), points=(Point(0, 0),) * 3)
    assert matched_objects(answer, THREE) == pytest.approx(2 / 3)


def test_a_point_counts_inside_its_own_box_only():
    sample, center = a_sample(Box(*LEFT)), Point(0.2, 0.5)
    assert matched_objects(Answer(Status.OK, boxes=(Box(*LEFT),), points=(center,)), sample) == 1.0
    assert matched_objects(Answer(Status.OK, boxes=(Box(*RIGHT),), points=(center,)), sample) == 0.0


@pytest.mark.parametrize(("x", "y", "w", "h"), [(0.1, 0.1, 0.3, 0.3), (0.2, 0.1, 0.7, 0.2), (0.3, 0.6, 0.1, 0.1)])
def test_an_overlap_of_exactly_a_half_is_not_above_it(x, y, w, h):
    whole, half = Box(x, y, x + w, y + h), (x, y, x + w / 2, y + h)
    assert detection_f1(boxes(half), a_sample(whole)) == iou_above(boxes(half), a_sample(whole)) == 0.0
    assert average_precision([Box(*half)], [whole]) == pytest.approx(0.1)  # COCO counts it, at 0.5 alone


def test_f1_by_hand():
    assert detection_f1(boxes(LEFT, RIGHT), THREE) == pytest.approx(4 / 5)
    assert detection_f1(boxes(LEFT, RIGHT, TOP, (0, 0, 0.1, 0.1)), THREE) == pytest.approx(6 / 7)


def test_matched_points_by_hand():
    sample = a_sample(Points((Point(0.2, 0.2), Point(0.8, 0.8))))
    assert matched_points(clicks((0.2, 0.21), (0.8, 0.8)), sample) == 1.0
    assert matched_points(clicks((0.2, 0.2), (0.2, 0.2)), sample) == 0.5  # one target is not hit twice
    assert matched_points(clicks((0.2, 0.2), (0.8, 0.8), (0.5, 0.5), (0.1, 0.9)), sample) == 0.5
    assert matched_points(clicks((0.2, 0.5), (0.8, 0.5), (0.5, 0.15)), THREE) == 1.0


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
def test_hacks_earn_nothing(reward):
    assert all(reward(answer, THREE) == 0.0 for answer in [*UNREADABLE, ABSENT, clicks((0.2, 0.5))])
    assert reward(boxes((0, 0, 1, 1)), THREE) == 0.0
    assert reward(boxes(*[(0, 0, 1, 1)] * 3), THREE) == 0.0


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
def test_a_grid_of_boxes_earns_less_than_one_right_box(reward):
    grid = [(x / 10, y / 10, x / 10 + 0.2, y / 10 + 0.2) for x in range(9) for y in range(9)]
    assert 0 < reward(boxes(*grid), THREE) < reward(boxes(LEFT), THREE) / 3


@pytest.mark.parametrize("reward", [*FAMILY, matched_points], ids=lambda r: r.name)
def test_a_hundred_thousand_regions_take_no_time_and_earn_nothing(reward):
    flood = (Box(*LEFT), Box(*RIGHT)) * 50_000
    answer = Answer(Status.OK, boxes=flood, points=(flood[0].center,) * 100_000)
    start = time.process_time()
    assert reward(answer, THREE) == 0.0
    assert time.process_time() - start < 1.0


def test_evidence_boxes_of_a_text_answer_count():
    assert matched_iou(boxes(LEFT), a_sample(TextBox("42", (Box(*LEFT),)))) == pytest.approx(1.0)
    with pytest.raises(BrokenRow, match="no boxes"):
        matched_iou(boxes(LEFT), a_sample(TextBox("42", ())))


def test_boxes_of_another_image_do_not_match():
    sample = a_sample(Boxes((Box(*LEFT), Box(*LEFT, image=1))), images=2)
    assert matched_iou(boxes(LEFT, LEFT), sample) == pytest.approx(0.5)
    assert detection_f1(boxes(LEFT, LEFT, image=1), sample) == pytest.approx(0.5)

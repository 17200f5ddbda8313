"""Box rewards against shapely, hand-worked cases and the formulas of the papers."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from grounding.errors import BrokenRow
from grounding.targets import Box, Polygon
from rewards.box import ciou, diou, giou, iou, iou_above
from tests.rewards.making import ABSENT, TARGET, UNREADABLE, a_sample, boxes, clicks

FAMILY = [iou, iou_above, giou, diou, ciou]


def corners(low=0.0, high=1.0, least=0.01):
    def box(draw):
        x1 = draw(st.floats(low, high - least))
        y1 = draw(st.floats(low, high - least))
        return x1, y1, draw(st.floats(x1 + least, high)), draw(st.floats(y1 + least, high))

    return st.composite(box)()


def test_iou_by_hand():
    # p = [0.4, 0.4, 0.8, 0.6]: 0.2 x 0.1 shared, 0.08 + 0.08 - 0.02 in all
    assert iou(boxes((0.4, 0.4, 0.8, 0.6)), a_sample()) == pytest.approx(0.02 / 0.14)


def test_giou_by_hand():
    # the box around both is [0.2, 0.3, 0.8, 0.6], 0.18 large, of which 0.14 is covered
    expected = (0.02 / 0.14 - 0.04 / 0.18 + 1) / 2
    assert giou(boxes((0.4, 0.4, 0.8, 0.6)), a_sample()) == pytest.approx(expected)


def test_diou_by_hand_is_in_pixels():
    # 200 x 100 pixels: centers (80, 40) and (120, 50), the box around both 120 x 30
    expected = (0.02 / 0.14 - (40**2 + 10**2) / (120**2 + 30**2) + 1) / 2
    assert diou(boxes((0.4, 0.4, 0.8, 0.6)), a_sample()) == pytest.approx(expected)


def test_ciou_by_hand_is_in_pixels():
    # target 80 x 20, answer 40 x 40 with its center where the target's is: 40 x 20 shared
    answer = boxes((0.3, 0.2, 0.5, 0.6))
    overlap = 800 / (1600 + 1600 - 800)
    v = 4 / math.pi**2 * (math.atan(80 / 20) - math.atan(1)) ** 2
    expected = overlap - v * v / (1 - overlap + v)
    assert ciou(answer, a_sample()) == pytest.approx((expected + 1.5) / 2.5)


@given(corners(), corners())
def test_iou_and_giou_agree_with_shapely(p, g):
    assume(not (Box(*p).area > 0.9))
    a, b = shapely.box(*p), shapely.box(*g)
    expected = a.intersection(b).area / a.union(b).area
    hull = shapely.box(*a.union(b).bounds).area
    sample = a_sample(Box(*g))
    assert iou(boxes(p), sample) == pytest.approx(expected, abs=1e-9)
    assert giou(boxes(p), sample) == pytest.approx((expected - (hull - a.union(b).area) / hull + 1) / 2, abs=1e-9)


@given(corners(), corners())
def test_diou_and_ciou_agree_with_the_papers(p, g):
    assume(not (Box(*p).area > 0.9))
    width, height = 640, 360
    scale = np.array([width, height, width, height])
    a, b = np.array(p) * scale, np.array(g) * scale
    overlap = shapely.box(*a).intersection(shapely.box(*b)).area / shapely.box(*a).union(shapely.box(*b)).area
    hull = np.array(shapely.box(*a).union(shapely.box(*b)).bounds)
    gap = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    d = overlap - (gap @ gap) / ((hull[2:] - hull[:2]) @ (hull[2:] - hull[:2]))
    sides = [(c[2] - c[0]) / (c[3] - c[1]) for c in (a, b)]
    v = 4 / math.pi**2 * (math.atan(sides[1]) - math.atan(sides[0])) ** 2
    c = d - (v * v / (1 - overlap + v) if v else 0.0)
    sample = a_sample(Box(*g), width=width, height=height)
    assert diou(boxes(p), sample) == pytest.approx((d + 1) / 2, abs=1e-6)
    assert ciou(boxes(p), sample) == pytest.approx((c + 1.5) / 2.5, abs=1e-6)


@given(corners(), corners())
def test_iou_and_giou_are_symmetric(p, g):
    assume(max(Box(*p).area, Box(*g).area) <= 0.9)
    for reward in (iou, giou, diou, ciou):
        assert reward(boxes(p), a_sample(Box(*g))) == pytest.approx(reward(boxes(g), a_sample(Box(*p))), abs=1e-9)


@given(corners(), corners())
def test_values_stay_in_range(p, g):
    for reward in FAMILY:
        low, high = reward.range
        assert low <= reward(boxes(p), a_sample(Box(*g))) <= high


@given(corners())
def test_the_target_itself_scores_the_most(g):
    for reward in FAMILY:
        assert reward(boxes(g), a_sample(Box(*g))) == pytest.approx(1.0)


@given(st.floats(0, 1), st.floats(0, 1))
def test_sliding_a_box_onto_the_target_never_lowers_a_soft_reward(far, near):
    near, far = sorted((far, near))
    for reward in (iou, giou, diou, ciou):
        values = [
            reward(boxes((0.2 + s * 0.4, 0.3 + s * 0.5, 0.6 + s * 0.4, 0.5 + s * 0.5)), a_sample())
            for s in (far, near)
        ]
        assert values[1] >= values[0] - 1e-9


def test_threshold_is_strict():
    half = boxes((0.2, 0.3, 0.4, 0.5))
    assert iou(half, a_sample()) == pytest.approx(0.5)
    assert iou_above(half, a_sample(), threshold=0.49) == 1.0
    assert iou_above(half, a_sample(), threshold=0.51) == 0.0


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
@pytest.mark.parametrize("answer", [*UNREADABLE, ABSENT, clicks((0.4, 0.4)), boxes(TARGET.xyxy, (0, 0, 0.1, 0.1))])
def test_no_single_box_scores_nothing(reward, answer):
    assert reward(answer, a_sample()) == 0.0


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
def test_the_whole_image_scores_nothing_unless_it_is_right(reward):
    whole = boxes((0, 0, 1, 1))
    wrong = boxes((0.8, 0.8, 0.9, 0.9))
    assert reward(whole, a_sample()) == 0.0 <= reward(wrong, a_sample())
    assert reward(whole, a_sample(Box(0.02, 0.02, 0.98, 0.98))) > 0.9


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
def test_another_image_scores_nothing(reward):
    sample = a_sample(Box(0.2, 0.3, 0.6, 0.5, image=1), images=2)
    assert reward(boxes(TARGET.xyxy), sample) == 0.0
    assert reward(boxes(TARGET.xyxy, image=1), sample) == pytest.approx(1.0)


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
def test_a_polygon_counts_by_its_bounds(reward):
    triangle = Polygon(((0.2, 0.3), (0.6, 0.3), (0.4, 0.5)))
    assert reward(boxes(TARGET.xyxy), a_sample(triangle)) == pytest.approx(1.0)


@pytest.mark.parametrize("reward", FAMILY, ids=lambda r: r.name)
@pytest.mark.parametrize("answer", [UNREADABLE[0], boxes(TARGET.xyxy)])
def test_a_target_without_area_is_a_broken_row_whatever_the_answer(reward, answer):
    with pytest.raises(BrokenRow, match=r"^one: target box .* has no area"):
        reward(answer, a_sample(Box(0.2, 0.3, 0.2, 0.5)))


def test_a_box_without_area_is_a_wrong_answer():
    for reward in FAMILY:
        assert 0.0 <= reward(boxes((0.4, 0.4, 0.4, 0.4)), a_sample()) < 0.9

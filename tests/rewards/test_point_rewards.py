"""Point rewards against hand-worked values, numerical integration and their own monotonicity."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm

from grounding.errors import BrokenRow, UsageError
from grounding.targets import Box, Point, Polygon
from rewards.point import click_in_box, click_near, dense_point, gaussian_coverage, gaussian_point, ranked_points
from tests.rewards.making import ABSENT, TARGET, UNREADABLE, a_sample, boxes, clicks

CLICKS = [click_in_box, dense_point, gaussian_point]
unit = st.floats(0, 1)


@pytest.mark.parametrize(
    ("place", "expected"),
    [((0.4, 0.4), 1), ((0.2, 0.3), 1), ((0.6, 0.5), 1), ((0.19, 0.4), 0), ((0.4, 0.51), 0)],
)
def test_click_in_box_counts_the_border(place, expected):
    assert click_in_box(clicks(place), a_sample()) == expected


@given(unit, unit)
def test_click_in_polygon_agrees_with_shapely(x, y):
    outline = ((0.1, 0.1), (0.9, 0.2), (0.5, 0.5), (0.8, 0.9), (0.2, 0.7))
    shape = shapely.Polygon(outline)
    assume(shape.boundary.distance(shapely.Point(x, y)) > 1e-9)
    assert click_in_box(clicks((x, y)), a_sample(Polygon(outline))) == shape.contains(shapely.Point(x, y))


def test_dense_point_by_hand():
    # center (0.4, 0.4); the farthest corner is (1, 1), 0.72 away squared
    assert dense_point(clicks((0.4, 0.4)), a_sample()) == 1.0
    assert dense_point(clicks((0.2, 0.3)), a_sample()) == pytest.approx((1 + 1 - 0.05 / 0.72) / 2)
    assert dense_point(clicks((1.0, 1.0)), a_sample()) == pytest.approx(0.0)
    assert dense_point(clicks((0.0, 0.4)), a_sample()) == pytest.approx((1 - 0.16 / 0.72) / 2)


def test_gaussian_point_by_hand():
    assert gaussian_point(clicks((0.4, 0.4)), a_sample()) == 1.0
    assert gaussian_point(clicks((0.6, 0.4)), a_sample()) == pytest.approx(math.exp(-0.5))  # an edge's middle
    assert gaussian_point(clicks((0.6, 0.5)), a_sample()) == pytest.approx(math.exp(-1.0))  # a corner
    assert gaussian_point(clicks((0.8, 0.4)), a_sample(), alpha=1.0) == pytest.approx(math.exp(-0.5))


def test_gaussian_coverage_is_the_bhattacharyya_coefficient():
    answer = Box(0.3, 0.2, 0.5, 0.5)
    x = np.linspace(-3, 4, 200_001)
    expected = 1.0
    for (p1, p2), (g1, g2) in (((0.3, 0.5), (0.2, 0.6)), ((0.2, 0.5), (0.3, 0.5))):
        p = norm.pdf(x, (p1 + p2) / 2, (p2 - p1) / 2)
        g = norm.pdf(x, (g1 + g2) / 2, (g2 - g1) / 2)
        expected *= np.trapezoid(np.sqrt(p * g), x)
    assert gaussian_coverage(boxes(answer.xyxy), a_sample()) == pytest.approx(expected, rel=1e-6)


@given(unit, unit, unit, unit, st.floats(0, 1))
def test_moving_towards_the_center_never_lowers_a_reward(x, y, cx, cy, share):
    target = Box(cx * 0.8, cy * 0.7, cx * 0.8 + 0.2, cy * 0.7 + 0.3)
    center = target.center
    nearer = (x + (center.x - x) * share, y + (center.y - y) * share)
    for reward in CLICKS:
        assert reward(clicks(nearer), a_sample(target)) >= reward(clicks((x, y)), a_sample(target)) - 1e-12


@given(unit, unit)
def test_rewards_are_symmetric_about_the_center(x, y):
    target = Box(0.3, 0.35, 0.7, 0.65)  # center (0.5, 0.5): mirrored clicks stay in the image
    for reward in CLICKS:
        value = reward(clicks((x, y)), a_sample(target))
        assert reward(clicks((1 - x, y)), a_sample(target)) == pytest.approx(value, abs=1e-9)
        assert reward(clicks((x, 1 - y)), a_sample(target)) == pytest.approx(value, abs=1e-9)


@given(unit, unit, st.floats(1e-300, 1.0))
def test_values_stay_in_range_for_targets_of_any_size(x, y, side):
    target = Box(0.0, 0.0, max(side, 1e-150), max(side, 1e-150))
    for reward in [*CLICKS, ranked_points]:
        low, high = reward.range
        assert low <= reward(clicks((x, y)), a_sample(target)) <= high
    assert 0 <= gaussian_coverage(boxes((0, 0, x, y)), a_sample(target)) <= 1


def test_click_near_falls_linearly():
    sample = a_sample(Point(0.5, 0.5))
    assert click_near(clicks((0.5, 0.5)), sample) == 1.0
    assert click_near(clicks((0.53, 0.54)), sample) == pytest.approx(0.5)
    assert click_near(clicks((0.7, 0.5)), sample) == 0.0
    with pytest.raises(UsageError, match="tolerance"):
        click_near(clicks((0.5, 0.5)), sample, tolerance=0)


@pytest.mark.parametrize("reward", [*CLICKS, gaussian_coverage], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "answer", [*UNREADABLE, ABSENT, clicks((0.4, 0.4), (0.1, 0.1)), boxes(TARGET.xyxy, (0, 0, 0.1, 0.1))]
)
def test_no_single_place_scores_nothing(reward, answer):
    assert reward(answer, a_sample()) == 0.0


@pytest.mark.parametrize("reward", [*CLICKS, gaussian_coverage], ids=lambda r: r.name)
def test_the_whole_image_is_no_place(reward):
    middle = a_sample(Box(0.4, 0.4, 0.6, 0.6))  # the image's center lies in it
    assert reward(boxes((0, 0, 1, 1)), middle) == 0.0
    assert reward(boxes((0.45, 0.45, 0.55, 0.55)), middle) > 0.5


def test_repeating_one_click_is_one_click():
    assert click_in_box(clicks((0.4, 0.4), (0.4, 0.4)), a_sample()) == 1.0


def test_a_target_without_area_is_a_broken_row():
    for reward in (dense_point, gaussian_point, gaussian_coverage):
        with pytest.raises(BrokenRow, match="one: target box"):
            reward(boxes(TARGET.xyxy), a_sample(Box(0.2, 0.3, 0.6, 0.3)))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(0.4, 0.4)], 1.0),
        ([(0.9, 0.9)], -1.0),
        ([(0.4, 0.4), (0.9, 0.9)], 1 / math.sqrt(2)),
        ([(0.9, 0.9), (0.4, 0.4)], 1 / 2),
        ([(0.9, 0.9), (0.1, 0.8)], -1 / 2),
        ([(0.9, 0.9), (0.1, 0.8), (0.4, 0.4)], 1 / 3),
        ([(0.1, 0.4), (0.4, 0.4), (0.7, 0.4)], -1.0),  # on a line
    ],
)
def test_ranked_points_by_hand(places, expected):
    assert ranked_points(clicks(*places), a_sample()) == pytest.approx(expected)


def test_ranked_points_of_an_unreadable_answer():
    assert all(ranked_points(answer, a_sample()) == -1.0 for answer in [*UNREADABLE, ABSENT])
    assert ranked_points(clicks((0.1, 0.4), (0.4, 0.4), (0.7, 0.4)), a_sample(), collinear=True) == pytest.approx(
        1 / math.sqrt(6)
    )


def test_a_carpet_of_points_earns_less_than_one_honest_guess():
    carpet = [(i / 31, (i * i % 37) / 37) for i in range(32)] + [(0.4, 0.4)]
    assert ranked_points(clicks(*carpet), a_sample(), collinear=True) < 0.25


def test_any_three_points_on_one_line_are_a_scan():
    places = [(0.1, 0.5), (0.13, 0.02), (0.2, 0.5), (0.9, 0.03), (0.3, 0.5)]  # the first, third and fifth
    sample = a_sample(Box(0.1, 0.1, 0.3, 0.3))
    assert ranked_points(clicks(*places), sample) == -1.0
    assert ranked_points(clicks(*places), sample, collinear=True) == pytest.approx(-1 / 5)
    assert ranked_points(clicks(*places[:3]), sample) == pytest.approx(-1 / 3)


def test_small_triangles_on_a_large_screen_are_no_lines():
    x, y = 2 / 3840, 2 / 2160
    triangle = [(0.5, 0.5), (0.5 + x, 0.5), (0.5, 0.5 + y)]
    assert ranked_points(clicks(*triangle), a_sample(width=3840, height=2160)) == pytest.approx(1 / 3**0.5)


def test_more_guesses_than_anybody_makes_are_a_scan():
    circle = [(0.5 + 0.4 * math.cos(k), 0.5 + 0.4 * math.sin(k)) for k in range(101)]
    assert ranked_points(clicks(*circle), a_sample(width=4000, height=4000)) == -1.0
    assert ranked_points(clicks(*circle[:100]), a_sample(width=4000, height=4000)) > -1.0


@pytest.mark.parametrize("reward", [click_in_box, dense_point, gaussian_point], ids=lambda r: r.name)
def test_a_right_box_of_nearly_the_whole_image_is_a_click(reward):
    huge = (0.0, 0.0, 1.0, 0.95)
    assert reward(boxes(huge), a_sample(Box(*huge))) == pytest.approx(1.0)
    assert reward(boxes((0.0, 0.0, 1.0, 1.0)), a_sample(Box(0.4, 0.4, 0.6, 0.6))) == 0.0


def test_a_border_belongs_to_the_target_up_to_rounding():
    sample = a_sample(Box(0.1, 0.1, 0.1 + 0.2, 0.5))
    assert click_in_box(clicks((0.3 + 1e-12, 0.3)), sample) == 1.0
    assert click_in_box(clicks((0.3 + 1e-6, 0.3)), sample) == 0.0

"""Rewards over a group of answers: against shapely, and hand-worked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from shapely.ops import unary_union

from grounding.errors import UsageError
from rewards.group import difficulty_weighted_iou, diversity, region_consistency
from tests.rewards.making import ABSENT, TARGET, UNREADABLE, a_sample, boxes, clicks

corners = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 4), st.integers(1, 4)).map(
    lambda v: (v[0] / 12, v[1] / 12, (v[0] + v[2]) / 12, (v[1] + v[3]) / 12)
)


def deepest(shapes):
    """Most shapes over any one spot, by intersecting subsets."""
    best, layers = 1, list(enumerate(shapes))
    while layers:
        deeper = []
        for last, shape in layers:
            for i in range(last + 1, len(shapes)):
                common = shape.intersection(shapes[i])
                if common.area > 1e-9:
                    deeper.append((i, common))
        best, layers = (best + 1, deeper) if deeper else (best, [])
    return best


@settings(max_examples=50)
@given(st.lists(corners, min_size=1, max_size=6))
def test_region_consistency_agrees_with_shapely(group):
    shapes = [box(*c) for c in group]
    most = deepest(shapes)
    expected = [sum(s.intersection(t).area for t in shapes) / (most * s.area) for s in shapes]
    assert region_consistency([boxes(c) for c in group], a_sample()) == pytest.approx(expected, abs=1e-9)


def test_region_consistency_by_hand():
    # two agree, one overlaps them by half of itself, one is alone
    group = [boxes((0, 0, 0.2, 0.2)), boxes((0, 0, 0.2, 0.2)), boxes((0.1, 0, 0.3, 0.2)), boxes((0.6, 0.6, 0.8, 0.8))]
    # votes: 2 left of 0.1, 3 between 0.1 and 0.2, 1 right of it; the most is 3
    assert region_consistency(group, a_sample()) == pytest.approx([2.5 / 3, 2.5 / 3, 2 / 3, 1 / 3])


def test_a_click_votes_as_a_small_square():
    group = [clicks((0.5, 0.5)), clicks((0.52, 0.5)), clicks((0.0, 0.0))]
    # squares of 0.04: half of each of the first two overlaps the other
    assert region_consistency(group, a_sample()) == pytest.approx([0.75, 0.75, 0.5])


def test_cells_that_only_rounding_makes_are_no_place_to_agree_on():
    assert region_consistency([clicks((0.020, 0.5)), clicks((0.060, 0.5))], a_sample()) == pytest.approx([1.0, 1.0])


def test_boxes_without_area_neither_vote_nor_score():
    assert region_consistency([boxes((0.5, 0.5, 0.5, 0.5))] * 4, a_sample()) == [0.0] * 4


@pytest.mark.parametrize("size", [0, -0.1, 1.5])
def test_a_click_needs_a_size_to_vote(size):
    with pytest.raises(UsageError, match="point_size"):
        region_consistency([clicks((0.5, 0.5))], a_sample(), point_size=size)


def test_unreadable_answers_and_whole_images_neither_vote_nor_score():
    lonely = boxes((0.1, 0.1, 0.3, 0.3))
    group = [*UNREADABLE, ABSENT, *[boxes((0, 0, 1, 1))] * 5, lonely]
    assert region_consistency(group, a_sample()) == [0.0] * 9 + [pytest.approx(1.0)]
    assert unary_union([box(*lonely.box.xyxy)]).area == pytest.approx(0.04)


def test_answers_in_different_images_do_not_agree():
    group = [boxes((0, 0, 0.2, 0.2)), boxes((0, 0, 0.2, 0.2), image=1), boxes((0, 0, 0.2, 0.2), image=1)]
    assert region_consistency(group, a_sample(images=2)) == pytest.approx([1.0, 1.0, 1.0])


def test_diversity_by_hand():
    group = [clicks((0.1, 0.1)), clicks((0.2, 0.1)), clicks((0.9, 0.9)), *UNREADABLE]
    values = diversity(group, a_sample(), scale=0.2)
    assert values == pytest.approx([0.75, 0.75, 1.0, 0, 0, 0])
    assert diversity([clicks((0.4, 0.4))] * 4, a_sample()) == [0.0] * 4
    assert diversity([clicks((0.4, 0.4))], a_sample()) == [0.0]


def test_difficulty_weight_by_hand():
    group = [boxes(TARGET.xyxy), boxes((0.7, 0.7, 0.9, 0.9))]
    # mean IoU 0.5, weight (1.05 - 0.5) / 1.05
    assert difficulty_weighted_iou(group, a_sample()) == pytest.approx([0.55 / 1.05, 0.0])
    assert difficulty_weighted_iou(group, a_sample(), power=2.0) == pytest.approx([(0.55 / 1.05) ** 2, 0.0])
    # exp(-m), which is exp(1 - m) / e
    assert difficulty_weighted_iou(group, a_sample(), form="exp") == pytest.approx([0.60653066, 0.0])
    with pytest.raises(UsageError, match="power"):
        difficulty_weighted_iou(group, a_sample(), power=-1.0)


@given(st.lists(corners, min_size=1, max_size=5))
def test_values_stay_in_range(group):
    for reward in (region_consistency, diversity, difficulty_weighted_iou):
        assert all(0 <= value <= 1 for value in reward([boxes(c) for c in group], a_sample()))

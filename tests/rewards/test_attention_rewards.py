"""Attention rewards: hand-worked grids and properties."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attention.maps import coverage
from grounding.errors import FoveaError, UsageError
from grounding.targets import Box
from rewards.attention import attention_contrast, attention_in_target
from tests.rewards.making import ABSENT, a_sample

QUARTER = a_sample(Box(0.0, 0.0, 0.5, 0.5))
grids = arrays(float, (3, 5), elements=st.floats(0, 100))


def inside(sample=QUARTER, **maps):
    return attention_in_target(ABSENT, sample, **{"sinks": None, **maps})


def contrast(sample=QUARTER, **maps):
    return attention_contrast(ABSENT, sample, **{"sinks": None, **maps})


def test_coverage_agrees_with_shapely():
    target = Box(0.13, 0.2, 0.71, 0.95)
    cells = [[shapely.box(c / 5, r / 3, (c + 1) / 5, (r + 1) / 3) for c in range(5)] for r in range(3)]
    expected = [[cell.intersection(shapely.box(*target.xyxy)).area / cell.area for cell in row] for row in cells]
    assert coverage(3, 5, target) == pytest.approx(np.array(expected))


def test_mass_by_hand():
    assert inside(attention=[[3.0, 1.0], [0.0, 0.0]]) == 0.75
    assert inside(attention=np.ones((4, 4))) == 0.25
    assert inside(attention=[[1.0]]) == 0.25  # one token over all: a quarter of it lies in the target
    assert inside(attention=np.zeros((2, 2))) == 0.0


def test_sinks_are_left_out():
    grid = [[1.0, 0.0], [0.0, 99.0]]
    assert inside(attention=grid) == 0.01
    assert inside(attention=grid, sinks=[[False, False], [False, True]]) == 1.0
    assert inside(attention=grid, sinks=np.ones((2, 2), bool)) == 0.0


def test_contrast_divides_out_what_draws_the_eye_anyway():
    task, general = [[1.0, 0.0], [0.0, 9.0]], [[0.1, 0.1], [0.1, 9.7]]
    assert inside(attention=task) == pytest.approx(0.1)
    # general over its mean 2.5: 0.04 and 3.88; 1 / 0.14 against 9 / 3.98
    assert contrast(attention=task, general=general) == pytest.approx((1 / 0.14) / (1 / 0.14 + 9 / 3.98))


@given(grids)
def test_contrast_with_an_even_map_is_the_plain_mass(grid):
    assert contrast(attention=grid, general=np.ones((3, 5))) == pytest.approx(inside(attention=grid))


@given(grids, grids, st.floats(0.01, 50))
def test_values_stay_in_range_and_scale_does_not_matter(grid, general, scale):
    for value, scaled in (
        (inside(attention=grid), inside(attention=grid * scale)),
        (contrast(attention=grid, general=general), contrast(attention=grid * scale, general=general * scale)),
    ):
        assert 0 <= value <= 1
        assert scaled == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ([1.0, 2.0], "shape"),
        (np.zeros((0, 3)), "shape"),
        ([[np.nan]], "NaN"),
        ([[-1.0]], "negative"),
        ([[np.inf]], "inf"),
    ],
)
def test_a_broken_map_is_an_error_not_a_low_reward(grid, reason):
    with pytest.raises(FoveaError, match=f"'attention' of sample 'one' .*{reason}"):
        inside(attention=grid)


def test_maps_must_fit_each_other():
    with pytest.raises(FoveaError, match="'general' of sample 'one' has shape"):
        contrast(attention=np.ones((2, 2)), general=np.ones((2, 3)))
    with pytest.raises(FoveaError, match="'sinks'"):
        inside(attention=np.ones((2, 2)), sinks=np.ones((1, 2)))
    with pytest.raises(UsageError, match="smoothing"):
        contrast(attention=np.ones((2, 2)), general=np.ones((2, 2)), smoothing=0.0)

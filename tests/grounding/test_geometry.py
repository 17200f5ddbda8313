"""Geometry against values worked by hand, against shapely, and by its own laws."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Point as ShapelyPoint
from shapely.geometry import Polygon as ShapelyPolygon
from shapely.geometry import box as shapely_box

from grounding.geometry import (
    ciou,
    diou,
    giou,
    iou,
    iou_matrix,
    iou_pair,
    point_in_box,
    point_in_polygon,
    temporal_iou,
)

UNIT = st.floats(0, 1, allow_subnormal=False, width=32)
ANY = st.floats(allow_nan=True, allow_infinity=True)
MEASURES = (iou, giou, diou, ciou)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x1, x2 = sorted((draw(UNIT), draw(UNIT)))
    y1, y2 = sorted((draw(UNIT), draw(UNIT)))
    return x1, y1, x2, y2


def test_overlapping_squares_by_hand() -> None:
    a, b = (0, 0, 2, 2), (1, 1, 3, 3)  # intersection 1, union 7, enclosing 3 x 3, centers (1, 1) and (2, 2)
    assert iou(a, b) == pytest.approx(1 / 7)
    assert giou(a, b) == pytest.approx(1 / 7 - 2 / 9)
    assert diou(a, b) == pytest.approx(1 / 7 - 2 / 18)
    assert ciou(a, b) == pytest.approx(1 / 7 - 2 / 18)  # same shape: no aspect term


def test_aspect_term_of_ciou_by_hand() -> None:
    lying, standing = (0, 0, 4, 2), (0, 0, 2, 4)  # intersection 4, union 12, d^2 = 1 + 1, c^2 = 16 + 16
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    alpha = v / (1 - 1 / 3 + v)
    assert ciou(lying, standing) == pytest.approx(1 / 3 - 2 / 32 - alpha * v)
    assert ciou(lying, standing) == pytest.approx(0.237082, abs=1e-6)


def test_disjoint_boxes_by_hand() -> None:
    a, b = (0, 0, 1, 1), (3, 0, 4, 1)  # union 2, enclosing 4 x 1
    assert iou(a, b) == 0
    assert giou(a, b) == pytest.approx(-2 / 4)
    assert diou(a, b) == pytest.approx(-9 / 17)


def test_touching_boxes_do_not_overlap() -> None:
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0


@pytest.mark.parametrize(
    "flat", [(0.2, 0.2, 0.2, 0.8), (0.2, 0.2, 0.8, 0.2), (0.5, 0.5, 0.5, 0.5), (0.8, 0.8, 0.2, 0.2)]
)
def test_boxes_without_area_overlap_nothing(flat: tuple[float, ...]) -> None:
    for other in ((0, 0, 1, 1), flat):
        assert iou(flat, other) == 0
        assert iou_pair(flat, other) == 0
        assert iou_pair(other, flat) == 0


def test_penalties_vanish_where_they_would_divide_by_zero() -> None:
    point = (0.5, 0.5, 0.5, 0.5)
    assert giou(point, point) == 0
    assert diou(point, point) == 0
    assert ciou(point, point) == 0


@given(boxes(), boxes())
def test_iou_is_what_shapely_says(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = shapely_box(*a), shapely_box(*b)
    if min(first.area, second.area) > 1e-9:
        expected = first.intersection(second).area / first.union(second).area
        assert iou(a, b) == pytest.approx(expected, abs=1e-6)


@given(boxes(), boxes())
def test_giou_is_what_shapely_says(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = shapely_box(*a), shapely_box(*b)
    if min(first.area, second.area) > 1e-6:
        union = first.union(second).area
        hull = shapely_box(*first.union(second).bounds).area
        expected = first.intersection(second).area / union - (hull - union) / hull
        assert giou(a, b) == pytest.approx(expected, abs=1e-6)


@given(boxes(), boxes())
def test_measures_are_symmetric_ordered_and_bounded(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    overlap = float(iou(a, b))
    assert 0 <= overlap <= 1 + 1e-12
    assert -1 - 1e-9 <= giou(a, b) <= overlap + 1e-12
    assert -1 - 1e-9 <= diou(a, b) <= overlap + 1e-12
    assert -2 - 1e-9 <= ciou(a, b) <= diou(a, b) + 1e-12
    for measure in MEASURES:
        assert measure(a, b) == pytest.approx(measure(b, a), abs=1e-12)


@given(boxes())
def test_every_measure_of_a_box_with_itself_is_one(a: tuple[float, ...]) -> None:
    if (a[2] - a[0]) * (a[3] - a[1]) > 0:
        for measure in MEASURES:
            assert measure(a, a) == pytest.approx(1)


@given(boxes(), boxes(), st.floats(0.5, 1000), st.floats(-5, 5))
def test_iou_ignores_scale_and_place(a: tuple[float, ...], b: tuple[float, ...], scale: float, shift: float) -> None:
    if min(a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]) > 1e-3:
        moved_a, moved_b = (np.array(a) + shift) * scale, (np.array(b) + shift) * scale
        assert iou(moved_a, moved_b) == pytest.approx(iou(a, b), abs=1e-6)


@given(boxes(), boxes())
def test_the_scalar_form_agrees(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert iou_pair(a, b) == pytest.approx(float(iou(a, b)), abs=1e-15)


@settings(max_examples=300)
@given(st.tuples(ANY, ANY, ANY, ANY), st.tuples(ANY, ANY, ANY, ANY))
def test_no_numbers_raise_or_warn(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = float(iou(a, b))
        scalar = iou_pair(a, b)
        for measure in MEASURES:
            assert measure(a, b).shape == ()
        temporal_iou(a[:2], b[:2])
        point_in_box(a[:2], b)
        point_in_polygon(a[:2], [a[:2], a[2:], b[:2]])
    assert 0 <= overlap <= 1 + 1e-9
    assert 0 <= scalar <= 1 + 1e-9


def test_leading_axes_broadcast() -> None:
    a = np.random.default_rng(0).random((5, 1, 4))
    b = np.random.default_rng(1).random((3, 4))
    for measure in MEASURES:
        together = measure(a, b)
        assert together.shape == (5, 3)
        assert together[4, 2] == measure(a[4, 0], b[2])


def test_iou_matrix_is_iou_of_all_pairs() -> None:
    a, b = [(0, 0, 1, 1), (0, 0, 2, 1)], [(0, 0, 1, 1), (5, 5, 6, 6), (1, 0, 2, 1)]
    assert iou_matrix(a, b) == pytest.approx(np.array([[1, 0, 0], [0.5, 0, 0.5]]))


@pytest.mark.parametrize("count", [0, 2])
def test_iou_matrix_of_nothing(count: int) -> None:
    some = np.zeros((count, 4))
    assert iou_matrix([], some).shape == (0, count)
    assert iou_matrix(some, []).shape == (count, 0)


@pytest.mark.parametrize(
    ("point", "closed", "half_open", "opened"),
    [
        ((0.5, 0.5), True, True, True),
        ((0.0, 0.5), True, True, False),  # left edge
        ((0.5, 0.0), True, True, False),  # top edge
        ((1.0, 0.5), True, False, False),  # right edge
        ((0.5, 1.0), True, False, False),  # bottom edge
        ((0.0, 0.0), True, True, False),
        ((1.0, 1.0), True, False, False),
        ((1.1, 0.5), False, False, False),
        ((math.nan, 0.5), False, False, False),
    ],
)
def test_box_boundaries(point: tuple[float, float], closed: bool, half_open: bool, opened: bool) -> None:
    unit = (0, 0, 1, 1)
    square = [(0, 0), (1, 0), (1, 1), (0, 1)]
    for inside, boundary in ((closed, "closed"), (half_open, "half_open"), (opened, "open")):
        assert bool(point_in_box(point, unit, boundary)) is inside  # type: ignore[arg-type]
        assert bool(point_in_polygon(point, square, boundary)) is inside  # type: ignore[arg-type]


def test_unknown_boundary_is_refused() -> None:
    with pytest.raises(ValueError, match="boundary"):
        point_in_box((0, 0), (0, 0, 1, 1), "inclusive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boundary"):
        point_in_polygon((0, 0), [(0, 0), (1, 0), (1, 1)], "inclusive")  # type: ignore[arg-type]


def test_points_and_boxes_broadcast() -> None:
    points = np.array([[[0.5, 0.5]], [[2.0, 2.0]]])
    assert point_in_box(points, [(0, 0, 1, 1), (1, 1, 3, 3)]).tolist() == [[True, False], [False, True]]


def test_even_odd_leaves_the_heart_of_a_star_out() -> None:
    angles = [math.pi / 2 + k * 4 * math.pi / 5 for k in range(5)]
    star = [(math.cos(angle), math.sin(angle)) for angle in angles]
    assert not point_in_polygon((0, 0), star)
    assert point_in_polygon((0, 0.8), star)


def test_slanted_edges_and_vertices_count_as_boundary() -> None:
    triangle = [(0, 0), (1, 0), (0, 1)]
    on = [(0.5, 0.5), (0.25, 0.75), (0, 0), (1, 0), (0, 1), (0.3, 0)]
    assert point_in_polygon(on, triangle, "closed").all()
    assert not point_in_polygon(on, triangle, "open").any()
    assert not point_in_polygon(
        [(0.51, 0.5), (1.5, -0.5), (-0.5, 0)], triangle, "closed"
    ).any()  # beyond, on its line


@settings(max_examples=200)
@given(st.lists(st.tuples(UNIT, UNIT), min_size=3, max_size=8), st.tuples(UNIT, UNIT))
def test_polygons_are_what_shapely_says(vertices: list[tuple[float, float]], point: tuple[float, float]) -> None:
    outline = ShapelyPolygon(vertices)
    if not outline.is_valid or outline.area < 1e-6:
        return  # even-odd and shapely need not agree on outlines that cross themselves
    if outline.exterior.distance(ShapelyPoint(point)) > 1e-9:
        assert bool(point_in_polygon(point, vertices)) is outline.contains(ShapelyPoint(point))


def test_temporal_iou_by_hand() -> None:
    assert temporal_iou((0, 10), (5, 15)) == pytest.approx(5 / 15)
    assert temporal_iou((0, 10), (10, 20)) == 0
    assert temporal_iou((2, 4), (0, 10)) == pytest.approx(0.2)
    assert temporal_iou((3, 3), (3, 3)) == 0  # no length
    assert temporal_iou((5, 2), (0, 10)) == 0  # ends before it starts
    assert temporal_iou([(0, 1), (0, 2)], (0, 2)).tolist() == [0.5, 1.0]

"""Overlap and containment of boxes, points, polygons and time spans, vectorised over numpy.

Boxes are xyxy on the last axis, spans (start, end); the leading axes of the two arguments broadcast. Units are free
(canonical, pixels, seconds) as long as both arguments share them. A side that is zero, negative (swapped corners) or
NaN has length 0, and nothing overlaps a box of area 0, not even itself: its IoU is 0. No function warns or raises on
any numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Boundary: TypeAlias = Literal["closed", "half_open", "open"]

TIE = 1e-9
"""Canonical numbers this close are equal: what is exactly 1/2 on paper may come out a hair off in floats."""
_EDGE = 1e-12  # a point this close to a polygon's edge line, relative to the edge's length, lies on it


def above(value: float, threshold: float) -> bool:
    """Whether `value` is greater than `threshold`, and not just by rounding."""
    return value > threshold + TIE


def at_least(value: float, threshold: float) -> bool:
    """Whether `value` reaches `threshold`, up to rounding."""
    return value >= threshold - TIE


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union. a, b: (..., 4) -> (...) in [0, 1]."""
    first, second = _float(a), _float(b)
    with np.errstate(all="ignore"):
        inter, union = _intersection_union(first, second)
        return _ratio(inter, union)


def giou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Generalized IoU (Rezatofighi et al. 2019): IoU - (C - U) / C, C the area of the smallest enclosing box.

    a, b: (..., 4) -> (...) in [-1, 1]. The second term is 0 where C is 0.
    """
    first, second = _float(a), _float(b)
    with np.errstate(all="ignore"):
        inter, union = _intersection_union(first, second)
        width, height = _enclosing(first, second)
        hull = width * height
        return _ratio(inter, union) - _ratio(hull - union, hull)


def diou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Distance IoU (Zheng et al. 2020): IoU - d^2 / c^2, d between the centers, c the enclosing box's diagonal.

    a, b: (..., 4) -> (...) in [-1, 1]. The second term is 0 where c is 0.
    """
    first, second = _float(a), _float(b)
    with np.errstate(all="ignore"):
        inter, union = _intersection_union(first, second)
        return _ratio(inter, union) - _center_distance(first, second)


def ciou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Complete IoU (Zheng et al. 2020): DIoU - alpha * v.

    v = 4 / pi^2 * (atan(w_a / h_a) - atan(w_b / h_b))^2 and alpha = v / (1 - IoU + v), which is 0 where v is.
    a, b: (..., 4) -> (...) in [-2, 1].
    """
    first, second = _float(a), _float(b)
    with np.errstate(all="ignore"):
        inter, union = _intersection_union(first, second)
        overlap = _ratio(inter, union)
        (width_a, height_a), (width_b, height_b) = _sides(first), _sides(second)
        angle = np.arctan2(width_a, height_a) - np.arctan2(width_b, height_b)
        v = 4 / np.pi**2 * angle**2
        alpha = _ratio(v, 1 - overlap + v)
        return overlap - _center_distance(first, second) - alpha * v


def iou_matrix(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """IoU of every box of `a` with every box of `b`. a: (N, 4), b: (M, 4) -> (N, M); N or M may be 0."""
    first, second = _float(a).reshape(-1, 4), _float(b).reshape(-1, 4)
    return iou(first[:, None, :], second[None, :, :])


def iou_pair(a: Sequence[float], b: Sequence[float]) -> float:
    """`iou` of just two boxes in plain floats: the same number, some twenty times sooner."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = min(ax2, bx2) - max(ax1, bx1)
    height = min(ay2, by2) - max(ay1, by1)
    if not (width > 0 and height > 0 and ax2 > ax1 and ay2 > ay1 and bx2 > bx1 and by2 > by1):
        return 0.0
    inter = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    share = inter / union if union > 0 else 0.0
    return 0.0 if math.isnan(share) else share  # NaN comes from boxes with an infinite side


def point_in_box(p: npt.ArrayLike, box: npt.ArrayLike, boundary: Boundary = "closed") -> BoolArray:
    """Whether a point lies in a box. p: (..., 2), box: (..., 4) -> (...) of bool.

    boundary: "closed" counts all four edges, "half_open" the left and the top one only (pixel ranges), "open" none.

    Raises:
        ValueError: unknown boundary.
    """
    point, corners = _float(p), _float(box)
    low, high = corners[..., :2], corners[..., 2:]
    if boundary == "closed":
        inside = (low <= point) & (point <= high)
    elif boundary == "half_open":
        inside = (low <= point) & (point < high)
    elif boundary == "open":
        inside = (low < point) & (point < high)
    else:
        raise ValueError(f"unknown boundary {boundary!r}: closed, half_open or open")
    return np.asarray(inside.all(axis=-1))


def point_in_polygon(p: npt.ArrayLike, vertices: npt.ArrayLike, boundary: Boundary = "closed") -> BoolArray:
    """Whether a point lies in a polygon by the even-odd rule. p: (..., 2), vertices: (V, 2) -> (...) of bool.

    The outline is closed from the last vertex to the first. Points on it are in with "closed" and out with "open";
    "half_open" leaves them to the crossing rule, which counts left and top edges of an upright rectangle as in.

    Raises:
        ValueError: unknown boundary.
    """
    if boundary not in ("closed", "half_open", "open"):
        raise ValueError(f"unknown boundary {boundary!r}: closed, half_open or open")
    point = _float(p)
    start = _float(vertices).reshape(-1, 2)
    end = np.roll(start, -1, axis=0)
    x, y = point[..., 0, None], point[..., 1, None]  # (..., 1) against the (V,) edges
    with np.errstate(all="ignore"):
        dx, dy = (end - start).T
        straddles = (start[:, 1] > y) != (end[:, 1] > y)
        crossing = start[:, 0] + (y - start[:, 1]) / dy * dx
        inside = (straddles & (x < crossing)).sum(axis=-1) % 2 == 1
        if boundary == "half_open":
            return np.asarray(inside)
        cross = dx * (y - start[:, 1]) - dy * (x - start[:, 0])
        along = dx * (x - start[:, 0]) + dy * (y - start[:, 1])
        squared = dx**2 + dy**2
        at_vertex = (x == start[:, 0]) & (y == start[:, 1])
        on_edge = at_vertex | ((np.abs(cross) <= _EDGE * squared) & (along >= 0) & (along <= squared) & (squared > 0))
    touches = on_edge.any(axis=-1)
    return np.asarray(inside | touches if boundary == "closed" else inside & ~touches)


def temporal_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Intersection over union of time spans. a, b: (..., 2) as (start, end) -> (...) in [0, 1]."""
    first, second = _float(a), _float(b)
    with np.errstate(all="ignore"):
        length_a, length_b = _length(first[..., 0], first[..., 1]), _length(second[..., 0], second[..., 1])
        inter = _length(np.maximum(first[..., 0], second[..., 0]), np.minimum(first[..., 1], second[..., 1]))
        inter = np.where((length_a > 0) & (length_b > 0), inter, 0.0)
        return _ratio(inter, length_a + length_b - inter)


def _float(values: npt.ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """part / whole, 0 where whole is not positive or the quotient is NaN."""
    quotient = part / np.where(whole > 0, whole, 1.0)
    return np.where((whole > 0) & ~np.isnan(quotient), quotient, 0.0)


def _length(start: FloatArray, end: FloatArray) -> FloatArray:
    length = end - start
    return np.where(length > 0, length, 0.0)


def _sides(box: FloatArray) -> tuple[FloatArray, FloatArray]:
    return _length(box[..., 0], box[..., 2]), _length(box[..., 1], box[..., 3])


def _intersection_union(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    (width_a, height_a), (width_b, height_b) = _sides(a), _sides(b)
    area_a, area_b = width_a * height_a, width_b * height_b
    inter = _length(low[..., 0], high[..., 0]) * _length(low[..., 1], high[..., 1])
    inter = np.where((area_a > 0) & (area_b > 0), inter, 0.0)
    return inter, area_a + area_b - inter


def _enclosing(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, high = np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])
    return _length(low[..., 0], high[..., 0]), _length(low[..., 1], high[..., 1])


def _center_distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared distance of the centers over the squared diagonal of the enclosing box."""
    offset = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    width, height = _enclosing(a, b)
    return _ratio(np.asarray((offset**2).sum(axis=-1)), width**2 + height**2)

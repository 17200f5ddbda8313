"""What nearly every source does: read rows, convert each under guard, turn pixels into canonical targets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from data_prep import Item, Reject
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Boxes, Point, Points
from grounding.wording import words_alone


class Rejected(ValueError):
    """Raised while converting one row; becomes a `Reject` with the row's name.

    Attributes:
        reason: a short fixed phrase, counted in the manifest.
        detail: the particulars.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def convert_rows(
    rows: Iterable[tuple[str, Any]], convert: Callable[[str, Any], Iterable[Item | Sample | Reject]]
) -> Iterator[Item | Sample | Reject]:
    """Convert row by row; whatever is wrong with a row is a `Reject` and the next row follows.

    Args:
        rows: (where, row); a row that is itself a `Rejected` could not even be read.
        convert: (where, row) -> its samples. Raises `Rejected`, or KeyError / TypeError / ... where the row has
            another shape than the format says. Where a row has several parts, it converts each of them by this
            function again, so that one bad part costs no other.
    """
    for where, row in rows:
        try:
            if isinstance(row, Rejected):
                raise row
            yield from convert(where, row)
        except Rejected as error:
            yield Reject(where, error.reason, error.detail)
        except KeyError as error:
            yield Reject(where, "wrong format", f"no field {error}")
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            yield Reject(where, "wrong format", str(error))


def numbered(where: str, parts: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The parts of a row as rows of their own: ``"where-1"``, ``"where-2"``, ..."""
    return ((f"{where}-{count}", part) for count, part in enumerate(parts, 1))


def number(value: Any, what: str = "coordinate") -> float:
    """A finite float. Raises Rejected otherwise; numbers in strings are accepted, booleans are not."""
    if isinstance(value, bool):
        raise Rejected("not a number", f"{what} is {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise Rejected("not a number", f"{what} is {value!r}") from None
    if not math.isfinite(result):
        raise Rejected("not a number", f"{what} is {value!r}")
    return result


def _numbers(values: Sequence[Any], count: int, what: str) -> list[float]:
    if isinstance(values, str) or len(values) != count:
        raise Rejected("wrong format", f"{what} {values!r} needs {count} numbers")
    return [number(value, what) for value in values]


BOX_FORMATS: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]] = {
    "xyxy": lambda a, b, c, d: (a, b, c, d),
    "yxyx": lambda a, b, c, d: (b, a, d, c),
    "xywh": lambda x, y, w, h: (x, y, x + w, y + h),
    "cxcywh": lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
}
"""What four numbers say, numbers or arrays of them, as corners."""
POINT_FORMATS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "xy": lambda x, y: (x, y),
    "yx": lambda y, x: (x, y),
}

SLACK = 2.0
"""Pixels a box may reach over the edge and be clipped; annotation tools round. Beyond, the row is rejected."""


def _axis(low: float, high: float, size: float, slack: float) -> tuple[float, float]:
    if low > high:
        raise Rejected("swapped corners", f"{low} > {high}")
    if low < -slack or high > size + slack:
        raise Rejected("box outside", f"{low}..{high} in an image of {size}")
    low, high = min(max(low, 0.0), size), min(max(high, 0.0), size)
    if low == high:
        raise Rejected("empty box", f"{low}..{high}")
    return low / size, high / size


def in_pixels(box: Sequence[Any], width: int, height: int) -> Sequence[Any]:
    """`box`, xyxy or xywh, unless it fits into one pixel: such a box is written in fractions of the sides."""
    if min(width, height) >= 10 and len(box) == 4 and all(0 <= number(value, "box") <= 1 for value in box):
        raise Rejected("fractions for pixels", f"{list(box)} in an image of {width}x{height} pixels")
    return box


def box_from_xyxy(
    xyxy: Sequence[Any],
    width: float,
    height: float,
    *,
    image: int = 0,
    label: str | None = None,
    slack: float = SLACK,
) -> Box:
    """Canonical box from corners.

    Args:
        xyxy: left, top, right, bottom in the unit of `width` and `height`.
        width, height: size of the image in that unit (pixels; 1000 for thousandths; 1 for fractions).
        slack: how far it may reach over the edge, in that unit; two thousandths of the side when the unit is
            not pixels is what callers pass.

    Raises:
        Rejected: "not a number", "swapped corners", "empty box", "box outside", "wrong format".
    """
    x1, y1, x2, y2 = _numbers(xyxy, 4, "box")
    left, right = _axis(x1, x2, width, slack)
    top, bottom = _axis(y1, y2, height, slack)
    return Box(left, top, right, bottom, image, label)


def box_from_xywh(xywh: Sequence[Any], width: float, height: float, *, label: str | None = None) -> Box:
    """Canonical box from left, top, width, height; otherwise as `box_from_xyxy`."""
    x, y, w, h = _numbers(xywh, 4, "box")
    if w < 0 or h < 0:
        raise Rejected("empty box", f"size {w}x{h}")
    return box_from_xyxy((x, y, x + w, y + h), width, height, label=label)


def point_from_xy(xy: Sequence[Any], width: float, height: float, *, image: int = 0, slack: float = SLACK) -> Point:
    """Canonical point; raises Rejected "point outside", "not a number" or "wrong format"."""
    x, y = _numbers(xy, 2, "point")
    if not (-slack <= x <= width + slack and -slack <= y <= height + slack):
        raise Rejected("point outside", f"({x}, {y}) in {width}x{height}")
    return Point(min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0), image)


def pixel_box(box: Sequence[Any], image: ImageRef, *, xywh: bool = False, label: str | None = None) -> Box:
    """Canonical box from pixels of an image, xyxy or xywh; raises Rejected as `in_pixels` and `box_from_xyxy`."""
    read = box_from_xywh if xywh else box_from_xyxy
    return read(in_pixels(box, image.width, image.height), image.width, image.height, label=label)


def box_in(unit: float, xyxy: Sequence[Any]) -> Box:
    """Canonical box from corners of which `unit` stands for a whole side (1, 100, 1000); a 500th of it is slack."""
    return box_from_xyxy(xyxy, unit, unit, slack=unit / 500)


def point_in(unit: float, xy: Sequence[Any]) -> Point:
    """Canonical point of which `unit` stands for a whole side; otherwise as `box_in`."""
    return point_from_xy(xy, unit, unit, slack=unit / 500)


def box_or_point_in(unit: float, numbers: Sequence[Any]) -> Box | Point:
    """Two numbers are a point, any others must be a box."""
    return point_in(unit, numbers) if len(numbers) == 2 else box_in(unit, numbers)


def target_of(regions: Sequence[Box] | Sequence[Point]) -> Box | Boxes | Point | Points | Absent:
    """All regions that are meant as one target: absent where there is none, the region itself where it is one."""
    if not regions:
        return Absent()
    if len(regions) == 1:
        return regions[0]
    return Boxes(tuple(regions)) if isinstance(regions[0], Box) else Points(tuple(regions))  # type: ignore[arg-type]


_UNDECODED = re.compile(r"[\ud800-\udfff]+")  # bytes that were no UTF-8, as readers with `surrogateescape` keep them


def instruction(text: Any) -> str:
    """The instruction without white space around it; Rejected "empty instruction", "not UTF-8", "wrong format"."""
    if not isinstance(text, str):
        raise Rejected("wrong format", f"instruction is {type(text).__name__}")
    if not words_alone(text):
        raise Rejected("empty instruction")
    broken = _UNDECODED.search(text)
    if broken:
        raise Rejected("not UTF-8", f"{broken.group()!r} in {text[:80]!r}")
    return text.strip()

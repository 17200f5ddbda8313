"""Where an answer lies and where it should: geometry of a row of results.jsonl, in pixels of its image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import shapely

NOWHERE = 9.0  # how far off an answer is that points nowhere, in diagonals: further than any place on the screen
_MARGIN = 0.25  # marks are drawn at most this far outside the picture, in its widths and heights


@dataclass(frozen=True, slots=True)
class Shape:
    """Something to draw: "box" (x1 y1 x2 y2), "point" (x y) or "outline" (x y x y ...), in [0, 1] of the picture."""

    kind: str
    coords: tuple[float, ...]

    def on(self, width: float, height: float) -> tuple[float, ...]:
        """The coordinates in pixels of a picture of this size."""
        return tuple(round(c * (height if i % 2 else width), 2) for i, c in enumerate(self.coords))


def image_of_interest(row: Mapping[str, Any]) -> int:
    """Index of the image to show: the one the first right box lies in, else the first."""
    return next(iter(row["truth"].get("box_images") or ()), 0)


def size(row: Mapping[str, Any], image: int = 0) -> tuple[int, int]:
    """Width and height of an image in pixels; (1, 1) when the row does not know."""
    images = row["images"]
    known = image < len(images) and images[image].get("width") and images[image].get("height")
    return (images[image]["width"], images[image]["height"]) if known else (1, 1)


def right_places(row: Mapping[str, Any], image: int = 0) -> tuple[Shape, ...]:
    """The right regions in one image."""
    truth = row["truth"]
    of_boxes = truth.get("box_images") or [0] * len(truth["boxes"])
    boxes = [box for box, index in zip(truth["boxes"], of_boxes, strict=False) if index == image]
    rest = [("outline", [c for vertex in p for c in vertex]) for p in truth.get("polygons") or () if len(p) > 2]
    rest += [("point", p) for p in truth.get("points") or ()]
    return _shapes(row, image, [("box", box) for box in boxes] + rest)


def said_places(row: Mapping[str, Any], image: int = 0) -> tuple[Shape, ...]:
    """What was pointed at in one image."""
    said = row["prediction"]
    places = [("box", b) for b in said["boxes"]] + [("point", p) for p in said["points"]]
    indices = list(said.get("images") or ()) + [0] * len(places)
    return _shapes(row, image, [place for place, index in zip(places, indices, strict=False) if index == image])


def _shapes(row: Mapping[str, Any], image: int, places: Sequence[tuple[str, Sequence[float]]]) -> tuple[Shape, ...]:
    width, height = size(row, image) if row.get("frame") == "pixel" else (1, 1)
    drawn = []
    for kind, coords in places:
        unit = [c / (height if i % 2 else width) for i, c in enumerate(coords)]
        if all(math.isfinite(c) for c in unit):
            seen = [min(max(c, -_MARGIN), 1 + _MARGIN) for c in unit]
            if kind == "box":  # an answer with swapped corners is wrong, and is still to be seen
                seen = [min(seen[::2]), min(seen[1::2]), max(seen[::2]), max(seen[1::2])]
            drawn.append(Shape(kind, tuple(seen)))
    return tuple(drawn)


def click(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Where the model clicks, in [0, 1]: its first point, else the center of its first box, else None."""
    places = said_places(row, image_of_interest(row))
    for kind in ("point", "box"):
        for place in places:
            if place.kind == kind:
                xs, ys = place.coords[::2], place.coords[1::2]
                return sum(xs) / len(xs), sum(ys) / len(ys)
    return None


def distance(row: Mapping[str, Any]) -> float:
    """From the click to the nearest right place, in diagonals of the image: 0 inside, `NOWHERE` without a click,
    NaN where the question has no place (a moment in a video, an absent target)."""
    image = image_of_interest(row)
    right = right_places(row, image)
    if not right:
        return math.nan
    where = click(row)
    if where is None:
        return NOWHERE
    width, height = size(row, image)
    point = shapely.Point(where[0] * width, where[1] * height)
    nearest = float(min(_region(place, width, height).distance(point) for place in right))
    return nearest / math.hypot(width, height)


def _region(place: Shape, width: float, height: float) -> shapely.Geometry:
    coords = place.on(width, height)
    if place.kind == "point":
        return shapely.Point(coords)
    if place.kind == "box":
        return shapely.box(*coords)
    return shapely.Polygon(list(zip(coords[::2], coords[1::2], strict=True)))


def how_bad(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sort key, worst last: how far off, then how little of the region was covered."""
    off = distance(row)
    return (off if math.isfinite(off) else 0.0), -float(row.get("value") or 0.0)


def verdict(row: Mapping[str, Any]) -> str:
    """ "right", "wrong", "unreadable" (nothing could be read) or "skipped" (left out by the benchmark's rule)."""
    if row.get("skipped"):
        return "skipped"
    if row["correct"]:
        return "right"
    return "unreadable" if row.get("status") in ("no_answer", "malformed") else "wrong"


def words(side: Mapping[str, Any]) -> str:
    """What a truth or a prediction says that cannot be drawn."""
    parts = ["nothing fits: absent"] if side.get("absent") else []
    parts += [f"“{side['text']}”"] if side.get("text") else []
    parts += [f"{start:.1f}–{end:.1f} s" for start, end in side.get("spans") or ()]
    return ", ".join(parts)


def middle(place: Shape) -> tuple[float, float]:
    """Center of what is drawn, in [0, 1]."""
    xs, ys = place.coords[::2], place.coords[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def area(place: Shape) -> float:
    """Area of the bounding box, as a share of the image."""
    xs, ys = place.coords[::2], place.coords[1::2]
    return (max(xs) - min(xs)) * (max(ys) - min(ys))


def cell(x: float, y: float, grid: int) -> tuple[int, int]:
    """Column and row of the cell a position lies in, of a `grid` by `grid` screen."""
    return min(grid - 1, max(0, int(x * grid))), min(grid - 1, max(0, int(y * grid)))

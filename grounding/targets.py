"""What can be pointed at. Every coordinate is canonical: [0, 1], xyxy, original image; spans in seconds.

Constructors accept only what is meaningful: finite numbers, corners in order, inside the image. They raise
ValueError otherwise; whoever reads a data set turns that into `BrokenRow` with the row's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias


def _unit(kind: str, *values: float) -> None:
    for value in values:
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise ValueError(f"{kind} has {value}, which is not a number in [0, 1]")


@dataclass(frozen=True, slots=True)
class Point:
    """A position.

    Attributes:
        x, y: in [0, 1] of the image's width and height.
        image: index of the image it lies in, for samples of several images (or video frames).
        label: what it marks, where the source or the model says.
    """

    x: float
    y: float
    image: int = 0
    label: str | None = None

    def __post_init__(self) -> None:
        _unit("point", self.x, self.y)


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle, corners in order (x1 <= x2, y1 <= y2); attributes as in `Point`."""

    x1: float
    y1: float
    x2: float
    y2: float
    image: int = 0
    label: str | None = None

    def __post_init__(self) -> None:
        _unit("box", self.x1, self.y1, self.x2, self.y2)
        if self.x1 > self.x2 or self.y1 > self.y2:
            raise ValueError(f"box ({self.x1}, {self.y1}, {self.x2}, {self.y2}) has swapped corners")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def center(self) -> Point:
        return Point((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2, self.image, self.label)

    @property
    def area(self) -> float:
        """In [0, 1], as a share of the image."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Several regions, at least one (of several images perhaps); none is `Absent`."""

    items: tuple[Box, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("an empty set of boxes: use Absent")


@dataclass(frozen=True, slots=True)
class Points:
    """Several positions, at least one."""

    items: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError("an empty set of points: use Absent")


@dataclass(frozen=True, slots=True)
class Polygon:
    """A closed outline of at least three vertices (x, y)."""

    vertices: tuple[tuple[float, float], ...]
    image: int = 0
    label: str | None = None

    def __post_init__(self) -> None:
        if len(self.vertices) < 3:
            raise ValueError(f"polygon has {len(self.vertices)} vertices, needs 3")
        for x, y in self.vertices:
            _unit("polygon", x, y)

    @property
    def bounds(self) -> Box:
        xs, ys = zip(*self.vertices, strict=True)
        return Box(min(xs), min(ys), max(xs), max(ys), self.image, self.label)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of video, start <= end, in seconds from its beginning."""

    start: float
    end: float
    label: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start <= self.end):
            raise ValueError(f"span ({self.start}, {self.end}) is not 0 <= start <= end")


@dataclass(frozen=True, slots=True)
class TextBox:
    """An answer in words and the regions that prove it (RefChartQA, Visual-CoT)."""

    text: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """The thing asked for is not there; the right answer is to say so."""


@dataclass(frozen=True, slots=True)
class Unlabeled:
    """Nobody says what is right: the question alone is there, and only rewards that need no target apply."""


Target: TypeAlias = Box | Point | Boxes | Points | Polygon | Span | TextBox | Absent | Unlabeled

TARGET_KINDS: dict[str, type] = {
    "box": Box,
    "point": Point,
    "boxes": Boxes,
    "points": Points,
    "polygon": Polygon,
    "span": Span,
    "text_box": TextBox,
    "absent": Absent,
    "unlabeled": Unlabeled,
}
_KINDS: dict[type, str] = {cls: name for name, cls in TARGET_KINDS.items()}


def kind_of(target: Target) -> str:
    """The name of a target's kind, one of `TARGET_KINDS`."""
    try:
        return _KINDS[type(target)]
    except KeyError:
        raise TypeError(f"not a target: {target!r}") from None

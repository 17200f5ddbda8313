"""Which part of an image a model is shown, and its coordinates: crops of crops map back exactly.

A crop is cut at whole pixels of the original, so that it *is* what its numbers say, and a coordinate of the crop is
one linear step from a coordinate of the image, however many crops it was cut from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from grounding.answer import Answer, OutOfBounds
from grounding.targets import Box, Point
from grounding.wording import rewrite_places, write_place

Place = TypeVar("Place", bound=Box | Point)

_HAIR = 1e-9  # of a pixel: what a coordinate may be off by rounding without reaching into the next pixel


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of an image, in whole pixels.

    Attributes:
        image: index of the image among the sample's.
        pixels: left, top, right, bottom; right and bottom exclusive.
        width, height: of the whole image.
    """

    image: int
    pixels: tuple[int, int, int, int]
    width: int
    height: int

    def __post_init__(self) -> None:
        left, top, right, bottom = self.pixels
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            raise ValueError(f"crop {self.pixels} is no part of an image of {self.width}x{self.height}")

    @classmethod
    def whole(cls, image: int, width: int, height: int) -> Crop:
        """All of an image."""
        return cls(image, (0, 0, width, height), width, height)

    @classmethod
    def around(
        cls, region: Box, width: int, height: int, *, min_side: int = 1, square: bool = False, pad: float = 0.0
    ) -> Crop:
        """The pixels a region touches, grown about its center and moved inside the image where it has to be larger.

        Args:
            region: canonical, of an image of `width` x `height` pixels.
            min_side: of the crop, in pixels; the image's own side where that is smaller.
            square: as wide as high, where the image allows it.
            pad: grow the region first by this share of its sides, on each side.
        """
        x, y = region.x1 * width, region.y1 * height
        across, down = (region.x2 - region.x1) * width, (region.y2 - region.y1) * height
        x, across = x - pad * across, (1 + 2 * pad) * across
        y, down = y - pad * down, (1 + 2 * pad) * down
        side = max(across, down) if square else 0.0
        left, right = _interval(x, across, max(min_side, side), width)
        top, bottom = _interval(y, down, max(min_side, side), height)
        return cls(region.image, (left, top, right, bottom), width, height)

    @property
    def box(self) -> Box:
        """The part, canonical in the image."""
        left, top, right, bottom = self.pixels
        return Box(left / self.width, top / self.height, right / self.width, bottom / self.height, self.image)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the original."""
        left, top, right, bottom = self.pixels
        return right - left, bottom - top

    def to_image(self, place: Place) -> Place:
        """A place in the crop's own [0, 1] as one of the image."""
        if isinstance(place, Point):
            return replace(place, x=_inside(self._x(place.x)), y=_inside(self._y(place.y)), image=self.image)
        x1, y1 = _inside(self._x(place.x1)), _inside(self._y(place.y1))
        x2, y2 = _inside(self._x(place.x2)), _inside(self._y(place.y2))
        return replace(place, x1=x1, y1=y1, x2=x2, y2=y2, image=self.image)

    def to_crop(self, place: Place) -> Place | None:
        """A place of the image in the crop's own [0, 1], as image 0; None where it does not lie in the crop whole."""
        if place.image != self.image:
            return None
        left, top, _, _ = self.pixels
        width, height = self.size

        def own(value: float, whole: int, start: int, extent: int) -> float:
            inner = (value * whole - start) / extent
            return round(inner) if abs(inner - round(inner)) < 1e-12 else inner

        if isinstance(place, Point):
            x, y = own(place.x, self.width, left, width), own(place.y, self.height, top, height)
            return replace(place, x=x, y=y, image=0) if 0 <= x <= 1 and 0 <= y <= 1 else None
        x1, x2 = own(place.x1, self.width, left, width), own(place.x2, self.width, left, width)
        y1, y2 = own(place.y1, self.height, top, height), own(place.y2, self.height, top, height)
        inside = 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
        return replace(place, x1=x1, y1=y1, x2=x2, y2=y2, image=0) if inside else None

    def answer(self, answer: Answer) -> Answer:
        """An answer in the crop's coordinates as one in the image's."""
        return replace(
            answer,
            boxes=tuple(map(self.to_image, answer.boxes)),
            points=tuple(map(self.to_image, answer.points)),
            out_of_bounds=tuple(map(self._outside, answer.out_of_bounds)),
        )

    def thought(self, thought: str) -> str:
        """A thought (`grounding.wording`) with its places in the crop's coordinates.

        Raises:
            ValueError: it names a place that the crop does not show.
        """

        def write(place: Box | Point) -> str:
            inner = self.to_crop(place)
            if inner is None:
                raise ValueError(f"the thought names {write_place(place)}, which crop {self.pixels} does not show")
            return write_place(inner)

        return rewrite_places(thought, write)

    def _x(self, value: float) -> float:
        left, _, right, _ = self.pixels
        return (left + value * (right - left)) / self.width

    def _y(self, value: float) -> float:
        _, top, _, bottom = self.pixels
        return (top + value * (bottom - top)) / self.height

    def _outside(self, outside: OutOfBounds) -> OutOfBounds:
        coords = tuple(self._y(v) if at % 2 else self._x(v) for at, v in enumerate(outside.coords))
        return replace(outside, coords=coords, image=self.image)


def _inside(value: float) -> float:
    """A coordinate that may be a hair outside [0, 1] by rounding."""
    return min(max(value, 0.0), 1.0)


def _interval(start: float, length: float, least: float, whole: int) -> tuple[int, int]:
    """The whole pixels [first, last) that a stretch touches, at least `least` of them, inside [0, whole)."""
    first, last = math.floor(start + _HAIR), math.ceil(start + length - _HAIR)
    wanted = min(max(last - first, math.ceil(least - _HAIR), 1), whole)
    if wanted > last - first:
        first = math.floor(start + (length - wanted) / 2 + 0.5)
    first = min(max(first, 0), whole - wanted)
    return first, first + wanted

"""How coordinates are written in a thought or an instruction, before a dialect turns them into a model's numbers.

    A thought names places as [x, y] or [x1, y1, x2, y2], three decimals each, canonical ([0, 1] of the image):
    "the red circle at [0.250, 0.500] in image 2 [0.100, 0.100, 0.400, 0.900]"

They refer to the first image unless the words "image N " (counted from 1) stand right before the bracket.
Anything else in brackets is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from grounding.targets import Box, Point

_UNIT = r"(?:0\.\d{3}|1\.000)"
_PLACE = re.compile(
    rf"(?P<image>\bimage (?P<number>\d{{1,4}}) )?\[(?P<coords>{_UNIT}, {_UNIT}(?:, {_UNIT}, {_UNIT})?)\]"
)


def write_place(region: Box | Point) -> str:
    """A region in the convention; it loses its label and what lies beyond three decimals."""
    coords = region.xyxy if isinstance(region, Box) else (region.x, region.y)
    prefix = f"image {region.image + 1} " if region.image else ""
    return f"{prefix}[{', '.join(f'{value:.3f}' for value in coords)}]"


def read_places(thought: str) -> tuple[Box | Point, ...]:
    """The regions a thought in the convention names, in order; boxes with swapped corners are left out."""
    places = (_region(match) for match in _PLACE.finditer(thought))
    return tuple(place for place in places if place is not None)


def rewrite_places(thought: str, write: Callable[[Box | Point], str]) -> str:
    """`thought` with every bracketed place replaced by `write(region)`; the words "image N " before it stay."""

    def replace(match: re.Match[str]) -> str:
        region = _region(match)
        return match.group() if region is None else (match["image"] or "") + write(region)

    return _PLACE.sub(replace, thought)


def _region(match: re.Match[str]) -> Box | Point | None:
    coords = [float(value) for value in match["coords"].split(", ")]
    image = max(int(match["number"] or 1) - 1, 0)
    if len(coords) == 2:
        return Point(coords[0], coords[1], image)
    x1, y1, x2, y2 = coords
    return Box(x1, y1, x2, y2, image) if x1 <= x2 and y1 <= y2 else None

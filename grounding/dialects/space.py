"""The number line a dialect writes coordinates on. It is declared by the dialect, never guessed from the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Space:
    """Canonical [0, 1] to the numbers of a model family and back.

    Attributes:
        scale: what 1.0 is written as; None for pixels of the image the model saw.
        decimals: digits after the point.
        bins: the numbers name `scale` equal cells, counted from 0; a cell stands for its center.
        top: the largest number there is, where that is not `scale` (or `scale` - 1 with bins).
    """

    scale: int | None
    decimals: int = 0
    bins: bool = False
    top: int | None = None

    def encode(self, value: float, extent: int) -> str:
        """A canonical coordinate as the family writes it. extent: width (for x) or height (for y) the model saw."""
        scale = self.scale or extent
        if self.bins:
            return str(min(math.floor(value * scale), scale - 1))
        number = round(value * scale, self.decimals)
        if self.top is not None:
            number = min(number, self.top)
        return f"{number:.{self.decimals}f}"

    def decode(self, number: float, extent: int) -> float:
        """A number of the family as a canonical coordinate; outside [0, 1] when the number is out of range."""
        scale = self.scale or extent
        if self.bins:
            return (number + 0.5) / scale if 0 <= number <= scale - 1 else math.inf
        if self.top is not None and number > self.top:
            return math.inf
        return number / scale

    def tolerance(self, extent: int) -> float:
        """The largest error of decode(encode(v)), in canonical units."""
        scale = self.scale or extent
        half_step = 0.5 * 10.0**-self.decimals / scale
        return max(half_step, 1 - (scale if self.top is None else self.top) / scale)

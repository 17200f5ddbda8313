"""Do the numbers of a data set fit the space they are said to be written in?

Thousandths read as pixels, pixels read as thousandths, fractions read as either: each number stays legible, every box
is wrong, and no single row shows it. All rows together do: 500 boxes of pictures 640 wide of which none reaches
beyond 640 are not in thousandths. `Spaces` compares the likelihood of all numbers under each space.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import TypeVar

import numpy as np

from data_prep.pipeline.conversion import BOX_FORMATS, POINT_FORMATS
from grounding.errors import UsageError

T = TypeVar("T")

OUTSIDE = 0.04  # share of regions that reach beyond their image in data sets that are read rightly
ROWS, ROWS_OF_FRACTIONS = 10, 4  # fewer do not tell spaces apart
CERTAIN = math.log(1000)
_EARLY = 1000  # rows after which a wrong space is reported without waiting for the end

_FIXED = {"thousandths": 1000.0, "percent": 100.0, "fractions": 1.0}
UNITS = {"pixel": "pixels", "thousandth": "thousandths", "percent": "percent", "fraction": "fractions"}
"""Names of spaces where the user chooses one, and in sentences."""


def add_arguments(parser: ArgumentParser) -> None:
    """The flag of all sources whose space is the user's choice."""
    parser.add_argument(
        "--trust-space",
        action="store_true",
        help="keep the space that was chosen even where the numbers fit another one better",
    )


class Spaces:
    """Counts how well numbers fit the space that was chosen, and all others.

    Args:
        chosen: what the space is called to the user, and what to change: ``"--dialect qwen3_vl (thousandths)"``.
        args: of the source; `trust_space` turns everything off, `limit` tells when a run ends early.
    """

    def __init__(self, chosen: str, args: Namespace):
        self._chosen = chosen
        self._off = args.trust_space
        self._limit = args.limit
        self._log: dict[str, float] = dict.fromkeys(("chosen", "pixels", *_FIXED), 0.0)
        self._rows = 0

    def add(self, numbers: Sequence[float], size: tuple[float, float], chosen: tuple[float, float]) -> None:
        """One region.

        Args:
            numbers: as written, x and y in turn.
            size: width and height of its image in pixels.
            chosen: what stands for the whole width and height in the chosen space.
        """
        if self._off:
            return
        self._rows += 1
        reach = 4 * max(*size, *chosen, 1000.0)
        extents = {"chosen": chosen, "pixels": size, **{name: (side, side) for name, side in _FIXED.items()}}
        for name, sides in extents.items():
            inside = all(0 <= n <= side * 1.002 for n, side in zip(numbers, cycle(sides), strict=False))
            if name == "fractions" and chosen != sides:  # 0 and 1 are numbers of every space
                inside = inside and any(n != int(n) for n in numbers)
            # over two sides, also for boxes: their corners lie so close that they tell hardly more than a point
            area = sides[0] * sides[1] if inside else reach * reach
            self._log[name] += math.log((1 - OUTSIDE if inside else OUTSIDE) / area)
        if self._rows == _EARLY:
            self.conclude()

    def better(self) -> str | None:
        """The space that the numbers fit far better than the chosen one; None where the chosen one will do."""
        best = max(self._log, key=lambda name: self._log[name])
        certain = self._log[best] - self._log["chosen"] > CERTAIN
        return best if certain and self._rows >= (ROWS_OF_FRACTIONS if best == "fractions" else ROWS) else None

    def conclude(self) -> None:
        """Raise UsageError when another space is far likelier."""
        better = self.better()
        if better is not None:
            raise UsageError(
                f"{self._chosen}: the numbers of the {self._rows} regions read so far look like {better}: choose the"
                f" space they are written in, or add --trust-space"
            )

    def watch(self, rows: Iterable[T]) -> Iterator[T]:
        """The rows of a conversion that calls `add`, with `conclude` at their end (and where --limit ends them)."""
        try:
            yield from rows
        except GeneratorExit:
            if self._limit is not None and self._rows >= self._limit:
                self.conclude()
            raise
        self.conclude()


LOOKED_AT = 2000  # regions that decide how a file's numbers are read
_FULL, _PARTLY = 0.85, 0.8  # how far the regions of whole screens or photographs reach, and do not
_ALIKE = 0.005  # readings that differ by less place the same boxes


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How numbers are written: `format` is a key of `corners`, `unit` one of `UNITS`."""

    format: str
    unit: str

    def __str__(self) -> str:
        return f"{UNITS[self.unit]}, {self.format}"


class Readings:
    """Finds out how the numbers of a file are written, when nothing says it.

    Args:
        formats, units: the ones to choose from.
    """

    def __init__(self, formats: Sequence[str], units: Sequence[str] = tuple(UNITS)):
        self.candidates = [NumberFormat(*pair) for pair in product(formats, units)]
        self._numbers: list[Sequence[float]] = []
        self._sizes: list[tuple[float, float]] = []

    @property
    def full(self) -> bool:
        return len(self._numbers) >= LOOKED_AT

    def add(self, numbers: Sequence[float], size: tuple[float, float]) -> None:
        """One region: four numbers (two of a point), and width and height of its image in pixels."""
        if not self.full:
            self._numbers.append(numbers)
            self._sizes.append(size)

    def with_formats(self, formats: Sequence[str], units: Sequence[str]) -> Readings:
        """The same regions, to be read in other ways."""
        made = Readings(formats, units)
        made._numbers, made._sizes = self._numbers, self._sizes
        return made

    def choose(self) -> tuple[NumberFormat | None, str]:
        """The reading, with the evidence for it; (None, question) where several are legible and place other boxes.

        A reading is illegible where more than `OUTSIDE` of the regions leave their image, have no area, or fit into
        one pixel. Of two legible ones the coarser is given up when the other is a thousand times likelier and fills
        the images, which the coarser leaves empty in part: 12 boxes or more that end at 640 x 480 of every image of
        that size are in pixels, not in thousandths.
        """
        count = len(self._numbers)
        if not count:
            return None, "no region could be read"
        numbers, sizes = np.asarray(self._numbers, float), np.asarray(self._sizes, float)
        placed = {one: corners(numbers, sizes, one) for one in self.candidates}
        shares = {one: float(legible(numbers, sizes, places, one).mean()) for one, places in placed.items()}
        best = max(shares.values())
        left = [one for one in placed if shares[one] >= 1 - OUTSIDE]
        if not left and best >= 0.5:
            left = [one for one in placed if shares[one] == best]
        if not left:
            told = ", ".join(f"{share:.0%} as {one}" for one, share in shares.items())
            return None, f"of {count} regions too few lie in their images: {told}"
        kept = [one for one in left if not any(_gives_way(placed[one], placed[two], count) for two in left)]
        kept = kept or left
        first = kept[0]
        others = [one for one in kept[1:] if np.abs(placed[one] - placed[first]).max() > _ALIKE]
        if others:
            several = "; ".join(f"{one}: they reach {_reach_told(placed[one])}" for one in (first, *others))
            return None, f"the numbers of {count} regions are legible in several ways ({several})"
        evidence = (
            f"{shares[first]:.0%} of {count} regions lie in their images and reach {_reach_told(placed[first])}"
        )
        given_up = [one for one in left if one not in kept]
        if given_up:
            evidence += f"; as {given_up[0]} they would reach only {_reach_told(placed[given_up[0]])}"
        return first, evidence


def corners(numbers: np.ndarray, sizes: np.ndarray, reading: NumberFormat) -> np.ndarray:
    """(N, 4) corners as fractions of the images' sides; a point is a box without area. sizes: (N, 2), pixels."""
    if numbers.shape[1] == 4:
        found = BOX_FORMATS[reading.format](*numbers.T)
    else:
        found = POINT_FORMATS[reading.format](*numbers.T) * 2
    whole = {"pixel": sizes, "thousandth": 1000.0, "percent": 100.0, "fraction": 1.0}[reading.unit]
    sides = np.broadcast_to(whole, sizes.shape)
    return np.stack(found, 1) / np.concatenate([sides, sides], 1)


def legible(numbers: np.ndarray, sizes: np.ndarray, places: np.ndarray, reading: NumberFormat) -> np.ndarray:
    """(N,) which regions make sense when read so."""
    slack = 2 / sizes.min(1, keepdims=True) if reading.unit == "pixel" else 0.002
    inside = ((places >= -slack) & (places <= 1 + slack)).all(1)
    if numbers.shape[1] == 4:
        inside &= (places[:, 0] < places[:, 2]) & (places[:, 1] < places[:, 3])
    return inside if reading.unit == "fraction" else inside & (numbers.max(1) > 1)


def _reach(places: np.ndarray) -> tuple[float, float]:
    return float(np.quantile(places[:, 2], 0.98)), float(np.quantile(places[:, 3], 0.98))


def _reach_told(places: np.ndarray) -> str:
    x, y = _reach(places)
    return f"{x:.0%} x {y:.0%} of them"


def _gives_way(coarse: np.ndarray, fine: np.ndarray, count: int) -> bool:
    """Whether the numbers are in `fine`'s space, not in `coarse`'s, under which they cover less of the images."""
    reach, other = _reach(fine), _reach(coarse)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nanmedian(fine[:, 2:] / coarse[:, 2:], axis=0)
    if count < ROWS or not np.isfinite(ratio).all() or min(ratio) < 1:
        return False
    likelier = count * float(np.log(ratio).sum()) > CERTAIN
    return likelier and min(reach) >= _FULL and max(reach) <= 1.02 and min(other) <= _PARTLY

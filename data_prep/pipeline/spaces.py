"""Do the numbers of a data set fit the space they are said to be written in?

Thousandths read as pixels, pixels read as thousandths, fractions read as either: each number stays legible, every box
is wrong, and no single row shows it. All rows together do: 500 boxes of pictures 640 wide of which none reaches
beyond 640 are not in thousandths. `Spaces` compares the likelihood of all numbers under each space.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import TypeVar

from grounding.errors import UsageError

T = TypeVar("T")

OUTSIDE = 0.04  # share of regions that reach beyond their image in data sets that are read rightly
ROWS, ROWS_OF_FRACTIONS = 10, 4  # fewer do not tell spaces apart
CERTAIN = math.log(1000)
_EARLY = 1000  # rows after which a wrong space is reported without waiting for the end

_FIXED = {"thousandths": 1000.0, "percent": 100.0, "fractions": 1.0}


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

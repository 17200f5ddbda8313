"""The evaluations side by side: scores with intervals, differences, accuracy by size, place and group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.harness.scoring.intervals import interval, paired, row_cluster
from reports import places
from reports.charts import Bar, Series
from reports.read_run import Evaluation, number_or_nan

GRID = 3
SIZE_BINS = 5
_LEAST = 2 * SIZE_BINS  # fewer sized targets than this make no curve


@dataclass(frozen=True, slots=True)
class ShownEvaluation:
    """An evaluation as the page shows it: its name there, its color (0 to 5), dashed for the second run's."""

    evaluation: Evaluation
    title: str
    color: int
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """A headline number: share in [0, 1] with its 95 % interval, and the counts behind it."""

    name: str
    value: float
    low: float
    high: float
    n: int
    correct: int
    strict: float
    unreadable: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first on the questions both were asked, with its paired 95 % interval."""

    first: str
    second: str
    n: int
    won: int
    lost: int
    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """The interval excludes 0."""
        return self.low > 0 or self.high < 0


def score(evaluation: Evaluation) -> Score:
    """The benchmark's headline as eval.py wrote it; counted from the rows where metrics.json is missing."""
    rows = [row for row in evaluation.rows if not row.get("skipped")]
    correct = sum(row["correct"] for row in rows)
    headline = evaluation.metrics.get("headline")
    if isinstance(headline, Mapping) and math.isfinite(number_or_nan(headline.get("value"))):
        value, (low, high) = float(headline["value"]), headline.get("interval") or (math.nan, math.nan)
        name = str(headline.get("name", "accuracy"))
    else:
        name, value = "accuracy", correct / len(rows) if rows else 0.0
        low, high, _ = interval([row["correct"] for row in rows], [row_cluster(row) for row in rows])
    return Score(
        name=name,
        value=value,
        low=float(low),
        high=float(high),
        n=len(rows),
        correct=correct,
        strict=sum(row["correct"] and bool(row.get("strict")) for row in rows) / len(rows) if rows else 0.0,
        unreadable=sum(places.verdict(row) == "unreadable" for row in rows),
    )


def difference(first: ShownEvaluation, second: ShownEvaluation) -> Difference | None:
    """None when the two share no question."""
    return difference_of(first.evaluation, second.evaluation, first.title, second.title)


def difference_of(first: Evaluation, second: Evaluation, *titles: str) -> Difference | None:
    """The same for two evaluations, by their own titles or others."""
    one, two = first.first_answers(), second.first_answers()
    common = [i for i in one if i in two]
    if not common:
        return None
    clusters = [row_cluster(one[i]) for i in common]
    both = paired([one[i]["correct"] for i in common], [two[i]["correct"] for i in common], clusters)
    names = titles or (first.title, second.title)
    return Difference(*names, len(common), both["won"], both["lost"], both["difference"], *both["interval"])


def by_size(shown: Sequence[ShownEvaluation]) -> list[Series]:
    """Accuracy over the target's side (square root of its area, as a share of the image), in equally full bins."""
    curves = []
    for one in shown:
        sized = []
        for row in one.evaluation.rows:
            place = next(iter(places.right_places(row, places.image_of_interest(row))), None)
            if place is not None and places.area(place) > 0 and not row.get("skipped"):
                sized.append((math.sqrt(places.area(place)), row["correct"], row_cluster(row)))
        sized.sort(key=lambda entry: entry[:2])
        if len(sized) < _LEAST:
            continue
        edges = [round(i * len(sized) / SIZE_BINS) for i in range(SIZE_BINS + 1)]
        bins = [sized[a:b] for a, b in pairwise(edges)]
        ends = [interval([right for _, right, _ in part], [image for _, _, image in part]) for part in bins]
        curves.append(
            Series(
                one.title,
                [sum(side for side, _, _ in part) / len(part) for part in bins],
                [sum(right for _, right, _ in part) / len(part) for part in bins],
                one.color,
                one.dashed,
                lows=[spread.low for spread in ends],
                highs=[spread.high for spread in ends],
            )
        )
    return curves


def by_place(evaluation: Evaluation) -> list[list[tuple[int, int]]]:
    """(correct, n) for each cell of a grid over the screen, by where the target lies; empty without places."""
    cells = [[(0, 0)] * GRID for _ in range(GRID)]
    for row in evaluation.rows:
        place = next(iter(places.right_places(row, places.image_of_interest(row))), None)
        if place is not None and not row.get("skipped"):
            x, y = places.cell(*places.middle(place), GRID)
            correct, n = cells[y][x]
            cells[y][x] = correct + row["correct"], n + 1
    return cells if any(n for line in cells for _, n in line) else []


def by_group(shown: Sequence[ShownEvaluation], axes: Mapping[str, Sequence[str]]) -> dict[str, list[Bar]]:
    """For each axis a bar per group and evaluation."""
    result: dict[str, list[Bar]] = {}
    for axis, names in axes.items():
        result[axis] = []
        for name in names:
            for one in shown:
                rows = [r for r in one.evaluation.rows if str(r["groups"].get(axis)) == name and not r.get("skipped")]
                if rows:
                    label = f"{name} · {one.title}" if len(shown) > 1 else name
                    correct = sum(row["correct"] for row in rows)
                    low, high, _ = interval([row["correct"] for row in rows], [row_cluster(row) for row in rows])
                    note = f"{correct} of {len(rows)}"
                    result[axis].append(Bar(label, correct / len(rows), low, high, note, one.color, one.dashed))
    return result


def axes_of(shown: Sequence[ShownEvaluation], most: int) -> dict[str, list[str]]:
    """Group axes worth looking at: more than one name, at most `most`."""
    names: dict[str, set[str]] = {}
    for one in shown:
        for row in one.evaluation.rows:
            for axis, name in row["groups"].items():
                names.setdefault(axis, set()).add(str(name))
    return {axis: sorted(found) for axis, found in sorted(names.items()) if 1 < len(found) <= most}

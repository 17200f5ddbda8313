"""Small SVG charts for the report: where everything lies, for the macros of ``templates/charts.html``.

Every chart is drawn in a view box of its own and scales with the page. Series take the classes ``c0`` to ``c5`` of
the style sheet, which knows the dark scheme. Whatever is not a finite number leaves a gap. Matplotlib's SVG has fixed
colors and no values under the pointer, takes ten times as long to draw and seconds to import.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)

WIDTH, HEIGHT = 370, 215
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
COLORS = 6  # classes c0 to c5 of the style sheet
MAX_POINTS = 400
MAX_VALUE = 1e30


@dataclass(frozen=True, slots=True)
class Series:
    """A curve.

    Attributes:
        label: what the legend calls it.
        xs, ys: the same length; NaN in `ys` is a gap.
        color: 0 to 5, a class of the style sheet.
        dashed: drawn dashed, as everything of a second run is.
        smooth: draw the values faintly and their moving average over a twentieth of the curve on top.
        lows, highs: ends of an interval around each value; empty for none.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: int = 0
    dashed: bool = False
    smooth: bool = False
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()

    @property
    def style(self) -> str:
        return _style(self.color, self.dashed)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval, all in [0, 1], and what to call it."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""
    color: int = 0
    dashed: bool = False

    @property
    def style(self) -> str:
        return _style(self.color, self.dashed)


def _style(color: int, dashed: bool) -> str:
    return f"c{color} dashed" if dashed else f"c{color}"


def ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers that cover [low, high], about `about` of them; integers only if `whole`."""
    if not (drawable(low) and drawable(high)):
        return [0.0, 1.0]
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        around = abs(low) / 10 or 1.0
        low, high = low - around, high + around
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    if whole:
        step = math.ceil(step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def drawable(value: float) -> bool:
    """A number an axis can hold; whatever else is a gap."""
    return math.isfinite(value) and abs(value) < MAX_VALUE


def number(value: float, percent: bool = False, digits: int = 4) -> str:
    """A number as a person writes it: `digits` significant digits at most, one less of a percentage."""
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.{digits - 1}g} %"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.{digits}g}").replace("e+", "e")


def labels(values: Sequence[float], percent: bool = False) -> list[str]:
    """What stands beside ticks: as many digits as it takes that no two read alike."""
    told: list[str] = []
    for digits in range(4, 17):
        told = [number(value, percent, digits) for value in values]
        if len(set(told)) == len(told):
            break
    return told


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Centered mean over `window` neighbors, of the finite ones; NaN where there is none."""
    result = []
    for index in range(len(values)):
        near = [v for v in values[max(0, index - window // 2) : index + window // 2 + 1] if drawable(v)]
        result.append(sum(near) / len(near) if near else math.nan)
    return result


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points: means of equal stretches, so that a long run neither jitters nor weighs megabytes."""
    if len(xs) <= most:
        return list(xs), list(ys)
    size = math.ceil(len(xs) / most)
    parts = [(xs[i : i + size], ys[i : i + size]) for i in range(0, len(xs), size)]
    finite = [[y for y in part if drawable(y)] for _, part in parts]
    return [p[0][0] for p in parts], [sum(f) / len(f) if f else math.nan for f in finite]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str = "step",
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Curves over a common x axis.

    Args:
        title: what is shown; also the text alternative.
        series: curves; those without a finite value are left out.
        x_label: the horizontal axis.
        percent: values are shares, written as percentages.
        limits: the vertical range, where it is known beforehand.

    Returns:
        A ``<figure>``; empty markup when there is nothing to draw.
    """
    drawn = [s for s in series if any(drawable(y) for y in s.ys)]
    if not drawn:
        return Markup("")
    x_values = [x for s in drawn for x in s.xs]
    y_values = [y for s in drawn for y in (*s.ys, *s.lows, *s.highs) if drawable(y)]
    x_ticks = ticks(min(x_values), max(x_values), whole=all(x == int(x) for x in x_values))
    y_ticks = ticks(*(limits or (min(y_values), max(y_values))))
    x_low, x_high = min(x_values), max(x_values)
    if x_high == x_low:
        x_low, x_high = x_ticks[0], x_ticks[-1]
    y_low, y_high = y_ticks[0], y_ticks[-1]
    inside = [tick for tick in x_ticks if x_low <= tick <= x_high]

    def px(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def py(y: float, below: float = 0.0) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM) + below, 1)

    curves, readout = [], []
    for one in drawn:
        xs, ys = thin(one.xs, one.ys)
        raw = []
        if one.smooth and len(xs) > 8:
            raw = [_path([(px(x), py(y)) if drawable(y) else None for x, y in zip(xs, ys, strict=True)])]
            ys = moving_average(ys, max(3, len(xs) // 20))
        points = [(px(x), py(y)) if drawable(y) else None for x, y in zip(xs, ys, strict=True)]
        ends = zip(one.xs, one.lows, one.highs, strict=False)
        curve = {"label": one.label, "style": one.style, "raw": raw, "path": _path(points)}
        curve["whiskers"] = [(px(x), py(a), py(b)) for x, a, b in ends if drawable(a) and drawable(b)]
        curve["marks"] = [point for point in points if point] if len(xs) <= 24 else []
        curves.append(curve)
        values = [[px(x), number(x), number(y, percent)] for x, y in zip(xs, ys, strict=True) if drawable(y)]
        readout.append({"label": one.label, "points": values})
    last = "; ".join(f"{s.label} ends at {number(_last(s.ys), percent)}" for s in drawn)
    return _macros().line_chart(
        title,
        curves,
        list(zip(map(px, inside), labels(inside), strict=True)),
        [(py(tick), py(tick, below=4), told) for tick, told in zip(y_ticks, labels(y_ticks, percent), strict=True)],
        x_label,
        f"{title}: {last}",
        json.dumps(readout, ensure_ascii=False),
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )


def _last(values: Sequence[float]) -> float:
    return next((v for v in reversed(values) if drawable(v)), math.nan)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """The commands of a path through points; None breaks it."""
    commands, pen_down = [], False
    for point in points:
        if point is not None:
            commands.append(f"{'L' if pen_down else 'M'}{point[0]} {point[1]}")
        pen_down = point is not None
    return " ".join(commands)


def interval_chart(title: str, bars: Sequence[Bar]) -> Markup:
    """Shares with their intervals, one row each, on one 0 to 100 % axis.

    Returns:
        A ``<table>`` of rows laid out by the style sheet, readable by a screen reader.
    """
    return _macros().interval_chart(title, bars)


def heat_grid(title: str, cells: Sequence[Sequence[tuple[int, int]]]) -> Markup:
    """Accuracy by place: rows of (correct, n) cells, drawn where they lie on the screen."""
    return _macros().heat_grid(title, cells)


@cache
def _macros() -> Any:
    return PAGES.get_template("charts.html").module

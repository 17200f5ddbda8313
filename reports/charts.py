"""Small SVG charts for the report: plain functions from numbers to markup, colored by the page's style sheet.

Every chart is drawn in a view box of its own and scales with the page. Series take the classes ``c0`` to ``c5``.
Whatever is not a finite number leaves a gap.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

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


def number(value: float, percent: bool = False) -> str:
    """A number as a person writes it: 4 significant digits at most."""
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.3g} %"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.4g}").replace("e+", "e")


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

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [Markup('<g class="axis">')]
    for tick in y_ticks:
        parts.append(
            Markup('<line x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, WIDTH - RIGHT, y=f"{py(tick):.1f}")
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" class="end">{}</text>').format(
                LEFT - 6, py(tick) + 4, number(tick, percent)
            )
        )
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(
                Markup('<text x="{:.1f}" y="{}" class="middle">{}</text>').format(
                    px(tick), HEIGHT - BOTTOM + 16, number(tick)
                )
            )
    parts.append(Markup('<text x="{}" y="{}" class="end">{}</text></g>').format(WIDTH - RIGHT, HEIGHT - 3, x_label))
    readout = []
    for one in drawn:
        style = f"c{one.color}" + (" dashed" if one.dashed else "")
        xs, ys = thin(one.xs, one.ys)
        if one.smooth and len(xs) > 8:
            parts.append(_path(xs, ys, px, py, f"raw {style}"))
            ys = moving_average(ys, max(3, len(xs) // 20))
        parts.append(_path(xs, ys, px, py, f"curve {style}"))
        for x, low, high in zip(one.xs, one.lows, one.highs, strict=False):
            if drawable(low) and drawable(high):
                parts.append(
                    Markup('<line class="whisker {}" x1="{x}" x2="{x}" y1="{:.1f}" y2="{:.1f}"/>').format(
                        style, py(low), py(high), x=f"{px(x):.1f}"
                    )
                )
        if len(xs) <= 24:
            parts += [
                Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(style, px(x), py(y))
                for x, y in zip(xs, ys, strict=True)
                if drawable(y)
            ]
        readout.append(
            {
                "label": one.label,
                "points": [
                    [round(px(x), 1), number(x), number(y, percent)]
                    for x, y in zip(xs, ys, strict=True)
                    if drawable(y)
                ],
            }
        )
    last = "; ".join(f"{s.label} ends at {number(_last(s.ys), percent)}" for s in drawn)
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>{}'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-readout="{}">{}'
        '<line class="cursor" y1="{}" y2="{}"/></svg><output aria-hidden="true"></output></figure>'
    ).format(
        title,
        _legend(drawn),
        WIDTH,
        HEIGHT,
        f"{title}: {last}",
        json.dumps(readout, ensure_ascii=False),
        Markup("").join(parts),
        TOP,
        HEIGHT - BOTTOM,
    )


def _last(values: Sequence[float]) -> float:
    return next((v for v in reversed(values) if drawable(v)), math.nan)


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return Markup("")
    keys = Markup("").join(
        Markup('<li class="c{}{}">{}</li>').format(s.color, " dashed" if s.dashed else "", s.label) for s in series
    )
    return Markup('<ul class="legend">{}</ul>').format(keys)


def _path(xs, ys, px, py, style: str) -> Markup:  # type: ignore[no-untyped-def]
    commands, pen_down = [], False
    for x, y in zip(xs, ys, strict=True):
        if drawable(y):
            commands.append(f"{'L' if pen_down else 'M'}{px(x):.1f} {py(y):.1f}")
        pen_down = drawable(y)
    return Markup('<path class="{}" d="{}"/>').format(style, " ".join(commands))


def interval_chart(title: str, bars: Sequence[Bar]) -> Markup:
    """Shares with their intervals, one row each, on one 0 to 100 % axis.

    Returns:
        A ``<figure>`` of rows laid out by the style sheet, readable as a table by a screen reader.
    """
    rows = []
    for bar in bars:
        style = f"c{bar.color}" + (" dashed" if bar.dashed else "")
        picture = Markup(
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            '<line class="rail" x1="0" x2="100" y1="5" y2="5"/>'
            '<rect class="span {style}" x="{low:.2f}" width="{width:.2f}" y="2.5" height="5"/>'
            '<rect class="dot {style}" x="{dot:.2f}" width="0.8" y="0" height="10"/></svg>'
        ).format(style=style, low=100 * bar.low, width=100 * max(0.0, bar.high - bar.low), dot=100 * bar.value - 0.4)
        rows.append(
            Markup(
                '<tr><th scope="row">{}</th><td class="track">{}</td><td class="value"><b>{:.1f} %</b></td>'
                '<td class="range">{:.1f} – {:.1f}</td><td class="note">{}</td></tr>'
            ).format(bar.label, picture, 100 * bar.value, 100 * bar.low, 100 * bar.high, bar.note)
        )
    return Markup(
        '<table class="intervals"><caption>{}</caption><thead class="unseen"><tr><th>model</th><th></th>'
        "<th>accuracy</th><th>95 % interval</th><th>right</th></tr></thead><tbody>{}</tbody></table>"
    ).format(title, Markup("").join(rows))


def heat_grid(title: str, cells: Sequence[Sequence[tuple[int, int]]]) -> Markup:
    """Accuracy by place: rows of (correct, n) cells, drawn where they lie on the screen."""
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<td style="--share:{:.3f}">{}<small>{}</small></td>').format(
                    correct / n if n else 0, f"{100 * correct / n:.0f} %" if n else "–", f"n {n}"
                )
                for correct, n in row
            )
        )
        for row in cells
    )
    return Markup('<table class="grid"><caption>{}</caption><tbody>{}</tbody></table>').format(title, rows)

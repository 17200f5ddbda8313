"""A chart from a table of numbers: drawn by matplotlib, and where every bar, point, slice and legend entry lies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from grounding.errors import UsageError
from grounding.targets import Box

COLORS = {
    "blue": "#3b6fd4",
    "red": "#d43b3b",
    "green": "#3c9a4b",
    "orange": "#ef8a2b",
    "purple": "#8a4bb8",
    "gray": "#808080",
}
KINDS = ("bars", "columns", "groups", "lines", "scatter", "pie")
DPI = 100
_MARKER = 7.0  # points, the side of a point's box


@dataclass(frozen=True)
class ChartTable:
    """What a chart shows.

    Attributes:
        kind: of KINDS; bars lie, columns stand, groups are columns of several series.
        title, unit: the heading, and what the values are measured in.
        names: of the categories, or the labels of the x axis.
        series: values by series, one for each name (y of a scatter's points).
        xs: of a scatter's points, by series.
        colors: of each series, or of each name where there is one series of slices.
        labeled: values are written beside the bars.
        step: distance of the grid lines.
    """

    kind: str
    title: str
    unit: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float]]
    colors: Mapping[str, str]
    labeled: bool
    step: int
    xs: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnChart:
    """A chart and the boxes, canonical, of its marks by (series, name) and of its legend's entries by name."""

    image: Image.Image
    marks: Mapping[tuple[str, str], Box]
    legend: Mapping[str, Box]


def draw_chart(table: ChartTable, rng: random.Random) -> DrawnChart:
    """Draw a table; `rng` decides size and looks.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:  # an extra, and most of a second that the wrong name of a source should not cost
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.transforms import Bbox  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("drawing charts needs matplotlib: pip install -e '.[charts]'") from error
    size = rng.choice(((4.0, 3.0), (4.8, 3.2), (4.0, 4.0), (5.6, 3.2)))
    figure = Figure(figsize=size, dpi=DPI, facecolor=rng.choice(("white", "#f7f7f2")))
    canvas = FigureCanvasAgg(figure)
    left = 0.24 if table.kind == "bars" else 0.14
    axes = figure.add_axes((0.05, 0.06, 0.62, 0.80) if table.kind == "pie" else (left, 0.17, 0.97 - left, 0.70))
    axes.set_title(table.title, fontsize=10, y=1.02)  # given places save looking for one, a tenth of the time
    axes.xaxis.set_label_coords(0.5, -0.13)
    axes.yaxis.set_label_coords(-0.11, 0.5)
    marks = _DRAWN[table.kind](axes, table, rng)
    legend = None
    if len(table.series) > 1 or (table.kind == "pie" and rng.random() < 0.5):
        if table.kind == "pie":
            names = list(table.names)
            legend = axes.legend(list(marks.values()), names, fontsize=8, loc="lower left", bbox_to_anchor=(1.02, 0))
        else:
            legend = axes.legend(fontsize=8, loc="upper left")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + (high - low) * (0.12 + 0.10 * len(table.series)))  # it hides no mark
    canvas.draw()
    width, height = canvas.get_width_height()
    image = Image.frombuffer("RGBA", (width, height), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1).convert("RGB")

    def box(found: Any) -> Box:
        x1, x2 = (min(max(float(x) / width, 0.0), 1.0) for x in (found.x0, found.x1))
        y1, y2 = (min(max(1 - float(y) / height, 0.0), 1.0) for y in (found.y1, found.y0))
        return Box(x1, y1, x2, y2)

    entries = {}
    if legend is not None:
        for text in legend.get_texts():  # a handle does not know its own extent: it stands before the text
            handle = (legend.handlelength + legend.handletextpad) * text.get_fontsize() * DPI / 72
            words = text.get_window_extent(canvas.get_renderer())
            entries[text.get_text()] = box(Bbox.from_extents(words.x0 - handle, words.y0, words.x1, words.y1))
    return DrawnChart(image, {key: box(_extent(mark, axes)) for key, mark in marks.items()}, entries)


def _extent(mark: Any, axes: Any) -> Any:
    """The rectangle of a patch, or that around a point (x, y), in pixels from the lower left."""
    if isinstance(mark, tuple):
        from matplotlib.transforms import Bbox  # noqa: PLC0415

        (x, y), half = axes.transData.transform(mark), _MARKER * DPI / 72 / 2
        return Bbox.from_extents(x - half, y - half, x + half, y + half)
    return mark.get_path().get_extents(mark.get_transform())


def _bars(axes: Any, table: ChartTable, rng: random.Random) -> dict[tuple[str, str], Any]:
    """Bars that lie, or stand, in one series or in several beside each other."""
    found: dict[tuple[str, str], Any] = {}
    lying, places = table.kind == "bars", range(len(table.names))
    width = rng.uniform(0.6, 0.8) / len(table.series)
    for index, (series, values) in enumerate(table.series.items()):
        at = [place + (index - (len(table.series) - 1) / 2) * width for place in places]
        draw = axes.barh if lying else axes.bar
        bars = draw(at, values, width, color=COLORS[table.colors[series]], label=series, linewidth=0)
        if table.labeled:
            axes.bar_label(bars, fmt="%g", fontsize=7, padding=1)
        found |= {(series, name): bar for name, bar in zip(table.names, bars, strict=True)}
    (axes.set_yticks if lying else axes.set_xticks)(places, table.names, fontsize=8)
    _grid(axes, table, "x" if lying else "y")
    return found


def _lines(axes: Any, table: ChartTable, rng: random.Random) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for series, values in table.series.items():
        style = {"marker": "o", "markersize": _MARKER, "markeredgewidth": 0, "linewidth": rng.uniform(1, 2)}
        axes.plot(range(len(values)), values, color=COLORS[table.colors[series]], label=series, **style)
        found |= {(series, name): place for name, place in zip(table.names, enumerate(values), strict=True)}
    axes.set_xticks(range(len(table.names)), table.names, fontsize=8)
    _grid(axes, table, "y")
    return found


def _scatter(axes: Any, table: ChartTable, rng: random.Random) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for series, values in table.series.items():
        xs = table.xs[series]
        axes.scatter(xs, values, s=_MARKER**2, color=COLORS[table.colors[series]], label=series, linewidths=0)
        found |= {(series, str(n)): place for n, place in enumerate(zip(xs, values, strict=True))}
    axes.set_xlabel("price", fontsize=8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel(table.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    return found


def _pie(axes: Any, table: ChartTable, rng: random.Random) -> dict[tuple[str, str], Any]:
    (series, values), *_ = table.series.items()
    written = "%.0f%%" if table.labeled else None
    colors = [COLORS[table.colors[name]] for name in table.names]
    pie = axes.pie(values, labels=list(table.names), colors=colors, autopct=written, startangle=rng.randrange(360),
                   textprops={"fontsize": 8})  # fmt: skip
    return {(series, name): wedge for name, wedge in zip(table.names, pie[0], strict=True)}


def _grid(axes: Any, table: ChartTable, axis: str) -> None:
    """Grid lines and ticks at whole steps, so that values can be read off."""
    most = max(value for values in table.series.values() for value in values)
    ticks = range(0, int(most) + table.step, table.step)
    (axes.set_xticks if axis == "x" else axes.set_yticks)(ticks)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(0, ticks[-1] * 1.06)
    (axes.set_xlabel if axis == "x" else axes.set_ylabel)(table.unit, fontsize=8)
    axes.grid(axis=axis, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


_DRAWN = {"bars": _bars, "columns": _bars, "groups": _bars, "lines": _lines, "scatter": _scatter, "pie": _pie}

"""Questions about charts drawn here: the answer is words that rest on boxes of bars, points, slices, legend entries.

    python -m data_prep charts --out data/charts

Sample i of a split is a function of (seed, split, i) alone, given one version of matplotlib. Values are written in
the chart, or lie on its grid lines, so that they can be read off exactly. Half of the test charts are about subjects
that no training chart has. The thought names the evidence and what it shows.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from data_prep import Split
from data_prep.plots.figures import COLORS, KINDS, ChartTable, DrawnChart, draw_chart
from data_prep.screens.generated import drawn_source
from grounding.sample import ImageRef, Sample
from grounding.targets import Box, TextBox
from grounding.wording import request, write_place

DEFAULT_COUNTS: dict[Split, int] = {"train": 4000, "val": 200, "test": 600}
SUBJECTS = {
    "city": ("Oslo", "Lima", "Cairo", "Osaka", "Quito", "Turin", "Dakar", "Perth"),
    "fruit": ("apples", "pears", "plums", "figs", "limes", "grapes", "kiwis", "dates"),
    "team": ("Hawks", "Bears", "Lions", "Wolves", "Foxes", "Otters", "Ravens", "Bulls"),
    "language": ("Dutch", "Greek", "Hindi", "Welsh", "Tamil", "Czech", "Malay", "Irish"),
    "shop": ("bakery", "butcher", "florist", "grocer", "tailor", "cobbler", "barber", "jeweler"),
}
HELD_OUT = {
    "instrument": ("flute", "cello", "tuba", "harp", "drum", "oboe", "banjo", "organ"),
    "bird": ("crow", "wren", "swan", "gull", "finch", "heron", "robin", "stork"),
}
QUANTITIES = {"sales": "units", "votes": "thousands", "orders": "pieces", "visits": "hundreds", "savings": "dollars"}
SERIES = (("2021", "2022", "2023"), ("north", "south", "east"), ("men", "women"), ("plan", "actual"))
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug")
HELD_OUT_SHARE = {"train": 0.0, "val": 0.0, "test": 0.5}


@dataclass(frozen=True)
class ChartQuestion:
    """A question, its answer in words, and the boxes it rests on with what each is called."""

    text: str
    answer: str
    form: str
    boxes: Sequence[Box]
    called: str


def compose_table(rng: random.Random, held_out: bool) -> tuple[ChartTable, str, str]:
    """A table, what its names are (a city, a month), and what its values are (sales)."""
    kind = rng.choice(KINDS)
    subject = rng.choice(tuple(HELD_OUT if held_out else SUBJECTS))
    names: Sequence[str] = rng.sample((HELD_OUT if held_out else SUBJECTS)[subject], rng.randint(3, 6))
    quantity, unit = rng.choice(tuple(QUANTITIES.items()))
    labeled, step = rng.random() < 0.5, rng.choice((5, 10, 20, 50))
    title = f"{quantity.capitalize()} by {subject}"
    several = kind in ("groups", "lines", "scatter")
    series: Sequence[str] = rng.choice(SERIES)[: rng.choice((2, 3))] if several else (quantity,)
    xs = {}
    if kind == "lines":  # one line a name
        series, names, subject = list(names)[:3], MONTHS[: rng.randint(4, 8)], "month"
    if kind == "scatter":
        series = names = list(names)[:3]
        values, xs = _apart(rng, series, step)
    elif kind == "pie":
        values = {quantity: _shares(rng, len(names))}
    elif kind == "lines":  # no point covers another
        labeled = False
        at = [rng.sample(range(1, 9), len(series)) for _ in names]
        values = {one: [place[n] * step for place in at] for n, one in enumerate(series)}
    else:
        low, high = (step, 8 * step) if labeled else (1, 8)
        values = {one: [rng.randint(low, high) * (1 if labeled else step) for _ in names] for one in series}
    colors = dict(zip(names if kind == "pie" else series, rng.sample(tuple(COLORS), len(COLORS)), strict=False))
    return ChartTable(kind, title, unit, names, values, colors, labeled, step, xs), subject, quantity


def _shares(rng: random.Random, count: int) -> list[float]:
    """Whole percentages that make a hundred, all different and none too thin to see."""
    while True:
        cuts = sorted(rng.sample(range(1, 100), count - 1))
        shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        if min(shares) >= 6 and len(set(shares)) == count:
            return [float(share) for share in shares]


def _apart(
    rng: random.Random, series: Sequence[str], step: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Points (y and x by series) no two of which cover each other."""
    cells = rng.sample([(x, y) for x in range(1, 10) for y in range(1, 9)], 5 * len(series))
    ys: dict[str, list[float]] = {}
    xs: dict[str, list[float]] = {}
    for one in series:
        own = [cells.pop() for _ in range(rng.randint(2, 5))]
        xs[one], ys[one] = [float(x) for x, _ in own], [float(y * step) for _, y in own]
    return ys, xs


def ask(
    rng: random.Random, table: ChartTable, drawn: DrawnChart, subject: str, quantity: str
) -> ChartQuestion | None:
    """A question that the chart answers; None where the form drawn by lot does not fit it."""
    series = rng.choice(tuple(table.series))
    values = table.series[series]
    among = f" {'of' if table.kind == 'lines' else 'in'} {series}" if len(table.series) > 1 else ""
    mark = {"lines": "point", "scatter": "point", "pie": "slice"}.get(table.kind, "bar")
    form = rng.choice(("value", "highest", "lowest", "legend", "count") if table.kind == "scatter" else _FORMS)
    if form == "legend":
        if not drawn.legend:
            return None
        name = rng.choice(tuple(drawn.legend))
        text = f"What does {table.colors[name]} stand for?"
        return ChartQuestion(text, name, form, [drawn.legend[name]], "legend entry")
    if table.kind == "scatter":
        own = [box for (one, _), box in drawn.marks.items() if one == series]
        if form == "count":
            return ChartQuestion(f"How many points are there of {series}?", str(len(own)), form, own, "points")
        best = (min if form == "lowest" else max)(y for ys in table.series.values() for y in ys)
        found = [(one, n) for one, ys in table.series.items() for n, y in enumerate(ys) if y == best]
        if form == "value" or len(found) != 1:
            return None
        (name, n), word = found[0], form
        return ChartQuestion(f"What does the {word} point belong to?", name, form, [drawn.marks[name, str(n)]], mark)
    if form in ("highest", "lowest"):
        ranked = sorted(values, reverse=form == "highest")
        if abs(ranked[0] - ranked[1]) < (3 if table.kind == "pie" else table.step / 2):
            return None
        name = table.names[list(values).index(ranked[0])]
        text = f"Which {subject} has the {form} {quantity}{among}?"
        return ChartQuestion(text, name, form, [drawn.marks[series, name]], mark)
    if table.kind == "pie" and not table.labeled:
        return None
    at = rng.sample(range(len(table.names)), 2)
    a, b = (table.names[place] for place in at)
    if form == "difference":
        more = values[at[0]] - values[at[1]]
        if more <= 0:
            return None
        text = f"By how much do the {quantity}{among} of {a} exceed those of {b}?"
        if table.kind == "lines":
            text = f"By how much do the {quantity} of {series} in {a} exceed those in {b}?"
        return ChartQuestion(text, f"{more:g}", form, [drawn.marks[series, a], drawn.marks[series, b]], f"{mark}s")
    text = f"What are the {quantity} of {series} in {a}?" if table.kind == "lines" else None
    text = text or f"What {'share has' if table.kind == 'pie' else f'are the {quantity}{among} of'} {a}?"
    unit = "%" if table.kind == "pie" else ""
    return ChartQuestion(text, f"{values[at[0]]:g}{unit}", form, [drawn.marks[series, a]], mark)


_FORMS = ("value", "value", "highest", "lowest", "difference", "legend")


def example(index: int, *, seed: int, split: str) -> tuple[Sample, Image.Image]:
    """Sample `index` of a split and its chart."""
    rng = random.Random(f"charts/{seed}/{split}/{index}")
    held_out = rng.random() < HELD_OUT_SHARE[split]
    table, subject, quantity = compose_table(rng, held_out)
    drawn = draw_chart(table, rng)
    asked = None
    while asked is None:
        asked = ask(rng, table, drawn, subject, quantity)
    id = f"charts-{split}-{seed}-{index:06d}"
    places = " and ".join(write_place(box) for box in asked.boxes)
    are = "is" if len(asked.boxes) == 1 else "are"
    sample = Sample(
        id=id,
        images=(ImageRef(f"images/{id}.png", *drawn.image.size),),
        instruction=asked.text,
        target=TextBox(asked.answer, tuple(asked.boxes)),
        source="charts",
        license="Apache-2.0",
        thought=f"{request(asked.text)} The {asked.called} {are} at {places}. So the answer is {asked.answer}.",
        meta={"chart": table.kind, "form": asked.form, "held_out": held_out},
    )
    return sample, drawn.image


def _example(args: Namespace, split: Split, index: int) -> tuple[Sample, Image.Image]:
    return example(index, seed=args.seed, split=split)


drawn_source("charts", DEFAULT_COUNTS, None, _example, noun="charts")

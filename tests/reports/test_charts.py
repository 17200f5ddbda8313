import json
import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.charts import Bar, Series, heat_grid, interval_chart, line_chart, moving_average, number, thin, ticks

finite = st.floats(-1e9, 1e9)


def svg_of(markup):
    """The chart parsed as XML: it must be well formed."""
    return ElementTree.fromstring(str(markup)).find("svg")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 100, [0, 20, 40, 60, 80, 100]), (3, 47, [0, 10, 20, 30, 40, 50])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@given(finite, finite)
def test_ticks_cover_the_values_with_few_marks(low, high):
    low, high = min(low, high), max(low, high)
    marks = ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 9
    assert all(a < b for a, b in pairwise(marks))


def test_ticks_of_nothing():
    assert ticks(math.nan, 1.0) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "percent", "written"),
    [
        (0.5, True, "50 %"),
        (3.0, False, "3"),
        (0.00012, False, "0.00012"),
        (1.25e-7, False, "1.25e-7"),
        (2e9, False, "2e9"),
        (1234.5678, False, "1235"),
        (math.nan, False, "–"),
    ],
)
def test_numbers_read_well(value, percent, written):
    assert number(value, percent) == written


def test_moving_average_skips_gaps():
    assert moving_average([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    assert math.isnan(moving_average([math.nan], 3)[0])


def test_thinning_takes_means_and_keeps_gaps():
    xs, ys = thin([0, 1, 2, 3, 4], [1.0, 3.0, math.nan, math.nan, 5.0], most=3)
    assert xs == [0, 2, 4]
    assert ys[0] == 2.0
    assert math.isnan(ys[1])
    assert ys[2] == 5.0


def test_a_gap_breaks_the_line():
    path = svg_of(line_chart("loss", [Series("loss", [1, 2, 3, 4, 5], [1, 2, math.nan, 2, 1])])).find("path").get("d")
    assert [step[0] for step in path.split(" ")[::2]] == ["M", "L", "M", "L"]


def test_a_higher_value_is_drawn_higher():
    marks = svg_of(line_chart("reward", [Series("reward", [0, 1], [0.2, 0.7])])).findall("circle")
    assert float(marks[1].get("cy")) < float(marks[0].get("cy"))
    assert float(marks[1].get("cx")) > float(marks[0].get("cx"))


def test_the_text_alternative_and_the_readout_have_the_values():
    svg = svg_of(line_chart("Accuracy", [Series("a <b>", [0, 10], [0.25, 0.5])], percent=True))
    assert svg.get("aria-label") == "Accuracy: a <b> ends at 50 %"
    assert json.loads(svg.get("data-readout"))[0]["points"][1][1:] == ["10", "50 %"]


@pytest.mark.parametrize("series", [[], [Series("x", [], [])], [Series("x", [1, 2], [math.nan, math.inf])]])
def test_nothing_to_draw_gives_no_figure(series):
    assert line_chart("nothing", series) == ""


@settings(deadline=None)  # the first chart compiles the templates
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40))
def test_any_numbers_give_a_well_formed_chart(values):
    chart = line_chart("any", [Series("any", list(range(len(values))), values, smooth=True)])
    if chart:
        assert "nan" not in svg_of(chart).find("path").get("d")


def test_intervals_are_drawn_to_scale():
    table = ElementTree.fromstring(str(interval_chart("", [Bar("model", 0.5, 0.4, 0.65, "5 of 10")])))
    span = next(e for e in table.iter("rect") if e.get("class").startswith("span"))
    assert (float(span.get("x")), float(span.get("width"))) == (40.0, 25.0)
    assert "5 of 10" in "".join(table.itertext())


def test_a_heat_grid_tells_empty_cells_from_failures():
    text = "".join(ElementTree.fromstring(str(heat_grid("", [[(0, 4), (0, 0), (3, 4)]]))).itertext())
    assert text == "0 %n 4–n 075 %n 4"

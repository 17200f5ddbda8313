"""Charts: boxes are where the pixels are, and answers are what the table says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from data_prep.__main__ import main
from data_prep.plots.evidence import HELD_OUT, ask, compose_table, example
from data_prep.plots.figures import COLORS, KINDS, ChartTable, draw_chart
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.io import read_samples
from grounding.targets import Box, TextBox
from grounding.wording import read_places
from rewards import REWARDS

RGB = {name: np.array(to_rgb(code)) * 255 for name, code in COLORS.items()}


def painted(image, color, tolerance=12):
    """(H, W) where the image has a color."""
    return np.abs(np.asarray(image, dtype=float) - RGB[color]).max(axis=2) < tolerance


def corners(box, image):
    return np.array(box.xyxy) * (image.width, image.height, image.width, image.height)


def charts(kind, count=3, legend=None):
    found, seed = [], 0
    while len(found) < count:
        seed += 1
        table, *_ = compose_table(random.Random(seed), held_out=False)
        if table.kind == kind:
            drawn = draw_chart(table, random.Random(seed))
            found += [(table, drawn)] if legend is None or bool(drawn.legend) == legend else []
    return found


@pytest.mark.parametrize("kind", ["bars", "columns", "groups"])
def test_a_bar_fills_its_box_and_nothing_around_it(kind):
    for table, drawn in charts(kind):
        for (series, _), box in drawn.marks.items():
            mask = painted(drawn.image, table.colors[series])
            x1, y1, x2, y2 = corners(box, drawn.image).round().astype(int)
            inside = mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]  # the frame of the plot covers an edge
            assert inside.all() and inside.size
            if kind == "bars":
                assert not mask[y1 - 3, x1 + 3 : x2].any() and not mask[(y1 + y2) // 2, x2 + 2 : x2 + 4].any()
            else:
                assert not mask[y1 - 3 : y1 - 1, x1 + 3 : x2 - 3].any()


def test_a_box_is_as_tall_as_its_value():
    for table, drawn in charts("columns"):
        ((series, values),) = table.series.items()
        heights = [drawn.marks[series, name].y2 - drawn.marks[series, name].y1 for name in table.names]
        assert np.allclose(np.array(heights) / heights[0], np.array(values) / values[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["lines", "scatter"])
def test_a_point_lies_in_the_middle_of_its_box(kind):
    for table, drawn in charts(kind):
        for (series, _), box in drawn.marks.items():
            x1, y1, x2, y2 = corners(box, drawn.image)
            mask = painted(drawn.image, table.colors[series])
            ys, xs = np.nonzero(mask[round(y1) : round(y2) + 1, round(x1) : round(x2) + 1])
            assert len(xs) > 0.5 * (x2 - x1) * (y2 - y1)
            assert mask[round((y1 + y2) / 2), round((x1 + x2) / 2)]
            assert 9 <= x2 - x1 <= 10.5  # 7 points at 100 dots an inch
            if kind == "scatter":
                assert abs(xs.min() + round(x1) - x1) <= 2 and abs(ys.max() + round(y1) - y2) <= 2


def test_a_slice_reaches_to_the_edges_of_its_box():
    for table, drawn in charts("pie", legend=False):
        for (_, name), box in drawn.marks.items():
            if table.colors[name] == "gray":  # what black letters look like at their edges
                continue
            ys, xs = np.nonzero(painted(drawn.image, table.colors[name]))
            found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(found - corners(box, drawn.image)).max() <= 6  # tips are thin


@pytest.mark.parametrize("kind", ["groups", "lines", "scatter", "pie"])
def test_an_entry_of_a_legend_has_its_own_color_only(kind):
    for table, drawn in charts(kind, legend=True):
        assert set(drawn.legend) == set(table.names if kind == "pie" else table.series)
        for name, box in drawn.legend.items():
            x1, y1, x2, y2 = corners(box, drawn.image).round().astype(int)
            part = drawn.image.crop((x1, y1, x2, y2))
            counts = {color: painted(part, color).sum() for color in table.colors.values()}
            assert counts.pop(table.colors[name]) > 15
            counts.pop("gray", None)  # what black letters look like at their edges
            assert not any(counts.values())


def question(form, kind="columns", labeled=True, **series):
    """The question of a form about a table worked by hand: every box is its own."""
    series = series or {"sales": [30, 50, 20]}
    names = ("a", "b", "c") if kind != "scatter" else tuple(series)
    colors = dict(zip(names if kind == "pie" else series, COLORS, strict=False))
    table = ChartTable(kind, "t", "units", names, series, colors, labeled, 10)
    marks = {}
    for one, values in series.items():
        for n in range(len(values)):
            key = (one, str(n) if kind == "scatter" else names[n])
            marks[key] = Box(0, 0, 0.1 * (len(marks) + 1), 1)
    drawn = type("Drawn", (), {"marks": marks, "legend": {name: Box(0, 0, 1, 0.5) for name in colors}})()
    for seed in range(400):
        asked = ask(random.Random(seed), table, drawn, "city", "sales")
        if asked is not None and asked.form == form:
            return asked, {box: key for key, box in marks.items()}
    return None, {}


def test_answers_are_what_the_table_says():
    for form, answer, name in (("highest", "b", "b"), ("lowest", "c", "c")):
        asked, names = question(form)
        assert asked.text == f"Which city has the {form} sales?" and asked.answer == answer
        assert [names[box][1] for box in asked.boxes] == [name]
    asked, names = question("value")
    ((_, name),) = [names[box] for box in asked.boxes]
    assert asked.text == f"What are the sales of {name}?" and asked.answer == {"a": "30", "b": "50", "c": "20"}[name]
    asked, names = question("difference")
    more, less = [names[box][1] for box in asked.boxes]
    values = {"a": 30, "b": 50, "c": 20}
    assert asked.text == f"By how much do the sales of {more} exceed those of {less}?"
    assert asked.answer == str(values[more] - values[less]) and values[more] > values[less]


def test_several_series_are_named():
    two = {"north": [30, 50, 20], "south": [10, 80, 70]}
    asked, names = question("lowest", "groups", **two)
    ((series, name),) = [names[box] for box in asked.boxes]
    assert asked.text == f"Which city has the lowest sales in {series}?"
    assert (series, name) in {("north", "c"), ("south", "a")} and asked.answer == name
    asked, _ = question("legend", "groups", **two)
    assert (asked.text, asked.answer) in {
        ("What does blue stand for?", "north"),
        ("What does red stand for?", "south"),
    }
    assert asked.boxes == [Box(0, 0, 1, 0.5)]


def test_points_are_counted_and_compared():
    points = {"x": [1, 5], "y": [9, 2, 3]}
    asked, names = question("count", "scatter", **points)
    series = {names[box][0] for box in asked.boxes}
    assert len(series) == 1 and asked.answer == str(len(points[series.pop()])) == str(len(asked.boxes))
    asked, names = question("highest", "scatter", **points)
    assert asked.answer == "y" and [names[box] for box in asked.boxes] == [("y", "0")]


def test_what_cannot_be_told_is_not_asked():
    assert question("highest", sales=[50, 50, 20])[0] is None  # two are highest
    assert question("value", "pie", labeled=False, sales=[30.0, 50.0, 20.0])[0] is None  # nothing says how much
    assert question("value", "pie", sales=[30.0, 50.0, 20.0])[0].answer[-1] == "%"


def test_samples_rest_on_boxes_inside_and_splits_keep_apart():
    subjects = {name for names in HELD_OUT.values() for name in names}
    for split in ("train", "test"):
        held_out = 0
        for index in range(8):
            sample, image = example(index, seed=3, split=split)
            assert isinstance(sample.target, TextBox) and sample.sizes == (ImageSize(*image.size),)
            assert all(box.area > 0 for box in sample.target.boxes)
            named = read_places(sample.thought)
            for place, box in zip(named, sample.target.boxes, strict=True):
                assert place.xyxy == pytest.approx(box.xyxy, abs=6e-4)
            assert sample.thought.endswith(f"So the answer is {sample.target.text}.")
            assert sample.target.text not in subjects or split == "test"
            held_out += bool(sample.meta["held_out"])
            dialect = get_dialect("qwen3_vl")
            said = dialect.parse(dialect.render(sample.target, sample.sizes), sample.sizes, answer_kind="text_box")
            assert REWARDS.get("text_number").function(said, sample) == 1.0
            assert REWARDS.get("matched_iou").function(said, sample) > 0.8
        assert (held_out > 0) == (split == "test")


def test_the_command_draws_the_same_charts_again(tmp_path):
    flags = ["--train-charts", "2", "--val-charts", "0", "--test-charts", "1"]
    for name in ("a", "b"):
        assert main(["charts", "--out", str(tmp_path / name), *flags]) == 0
    for path in (tmp_path / "a").rglob("*"):
        if path.suffix in (".png", ".jsonl") and not path.name.startswith("."):
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    assert len(list(read_samples(tmp_path / "a" / "train.jsonl"))) == 2
    assert set(KINDS) == {"bars", "columns", "groups", "lines", "scatter", "pie"}

"""What lies outside the image is no answer, but its numbers are kept for rules that score it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.answer import ImageSize, OutOfBounds, Status
from grounding.dialects import get_dialect

SIZES = [ImageSize(200, 100)]
QWEN3 = get_dialect("qwen3_vl")


def read(text, dialect=QWEN3, answer_kind="box"):
    return dialect.parse(text, SIZES, grammar="bare", answer_kind=answer_kind)


@pytest.mark.parametrize(
    ("dialect", "text", "coords"),
    [
        ("qwen3_vl", '{"bbox_2d": [500, 0, 1100, 1000]}', (0.5, 0.0, 1.1, 1.0)),
        ("qwen3_vl", '{"bbox_2d": [-20, 0, 500, 1000]}', (-0.02, 0.0, 0.5, 1.0)),
        ("qwen3_vl", '{"bbox_2d": [800, 0, 200, 1000]}', (0.8, 0.0, 0.2, 1.0)),  # swapped corners
        ("qwen2_5_vl", '{"bbox_2d": [100, 0, 220, 50]}', (0.5, 0.0, 1.1, 0.5)),
        ("internvl", "<box>[[500, 0, 1100, 1000]]</box>", (0.5, 0.0, 1.1, 1.0)),
    ],
)
def test_a_box_that_reaches_outside_is_kept_apart(dialect, text, coords):
    answer = read(text, get_dialect(dialect))
    assert (answer.status, answer.boxes, answer.strict) == (Status.OUT_OF_RANGE, (), False)
    assert [outside.coords for outside in answer.out_of_bounds] == [pytest.approx(coords)]


def test_among_others_it_keeps_its_rank_and_label():
    text = '[{"bbox_2d": [1, 1, 2, 2]}, {"bbox_2d": [0, 0, 1001, 9], "label": "x"}, {"bbox_2d": [3, 3, 4, 4]}]'
    answer = read(text, answer_kind="boxes")
    assert answer.status is Status.AMBIGUOUS
    assert len(answer.boxes) == 2
    assert answer.out_of_bounds == (OutOfBounds((0.0, 0.0, 1.001, 0.009), label="x", rank=1),)


@pytest.mark.parametrize(
    "text", ['{"bbox_2d": [0, 0, 1e300, 5]}', '{"bbox_2d": [1, 2, NaN, 4]}', '{"bbox_2d": [1, 2, 3]}']
)
def test_numbers_beyond_measure_are_no_place(text):
    assert read(text).out_of_bounds == ()


@given(st.lists(st.integers(-3000, 3000), min_size=4, max_size=4))
def test_four_numbers_are_either_an_answer_or_out_of_bounds(numbers):
    answer = read(f'{{"bbox_2d": {numbers}}}')
    places = [box.xyxy for box in answer.boxes] + [outside.coords for outside in answer.out_of_bounds]
    assert places == [pytest.approx(tuple(n / 1000 for n in numbers))]
    assert bool(answer.out_of_bounds) is (answer.status is Status.OUT_OF_RANGE)

"""What holds of every reward: hacks do not pay, the dialect does not matter, any text gives a value in range."""

import math
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounding.answer import ImageSize
from grounding.completion import GRAMMARS
from grounding.dialects import DIALECTS, get_dialect
from grounding.errors import UsageError
from grounding.targets import Box, Boxes, Span, TextBox
from perf.fuzz_rewards import TARGETS, FuzzTally, check, sample_of, slowdown, usable, value_of
from rewards import REWARDS
from rewards.compose import build_rewards
from tests.rewards.making import a_sample, call, write

SIZE = [ImageSize(200, 100)]
TARGET = Box(0.44, 0.42, 0.6, 0.62)  # the image's center lies in it: the hardest case for a box of the whole image
WRONG = Box(0.7, 0.72, 0.86, 0.92)
GRID = [Box(x / 5, y / 5, (x + 1) / 5, (y + 1) / 5) for x in range(5) for y in range(5)]

# Every reward that says how right one answer is, and what is asked for in its case.
ONE_BOX = ["iou", "iou_above", "giou", "diou", "ciou", "click_in_box", "dense_point", "gaussian_point"]
ONE_BOX += ["gaussian_coverage", "ranked_points", "matched_iou", "matched_objects", "detection_f1", "detection_map"]
ONE_BOX += ["difficulty_weighted_iou"]
DENSE = ["iou", "giou", "diou", "ciou", "gaussian_coverage", "gaussian_point", "dense_point"]


def json_boxes(places):
    return "[" + ", ".join(get_dialect("qwen3_vl").render(box, SIZE) for box in places) + "]"


HACKS = {
    "the whole image": write(Box(0, 0, 1, 1)),
    "nearly the whole image": write(Box(0.01, 0.01, 0.99, 0.99)),
    "a grid of boxes": f"<think>look</think>{json_boxes(GRID)}",
    "the answer among others": f"<think>look</think>{json_boxes([WRONG, TARGET])}",
    "the answer first, then others": f"<think>look</think>{json_boxes([TARGET, *GRID])}",
    "two answer blocks": f"<answer>{json_boxes([TARGET])}</answer><answer>{json_boxes([WRONG])}</answer>",
    "the answer in the thought": f"<think>{json_boxes([TARGET])}</think>",
    "the answer in the thought, nothing useful after": f"<think>{json_boxes([TARGET])}</think>There it is.",
    "a thought left open": f"<think>{json_boxes([TARGET])}",
    "an answer inside the thought": f"<think><answer>{json_boxes([TARGET])}</answer></think>",
    "the prompt": get_dialect("qwen3_vl").prompt("Click the blue button.", "box", "think"),
    "the prompt after a thought": "<think>ok</think>" + get_dialect("qwen3_vl").prompt("Click it.", "box", "think"),
    "nothing": "",
    "a refusal": "<think>hm</think>The target is not visible.",
    "swapped corners": '<think>x</think>{"bbox_2d": [600, 620, 440, 420]}',
    "outside": '<think>x</think>{"bbox_2d": [440, 420, 600, 6200]}',
    "three numbers": '<think>x</think>{"bbox_2d": [440, 420, 600]}',
    "not a number": '<think>x</think>{"bbox_2d": [NaN, 420, 600, 620]}',
}


@pytest.mark.parametrize("name", ONE_BOX)
@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_earns_no_more_than_an_honest_wrong_answer(name, hack):
    (function,) = build_rewards([name], "qwen3_vl", "think", answer_kind="box")
    values = [
        call(function, [text] * 2, [a_sample(TARGET)] * 2)[0] for text in (HACKS[hack], write(WRONG), write(TARGET))
    ]
    assert values[0] <= values[1] + 1e-9
    assert values[2] > values[1]


@pytest.mark.parametrize("name", ["matched_iou", "matched_objects", "detection_f1", "detection_map"])
def test_where_several_are_asked_for_a_grid_earns_its_share_at_most(name):
    (function,) = build_rewards([name], "qwen3_vl", "think", answer_kind="boxes")
    sample = a_sample(Boxes((TARGET, Box(0.0, 0.0, 0.2, 0.2))))
    grid = call(function, [f"<think>look</think>{json_boxes(GRID)}"], [sample])[0]
    one_right = call(function, [f"<think>look</think>{json_boxes([TARGET])}"], [sample])[0]
    assert grid <= 2 * 2 / (25 + 2)
    assert grid < one_right / 3


def test_hacks_of_other_kinds_of_targets():
    timed = a_sample(Span(10.0, 20.0), meta={"duration": 60.0})
    for name in ("temporal_iou", "temporal_iou_edges"):
        entry, (_, honest) = REWARDS.get(name), TARGETS["span"]
        whole = type(honest)(honest.status, spans=(Span(0.0, 60.0),), strict=True)
        both = type(honest)(honest.status, spans=(Span(10.0, 20.0), Span(0.0, 5.0)), strict=True)
        assert entry(whole, timed) == entry(both, timed) == entry(honest, timed) == 0.0
    chart = a_sample(TextBox("B", (TARGET,)))
    for name in ("text_match", "text_number", "text_choice"):
        entry, (_, honest) = REWARDS.get(name), TARGETS["choice"]
        listing = type(honest)(honest.status, text="A. B. C. D.", strict=True)
        assert entry(listing, chart) == entry(honest, chart) == 0.0


# The dialect an answer was written in does not matter


def renderable(dialect, target):
    try:
        get_dialect(dialect).render(target, SIZE)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "name", ["iou", "giou", "diou", "ciou", "gaussian_coverage", "gaussian_point", "dense_point"]
)
def test_dense_rewards_do_not_depend_on_the_dialect(dialect, name):
    """Written in any family's words, an answer is worth the same, up to the rounding of those words."""
    entry = REWARDS.get(name)
    places = [Box(0.1, 0.2, 0.5, 0.6), Box(0.3, 0.3, 0.7, 0.9), WRONG]
    for place in places if renderable(dialect, places[0]) else [box.center for box in places]:
        text = get_dialect(dialect).render(place, [ImageSize(2000, 1000)])
        read = get_dialect(dialect).parse(text, [ImageSize(2000, 1000)], grammar="bare")
        assert read.ok
        exact = (
            type(read)(read.status, boxes=(place,))
            if isinstance(place, Box)
            else type(read)(read.status, points=(place,))
        )
        sample = a_sample(Box(0.15, 0.2, 0.6, 0.75), width=2000, height=1000)
        assert entry(read, sample) == pytest.approx(entry(exact, sample), abs=0.02)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_right_click_is_right_in_every_dialect(dialect):
    place = TARGET if renderable(dialect, TARGET) else TARGET.center
    (function,) = build_rewards(["click_in_box"], dialect, "bare")
    text = get_dialect(dialect).render(place, SIZE)
    assert call(function, [text], [a_sample(TARGET)]) == [1.0]
    assert call(function, [text], [a_sample(WRONG)]) == [0.0]


# Any text at all


@settings(max_examples=200)
@given(
    st.text(max_size=300),
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from(GRAMMARS),
    st.sampled_from(sorted(TARGETS)),
)
def test_every_reward_is_finite_and_in_range_for_any_text(text, dialect, grammar, kind):
    family = get_dialect(dialect)
    sample = sample_of(kind)
    answer = family.parse(text, SIZE, grammar=grammar)
    for entry in usable(kind):
        value = value_of(entry, answer, sample, text, family)
        assert math.isfinite(value)
        assert entry.range[0] <= value <= entry.range[1]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "number", ["9" * 400, "9" * 5000, "0" * 5000, "1e999", "-1", "٤" * 400], ids=lambda n: f"{n[:6]}:{len(n)}"
)
def test_a_number_out_of_all_bounds_is_a_wrong_answer_in_every_place(dialect, number):
    """Each run of digits in a right answer of the family, one after the other, becomes a monstrous one."""
    family = get_dialect(dialect)
    text = family.render(TARGET if renderable(dialect, TARGET) else TARGET.center, SIZE)
    for digits in re.finditer(r"[0-9]+", text):
        answer = family.parse(
            text[: digits.start()] + number + text[digits.end() :], SIZE, grammar="bare", answer_kind="box"
        )
        for entry in usable("box"):
            value = value_of(entry, answer, a_sample(WRONG), text, family)
            assert entry.range[0] <= value <= entry.range[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_fuzzed_completions(kind):
    """The same checks as `perf/fuzz_rewards.py`, on fewer completions."""
    tally = FuzzTally()
    rng = random.Random(f"rewards {kind}")
    for _ in range(10):
        check(rng, kind, 80, tally)
    assert tally.failures == []
    assert tally.values > 4_000


@pytest.mark.slow
def test_time_grows_linearly_with_the_text():
    ratio, where = slowdown(
        10, ["qwen3_vl", "florence2", "molmo"], ["[", "9", "<think>", '{"bbox_2d": [', "[1, 2, 3, 4]", "a. "]
    )
    assert ratio <= 3, where


def test_moving_a_whole_series_of_clicks_towards_the_center_is_monotone_through_text():
    """Through rendering and parsing too, not only for the pure function."""
    (function,) = build_rewards(["gaussian_point"], "qwen3_vl", "think", answer_kind="box")
    steps = [Box(*(c + 0.03 * k for c in (0.44, 0.42)), *(c + 0.03 * k for c in (0.6, 0.62))) for k in range(8)]
    values = call(function, [write(box) for box in steps], [a_sample(TARGET)] * len(steps))
    assert all(before > after for before, after in pairwise(values))

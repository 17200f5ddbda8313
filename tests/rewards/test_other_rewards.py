"""Spans, words, format, thought, tools, length, abstention: hand-worked values and properties."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.answer import Answer, ImageSize, Status
from grounding.dialects import get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.targets import Absent, Box, Point, Span, TextBox
from rewards.compose import build_rewards
from rewards.format import abstention, format_, grounded_thought, overlong, repetition, thought_length
from rewards.span import temporal_iou, temporal_iou_edges
from rewards.text import text_choice, text_match, text_number
from rewards.tools import ExecutedCall, tool_when_right, turn_format, zoom_on_target, zoom_spread
from tests.rewards.making import ABSENT, TARGET, UNREADABLE, a_sample, boxes, call, clicks, says, spans

RIGHT = get_dialect("qwen3_vl").render(TARGET, [ImageSize(200, 100)])

VIDEO = a_sample(Span(10.0, 20.0), meta={"duration": 100.0})


def worded(text):
    return a_sample(TextBox(text, (Box(0.1, 0.1, 0.2, 0.2),)))


# Spans


def test_temporal_iou_by_hand():
    assert temporal_iou(spans((15.0, 25.0)), VIDEO) == pytest.approx(5 / 15)
    assert temporal_iou_edges(spans((15.0, 25.0)), VIDEO) == pytest.approx(5 / 15 * 0.95 * 0.95)
    assert temporal_iou(spans((10.0, 20.0)), VIDEO) == temporal_iou_edges(spans((10.0, 20.0)), VIDEO) == 1.0
    assert temporal_iou(spans((20.0, 30.0)), VIDEO) == 0.0


ends = st.tuples(st.floats(0, 100), st.floats(0.1, 50)).map(lambda v: (v[0], v[0] + v[1]))


@given(ends, ends)
def test_temporal_iou_is_symmetric_and_in_range(p, g):
    one, other = temporal_iou(spans(p), a_sample(Span(*g))), temporal_iou(spans(g), a_sample(Span(*p)))
    assert one == pytest.approx(other)
    timed = a_sample(Span(*g), meta={"duration": 60.0})
    assert 0 <= temporal_iou_edges(spans(p), timed) <= temporal_iou(spans(p), timed) <= 1


@pytest.mark.parametrize("reward", [temporal_iou, temporal_iou_edges], ids=lambda r: r.name)
def test_span_hacks_earn_nothing(reward):
    answers = [*UNREADABLE, ABSENT, spans((0.0, 100.0)), spans((10.0, 20.0), (0.0, 5.0)), clicks((0.1, 0.1))]
    assert [reward(answer, VIDEO) for answer in answers] == [0.0] * len(answers)


def test_span_rows_that_are_broken():
    with pytest.raises(BrokenRow, match=r"one: meta.duration is None"):
        temporal_iou_edges(UNREADABLE[0], a_sample(Span(1.0, 2.0)))
    with pytest.raises(BrokenRow, match="has no length"):
        temporal_iou(UNREADABLE[0], a_sample(Span(1.0, 1.0)))


# Words


@pytest.mark.parametrize(
    ("wanted", "given_", "right"),
    [
        ("Blue Button", " blue  button. ", True),
        ("42", "４２", True),
        ("red", "red or blue", False),
        ("red", "the answer is red", False),
        ("red", "", False),
        ("red", "red " * 500, False),
    ],
)
def test_text_match(wanted, given_, right):
    assert text_match(says(given_), worded(wanted)) == right


@pytest.mark.parametrize(
    ("wanted", "given_", "right"),
    [
        ("100", "104.9", True),
        ("100", "105.1", False),
        ("1,234.5", "1234.5", True),
        ("$3", "3.1", True),
        ("45 %", "45", True),
        ("-20", "-20.5", True),
        ("-20", "20", False),
        ("0", "0.0", True),
        ("0", "0.01", False),
        ("100", "100 101 102", False),
        ("100", "nan", False),
        ("100", "inf", False),
        ("100", "1e999", False),
        ("100", "e2", False),
        ("100", "1e2", True),
        ("0.5", ".5", True),
        ("100", "੧੦੦", False),
        ("blue", "Blue", True),
        ("blue", "3", False),
    ],
)
def test_text_number(wanted, given_, right):
    assert text_number(says(given_), worded(wanted)) == right


@pytest.mark.parametrize("given_", ["B", "(b)", "B. a red ball", "b:", "(B) Both"])
def test_text_choice_right(given_):
    assert text_choice(says(given_), worded("B")) == 1.0


@pytest.mark.parametrize("given_", ["A", "A B C D", "A. B. C. D.", "(A) (B)", "Both", "", "B, A", "not B"])
def test_text_choice_wrong(given_):
    assert text_choice(says(given_), worded("B")) == 0.0


@given(st.text(max_size=50), st.sampled_from(["B", "42", "blue"]))
def test_words_are_finite_for_any_text(text, wanted):
    for reward in (text_match, text_number, *([text_choice] if wanted == "B" else [])):
        assert reward(says(text), worded(wanted)) in (0.0, 1.0)


def test_word_rewards_read_no_answer_that_is_not_ok():
    answers = [Answer(Status.MALFORMED, text="B"), Answer(Status.AMBIGUOUS, text="B"), boxes((0, 0, 0.1, 0.1))]
    for reward in (text_match, text_number, text_choice):
        assert [reward(answer, worded("B")) for answer in answers] == [0.0] * 3


def test_word_rows_that_are_broken():
    with pytest.raises(BrokenRow, match="one: the target has no text"):
        text_match(says("x"), worded(" . "))
    with pytest.raises(BrokenRow, match="is not a choice"):
        text_choice(says("B"), worded("42"))


# Format and abstention


def test_format_is_strict_unless_told_otherwise():
    loose = Answer(Status.OK, boxes=(Box(0, 0, 0.1, 0.1),))
    assert (format_(loose, a_sample()), format_(loose, a_sample(), strict=False)) == (0.0, 1.0)
    assert format_(boxes((0, 0, 0.1, 0.1)), a_sample()) == 1.0
    assert all(format_(a, a_sample()) == format_(a, a_sample(), strict=False) == 0.0 for a in UNREADABLE)


def test_abstention():
    place = boxes((0, 0, 0.1, 0.1))
    nothing = a_sample(Absent())
    assert (abstention(ABSENT, nothing), abstention(place, nothing)) == (1.0, 0.0)
    assert (abstention(ABSENT, a_sample()), abstention(place, a_sample())) == (0.0, 1.0)
    assert all(abstention(answer, s) == 0.0 for answer in UNREADABLE for s in (nothing, a_sample()))


# Length


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (192, 0), (224, -0.5), (256, -1), (10_000, -1)])
def test_overlong_by_hand(n, expected):
    assert overlong(ABSENT, a_sample(), tokens=[1] * n) == pytest.approx(expected)


@given(st.integers(0, 600))
def test_overlong_agrees_with_trl(n):
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(256, 64)(completion_ids=[[1] * n])[0]
    assert overlong(ABSENT, a_sample(), tokens=[1] * n) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("One. Two! Three?", 0),
        ("Again. again.\n Again ;", -2 / 3),
        ("。".join(["看"] * 4), -0.75),
        (". . .", 0),
    ],
)
def test_repetition_by_hand(text, expected):
    assert repetition(ABSENT, a_sample(), text=text) == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_a_pretty_printed_answer_does_not_repeat_itself(count):
    places = [{"bbox_2d": [x, 10, x + 50, 90], "label": "cup"} for x in range(0, 50 * count, 50)]
    text = f"<think>I see cups. They stand in a row.</think>\n```json\n{json.dumps(places, indent=2)}\n```"
    (function,) = build_rewards(["repetition"], "qwen3_vl", "think", answer_kind="boxes")
    assert call(function, [text, text.replace("They", "I see cups. They")], [a_sample()] * 2)[0] == 0.0
    assert call(function, [text.replace("They", "I see cups. They")], [a_sample()])[0] < 0.0


@given(st.text(max_size=200))
def test_repetition_is_finite_for_any_text(text):
    assert -1 <= repetition(ABSENT, a_sample(), text=text) <= 0


@pytest.mark.parametrize(
    ("words", "expected"), [(0, -1), (1, -0.8), (5, 0), (100, 0), (150, -0.5), (200, -1), (999, -1)]
)
def test_thought_length_by_hand(words, expected):
    answer = Answer(Status.OK, thought="word " * words)
    assert thought_length(answer, a_sample()) == pytest.approx(expected)


def test_parameters_that_make_no_sense():
    with pytest.raises(UsageError, match="buffer 300"):
        overlong(ABSENT, a_sample(), tokens=[], buffer=300)
    with pytest.raises(UsageError, match="shortest 9"):
        thought_length(ABSENT, a_sample(), shortest=9, longest=3)


# Thought and tools


def test_grounded_thought_counts_distinct_places():
    places = (Point(0.1, 0.2), Point(0.1, 0.2), Box(0.1, 0.2, 0.3, 0.4))
    assert grounded_thought(ABSENT, a_sample(), places=()) == 0.0
    assert grounded_thought(ABSENT, a_sample(), places=places) == 1.0
    assert grounded_thought(ABSENT, a_sample(), places=places, enough=4) == 0.5
    with pytest.raises(UsageError, match="enough is 0"):
        grounded_thought(ABSENT, a_sample(), places=places, enough=0)


def test_a_thought_left_open_is_not_paid():
    (function,) = build_rewards(["grounded_thought"], "qwen3_vl", "think", answer_kind="box")
    assert call(function, ["<think>(3, 4)", "<think>(3, 4)</think>" + RIGHT], [a_sample()] * 2) == [0.0, 1.0]


def zoomed(x, y, *, shown=True):
    return ExecutedCall("zoom", Box(x - 0.05, y - 0.05, x + 0.05, y + 0.05), shown)


def test_zoom_spread_by_hand():
    # 200 x 100 pixels: 0.04 of the width is 8 pixels, 0.06 of it 12
    calls = [zoomed(0.1, 0.1), zoomed(0.14, 0.1), zoomed(0.16, 0.1), ExecutedCall("zoom", Point(0.16, 0.1), True)]
    assert zoom_spread(ABSENT, a_sample(), executed_calls=calls) == pytest.approx(2 / 3)
    assert zoom_spread(ABSENT, a_sample(), executed_calls=calls, enough=2) == 1.0


def test_a_call_that_showed_no_picture_pays_nothing():
    blind = [zoomed(0.1, 0.1, shown=False), ExecutedCall("search", None, True)]
    assert zoom_spread(ABSENT, a_sample(), executed_calls=blind) == 0.0
    assert tool_when_right(clicks((0.4, 0.4)), a_sample(), executed_calls=blind[:1]) == 0.0


def test_a_tool_pays_only_with_the_right_answer():
    calls = [zoomed(0.1, 0.1)]
    right, wrong = clicks((0.4, 0.4)), clicks((0.9, 0.9))
    assert tool_when_right(right, a_sample(), executed_calls=calls) == 1.0
    assert tool_when_right(wrong, a_sample(), executed_calls=calls) == 0.0
    assert tool_when_right(says("42"), worded("42"), executed_calls=calls) == 1.0
    assert tool_when_right(says("43"), worded("42"), executed_calls=calls) == 0.0


def test_looking_at_the_target_pays_by_the_picture_shown_last():
    target = a_sample().target
    around = ExecutedCall("zoom", Box(target.x1, target.y1, 1, 1), True)
    cut = ExecutedCall("zoom", Box(target.x1 + 0.01, target.y1, 1, 1), True)
    other = ExecutedCall("zoom", Box(0, 0, 1, 1, image=1), True)
    for calls, paid in (([around], 1), ([cut], 0), ([cut, around], 1), ([around, cut], 0), ([other], 0), ([], 0)):
        assert zoom_on_target(ABSENT, a_sample(), executed_calls=calls) == paid
    assert zoom_on_target(ABSENT, a_sample(), executed_calls=None) == 0


def test_the_form_of_turns_is_their_mean():
    turns = [SimpleNamespace(strict=True), SimpleNamespace(strict=False), SimpleNamespace(strict=True)]
    assert turn_format(ABSENT, a_sample(), turns=turns) == pytest.approx(2 / 3)
    assert turn_format(clicks((0.4, 0.4)), a_sample(), turns=None) == float(clicks((0.4, 0.4)).strict)


WRITTEN = '<tool_call>{"name": "zoom", "arguments": {"point_2d": [%d, 500]}}</tool_call>'


@pytest.mark.parametrize(
    "completion",
    [
        "<think>" + "".join(WRITTEN % x for x in (100, 300, 500, 700, 900)) + "</think>" + RIGHT,
        "<think>x</think>" + '<tool_call>{"name":"nonsense"}</tool_call>' + RIGHT,
        [
            {"role": "assistant", "tool_calls": [{"function": {"name": "zoom", "arguments": {"point_2d": [1, 2]}}}]},
            {"role": "tool", "content": "error: no such tool"},
            {"role": "assistant", "content": "<think>x</think>" + RIGHT},
        ],
    ],
    ids=["in the thought", "nonsense", "answered with an error"],
)
def test_calls_that_were_only_written_pay_nothing(completion):
    spread, when_right = build_rewards(["zoom_spread", "tool_when_right"], "qwen3_vl", "think", answer_kind="box")
    for function in (spread, when_right):
        assert call(function, [completion], [a_sample()]) == [0.0]
    executed = [[zoomed(0.1, 0.1)]]
    assert call(spread, [completion], [a_sample()], executed_calls=executed) == [pytest.approx(1 / 3)]
    assert call(when_right, ["<think>x</think>" + RIGHT], [a_sample()], executed_calls=executed) == [1.0]

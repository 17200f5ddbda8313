"""What the JSON dialects make of what models really write, sloppy forms and known reward hacks included."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.answer import Answer, ImageSize, Status
from grounding.dialects import DIALECTS, Dialect, get_dialect
from grounding.dialects.base import Found, Space
from grounding.dialects.json_family import JsonDialect
from grounding.errors import UsageError
from grounding.targets import Box, Point, Span

SIZE = (ImageSize(2000, 1000, 980, 490),)
OK, NO_ANSWER, MALFORMED = Status.OK, Status.NO_ANSWER, Status.MALFORMED
OUT_OF_RANGE, AMBIGUOUS = Status.OUT_OF_RANGE, Status.AMBIGUOUS
BOX = Box(0.1, 0.2, 0.3, 0.4)
POINT = Point(0.1, 0.2)


def read(text: str, answer_kind: str | None = "box", name: str = "qwen3_vl", **options: str) -> Answer:
    return get_dialect(name).parse(text, SIZE, answer_kind=answer_kind, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": [100, 200, 300, 400]}',
        '```json\n[\n\t{"bbox_2d": [100, 200, 300, 400], "label": "cup"}\n]\n```',
        'The cup is here: {"bbox_2d": [100, 200, 300, 400]}. Anything else?',
        '{"bbox_2d": ["100", "200", "300", "400"]}',
        '{"bbox_2d": "[100, 200, 300, 400]"}',
        '{"bbox_2d": "100, 200, 300, 400"}',
        "{'bbox_2d': [100, 200, 300, 400]}",
        "{bbox_2d: [100, 200, 300, 400]}",
        "{“bbox_2d”: [100, 200, 300, 400]}",
        '{"bbox_2d": [１００, ２００, ３００, ４００]}',
        '｛"bbox_2d"： ［١٠٠， ٢٠٠， ٣٠٠， ٤٠٠］｝',
        '{"bbox_2d": [100.0, 2e2, 3.0E+2, 4000e-1]}',
        '{"bbox_2d": [100 200 300 400]}',
        '{"bbox_2d": [100, 200, 300, 400,]}',
        '{"bbox_2d": [[100, 200, 300, 400]]}',
        '{"bbox_2d": [[100, 200], [300, 400]]}',
        '{"bbox_2d": (100, 200, 300, 400)}',
        '{"bbox_2d": {"x1": 100, "y1": 200, "x2": 300, "y2": 400}}',
        '{"objects": [{"label": "a \\"cup\\" [1, 2]", "bbox": [100, 200, 300, 400]}]}',
        '{"bbox_2d": [100, 200, 300, 400]',
        '{"bbox_2d": [100, 200, 300, 400], "label": "cu',
        '"bbox_2d": [100, 200, 300, 400]}',
        "[100, 200, 300, 400]",
        "(100, 200, 300, 400)",
        "[[100, 200], [300, 400]]",
        'near [1, 2, 3, 4] and (7): {"bbox_2d": [100, 200, 300, 400]}',
        'The 5" screen, the user\'s :( cup {"bbox_2d": [100, 200, 300, 400]}',
        '{"bbox_2d": [100, 200, 300, 400]} {"bbox_2d": [100, 200, 300, 400]}',
        '[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [100, 200, 30',
        '{"size": [7, 7], "bbox_2d": [100, 200, 300, 400]}',
        '<answer>{"bbox_2d": [100, 200, 300, 400]}</answer>',
        '<think>it is not found at [5, 6, 7, 8]</think>{"bbox_2d": [100, 200, 300, 400]}',
    ],
)
def test_a_box_however_it_is_written(text: str) -> None:
    answer = read(text)
    assert answer.status is OK
    assert [box.xyxy for box in answer.boxes] == [BOX.xyxy]
    assert answer.char_span is not None
    assert text.find("{") <= answer.char_span[0] < answer.char_span[1] <= len(text)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", NO_ANSWER),
        ("I think the cup is on the left.", NO_ANSWER),
        ("Step 1 of (3), see [2]", NO_ANSWER),
        ('Locate "the cup". Report its bbox_2d coordinates in JSON format.', NO_ANSWER),  # the prompt, copied
        ('{"label": "cup"}', NO_ANSWER),
        ('{"bbox_2d": [x1, y1, x2, y2]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, 400, 500]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, 40', MALFORMED),  # 40 may have been going to be 400
        ('{"bbox_2d": [100, 200, 300, NaN]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, -Infinity]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, inf]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, 1e999]}', MALFORMED),
        ('{"bbox_2d": [100, 200, 300, four]}', MALFORMED),
        ('{"bbox_2d": [100, , 300, 400]}', MALFORMED),
        ('{"bbox_2d": [1.2.3, 300, 400]}', MALFORMED),
        ('{"bbox_2d": [100, 200]}', MALFORMED),
        ('{"bbox_2d": "left"}', MALFORMED),
        ("[1, 2, 3]", MALFORMED),
        ('{"bbox_2d": [-3, 200, 300, 400]}', OUT_OF_RANGE),
        ('{"bbox_2d": [100, 200, 300, 1001]}', OUT_OF_RANGE),
        ('{"bbox_2d": [300, 200, 100, 400]}', OUT_OF_RANGE),  # swapped corners
        ('{"bbox_2d": [100, 200, 300, 400], "image": 2}', OUT_OF_RANGE),
        ('{"bbox_2d": [100, 200, 300, 400], "image": "first"}', OUT_OF_RANGE),
        ('<think>{"bbox_2d": [100, 200, 300, 400]}', NO_ANSWER),  # the thought is still open
        ('<think>{"bbox_2d": [100, 200, 300, 400]}</think>', NO_ANSWER),
        ('<think>a</think>{"bbox_2d": [100, 200, 300, 400]}<think>', NO_ANSWER),
    ],
)
def test_what_is_no_box_has_no_geometry(text: str, status: Status) -> None:
    answer = read(text)
    assert answer.status is status
    assert (answer.boxes, answer.points, answer.spans, answer.absent, answer.strict) == ((), (), (), False, False)
    assert answer.char_span is None


def test_an_open_thought_means_nothing_in_the_bare_grammar() -> None:
    assert read('<think>{"bbox_2d": [100, 200, 300, 400]}', grammar="bare").box == BOX


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [0, 0, 500, 500]}]',
        '{"bbox_2d": [[100, 200, 300, 400], [0, 0, 500, 500]]}',
        "[100, 200, 300, 400] or [0, 0, 500, 500]",
        '<answer>{"bbox_2d": [100, 200, 300, 400]}</answer><answer>{"bbox_2d": [0, 0, 500, 500]}</answer>',
        '{"bbox_2d": [100, 200, 300, 400]} {"bbox_2d": [100, 200, 300, 4000]}',
        '{"bbox_2d": [100, 200, 300, 400]} {"bbox_2d": null}',
    ],
)
def test_answers_that_contradict_each_other(text: str) -> None:
    answer = read(text)
    assert answer.status is AMBIGUOUS
    assert answer.box == BOX  # for scorers that take the first
    assert not answer.strict


def test_many_boxes_are_an_answer_only_where_many_were_asked_for() -> None:
    hack = "[" + ", ".join(f'{{"bbox_2d": [{k}, {k}, {k + 100}, {k + 100}]}}' for k in range(0, 900, 10)) + "]"
    assert read(hack).status is AMBIGUOUS
    assert read(hack, "boxes").status is OK
    assert len(read(hack, "boxes").boxes) == 90
    assert read(hack, None).status is OK


def test_repetitions_count_where_many_were_asked_for() -> None:
    twice = '[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [100, 200, 300, 400], "label": "cup"}]'
    assert len(read(twice).boxes) == 1
    assert len(read(twice, "boxes").boxes) == 2


def test_a_whole_image_box_is_what_it_is() -> None:
    answer = read('{"bbox_2d": [0, 0, 1000, 1000]}', grammar="bare")
    assert answer.box == Box(0, 0, 1, 1)
    assert answer.strict


def test_more_places_than_anything_asks_for_are_malformed() -> None:
    for answer_kind in ("box", "boxes", None):
        assert read('{"bbox_2d": [1, 2, 3, 4]}, ' * 1001, answer_kind).status is MALFORMED
    assert len(read('{"bbox_2d": [1, 2, 3, 4]}, ' * 1000, "boxes").boxes) == 1000


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": null}',
        '{"point_2d": null}',
        '{"bbox_2d": []}',
        "```json\n[]\n```",
        '{"bbox_2d": "none"}',
        "None.",
        "not found",
        "The red cup is not visible in this image.",
        "There is no such button.",
        "I cannot find it.",
        "It doesn't exist.",
        '<tool_call>{"arguments": {"action": "terminate", "status": "failure"}}</tool_call>',
        '{"answer": "not found"}',
    ],
)
def test_refusals(text: str) -> None:
    answer = read(text)
    assert answer.status is OK
    assert answer.absent
    assert answer.char_span is not None
    assert answer.boxes == answer.points == ()


def test_words_of_refusal_beside_coordinates_do_not_count() -> None:
    answer = read('It is not visible at first, but here: {"bbox_2d": [100, 200, 300, 400]}')
    assert (answer.status, answer.absent, answer.box) == (OK, False, BOX)


@pytest.mark.parametrize(
    "text",
    [
        '{"point_2d": [100, 200], "label": "cup"}',
        '{"point": [100, 200]}',
        '{"bbox_2d": [100, 200]}',
        "[100, 200]",
        '{"x": 100, "y": 200}',
        '{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [100, 200]}}',
        '<points x1="100" y1="200" alt="cup">cup</points>',
        '{"bbox_2d": [0, 0, 500, 500], "point_2d": [100, 200]}',
    ],
)
def test_points(text: str) -> None:
    answer = read(text, "point")
    assert answer.status is OK
    assert (answer.points[0].x, answer.points[0].y) == (POINT.x, POINT.y)
    assert answer.click == answer.points[0]


def test_a_box_where_a_point_was_asked_for_clicks_its_center() -> None:
    answer = read('{"bbox_2d": [100, 200, 300, 400]}', "point", grammar="bare")
    assert answer.status is OK
    assert answer.click == Point(0.2, 0.30000000000000004)
    assert not answer.strict  # not what was asked for
    assert read('{"bbox_2d": [100, 200, 300, 400]}', None, grammar="bare").strict


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ('{"start": 12.5, "end": 20}', (12.5, 20)),
        ('{"start_time": "00:12.50", "end_time": "01:00"}', (12.5, 60)),
        ('{"start": "12.5s", "end": "1:00:00"}', (12.5, 3600)),
        ("[12.5, 20.0]", (12.5, 20)),
        ('{"timestamps": [12.5, 20]}', (12.5, 20)),
        ("12.5 - 20", (12.5, 20)),
        ("From 12.5 seconds to 20 seconds.", (12.5, 20)),
        ("It happens between 00:12 and 01:30.", (12, 90)),
        ("１２ － ２０", (12, 20)),
    ],
)
def test_spans(text: str, span: tuple[float, float]) -> None:
    answer = read(text, "span")
    assert answer.status is OK
    assert answer.spans == (Span(*span),)
    assert answer.char_span is not None
    assert any(character.isdigit() for character in text[slice(*answer.char_span)])


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"start": 20, "end": 12}', OUT_OF_RANGE),
        ('{"start": -1, "end": 12}', OUT_OF_RANGE),
        ('{"start": "soon", "end": 12}', MALFORMED),
        ("12 - 20 and 30 - 40", AMBIGUOUS),
        ("at second 12", NO_ANSWER),
    ],
)
def test_spans_that_are_none(text: str, status: Status) -> None:
    assert read(text, "span").status is status


def test_words_with_evidence() -> None:
    answer = read('{"answer": "a \\"4\\"", "evidence": [{"bbox_2d": [100, 200, 300, 400]}]}', "text_box")
    assert (answer.status, answer.text, answer.box) == (OK, 'a "4"', BOX)
    number = read('{"answer": 42, "bbox_2d": [100, 200, 300, 400]}', "text_box")
    assert (number.text, number.box) == ("42", BOX)
    words = read('{"answer": "none", "evidence": []}', "text_box", grammar="bare")
    assert (words.status, words.text, words.absent, words.strict) == (OK, "none", False, True)
    loose = read("The answer is 42.", "text_box")
    assert (loose.status, loose.text) == (NO_ANSWER, "The answer is 42.")


STRICT = '{"bbox_2d": [100, 200, 300, 400]}'


@pytest.mark.parametrize(
    ("text", "grammar", "strict"),
    [
        (STRICT, "bare", True),
        (f" {STRICT}\n", "bare", True),
        ('{"bbox_2d":[100,200,300,400]}', "bare", True),
        ('{"bbox_2d": [100, 200, 300, 400], "label": "cup"}', "bare", True),
        ('{"bbox_2d": null}', "bare", True),
        (f"<think>t</think>{STRICT}", "think", True),
        (f"<think>t</think>\n<answer>{STRICT}</answer>", "think_answer", True),
        (f"```json\n{STRICT}\n```", "bare", False),
        (f"[{STRICT}]", "bare", False),  # a list where one was asked for
        (f"{STRICT} ok", "bare", False),
        (f"{STRICT}{STRICT}", "bare", False),
        ('{"bbox_2d": [100.0, 200, 300, 400]}', "bare", False),
        ('{"bbox_2d": [100, 200, 300, 400], "score": 1}', "bare", False),
        ('{"box": [100, 200, 300, 400]}', "bare", False),
        ('{"bbox_2d": [１００, 200, 300, 400]}', "bare", False),
        ('{"point_2d": [100, 200]}', "bare", False),
        (STRICT, "think", False),
        (f"<think>t</think>{STRICT}", "bare", False),
        (f"<think>t</think>{STRICT}", "think_answer", False),
        (f"a <think>t</think>{STRICT}", "think", False),
        (f"<think>t</think> so {STRICT}", "think", False),
        (f"t</think>{STRICT}", "think", False),
        (f"<think>t</think>x<answer>{STRICT}</answer>", "think_answer", False),
    ],
)
def test_strict(text: str, grammar: str, strict: bool) -> None:
    answer = read(text, grammar=grammar)
    assert answer.status is OK
    assert answer.strict is strict


class Slow(JsonDialect):
    """The same dialect without its shortcut."""

    def _quick(self, answer: str, sizes: object, answer_kind: str | None) -> Found | None:
        return None


NUMBERS = st.lists(st.integers(0, 1100), min_size=1, max_size=5)


@given(
    numbers=NUMBERS,
    key=st.sampled_from(["bbox_2d", "point_2d"]),
    comma=st.sampled_from([", ", ",", " ,"]),
    before=st.sampled_from(["", "<think>t</think>\n", "<think>", "<answer>"]),
    answer_kind=st.sampled_from(["box", "point", "boxes", None]),
    label=st.one_of(st.none(), st.text()),
)
def test_the_shortcut_says_what_the_long_way_says(
    *, numbers: list[int], key: str, comma: str, before: str, answer_kind: str | None, label: str | None
) -> None:
    extra = "" if label is None else f', "label": {json.dumps(label, ensure_ascii=False)}'
    text = f'{before}{{"{key}": [{comma.join(map(str, numbers))}]{extra}}}'
    slow, fast = Slow("slow", Space(1000)), get_dialect("qwen3_vl")
    for grammar in ("bare", "think"):
        answer = fast.parse(text, SIZE, grammar=grammar, answer_kind=answer_kind)  # type: ignore[arg-type]
        assert answer == slow.parse(text, SIZE, grammar=grammar, answer_kind=answer_kind)  # type: ignore[arg-type]


def test_the_space_is_declared_never_guessed() -> None:
    text = '{"bbox_2d": [98, 98, 294, 196]}'
    assert read(text, name="qwen2_5_vl").box == BOX
    assert read(text, name="qwen3_vl").box == Box(0.098, 0.098, 0.294, 0.196)
    unit = '{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}'  # nine tenths of a pixel, not nine tenths of the image
    small = read(unit, name="qwen3_vl").box
    assert small is not None
    assert small.x2 < 0.001


def test_labels_are_the_models_own_characters() -> None:
    text = '{"bbox_2d": [１, 2, 3, 4], "label": "１２（ü）“OK”\\n"}'
    (box,) = read(text).boxes
    assert box.label == "１２（ü）“OK”\n"
    shared = read("<ref>cups</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>", "boxes", "qwen_vl")
    assert [box.label for box in shared.boxes] == ["cups", "cups"]


@pytest.mark.parametrize("name", DIALECTS.names())
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(
    ["[", "]", "(", ")", "{", "}", '"', "'", ",", ":", "1", "-2", ".5", "1e9", "nan", " ", "\n", "\\", "bbox_2d", "x",
     "<point", "<box>", "<loc_1>", "<patch_index_0001>", "</", ">", "=", "<think>", "</think>", "<answer>", "１",
     "null", "“", "\ud800", "pyautogui.click("]), max_size=40).map("".join)))  # fmt: skip
def test_no_string_raises_and_geometry_comes_with_a_range(name: str, text: str) -> None:
    dialect: Dialect = get_dialect(name)
    for sizes in (SIZE, ()):
        for answer_kind in ("box", "span", "text_box", None):
            answer = dialect.parse(text, sizes, answer_kind=answer_kind)
            if answer.status in (OK, AMBIGUOUS):
                assert answer.char_span is not None
                assert 0 <= answer.char_span[0] <= answer.char_span[1] <= len(text)
            else:
                assert not (answer.boxes or answer.points or answer.spans or answer.strict or answer.char_span)
        dialect.read_thought(text, sizes)


def test_finding_a_dialect() -> None:
    assert get_dialect("qwen3_vl").name == "qwen3_vl"
    assert get_dialect("grounding.dialects.gui:UGROUND").name == "uground"
    assert get_dialect("grounding.dialects.xml_points:Molmo").name == "Molmo"
    with pytest.raises(UsageError, match="did you mean 'qwen3_vl'"):
        get_dialect("qwen3vl")
    with pytest.raises(UsageError, match="is a function, not a"):
        get_dialect("grounding.geometry:iou")
    with pytest.raises(UsageError, match="cannot be imported"):
        get_dialect("nowhere.at_all")

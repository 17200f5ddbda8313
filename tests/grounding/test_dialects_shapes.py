"""A box is a box in whatever shape a model writes it, and never the click at its corner; typed text is no place."""

from __future__ import annotations

import json

import pytest

from grounding.answer import Answer, ImageSize, Status
from grounding.dialects import get_dialect
from grounding.parsing import without_typed

SIZE = (ImageSize(1000, 1000),)
OK, MALFORMED, NO_ANSWER = Status.OK, Status.MALFORMED, Status.NO_ANSWER
BOX = pytest.approx((0.012, 0.03, 0.045, 0.06))
JSON = ["qwen3_vl", "qwen2_5_vl"]
MARKUP = ["qwen_vl", "qwen2_vl", "internvl", "os_atlas", "ui_venus"]


def read(text: str, answer_kind: str | None = "box", name: str = "qwen3_vl") -> Answer:
    return get_dialect(name).parse(text, SIZE, answer_kind=answer_kind, grammar="bare")


SHAPES = [
    "<|box_start|>(12,30),(45,60)<|box_end|>",
    "<box>(12, 30), (45, 60)</box>",
    '{"bbox_2d": [{"x": 12, "y": 30}, {"x": 45, "y": 60}]}',
    '{"bbox": {"x": 12, "y": 30, "w": 33, "h": 30}}',
    '{"x": 12, "y": 30, "width": 33, "height": 30}',
    '{"bbox_xywh": [12, 30, 33, 30]}',
    '{"xywh": "12, 30, 33, 30"}',
    '{"bbox_cxcywh": [28.5, 45, 33, 30]}',
    '{"cx": 28.5, "cy": 45, "w": 33, "h": 30}',
    '{"bbox_xyxy": [12, 30, 45, 60]}',
    '{"x": 12, "y": 30, "x2": 45, "y2": 60}',
    '{"ymin": 30, "xmin": 12, "ymax": 60, "xmax": 45}',
    '{"left": 12, "top": 30, "right": 45, "bottom": 60}',
    '{"x_min": 12, "y_min": 30, "x_max": 45, "y_max": 60}',
    '{"top_left": [12, 30], "bottom_right": [45, 60]}',
    '{"bottomRight": {"x": 45, "y": 60}, "topLeft": {"x": 12, "y": 30}}',
    '{"box": {"top-left": [12, 30], "bottom-right": [45, 60]}}',
]
UNDECIDED = [
    "[[12, 30], [45, 60]]",
    "(12,30),(45,60)",
    '[{"x": 12, "y": 30}, {"x": 45, "y": 60}]',
]


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("answer_kind", ["box", "boxes", None])
@pytest.mark.parametrize("text", SHAPES)
def test_a_box_in_any_shape(text: str, answer_kind: str | None, name: str) -> None:
    answer = read(text, answer_kind, name)
    assert (answer.status, answer.points) == (OK, ())
    assert [box.xyxy for box in answer.boxes] == [BOX]


@pytest.mark.parametrize("text", UNDECIDED)
def test_two_pairs_are_a_box_where_one_was_asked_for_two_points_where_points_were_and_else_unclear(text: str) -> None:
    assert read(text).box.xyxy == BOX
    assert [(p.x, p.y) for p in read(text, "points").points] == [(0.012, 0.03), (0.045, 0.06)]
    assert read(text, None).status is MALFORMED


@pytest.mark.parametrize("name", MARKUP)
def test_corners_in_brackets_are_a_box_in_markup_too(name: str) -> None:
    assert read("<box>[[12, 30], [45, 60]]</box>", None, name).box.xyxy == BOX
    assert len(read("[[12, 30], [45, 60]]", "points", name).points) == 2
    assert read('{"bbox_xywh": [12, 30, 33, 30]}', None, name).status is MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 12, "y": 30, "width": 33}',
        '{"position": [12, 30], "width": 33, "height": 30}',
        '{"top_left": [12, 30]}',
        '{"bbox_2d": [12, 30]}',
        '{"bbox": {"x": 12, "y": 30}}',
        '{"x": [12, 45], "y": [30, 60]}',
        '{"bbox_xywh": [12, 30, 33]}',
    ],
)
def test_half_a_box_is_no_click(text: str) -> None:
    for answer_kind in ("box", None):
        answer = read(text, answer_kind)
        assert (answer.status, answer.click) == (MALFORMED, None)


def test_named_coordinates_have_no_order_of_their_own() -> None:
    for text in ('{"x": 12, "y": 30, "w": 33, "h": 30}', '{"ymin": 30, "xmin": 12, "ymax": 60, "xmax": 45}'):
        assert read(text, name="gemini").box.xyxy == BOX
    assert read('{"top_left": [30, 12], "bottom_right": [60, 45]}', name="gemini").box.xyxy == BOX


def test_label_and_image_of_named_coordinates() -> None:
    text = '{"label": "cup", "image": 2, "bbox": {"x1": 12, "y1": 30, "x2": 45, "y2": 60}}'
    (box,) = get_dialect("qwen3_vl").parse(text, SIZE * 2, answer_kind="box").boxes
    assert (box.label, box.image) == ("cup", 1)


# Strings over several lines

LINES = '[{"text_content":"Main St.\n(516, 230)","bbox_2d":[12,30,45,60]}]'


def test_a_string_goes_on_over_several_lines() -> None:
    for answer_kind in ("box", "point", None):
        assert read(LINES, answer_kind).box.xyxy == BOX
    two = read('[{"bbox_2d":[1,2,3,4]}, ' + LINES[1:], "boxes")
    assert [box.xyxy for box in two.boxes] == [(0.001, 0.002, 0.003, 0.004), BOX]
    words = read('{"answer": "first\nsecond \\"x\\"", "evidence": [{"bbox_2d": [12, 30, 45, 60]}]}', "text_box")
    assert (words.text, words.box.xyxy) == ('first\nsecond "x"', BOX)
    assert read("{'label': 'Main St.\n(516, 230)', 'bbox_2d': [12, 30, 45, 60]}").box.xyxy == BOX
    assert read('{"label": "\n<think> [1, 2]", "bbox_2d": [12, 30, 45, 60]}').box.xyxy == BOX


def test_a_string_that_is_never_closed_ends_with_its_line() -> None:
    assert read('{"label": "cup,\n"bbox_2d": [12, 30, 45, 60]}').box.xyxy == BOX
    assert read('[the user\'s\n {"bbox_2d": [12, 30, 45, 60]}').box.xyxy == BOX
    assert read('{"label": "cup \\"\n"bbox_2d": [12, 30, 45, 60]}').box.xyxy == BOX


def test_numbers_in_words_are_words() -> None:
    answer = read('{"answer": "1,234", "evidence": [{"bbox_2d": [12, 30, 45, 60]}]}', "text_box")
    assert (answer.text, answer.box.xyxy) == ("1,234", BOX)
    assert read('{"answer": "(555, 123)"}', "text_box").points == ()
    assert read('{"action": "type", "text": "(555, 123)"}', "point").click is None


def test_answers_in_words_that_contradict_each_other_are_ambiguous() -> None:
    for answer_kind in ("text_box", None):
        assert read('{"answer":"42"} {"answer":"7"}', answer_kind).status is Status.AMBIGUOUS
        assert read('{"answer":"42"} {"answer":"42"}', answer_kind).status is OK
    both = '{"answer":"42","evidence":[{"bbox_2d":[12,30,45,60],"text":"a"},{"bbox_2d":[1,2,3,4],"text":"b"}]}'
    assert (read(both, "text_box").status, read(both, "text_box").text) == (OK, "42")


# Actions


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ui_tars", "Action: type(content='(555, 123)')"),
        ("ui_tars", "Action: type(content='it\\'s (555, 123)\\n')"),
        ("ui_tars", "Action: type(content='it's (555, 123)')"),
        ("ui_tars", "Action: finished(content='[5, 123]')"),
        ("ui_tars", "Action: type(content='(555, 123)"),
        ("ui_tars_1_5", "Action: type(content='<point>55 12</point>')"),
        ("aguvis", "pyautogui.write(message='(0.5, 0.2)')"),
        ("aguvis", "pyautogui.write('pyautogui.click(x=0.1, y=0.2)')"),
        ("os_atlas", "TYPE [(555, 123)]"),
        ("uground", 'type("(555, 123)")'),
        ("mai_ui", "type(content='(555, 123)')"),
        ("gui_owl", '{"action": "type", "text": "555, 123"}'),
        ("holo", '{"name": "type", "arguments": {"content": "[555, 123]"}}'),
    ],
)
def test_typed_text_is_no_click(name: str, text: str) -> None:
    for answer_kind in ("point", "box", None):
        answer = read(text, answer_kind, name)
        assert (answer.click, answer.absent) == (None, False)
        assert not answer.ok or answer.text


def test_a_click_beside_typed_text_counts() -> None:
    text = "Action: click(start_box='(12,30)')\n\ntype(content='(555, 123)')"
    assert [(p.x, p.y) for p in read(text, "point", "ui_tars").points] == [(0.012, 0.03)]
    assert read("Action: click(start_box='(12,30)')", "point", "ui_tars").ok
    assert read("long_press(point='<point>12 30</point>')", "point", "ui_tars_1_5").ok
    assert len(without_typed("type('a') click('(1,2)')")) == len("type('a') click('(1,2)')")


def test_arguments_that_are_json_in_a_string() -> None:
    call = {"name": "computer_use", "arguments": json.dumps({"action": "left_click", "coordinate": [12, 30]})}
    text = f"<tool_call>{json.dumps(call)}</tool_call>"
    answer = read(text, "point")
    assert (answer.points[0].x, answer.points[0].y) == (0.012, 0.03)
    assert "coordinate" in text[slice(*answer.char_span)]
    assert read(json.dumps({"function": {"arguments": '{"bbox_2d": [12, 30, 45, 60]}'}})).box.xyxy == BOX


@pytest.mark.parametrize(
    "text",
    [
        "No giraffe is visible in the image.",
        "No giraffe in the image.",
        "I am unable to find any such object.",
        "I don't see a giraffe.",
        "The giraffe isn’t visible here.",
        "There isn't any giraffe.",
        "The giraffe cannot be seen.",
        "图中没有长颈鹿。",
        "图像中不存在该物体",
        "找不到目标",
        "未找到符合描述的物体。",
        "无法定位该元素",
        "没有",
    ],
)
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_vl", "ui_tars"])
def test_refusals_in_words(name: str, text: str) -> None:
    answer = read(text, "box", name)
    assert (answer.status, answer.absent) == (OK, True)
    assert answer.char_span is not None


@pytest.mark.parametrize("text", ["The giraffe is on the left.", "No, it is big.", "长颈鹿在左边。", "Note it."])
def test_prose_is_no_refusal(text: str) -> None:
    assert read(text).status is NO_ANSWER

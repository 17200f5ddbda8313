"""Each family's own forms, refusals and mistakes. Pixels refer to the seen image, 980 x 490."""

from __future__ import annotations

import pytest

from grounding.answer import Answer, ImageSize, Status
from grounding.dialects import get_dialect
from grounding.targets import Box, Point

SIZE = (ImageSize(2000, 1000, 980, 490),)
OK, NO_ANSWER, MALFORMED = Status.OK, Status.NO_ANSWER, Status.MALFORMED
OUT_OF_RANGE, AMBIGUOUS = Status.OUT_OF_RANGE, Status.AMBIGUOUS
BOX = Box(0.1, 0.2, 0.3, 0.4)
POINT = Point(0.1, 0.2)


def read(text: str, answer_kind: str, name: str) -> Answer:
    return get_dialect(name).parse(text, SIZE, answer_kind=answer_kind)


FAMILY_FORMS: list[tuple[str, str, Box | Point]] = [
    ("qwen2_5_vl", '{"bbox_2d": [98, 98, 294, 196]}', BOX),
    ("qwen2_5_vl", '{"name": "computer_use", "arguments": {"action": "click", "coordinate": [98, 98]}}', POINT),
    ("gemini", '[{"box_2d": [200, 100, 400, 300], "label": "cup"}]', BOX),
    ("gemini", '{"point": [200, 100]}', POINT),
    ("qwen_vl", "<ref>cup</ref><box>(100,200),(300,400)</box>", BOX),
    ("qwen2_vl", "<|box_start|>(100,200),(300,400)<|box_end|><|im_end|>", BOX),
    ("qwen2_vl", "(100,200),(300,400)", BOX),
    ("qwen2_vl", "<|box_start|>(100,200)<|box_end|>", POINT),
    ("internvl", "<ref>cup</ref><box>[[100, 200, 300, 400]]</box>", BOX),
    ("internvl", "[[100,200,300,400]]", BOX),
    ("internvl", "<point>[[100, 200]]</point>", POINT),
    ("ui_tars", "click(start_box='(100,200)')", POINT),
    ("ui_tars", "Thought: at (5,6)\nAction: click(start_box='<|box_start|>(100,200)<|box_end|>')", POINT),
    ("ui_tars", "click(start_box='(100,200,300,400)')", BOX),
    ("ui_tars", "(100,200)", POINT),
    ("ui_tars_1_5", "Action: click(point='<point>98 98</point>')", POINT),
    ("ui_tars_1_5", "Action: click(start_box='(98,98)')", POINT),
    ("ui_tars_1_5", "<bbox>98 98 294 196</bbox>", BOX),
    ("uground", "(100, 200)", POINT),
    ("uground", "100, 200", POINT),
    ("os_atlas", "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>", BOX),
    ("os_atlas", "[[100,200,300,400]]", BOX),
    ("os_atlas", "CLICK <point>[[100,200]]</point>", POINT),
    ("aguvis", "assistantos\nAction: pyautogui.click(x=0.1, y=0.2)\n", POINT),
    ("aguvis", "pyautogui.click(0.1, 0.2)", POINT),
    ("aguvis", "(0.1, 0.2)", POINT),
    ("ui_venus", "[98,98,294,196]", BOX),
    ("ui_venus", "```json\n[98, 98, 294, 196]\n```", BOX),
    ("florence2", "</s><s>cup<loc_100><loc_200><loc_300><loc_400></s>", Box(0.1005, 0.2005, 0.3005, 0.4005)),
    ("paligemma", "<loc0256><loc0128><loc0512><loc0384> cup", Box(0.125, 0.25, 0.375, 0.5)),
    (
        "kosmos2",
        "<phrase>cup</phrase><object><patch_index_0100><patch_index_0350></object>",
        Box(4.5 / 32, 3.5 / 32, 30.5 / 32, 10.5 / 32),
    ),
    ("kosmos2", "<object><patch_index_0033><patch_index_0035></object>", Box(1 / 32, 1 / 32, 4 / 32, 2 / 32)),
    ("molmo", ' <point x="10.0" y="20.0" alt="cup">cup</point>', POINT),
    ("molmo", '<points x1="10" y1="20" alt="cup">cup</points>', POINT),
]


@pytest.mark.parametrize(("name", "text", "region"), FAMILY_FORMS)
def test_family_forms(name: str, text: str, region: Box | Point) -> None:
    answer = read(f"<think>a [7, 7]</think>{text}", "point" if isinstance(region, Point) else "box", name)
    assert answer.status is OK
    got = answer.click if isinstance(region, Point) else answer.box
    assert got is not None
    wanted = (region.x, region.y) if isinstance(region, Point) else region.xyxy
    assert ((got.x, got.y) if isinstance(got, Point) else got.xyxy) == pytest.approx(wanted)


REFUSALS = [
    ("molmo", "This isn't in the image."),
    ("molmo", "There are none."),
    ("ui_tars", "Thought: impossible\nAction: call_user()"),
    ("ui_tars_1_5", "call_user()"),
    ("uground", "(-1, -1)"),
    ("ui_venus", "[-1, -1]"),
    ("aguvis", "terminate(status='failure')"),
    ("os_atlas", "none"),
    ("florence2", "none"),
    ("qwen2_vl", "The cup is not in the image."),
]


@pytest.mark.parametrize(("name", "text"), REFUSALS)
def test_families_refuse(name: str, text: str) -> None:
    answer = read(text, "point" if "point" in get_dialect(name).kinds else "box", name)
    assert (answer.status, answer.absent) == (OK, True)


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("qwen2_5_vl", '{"bbox_2d": [98, 98, 294, 491]}', OUT_OF_RANGE),  # fits the original, not the seen image
        ("qwen2_vl", "<|box_start|>(100,200),(300,", MALFORMED),
        ("qwen2_vl", "<|box_start|>(100,200),(300,400,500)", MALFORMED),
        ("qwen2_vl", "<box>(x1,y1),(x2,y2)</box>", MALFORMED),
        ("qwen2_vl", "(100,200,300)", MALFORMED),
        ("qwen2_vl", "(300,200),(100,400)", OUT_OF_RANGE),
        ("internvl", "<box>[[100, 200, 300, 1400]]</box>", OUT_OF_RANGE),
        ("internvl", "<box>[[100, 200, 300, nan]]</box>", MALFORMED),
        ("ui_tars", "click(start_box='(1100,200)')", OUT_OF_RANGE),
        ("ui_tars", "click(start_box='", MALFORMED),
        ("ui_tars", "Thought: it is at (100,200)\nAction: wait()", NO_ANSWER),
        ("ui_tars", "drag(start_box='(1,2)', end_box='(3,4)')", AMBIGUOUS),
        ("uground", "(100, 200) or (300, 400)", AMBIGUOUS),
        ("uground", "Your answer should be a single string (x, y)", NO_ANSWER),
        ("aguvis", "pyautogui.click(x=100, y=0.2)", OUT_OF_RANGE),
        ("ui_venus", "[x1,y1,x2,y2]", NO_ANSWER),
        ("florence2", "cup<loc_100><loc_200><loc_300>", MALFORMED),
        ("florence2", "cup<loc_100><loc_200><loc_300><loc_1000>", OUT_OF_RANGE),
        ("florence2", "cup<loc_300><loc_200><loc_100><loc_400>", OUT_OF_RANGE),
        ("florence2", "cup", NO_ANSWER),
        ("paligemma", "<loc0256><loc0128><loc0512><loc1024> cup", OUT_OF_RANGE),
        ("paligemma", "<loc0256><loc01", MALFORMED),
        ("kosmos2", "<patch_index_0100>", MALFORMED),
        ("kosmos2", "<patch_index_0350><patch_index_0100>", OUT_OF_RANGE),
        ("kosmos2", "<patch_index_0100><patch_index_1024>", OUT_OF_RANGE),
        ("molmo", '<point x="10.0" y="', MALFORMED),
        ("molmo", '<point x="10.0" alt="cup">', MALFORMED),
        ("molmo", '<point x="101" y="20" alt="cup">cup</point>', OUT_OF_RANGE),
        ("molmo", "(10, 20)", NO_ANSWER),
    ],
)
def test_families_misspeak(name: str, text: str, status: Status) -> None:
    answer = read(text, "box" if "box" in get_dialect(name).kinds and "start_box" not in text else "point", name)
    if name in ("ui_tars", "uground", "aguvis"):
        answer = read(text, "point", name)
    assert answer.status is status
    if status is not AMBIGUOUS:
        assert answer.click is None

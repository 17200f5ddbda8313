"""Families trained to click on screens: UI-TARS, UGround, OS-Atlas, Aguvis, UI-Venus.

ui_tars       click(start_box='(500,250)')                       0-1000
ui_tars_1_5   click(point='<point>490 140</point>')              pixels of the resized image
uground       (500, 250)                                         0-1000, points only
os_atlas      <|box_start|>(1,2),(3,4)<|box_end|>, <point>[[500, 250]]</point>    0-1000
aguvis        pyautogui.click(x=0.5000, y=0.2500)                0-1, points only
ui_venus      [98,112,294,224]                                   pixels of the resized image

A box of UI-TARS is a click on a region of four numbers, several points are several calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Found, Reading, Space
from grounding.dialects.markup import INT, MarkupDialect
from grounding.parsing import MAX_PLACES, NUMBER, numbers_in

_TARS = "Output only the {} in your response. What element matches the following task: {{instruction}}"
for _name, _space, _point in (
    ("ui_tars", Space(1000), "click(start_box='({},{})')"),
    ("ui_tars_1_5", Space(None), "click(point='<point>{} {}</point>')"),
):
    DIALECTS.register(_name)(
        MarkupDialect(
            _name,
            _space,
            "box point points absent",
            box="click(start_box='({},{},{},{})')",
            point=_point,
            question=_TARS.format("coordinate of one point"),
            questions={
                "box": _TARS.format("bounding box"),
                "points": _TARS.format("coordinates of every matching point"),
            },
            between="\n\n",
            refusal="call_user()",  # the action for tasks that cannot be done
            after_action=True,
            strict_before=r"(?:Action:\s*+)?+",
        )
    )

UGROUND = MarkupDialect(  # and Aria-UI; the wording that the checkpoint was trained with, from its model card
    "uground",
    Space(1000),
    "point absent",
    point="({}, {})",
    question=(
        "Your task is to help the user identify the precise coordinates (x, y) of a specific area/element/object "
        "on the screen based on a description.\n\n"
        "- Your response should aim to point to the center or a representative point within the described "
        "area/element/object as accurately as possible.\n"
        "- If the description is unclear or ambiguous, infer the most relevant area or element based on its "
        "likely context or purpose.\n"
        "- Your answer should be a single string (x, y) corresponding to the point of the interest.\n\n"
        "Description: {instruction}\n\nAnswer:"
    ),
    refusal="(-1, -1)",
    refuses_by_minus_one=True,
)
DIALECTS.register("uground")(UGROUND)

_ATLAS = (
    "In this UI screenshot, what is the position of the element corresponding to the command {{quoted}} (with {})?"
)
DIALECTS.register("os_atlas")(
    MarkupDialect(
        "os_atlas",
        Space(1000),
        "box point absent",
        box="<|box_start|>({},{}),({},{})<|box_end|>",
        point="<point>[[{}, {}]]</point>",
        question=_ATLAS.format("bbox"),
        questions={"point": _ATLAS.format("point")},
        strict={
            "box": rf"(?:<\|object_ref_start\|>[^<>]*+<\|object_ref_end\|>)?+"
            rf"<\|box_start\|>\({INT},{INT}\),\({INT},{INT}\)<\|box_end\|>"
        },
    )
)

_VENUS = "Outline the position corresponding to the instruction: {{instruction}}. The output should be only {}."
DIALECTS.register("ui_venus")(
    MarkupDialect(
        "ui_venus",
        Space(None),
        "box point absent",
        box="[{},{},{},{}]",
        point="[{},{}]",
        question=_VENUS.format("[x1,y1,x2,y2]"),
        questions={"point": _VENUS.format("[x,y]")},
        refusal="[-1,-1]",
        refuses_by_minus_one=True,
        strict_commas=False,
    )
)

_CALL = re.compile(
    rf"pyautogui\.\w++\(\s*+(?P<place>(?:x\s*+=\s*+)?+{NUMBER}\s*+,\s*+(?:y\s*+=\s*+)?+{NUMBER})\s*+[,)]"
)


class Aguvis(MarkupDialect):
    """Aguvis: pyautogui calls, whose names of arguments no other family writes."""

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        matches = islice(_CALL.finditer(text), MAX_PLACES + 1)
        calls = [self._found(numbers_in(match["place"]), sizes, *match.span("place")) for match in matches]
        if not calls:
            return super()._read(text, original, sizes, answer_kind)
        refused = text.find(self.refusal)
        if refused >= 0:
            calls.append(Found("absent", Status.OK, refused, refused + len(self.refusal)))
        return Reading(calls)


DIALECTS.register("aguvis")(
    Aguvis(
        "aguvis",
        Space(1, decimals=4),
        "point points absent",
        point="pyautogui.click(x={}, y={})",
        question=(
            "Please generate the next move according to the UI screenshot, instruction and previous actions.\n\n"
            "Instruction: {instruction}\n\nPrevious actions:\nNone"
        ),
        between="\n",
        refusal="terminate(status='failure')",
        after_action=True,
    )
)

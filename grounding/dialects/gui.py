"""Families trained to click on screens: UI-TARS, UGround, OS-Atlas, Aguvis, UI-Venus.

ui_tars       click(start_box='(500,250)')                       0-1000
ui_tars_1_5   click(point='<point>490 140</point>')              pixels of the resized image
uground       (500, 250)                                         0-1000, points only
os_atlas      <|box_start|>(1,2),(3,4)<|box_end|>, <point>[[500, 250]]</point>    0-1000
aguvis        pyautogui.click(x=0.5000, y=0.2500)                0-1, points only
ui_venus      [98,112,294,224]                                   pixels of the resized image
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Found, Reading, Space, forms
from grounding.dialects.markup import INT, MarkupDialect
from grounding.parsing import MAX_PLACES, NUMBER, numbers_in
from grounding.targets import Box, Point
from grounding.wording import quoted

_POINTS_OR_BOX = frozenset({"box", "point", "points", "absent"})


class UITars(MarkupDialect):
    """UI-TARS: an action call; a box is a click on a region of four numbers, several points are several calls.

    ``call_user()``, the action for tasks that cannot be done, says that the target is not there.
    """

    kinds = _POINTS_OR_BOX
    refusal = "call_user()"
    after_action = True

    def __init__(self, name: str, space: Space, *, point_tag: bool):
        super().__init__(name)
        self.space = space
        self._point_tag = point_tag
        action = r"(?:Action:\s*+)?+"
        a_point = rf"click\(start_box='\({INT},{INT}\)'\)"
        if point_tag:
            a_point = rf"click\(point='<point>{INT} {INT}</point>'\)"
        self.patterns = forms(
            point=action + a_point,
            points=rf"{action}(?:{a_point}\s*+)++",
            box=rf"{action}click\(start_box='\({INT},{INT},{INT},{INT}\)'\)",
            absent=rf"{action}call_user\(\)",
        )

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        numbers = self.numbers(region, sizes)
        if isinstance(region, Point) and self._point_tag:
            return f"click(point='<point>{' '.join(numbers)}</point>')"
        return f"click(start_box='({','.join(numbers)})')"

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        return "\n\n".join(self._render_one(region, sizes) for region in regions)

    def _question(self, instruction: str, answer_kind: str) -> str:
        what = {"box": "bounding box", "points": "coordinates of every matching point"}.get(
            answer_kind, "coordinate of one point"
        )
        return f"Output only the {what} in your response. What element matches the following task: {instruction}"


class UGround(MarkupDialect):
    """UGround-V1 (and Aria-UI): one point; (-1, -1) says that the target is not there."""

    space = Space(1000)
    kinds = frozenset({"point", "absent"})
    refuses_by_minus_one = True
    patterns = forms(point=rf"\({INT}, {INT}\)", absent=r"\(-1, -1\)")
    refusal = "(-1, -1)"

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return f"({', '.join(self.numbers(region, sizes))})"

    def _question(self, instruction: str, answer_kind: str) -> str:
        """The wording the checkpoint was trained with (its model card)."""
        return (
            "Your task is to help the user identify the precise coordinates (x, y) of a specific area/element/object "
            "on the screen based on a description.\n\n"
            "- Your response should aim to point to the center or a representative point within the described "
            "area/element/object as accurately as possible.\n"
            "- If the description is unclear or ambiguous, infer the most relevant area or element based on its "
            "likely context or purpose.\n"
            "- Your answer should be a single string (x, y) corresponding to the point of the interest.\n\n"
            f"Description: {instruction}\n\nAnswer:"
        )


class OSAtlas(MarkupDialect):
    """OS-Atlas-Base: Qwen2-VL's box tokens, and ``<point>[[x, y]]</point>`` for points."""

    space = Space(1000)
    kinds = frozenset({"box", "point", "absent"})
    patterns = forms(
        box=rf"(?:<\|object_ref_start\|>[^<>]*+<\|object_ref_end\|>)?+"
        rf"<\|box_start\|>\({INT},{INT}\),\({INT},{INT}\)<\|box_end\|>",
        point=rf"<point>\[\[{INT}, {INT}\]\]</point>",
        absent="none",
    )

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        numbers = self.numbers(region, sizes)
        if isinstance(region, Point):
            return f"<point>[[{', '.join(numbers)}]]</point>"
        x1, y1, x2, y2 = numbers
        return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"

    def _question(self, instruction: str, answer_kind: str) -> str:
        form = "point" if answer_kind == "point" else "bbox"
        return (
            "In this UI screenshot, what is the position of the element corresponding to the command "
            f"{quoted(instruction)} (with {form})?"
        )


class UIVenus(MarkupDialect):
    """UI-Venus-Ground: nothing but a list; [-1, -1] says that the target is not there."""

    space = Space(None)
    kinds = frozenset({"box", "point", "absent"})
    refuses_by_minus_one = True
    refusal = "[-1,-1]"
    patterns = forms(box=rf"\[{INT}, ?{INT}, ?{INT}, ?{INT}\]", point=rf"\[{INT}, ?{INT}\]", absent=r"\[-1, ?-1\]")

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return f"[{','.join(self.numbers(region, sizes))}]"

    def _question(self, instruction: str, answer_kind: str) -> str:
        form = "[x,y]" if answer_kind == "point" else "[x1,y1,x2,y2]"
        return (
            f"Outline the position corresponding to the instruction: {instruction}. The output should be only {form}."
        )


_CALL = re.compile(
    rf"pyautogui\.\w++\(\s*+(?P<place>(?:x\s*+=\s*+)?+{NUMBER}\s*+,\s*+(?:y\s*+=\s*+)?+{NUMBER})\s*+[,)]"
)


class Aguvis(MarkupDialect):
    """Aguvis: pyautogui calls with coordinates in [0, 1]; ``terminate(status='failure')`` for what is not there."""

    space = Space(1, decimals=4)
    kinds = frozenset({"point", "points", "absent"})
    refusal = "terminate(status='failure')"
    after_action = True
    _A_CALL = r"pyautogui\.click\(x=[01]\.[0-9]++, y=[01]\.[0-9]++\)"
    patterns = forms(point=_A_CALL, points=rf"(?:{_A_CALL}\s*+)++", absent=r"terminate\(status='failure'\)")

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        x, y = self.numbers(region, sizes)
        return f"pyautogui.click(x={x}, y={y})"

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        return "\n".join(self._render_one(region, sizes) for region in regions)

    def _question(self, instruction: str, answer_kind: str) -> str:
        return (
            "Please generate the next move according to the UI screenshot, instruction and previous actions.\n\n"
            f"Instruction: {instruction}\n\nPrevious actions:\nNone"
        )

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        matches = islice(_CALL.finditer(text), MAX_PLACES + 1)
        calls = [self._found(numbers_in(match["place"]), sizes, *match.span("place")) for match in matches]
        if not calls:
            return super()._read(text, original, sizes, answer_kind)
        refused = text.find(self.refusal)
        if refused >= 0:
            calls.append(Found("absent", Status.OK, refused, refused + len(self.refusal)))
        return Reading(calls)


_DIALECTS: tuple[Dialect, ...] = (
    UITars("ui_tars", Space(1000), point_tag=False),
    UITars("ui_tars_1_5", Space(None), point_tag=True),
    UGround("uground"),
    OSAtlas("os_atlas"),
    UIVenus("ui_venus"),
    Aguvis("aguvis"),
)
for _dialect in _DIALECTS:
    DIALECTS.register(_dialect.name)(_dialect)

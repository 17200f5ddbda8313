"""Qwen-VL and Qwen2-VL: corners in tags, 0-1000; InternVL: lists in tags, 0-1000.

    <ref>the cup</ref><box>(12,34),(56,78)</box>                                               Qwen-VL
    <|object_ref_start|>the cup<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>       Qwen2-VL
    <ref>the cup</ref><box>[[12, 34, 56, 78]]</box>   <point>[[12, 34]]</point>                InternVL

Points of the Qwen families are a box of one corner, as their descendants for screens write them. None of the three
publishes a form for "not there"; Fovea writes the word "none".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from grounding.answer import ImageSize
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Space, forms
from grounding.dialects.markup import ANY_LABEL, INT, TaggedDialect
from grounding.targets import Box, Point


def _patterns(a_box: str, a_point: str) -> Mapping[str, re.Pattern[str]]:
    return forms(
        box=a_box,
        point=a_point,
        boxes=rf"(?:{a_box}\s*+)++",
        points=rf"(?:{a_point}\s*+)++",
        text_box=rf"[^<>]*+(?:{a_box}\s*+)++",
        absent="none",
    )


class QwenTags(TaggedDialect):
    """Corners in round brackets between special tokens."""

    space = Space(1000)

    def __init__(self, name: str, *, ref: tuple[str, str], box: tuple[str, str]):
        super().__init__(name)
        self.ref_open, self.ref_close = ref
        self._open, self._close = box
        before = rf"(?:{re.escape(ref[0])}{ANY_LABEL}{re.escape(ref[1])})?+{re.escape(box[0])}"
        a_box = rf"{before}\({INT},{INT}\),\({INT},{INT}\){re.escape(box[1])}"
        a_point = rf"{before}\({INT},{INT}\){re.escape(box[1])}"
        self.patterns = _patterns(a_box, a_point)

    def _place(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        numbers = self.numbers(region, sizes)
        corners = [f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return f"{self._open}{','.join(corners)}{self._close}"

    def _question(self, instruction: str, answer_kind: str) -> str:
        what = {"point": "the point", "points": "all points", "boxes": "all boxes"}.get(answer_kind, "the box")
        if answer_kind == "text_box":
            return f"{instruction} Give the answer and the box that shows it."
        return f"Give {what} of {self.ref_open}{instruction}{self.ref_close} in the image."


class InternVL(TaggedDialect):
    """Lists of lists in tags."""

    space = Space(1000)
    _REF = rf"(?:<ref>{ANY_LABEL}</ref>)?+"
    _LIST = rf"\[{INT}, ?{INT}, ?{INT}, ?{INT}\]"
    patterns = _patterns(
        rf"{_REF}<box>\[{_LIST}(?:, ?{_LIST})*+\]</box>", rf"{_REF}<point>\[\[{INT}, ?{INT}\]\]</point>"
    )

    def _place(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        tag = "box" if isinstance(region, Box) else "point"
        return f"<{tag}>[[{', '.join(self.numbers(region, sizes))}]]</{tag}>"

    def _question(self, instruction: str, answer_kind: str) -> str:
        if answer_kind == "text_box":
            return f"{instruction} Please provide the answer and the bounding box coordinate of its evidence."
        what = "point" if answer_kind in ("point", "points") else "bounding box"
        return f"Please provide the {what} coordinate of the region this sentence describes: <ref>{instruction}</ref>"


_OLD = QwenTags("qwen_vl", ref=("<ref>", "</ref>"), box=("<box>", "</box>"))
_NEW = QwenTags("qwen2_vl", ref=("<|object_ref_start|>", "<|object_ref_end|>"), box=("<|box_start|>", "<|box_end|>"))
_DIALECTS: tuple[Dialect, ...] = (_OLD, _NEW, InternVL("internvl"))
for _dialect in _DIALECTS:
    DIALECTS.register(_dialect.name)(_dialect)

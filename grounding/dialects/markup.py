"""Families that write coordinates as bare lists, perhaps in tags or calls: Qwen-VL, InternVL and the GUI models.

    <ref>the cup</ref><box>(12,34),(56,78)</box>                                               Qwen-VL, 0-1000
    <|object_ref_start|>the cup<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>       Qwen2-VL, 0-1000
    <ref>the cup</ref><box>[[12, 34, 56, 78]]</box>   <point>[[12, 34]]</point>                InternVL, 0-1000

Points of the Qwen families are a box of one corner, as their descendants for screens write them. None of the three
publishes a form for "not there"; Fovea writes the word "none". Families for screens are in `grounding.dialects.gui`.

One lenient reader serves them all; a family declares its space, how it writes, and how it refuses. Read are
``(x1,y1),(x2,y2)`` and, where no points were asked for, ``[x1,y1],[x2,y2]`` as a box, any bracketed list of two or
more numbers, ``<point>x y</point>``, and an answer that is nothing but ``x, y``. A label is what the last ``<ref>``
or ``<|object_ref_start|>`` before a list holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Found, Reading, Space, forms
from grounding.errors import UsageError
from grounding.parsing import MAX_PLACES, NUMBER, numbers_in
from grounding.targets import Box, Point, TextBox
from grounding.wording import MARK, NUMBERED, TIMED

_N = rf"(?:{NUMBER}|[-+]?+(?:nan|NaN|inf|Infinity)\b)"
_PAIR = rf"\(\s*+{_N}\s*+,\s*+{_N}\s*+\)"
_SQUARES = rf"\[\s*+{_N}\s*+,\s*+{_N}\s*+\]\s*+,?+\s*+\[\s*+{_N}\s*+,\s*+{_N}\s*+\]"
_TOKEN = re.compile(
    rf"""(?P<ref>(?:<ref>|<\|object_ref_start\|>)(?P<label>[^<]*+))
    |{_PAIR}\s*+,?+\s*+{_PAIR}
    |(?P<squares>{_SQUARES})
    |(?P<cut>{_PAIR}(?=\s*+,\s*+(?:\Z|\(\s*+(?:\Z|[-+.0-9]))))
    |\(\s*+{_N}(?:\s*+,\s*+{_N})++\s*+\)
    |\[\s*+{_N}(?:\s*+,\s*+{_N})++\s*+\]
    |<(?:point|bbox|box)>\s*+{_N}(?:[\s,]\s*+{_N})++\s*+(?=</)""",
    re.VERBOSE,
)
_SIZED = re.compile(r"(?:xywh|ltwh|cxcywh)\W{0,4}\Z", re.IGNORECASE)
_BEGUN = re.compile(rf"<\|?box|<point\b|<bbox\b|start_box|[\[(]\s*+{_N}\s*+,|\w\(\s*+[xy]\s*+=")
_ONLY_NUMBERS = re.compile(rf"\s*+(?P<place>{_N}(?:\s*+,\s*+{_N})++)\s*+\.?\s*+")

INT = r"[0-9]++"
ANY_LABEL = r"[^<>]*+"


class MarkupDialect(Dialect):
    """A family that is declared by what it writes.

    Args:
        name, space, question, questions, between, refusal, numbering, timing: as in `Dialect`.
        kinds: separated by blanks.
        box, point: how one is written, `{}` for each number.
        ref: the tags around a label, for a family that writes labels. One with angle brackets in it is left out;
            words that hold them or look like coordinates cannot be written.
        refuses_by_minus_one: it was trained to refuse with the point (-1, -1).
        after_action: text before the last "Action:" is a thought of the family's own and not read.
        strict: what `Answer.strict` takes of each kind where that is more than what is written.
        strict_commas: otherwise a space behind a comma is free.
        strict_before: what may stand before the answer, as a regular expression.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        kinds: str,
        *,
        box: str = "",
        point: str = "",
        ref: tuple[str, str] | None = None,
        question: str,
        questions: Mapping[str, str] | None = None,
        between: str = "",
        refusal: str = "none",
        numbering: str = NUMBERED,
        timing: str = TIMED,
        refuses_by_minus_one: bool = False,
        after_action: bool = False,
        strict: Mapping[str, str] | None = None,
        strict_commas: bool = True,
        strict_before: str = "",
    ):
        super().__init__(name)
        self.space, self.kinds, self.labels = space, frozenset(kinds.split()), ref is not None
        self.question, self.questions, self.between, self.refusal = question, questions or {}, between, refusal
        self.numbering, self.timing = numbering, timing
        self._box, self._point, self._ref = box, point, ref
        self._refuses_by_minus_one, self._after_action = refuses_by_minus_one, after_action
        number = rf"[0-9]\.{INT}" if space.decimals else INT
        label = rf"(?:{re.escape(ref[0])}{ANY_LABEL}{re.escape(ref[1])})?+" if ref else ""

        def pattern(form: str) -> str:
            escaped = re.escape(form).replace(r"\{\}", number)
            return escaped if strict_commas else re.sub(r",(?:\\ )?", ", ?", escaped)

        a_box, a_point = label + pattern(box), label + pattern(point)
        several = {"boxes": rf"(?:{a_box}\s*+)++", "points": rf"(?:{a_point}\s*+)++"}
        words = {"text_box": rf"[^<>]*+{several['boxes']}", "absent": pattern(refusal)}
        sources = {"box": a_box, "point": a_point, **several, **words, **(strict or {})}
        self.patterns = forms(**{kind: strict_before + sources[kind] for kind in sorted(self.kinds)})

    def _place(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        return (self._box if isinstance(region, Box) else self._point).format(*self.numbers(region, sizes))

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        label = writable_label(region.label) if self._ref else ""
        return (label.join(self._ref) if self._ref and label else "") + self._place(region, sizes)

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        if self._ref is None:
            return super()._render_several(regions, sizes)
        parts, current = [], ""
        for region in regions:
            label = writable_label(region.label)
            if label != current:  # an empty ref ends the reach of the one before
                parts.append(label.join(self._ref))
                current = label
            parts.append(self._place(region, sizes))
        return "".join(parts)

    def _render_text_box(self, target: TextBox, sizes: Sequence[ImageSize]) -> str:
        if not target.boxes:
            raise UsageError(f"dialect {self.name!r} cannot express words without a box")
        if _TOKEN.search(target.text) or not target.text.strip() or set("<>") & set(target.text):
            raise UsageError(f"dialect {self.name!r} cannot tell the words {target.text!r} from coordinates")
        return f"{target.text.strip()} {self._render_several(target.boxes, sizes)}"

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        begin = text.rfind("Action:") if self._after_action else -1
        begin = 0 if begin < 0 else begin + len("Action:")
        refused = text.find(self.refusal, begin) if self.refusal != "none" else -1
        found = list(islice(self._places(text, original, sizes, begin, answer_kind), MAX_PLACES + 1))
        if refused >= 0:
            found.append(Found("absent", Status.OK, refused, refused + len(self.refusal)))
        if not found:
            started = _BEGUN.search(text, begin)
            if started:
                found.append(Found("box", Status.MALFORMED, started.start(), started.end()))
        words = None
        if answer_kind == "text_box":
            first = _TOKEN.search(text)
            words = original[: first.start() if first else len(original)].split("<", 1)[0].strip() or None
        return Reading(found, words)

    def _places(
        self, text: str, original: str, sizes: Sequence[ImageSize], begin: int, answer_kind: str | None
    ) -> Iterator[Found]:
        alone = _ONLY_NUMBERS.fullmatch(text, begin)
        label = None
        for match in [alone] if alone else _TOKEN.finditer(text, begin):
            if not alone and match["ref"] is not None:
                label = original[slice(*match.span("label"))].strip() or None
                continue
            where = match.span("place") if alone else match.span()
            if not alone and match["cut"] is not None:  # the first corner of a box that was not finished
                yield Found("box", Status.MALFORMED, *where)
                continue
            numbers = numbers_in(text[slice(*where)])
            if not alone and match["squares"] is not None and answer_kind in ("point", "points"):
                middle = text.index("]", where[0]) + 1
                yield self._found(numbers[:2], sizes, where[0], middle, label=label)
                yield self._found(numbers[2:], sizes, text.index("[", middle), where[1], label=label)
                continue
            if _SIZED.search(text, max(0, where[0] - 12), where[0]):  # x y width height, in words of another family
                yield Found("box", Status.MALFORMED, *where)
                continue
            if self._refuses_by_minus_one and numbers == (-1, -1):
                yield Found("absent", Status.OK, *where)
                continue
            yield self._found(numbers, sizes, *where, label=label)


def writable_label(label: str | None) -> str:
    """A label as it can stand in markup: empty where there is none or it holds angle brackets."""
    return "" if label is None or set("<>") & set(label) else label.strip()


_TAGGED = "box boxes point points text_box absent"
for _name, _ref, _box, _gap in (
    ("qwen_vl", ("<ref>", "</ref>"), ("<box>", "</box>"), "\n"),
    ("qwen2_vl", ("<|object_ref_start|>", "<|object_ref_end|>"), ("<|box_start|>", "<|box_end|>"), ""),
):
    _thing = "{instruction}".join(_ref)
    DIALECTS.register(_name)(
        MarkupDialect(
            _name,
            Space(1000),
            _TAGGED,
            box="({},{}),({},{})".join(_box),
            point="({},{})".join(_box),
            ref=_ref,
            numbering=f"Picture {{number}}: {MARK}{_gap}",
            question=f"Give the box of {_thing} in the image.",
            questions={
                "point": f"Give the point of {_thing} in the image.",
                "points": f"Give all points of {_thing} in the image.",
                "boxes": f"Give all boxes of {_thing} in the image.",
                "text_box": "{instruction} Give the answer and the box that shows it.",
            },
        )
    )

_LIST = rf"\[{INT}, ?{INT}, ?{INT}, ?{INT}\]"
_LISTS = rf"(?:<ref>{ANY_LABEL}</ref>)?+<box>\[{_LIST}(?:, ?{_LIST})*+\]</box>"
_PHRASE = "coordinate of the region this sentence describes: <ref>{instruction}</ref>"
DIALECTS.register("internvl")(
    MarkupDialect(
        "internvl",
        Space(1000),
        _TAGGED,
        box="<box>[[{}, {}, {}, {}]]</box>",
        point="<point>[[{}, {}]]</point>",
        ref=("<ref>", "</ref>"),
        numbering=f"Image-{{number}}: {MARK}\n",
        timing=f"Frame{{number}} at {{time:.1f}}s: {MARK}\n",  # without "at ..." in its published example
        question=f"Please provide the bounding box {_PHRASE}",
        questions={
            **dict.fromkeys(("point", "points"), f"Please provide the point {_PHRASE}"),
            "text_box": "{instruction} Please provide the answer and the bounding box coordinate of its evidence.",
        },
        strict={
            "box": _LISTS,
            "boxes": rf"(?:{_LISTS}\s*+)++",
            "text_box": rf"[^<>]*+(?:{_LISTS}\s*+)++",
        },
        strict_commas=False,
    )
)

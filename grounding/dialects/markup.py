"""Families that write coordinates as bare lists, perhaps in tags or calls: Qwen-VL, InternVL and the GUI models.

One lenient reader serves them all; a family declares its space, how it writes, and how it refuses. Read are
``(x1,y1),(x2,y2)`` and, where no points were asked for, ``[x1,y1],[x2,y2]`` as a box, any bracketed list of two or
more numbers, ``<point>x y</point>``, and an answer that is nothing but ``x, y``. A label is what the last ``<ref>``
or ``<|object_ref_start|>`` before a list holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from grounding.answer import ImageSize, Status
from grounding.dialects.base import Dialect, Found, Reading
from grounding.errors import UsageError
from grounding.parsing import MAX_PLACES, NUMBER, numbers_in
from grounding.targets import Box, Point, TextBox

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
    """Shared reading of lists in markup.

    Attributes:
        refusal: how the family says that the target is not there.
        refuses_by_minus_one: it was trained to refuse with the point (-1, -1).
        after_action: text before the last "Action:" is a thought of the family's own and not read.
    """

    refusal: str = "none"
    refuses_by_minus_one: bool = False
    after_action: bool = False

    def _render_absent(self) -> str:
        return self.refusal

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        begin = text.rfind("Action:") if self.after_action else -1
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
            if self.refuses_by_minus_one and numbers == (-1, -1):
                yield Found("absent", Status.OK, *where)
                continue
            yield self._found(numbers, sizes, *where, label=label)


class TaggedDialect(MarkupDialect):
    """Markup with labels and words: ``<ref>label</ref><box>...</box>``; subclasses say how one box is written.

    A label with angle brackets in it is left out, words that hold them or look like coordinates cannot be written.
    """

    kinds = frozenset({"box", "boxes", "point", "points", "text_box", "absent"})
    labels = True
    ref_open: str = "<ref>"
    ref_close: str = "</ref>"

    def _place(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        raise NotImplementedError

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        label = writable_label(region.label)
        return (f"{self.ref_open}{label}{self.ref_close}" if label else "") + self._place(region, sizes)

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        parts, current = [], ""
        for region in regions:
            label = writable_label(region.label)
            if label != current:  # an empty ref ends the reach of the one before
                parts.append(f"{self.ref_open}{label}{self.ref_close}")
                current = label
            parts.append(self._place(region, sizes))
        return "".join(parts)

    def _render_text_box(self, target: TextBox, sizes: Sequence[ImageSize]) -> str:
        if not target.boxes:
            raise UsageError(f"dialect {self.name!r} cannot express words without a box")
        if _TOKEN.search(target.text) or not target.text.strip() or set("<>") & set(target.text):
            raise UsageError(f"dialect {self.name!r} cannot tell the words {target.text!r} from coordinates")
        return f"{target.text.strip()} {self._render_several(target.boxes, sizes)}"


def writable_label(label: str | None) -> str:
    """A label as it can stand in markup: empty where there is none or it holds angle brackets."""
    return "" if label is None or set("<>") & set(label) else label.strip()

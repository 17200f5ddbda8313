"""Families that answer in JSON: Qwen2.5-VL, Qwen3-VL and their descendants, Gemini, the embedded model.

    {"bbox_2d": [x1, y1, x2, y2], "label": "...", "image": 2}     a box; label and image only where there is one
    {"point_2d": [x, y]}                                          a point
    [{...}, {...}]                                                several
    {"start": 12.50, "end": 20.25}                                a span, in seconds
    {"answer": "42", "evidence": [{"bbox_2d": [...]}]}            words with the regions that prove them
    {"answer": "B", "start": 12.50, "end": 20.25}                 words with the span that proves them (read only)
    {"bbox_2d": null}                                             not there

`"image"` counts from 1 and is written for every image but the first. When reading, other common keys and shapes
(`grounding.dialects.json_places`), code fences, tool calls, mm:ss times and cut-off ends are understood. Lists under
a key of the dialect beat lists without: ``near [1, 2, 3, 4]: {"bbox_2d": [5, 6, 7, 8]}`` is one box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Found, Reading, Space, forms
from grounding.dialects.json_places import (
    BOX_KEYS,
    CORNER_KEYS,
    POINT_KEYS,
    SPAN_KEYS,
    WORD_KEYS,
    groups_of,
    paired,
    prose_spans,
    seconds,
    span_found,
)
from grounding.dialects.xml_points import xml_points
from grounding.parsing import Group, Scalar, Scan, scan, unquote
from grounding.targets import Box, Point, Span, TextBox
from grounding.wording import MARK

_START_KEYS = ("start", "start_time", "begin", "from")
_END_KEYS = ("end", "end_time", "stop", "to")
_CALLS = ("arguments", "parameters")

_STRING = r'"(?:[^"\\\n]|\\.)*+"'
_EXTRAS = rf'(?:,\s*+"label":\s*+{_STRING})?+(?:,\s*+"image":\s*+[0-9]++)?+'


def _object(key: str, count: int) -> str:
    numbers = r",\s*+".join([r"[0-9]++"] * count)
    return rf'\{{\s*+"{key}":\s*+\[\s*+{numbers}\s*+\]{_EXTRAS}\s*+\}}'


def _several(item: str) -> str:
    return rf"\[\s*+{item}(?:\s*+,\s*+{item})*+\s*+\]"


class JsonDialect(Dialect):
    """JSON answers; families differ in the space, the two keys and the order of coordinates."""

    kinds = frozenset({"box", "point", "boxes", "points", "span", "text_box", "absent"})
    multi_image = True
    labels = True
    between = ", "
    which_image = ' Where it is not in the first image, add "image", its number.'

    def __init__(
        self, name: str, space: Space, *, box: str = "bbox_2d", point: str = "point_2d", y_first: bool = False
    ):
        super().__init__(name)
        self.space = space
        self.y_first = y_first
        self._box_key, self._point_key = box, point
        self.refusal = f'{{"{box}": null}}'
        self.question = f"Locate {{quoted}}. Report its {box} coordinates in JSON format."
        self.questions = {
            "point": f"Locate {{quoted}} with a point. Report its {point} coordinates in JSON format.",
            "points": f"Point to every {{quoted}}. Report {point} coordinates in JSON format.",
            "boxes": f"Locate every instance of {{quoted}}. Report {box} coordinates in JSON format.",
            "span": "When does {quoted} happen in the video? Report start and end in seconds in JSON format.",
            "text_box": f"{{instruction}} Report the answer and the {box} of its evidence in JSON format.",
            "text_span": "{instruction} Report answer, and start and end of its evidence in seconds, in JSON format.",
        }
        a_box, a_point = _object(box, 4), _object(point, 2)
        time = r"[0-9]++(?:\.[0-9]++)?+"
        self.patterns = forms(
            box=a_box,
            point=a_point,
            boxes=_several(a_box),
            points=_several(a_point),
            span=rf'\{{\s*+"start":\s*+{time},\s*+"end":\s*+{time}{_EXTRAS}\s*+\}}',
            text_span=rf'\{{\s*+"answer":\s*+{_STRING},\s*+"start":\s*+{time},\s*+"end":\s*+{time}\s*+\}}',
            text_box=rf'\{{\s*+"answer":\s*+{_STRING},\s*+"evidence":\s*+(?:\[\s*+\]|{_several(a_box)})\s*+\}}',
            absent=rf'\{{\s*+"{box}":\s*+null\s*+\}}',
        )
        four = r",\s*+".join([r"([0-9]{1,6})"] * 4)
        two = r",\s*+".join([r"([0-9]{1,6})"] * 2)
        label = r'(?:,\s*+"label":\s*+"([^"\\\n]*+)")?+'
        self._quick_box = re.compile(rf'\s*+\{{"{box}":\s*+(\[{four}\]){label}\}}\s*+')
        self._quick_point = re.compile(rf'\s*+\{{"{point}":\s*+(\[{two}\]){label}\}}\s*+')

    # Writing

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        key = self._box_key if isinstance(region, Box) else self._point_key
        extras = "" if region.label is None else f', "label": {json.dumps(region.label, ensure_ascii=False)}'
        if region.image:
            extras += f', "image": {region.image + 1}'
        return f'{{"{key}": [{", ".join(self.numbers(region, sizes))}]{extras}}}'

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        return f"[{super()._render_several(regions, sizes)}]"

    def _render_text_box(self, target: TextBox, sizes: Sequence[ImageSize]) -> str:
        answer = json.dumps(target.text, ensure_ascii=False)
        return f'{{"answer": {answer}, "evidence": {self._render_several(target.boxes, sizes)}}}'

    def _render_span(self, span: Span) -> str:
        label = "" if span.label is None else f', "label": {json.dumps(span.label, ensure_ascii=False)}'
        return f'{{"start": {span.start:.2f}, "end": {span.end:.2f}{label}}}'

    # Reading

    def _quick(self, answer: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Found | None:
        if answer_kind in (None, "box"):
            match = self._quick_box.fullmatch(answer)
        elif answer_kind == "point":
            match = self._quick_point.fullmatch(answer)
        else:
            return None
        if match is None:
            return None
        _, *numbers, label = match.groups()
        found = self._found(tuple(map(float, numbers)), sizes, match.start(1), match.end(1), label=label)
        return found if found.region is not None else None

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        scanned = scan(text)
        if scanned.cut:
            return Reading([Found("box", Status.MALFORMED, 0, len(text))])
        found = list(self._from_groups(scanned, text, original, sizes, answer_kind))
        found += self._from_objects(scanned)
        if not found and "<point" in text:
            found += xml_points(text, original, self._found, sizes)
        if not found:
            found += self._from_calls(scanned, sizes, answer_kind)
        if answer_kind == "span" and not any(item.kind == "span" for item in found):
            found += prose_spans(text)
        found.sort(key=lambda item: item.start)
        answers = [fields["answer"] for fields in scanned.objects.values() if "answer" in fields]
        texts = [fields["text"] for fields in scanned.objects.values() if "text" in fields]
        if answers or texts:
            first = (answers or texts)[0]
            rivals = {self._string(answer, original).strip() for answer in answers}
            return Reading(found, self._string(first, original), (first.start, first.end), len(rivals) > 1)
        if answer_kind == "text_box" and not found and original.strip():
            return Reading(found, original.strip())
        return Reading(found)

    def _from_groups(
        self, scanned: Scan, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None
    ) -> Iterator[Found]:
        groups = [
            group
            for group in groups_of(scanned, y_first=self.y_first)
            if not (group.quoted and group.key in WORD_KEYS and (group.key != "answer" or answer_kind == "text_box"))
        ]
        ours = BOX_KEYS | POINT_KEYS | SPAN_KEYS | CORNER_KEYS
        keyed = [group for group in groups if group.key in ours]
        bare = [group for group in groups if len(group.numbers) > 1 or (_is_empty(group) and not group.key)]
        for group in paired(keyed or bare, text, answer_kind):
            fields = scanned.objects.get(group.owner, {})
            label = self._string(fields["label"], original) if "label" in fields else None
            pair = len(group.numbers) == 2
            if _is_empty(group):
                yield Found("absent", Status.OK, group.start, group.end)
            elif pair and (group.key in SPAN_KEYS or (answer_kind == "span" and group.key is None)):
                yield span_found(group.numbers[0], group.numbers[1], group.start, group.end, label)
            elif not group.whole or (pair and (group.key in CORNER_KEYS or _lone_corner(group, answer_kind))):
                yield Found("box", Status.MALFORMED, group.start, group.end)
            else:
                yield self._found(group.numbers, sizes, group.start, group.end, image=_image(fields), label=label)

    def _from_objects(self, scanned: Scan) -> Iterator[Found]:
        """Spans and refusals in the fields of objects, and keys of the dialect with something else as value."""
        for fields in scanned.objects.values():
            first, last = _first(fields, _START_KEYS), _first(fields, _END_KEYS)
            if first is not None and last is not None:
                label = unquote(fields["label"].text) if "label" in fields else None
                yield span_found(seconds(first.text), seconds(last.text), first.start, last.end, label)
            if "action" in fields and fields["action"].text == "terminate" and "status" in fields:
                failure = fields["status"]
                if failure.text == "failure":
                    yield Found("absent", Status.OK, failure.start, failure.end)
            for key, scalar in fields.items():
                if scalar.kind != "numbers" and (key in BOX_KEYS or key in POINT_KEYS):
                    refuses = scalar.text.strip().lower() in ("null", "none", "absent", "n/a", "")
                    kind = "absent" if refuses else "box"
                    yield Found(kind, Status.OK if refuses else Status.MALFORMED, scalar.start, scalar.end)

    def _from_calls(self, scanned: Scan, sizes: Sequence[ImageSize], answer_kind: str | None) -> Iterator[Found]:
        """The places in tool calls whose arguments are JSON in a string."""
        for fields in scanned.objects.values():
            call = _first(fields, _CALLS)
            if call is None or call.kind != "string" or "{" not in call.text:
                continue
            inner = unquote(call.text)
            scanned_call = scan(inner)
            if not scanned_call.cut:
                found = [
                    *self._from_groups(scanned_call, inner, inner, sizes, answer_kind),
                    *self._from_objects(scanned_call),
                ]
                yield from (item._replace(start=call.start, end=call.end) for item in found)

    def _string(self, scalar: Scalar, original: str) -> str:
        return unquote(original[scalar.start : scalar.end])


def _is_empty(group: Group) -> bool:
    return not group.numbers and group.whole


def _first(fields: dict[str, Scalar], names: Sequence[str]) -> Scalar | None:
    return next((fields[name] for name in names if name in fields), None)


def _image(fields: dict[str, Scalar]) -> int:
    """Index of the image an object names (counted from 1); the first without one, -1 for nonsense."""
    if "image" not in fields:
        return 0
    text = fields["image"].text
    return int(text) - 1 if text.isdecimal() and len(text) < 6 else -1


def _lone_corner(group: Group, answer_kind: str | None) -> bool:
    """Two numbers under the key of a box, where nobody asked for a point."""
    return group.key in BOX_KEYS and answer_kind not in ("point", "points")


class FoveaDialect(JsonDialect):
    """The embedded model's: too small to follow directions about formats, it is asked with the bare instruction."""

    says_grammar = False
    which_image = ""

    def __init__(self, name: str = "fovea"):
        super().__init__(name, Space(1000))
        self.question, self.questions = "{instruction}", {}


class QwenDialect(JsonDialect):
    """Qwen-VL since 2.5: images are numbered as its chat template does with `add_vision_id`."""

    numbering = f"Picture {{number}}: {MARK}"


for _name in ("qwen3_vl", "mai_ui", "gui_owl", "holo"):
    DIALECTS.register(_name)(QwenDialect(_name, Space(1000)))
DIALECTS.register("fovea")(FoveaDialect())
_qwen2_5 = QwenDialect("qwen2_5_vl", Space(None))
# Its video input tells times by positions alone; before images they are text, as in TimeLens (arXiv:2512.14698)
_qwen2_5.timing = f"{{time:.1f}}s{MARK}"
DIALECTS.register("qwen2_5_vl")(_qwen2_5)
DIALECTS.register("gemini")(JsonDialect("gemini", Space(1000), box="box_2d", point="point", y_first=True))

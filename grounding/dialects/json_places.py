"""Where the places of a JSON answer stand: lists of numbers, numbers under names of their own, corners, times.

    {"bbox_2d": [12, 30, 45, 60]}   {"bbox_xywh": [12, 30, 33, 30]}   {"x1": 12, "y1": 30, "x2": 45, "y2": 60}
    {"x": 12, "y": 30, "width": 33, "height": 30}   {"top_left": [12, 30], "bottom_right": [45, 60]}
    [[12, 30], [45, 60]]   (12,30),(45,60)   [{"x": 12, "y": 30}, {"x": 45, "y": 60}]

All of these are one box. Two pairs of numbers that nobody calls corners, where nobody asked for a box, could be a box
or two points: they are malformed, as is a corner without the other. What a corner alone would earn is not what was
meant.

Times are seconds, mm:ss or h:mm:ss, and, where a span is asked for, pairs of them in prose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from grounding.answer import Status
from grounding.dialects.base import Found
from grounding.parsing import Group, Scalar, Scan
from grounding.targets import Span

BOX_KEYS = frozenset({"bbox_2d", "bbox", "box_2d", "box", "bounding_box", "bboxes", "boxes", "bounding_boxes"})
POINT_KEYS = frozenset({"point_2d", "point", "points", "coordinate", "coordinates", "click", "position", "center"})
SPAN_KEYS = frozenset({"span", "time", "times", "timestamp", "timestamps", "segment", "interval"})
WORD_KEYS = frozenset(
    {"answer", "text", "content", "text_content", "label", "name", "description", "caption", "title"}
)
WORD_KEYS |= {"value", "query", "instruction", "thought", "reasoning", "message", "type"}
_TOP_LEFT = frozenset({"top_left", "topleft", "upper_left", "left_top", "tl"})
_BOTTOM_RIGHT = frozenset({"bottom_right", "bottomright", "lower_right", "right_bottom", "br"})
CORNER_KEYS = _TOP_LEFT | _BOTTOM_RIGHT
_RANGES = frozenset({"x", "y", "xs", "ys", "x_range", "y_range"})
_SIZES = frozenset({"w", "h", "width", "height", "x2", "y2", "right", "bottom"})
_FORM = re.compile(r"(?:(?:b?box|bounding_box)(?:_2d)?_)?(?P<form>xyxy|ltrb|xywh|ltwh|cxcywh)")
_NAMED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("xyxy", ("x1", "y1", "x2", "y2")),
    ("xyxy", ("x0", "y0", "x1", "y1")),
    ("xyxy", ("xmin", "ymin", "xmax", "ymax")),
    ("xyxy", ("x_min", "y_min", "x_max", "y_max")),
    ("xyxy", ("left", "top", "right", "bottom")),
    ("xyxy", ("x", "y", "x2", "y2")),
    ("xywh", ("x", "y", "width", "height")),
    ("xywh", ("x", "y", "w", "h")),
    ("xywh", ("left", "top", "width", "height")),
    ("xywh", ("x1", "y1", "width", "height")),
    ("xywh", ("xmin", "ymin", "width", "height")),
    ("cxcywh", ("cx", "cy", "w", "h")),
    ("cxcywh", ("cx", "cy", "width", "height")),
    ("cxcywh", ("center_x", "center_y", "width", "height")),
    ("cxcywh", ("x_center", "y_center", "width", "height")),
    ("xy", ("x", "y")),
)
_OPENS_BOX = ("<|box_start|>", "<box>", "<bbox>")
_Numbers: TypeAlias = tuple[float, ...]


def groups_of(scanned: Scan, *, y_first: bool) -> list[Group]:
    """Every group, with the places named by the fields of objects among them, in the order of the text.

    Boxes come as x1 y1 x2 y2 (or the dialect's order, with `y_first`), however they were written. A group that cannot
    be a place is not `whole`.
    """

    def ordered(numbers: _Numbers) -> _Numbers:
        return (numbers[1], numbers[0], *reversed(numbers[2:])) if y_first else numbers

    groups = []
    for group in scanned.groups:
        written = _FORM.fullmatch(group.key or "")
        if written:
            good = group.whole and len(group.numbers) == 4
            numbers = ordered(_as_corners(written["form"], group.numbers)) if good else group.numbers
            group = replace(group, numbers=numbers, key="bbox", whole=good)  # noqa: PLW2901
        elif group.key in _RANGES and len(group.numbers) == 2:
            group = replace(group, whole=False)  # noqa: PLW2901 - {"x": [x1, x2], "y": [y1, y2]}
        elif _has_size(group, scanned.objects.get(group.owner, {})):
            group = replace(group, whole=False)  # noqa: PLW2901 - {"position": [x, y], "width": w, "height": h}
        groups.append(group)
    for index, fields in scanned.objects.items():
        form_names = next((named for named in _NAMED if all(name in fields for name in named[1])), None)
        if form_names is None:
            continue
        form, names = form_names
        parts = [fields[name] for name in names]
        place = scanned.places[index]
        whole = form != "xy" or not (_SIZES & fields.keys())
        numbers = ordered(_as_corners(form, tuple(seconds(part.text) for part in parts)))
        key = place.key or "" if form == "xy" else "bbox"
        owner = index if place.key is None else place.owner
        start, end = min(part.start for part in parts), max(part.end for part in parts)
        groups.append(Group(numbers, start, end, whole, key, owner, place.parent))
    return sorted(groups, key=lambda group: group.start)


def _as_corners(form: str, numbers: _Numbers) -> _Numbers:
    if form in ("xywh", "ltwh"):
        x, y, width, height = numbers
        return x, y, x + width, y + height
    if form == "cxcywh":
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return numbers


def _has_size(group: Group, fields: Mapping[str, Scalar]) -> bool:
    """Whether two numbers are a corner: the object that they belong to says how wide and high it is."""
    if len(group.numbers) != 2 or group.key not in POINT_KEYS:
        return False
    return any(width in fields and height in fields for width, height in (("width", "height"), ("w", "h")))


def paired(groups: Sequence[Group], text: str, answer_kind: str | None) -> Iterator[Group]:
    """Corners written as two points become one group of four."""
    pairs = [group for group in groups if len(group.numbers) == 2 and group.whole]
    undecided = answer_kind is None and len(pairs) == 2 and all(not group.key for group in pairs)
    waiting: Group | None = None
    for group in groups:
        if not (len(group.numbers) == 2 and group.whole):
            corner = False
        elif group.key in BOX_KEYS:
            corner = group.parent >= 0
        elif group.key in CORNER_KEYS:
            corner = True
        else:
            corner = not group.key and (
                undecided or answer_kind in ("box", "boxes", "text_box") or _tagged(text, group)
            )
        if waiting is not None and corner and _belong_together(waiting, group, text):
            first, last = (group, waiting) if waiting.key in _BOTTOM_RIGHT else (waiting, group)
            whole = not undecided or _tagged(text, waiting)
            yield replace(waiting, numbers=first.numbers + last.numbers, end=group.end, key="bbox", whole=whole)
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        waiting = group if corner else None
        if not corner:
            yield group
    if waiting is not None:
        yield waiting


def _belong_together(first: Group, second: Group, text: str) -> bool:
    if first.key in CORNER_KEYS:
        opposite = {first.key, second.key} & _TOP_LEFT and {first.key, second.key} & _BOTTOM_RIGHT
        return bool(opposite) and first.owner == second.owner
    if first.key != second.key or first.parent != second.parent:
        return False
    return first.parent >= 0 or text[first.end : second.start].strip() in ("", ",")


def _tagged(text: str, group: Group) -> bool:
    """Whether a mark that opens a box stands right before a group."""
    return text[max(0, group.start - 20) : group.start].rstrip().endswith(_OPENS_BOX)


_TIME = re.compile(r"(?<![0-9.:])(?:[0-9]++:){0,2}[0-9]++(?:\.[0-9]++)?+")
_BETWEEN = re.compile(r"\s*+(?:s|sec|secs|seconds?)?\s*+(?:-|–|—|~|,|to|and|until)\s*+(?:the\s)?\s*+", re.IGNORECASE)


def seconds(text: str) -> float:
    """``"12.5"``, ``"12.5s"``, ``"01:12.5"`` or ``"1:01:12"`` in seconds; NaN for anything else."""
    parts = text.strip().removesuffix("s").strip().split(":", 3)
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return math.nan
    if len(values) > 3 or (len(values) > 1 and min(values) < 0):
        return math.nan
    total = 0.0
    for value in values:
        total = total * 60 + value
    return total


def span_found(start: float, end: float, begin: int, stop: int, label: str | None = None) -> Found:
    """A span in seconds as a finding at [begin, stop) of the text; NaN is malformed, disorder is out of range."""
    if not (math.isfinite(start) and math.isfinite(end)):
        return Found("span", Status.MALFORMED, begin, stop)
    if not 0 <= start <= end:
        return Found("span", Status.OUT_OF_RANGE, begin, stop)
    return Found("span", Status.OK, begin, stop, Span(start, end, label))


def prose_spans(text: str) -> list[Found]:
    """Pairs of times with a dash, "to", "and" or a comma between: ``from 12.5 to 20 seconds``, ``00:12 - 00:20``."""
    found, waiting = [], None
    for match in _TIME.finditer(text):
        if waiting is not None and _BETWEEN.fullmatch(text, waiting.end(), match.start()):
            found.append(span_found(seconds(waiting.group()), seconds(match.group()), waiting.start(), match.end()))
            waiting = None
        else:
            waiting = match
    return found

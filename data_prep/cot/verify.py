"""Is a thought worth training on? Pure checks; each failure has a short fixed reason."""

from __future__ import annotations

import hashlib
import re

from data_prep.cot.forms import Form
from data_prep.curate.negatives import words_of
from data_prep.pipeline.conversion import Rejected
from grounding.answer import Answer
from grounding.geometry import iou, point_in_box
from grounding.sample import Sample, regions_of
from grounding.targets import Absent, Box, Point, Polygon
from grounding.wording import read_places

MIN_WORDS, MAX_WORDS = 4, 400
MIN_IOU = 0.5
_LEAKS = re.compile(
    r"</?(?:think|answer|box|point|img|image|tool_call)\b|<\|[a-z_]+\|>|bbox_2d|point_2d|start_box|[{}]|```"
    r"|pyautogui|\bground[- ]truth\b"
    r"|\b(?:given|provided|annotated|correct|reference) (?:box|bounding box|coordinates?|answer|target)\b",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"\[\s*-?\d[^\]]*\]|\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d[^)]*\)")


def verify(thought: str, sample: Sample, form: Form) -> None:
    """Raise `Rejected` unless the thought is one.

    - "thought too short", "thought too long", "thought has control characters"
    - "leaks the answer format": tags, JSON, or words that betray that the answer was given
    - "does not name the target": no word of meaning in common with the instruction
    - "unreadable place": a bracket of numbers that is not in the convention of `grounding.wording`
    - "too few places": fewer than the form asks for
    - "place in a missing image"
    - "does not meet the target": the last place named is none of the target's regions
    """
    count = len(thought.split())
    if count < MIN_WORDS:
        raise Rejected("thought too short", thought)
    if count > MAX_WORDS:
        raise Rejected("thought too long", f"{count} words: {thought[:200]}")
    if any(ord(c) < 32 and c not in "\n\t" for c in thought):
        raise Rejected("thought has control characters", repr(thought[:200]))
    leak = _LEAKS.search(thought)
    if leak:
        raise Rejected("leaks the answer format", f"{leak.group()!r} in: {thought[:200]}")
    asked = words_of(sample.instruction)
    if asked and not asked & words_of(thought):
        raise Rejected("does not name the target", thought[:200])
    _verify_places(thought, sample, form)


def _verify_places(thought: str, sample: Sample, form: Form) -> None:
    places = read_places(thought)
    if len(_BRACKET.findall(thought)) != len(places):
        raise Rejected("unreadable place", thought[:200])
    regions = [r for r in regions_of(sample.target) if isinstance(r, (Box, Point, Polygon))]
    if not regions:
        return
    if len(places) < form.places:
        raise Rejected("too few places", f"{len(places)}, the form asks for {form.places}: {thought[:200]}")
    if any(place.image >= len(sample.images) for place in places):
        raise Rejected("place in a missing image", thought[:200])
    if form.places == 0:
        if places:
            raise Rejected("places in a thought without", thought[:200])
        return
    if not any(meets(places[-1], region) for region in regions):
        raise Rejected("does not meet the target", thought[:200])


def meets(place: Box | Point, region: Box | Point | Polygon) -> bool:
    """Whether a place named in a thought is the target's region: IoU of boxes, or a point inside."""
    if place.image != region.image:
        return False
    box = region.bounds if isinstance(region, Polygon) else region
    if isinstance(place, Box) and isinstance(box, Box):
        grown = _grown(box)  # three decimals cannot meet a box of a few thousandths better
        return bool(iou(place.xyxy, box.xyxy) >= MIN_IOU or (box.area < 1e-4 and iou(place.xyxy, grown.xyxy) > 0.3))
    point = place.center if isinstance(place, Box) else place
    if isinstance(box, Box):
        return bool(point_in_box((point.x, point.y), _grown(box).xyxy))
    return abs(point.x - box.x) <= 0.03 and abs(point.y - box.y) <= 0.03


def answers(answer: Answer, sample: Sample) -> bool:
    """Whether an answer is right: every region of the target is met by one that was named, and none is left over."""
    if isinstance(sample.target, Absent):
        return answer.absent
    if not answer.ok:
        return False
    named: list[Box | Point] = [*answer.boxes, *answer.points]
    regions = [r for r in regions_of(sample.target) if isinstance(r, (Box, Point, Polygon))]
    return (
        len(named) == len(regions) > 0
        and all(any(meets(place, region) for place in named) for region in regions)
        and all(any(meets(place, region) for region in regions) for place in named)
    )


def _grown(box: Box) -> Box:
    return Box(
        max(0.0, box.x1 - 5e-4), max(0.0, box.y1 - 5e-4), min(1.0, box.x2 + 5e-4), min(1.0, box.y2 + 5e-4), box.image
    )


class Copies:
    """Thoughts seen before, as eight-byte digests; case, spaces and punctuation do not count."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def check(self, thought: str) -> None:
        """Remember a thought; `Rejected` "copy of another thought" when it is known."""
        plain = " ".join(re.findall(r"\w+", thought.lower()))
        digest = int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest())
        if digest in self._seen:
            raise Rejected("copy of another thought", thought[:200])
        self._seen.add(digest)

"""Rules on a single row: is the target of a sensible shape, is the instruction one. Pure; reasons are fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.curate.negatives import words_of
from data_prep.pipeline.conversion import Rejected
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon, Span
from grounding.wording import rewrite_places

_MARKUP = re.compile(
    r"</?[a-z][^<>]{0,60}>|<\|[^|]*\|>|https?://|&[a-z]{2,6};|\{\{|\}\}|\\u[0-9a-f]{4}", re.IGNORECASE
)
_COORDINATES = re.compile(
    r"[\[(]\s*\d+(?:\.\d+)?\s*(?:,\s*\d+(?:\.\d+)?\s*){1,3}[\])]|\bbbox|\bcoordinates? (?:are|is)\b"
)
NAMES_PLACES = frozenset({"query_inference", "pair"})  # of `query_inference` and `corrupted_pairs`
_LETTER = re.compile(r"[^\W\d_]")
_VAGUE = frozenset(
    {"", "object", "thing", "item", "element", "it", "this", "that", "something", "image", "picture", "photo", "icon",
     "button", "link", "text", "label", "input", "field", "menu", "widget", "unknown", "none", "null", "undefined",
     "placeholder", "untitled", "click", "click here", "here"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CurationLimits:
    """What a target and an instruction may measure.

    Attributes:
        min_side: pixels of a box's shorter side.
        max_area: share of the image a box may cover.
        max_aspect: longer side by shorter side.
        min_words, max_words: of an instruction.
    """

    min_side: float = 3.0
    max_area: float = 0.98
    max_aspect: float = 100.0
    min_words: int = 1
    max_words: int = 80


def check_geometry(sample: Sample, limits: CurationLimits) -> None:
    """Raise `Rejected` "box too small", "box covers the image", "box too narrow" or "span covers the video"."""
    for region in regions_of(sample.target):
        if isinstance(region, Point):
            continue
        if isinstance(region, Span):
            duration = sample.meta.get("duration")
            if isinstance(duration, (int, float)) and region.end - region.start >= limits.max_area * duration:
                raise Rejected("span covers the video", f"{region.start}..{region.end} of {duration} s")
            continue
        box: Box = region.bounds if isinstance(region, Polygon) else region
        image = sample.images[box.image]
        width, height = (box.x2 - box.x1) * image.width, (box.y2 - box.y1) * image.height
        detail = f"{width:.1f}x{height:.1f} pixels in {image.width}x{image.height}"
        if min(width, height) < limits.min_side:
            raise Rejected("box too small", detail)
        if box.area > limits.max_area:
            raise Rejected("box covers the image", detail)
        if max(width, height) > limits.max_aspect * min(width, height):
            raise Rejected("box too narrow", detail)


def check_instruction(text: str, limits: CurationLimits) -> None:
    """Raise `Rejected` when the text cannot be an instruction somebody gave.

    "instruction too short / too long", "instruction without letters", "instruction has markup",
    "instruction has coordinates", "instruction has broken characters", "vague instruction", "instruction repeats
    itself".
    """
    words = text.split()
    if len(words) < limits.min_words:
        raise Rejected("instruction too short", repr(text))
    if len(words) > limits.max_words:
        raise Rejected("instruction too long", f"{len(words)} words: {text[:120]!r}")
    if "\ufffd" in text or any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise Rejected("instruction has broken characters", repr(text[:120]))
    if _MARKUP.search(text):
        raise Rejected("instruction has markup", repr(text[:120]))
    if _COORDINATES.search(text):
        raise Rejected("instruction has coordinates", repr(text[:120]))
    letters = len(_LETTER.findall(text))
    if letters == 0 or letters < 0.3 * len(text.replace(" ", "")):
        raise Rejected("instruction without letters", repr(text[:120]))
    plain = " ".join(re.findall(r"\w+", text.lower()))
    if plain.removeprefix("the ").removeprefix("a ").removeprefix("an ") in _VAGUE:
        raise Rejected("vague instruction", repr(text))
    if len(words) >= 6 and len(set(plain.split())) <= len(words) // 3:
        raise Rejected("instruction repeats itself", repr(text[:120]))


def attends(scores: Mapping[str, float], min_peak: float) -> bool:
    """SE-GUI's rule (arXiv 2505.12370) on `attention.maps.target_scores`: a clear peak inside the target, and more
    inside than on average."""
    return scores["peak"] > min_peak and scores["inside"] > scores["overall"]


def spoken(sample: Sample) -> str:
    """The instruction as it is judged: of a task that names places, they are no leaked coordinates."""
    if sample.meta.get("task") in NAMES_PLACES:
        return rewrite_places(sample.instruction, lambda _: "this place")
    return sample.instruction


def normalized(text: str) -> str:
    """An instruction as compared with others: lower case, words only."""
    return " ".join(re.findall(r"\w+", text.lower()))


def is_telling(text: str) -> bool:
    """Whether an instruction is long enough that two of the same words are no accident."""
    return len(text.split()) >= 5 and len(words_of(text)) >= 3


def cell(sample: Sample) -> str | None:
    """Where in the image and how large the first region is: one of 27 cells for balancing, None without a region.

    Position in thirds of the sides; size by the square root of the area: below 0.05, below 0.2, above.
    """
    for region in regions_of(sample.target):
        if isinstance(region, Span):
            continue
        box = region.bounds if isinstance(region, Polygon) else region
        center = box if isinstance(box, Point) else box.center
        side = 0.0 if isinstance(box, Point) else box.area**0.5
        size = "small" if side < 0.05 else "medium" if side < 0.2 else "large"
        return f"{size} {min(2, int(center.y * 3))}{min(2, int(center.x * 3))}"
    return None

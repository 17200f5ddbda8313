"""What a reward may take from an answer or a sample: exactly one box, one click, one target.

Rewards that score a single answer all go through here, so that listing many boxes, or none, or a box of the
whole image, earns the same nothing from every one of them.
"""

from __future__ import annotations

from grounding.answer import Answer
from grounding.errors import BrokenRow
from grounding.geometry import at_least, iou_pair
from grounding.sample import Sample
from grounding.targets import Box, Point, Polygon

SINGLE = ("box", "polygon")  # kinds with one region that has an extent

WHOLE_IMAGE = 0.9
"""A box over more of the image than this is taken for a refusal to choose (see `is_whole_image`)."""


def single_box(answer: Answer) -> Box | None:
    """The one box of an answer that was read without doubt; None for none, several different ones, or bad status."""
    if not answer.ok or not answer.boxes:
        return None
    first = answer.boxes[0]
    for other in answer.boxes[1:]:
        if other.xyxy != first.xyxy or other.image != first.image:
            return None
    return first


def single_click(answer: Answer, max_area: float = WHOLE_IMAGE, target: Box | None = None) -> Point | None:
    """Where the one click of an answer lands: its only point, else the center of its only box.

    A box over more than `max_area` of the image is no click, because its center says nothing about the target; unless
    it is half right about the box of the target (`is_whole_image`), where that is given.
    """
    if not answer.ok:
        return None
    if answer.points:
        first = answer.points[0]
        for other in answer.points[1:]:
            if (other.x, other.y, other.image) != (first.x, first.y, first.image):
                return None
        return first
    box = single_box(answer)
    if box is None:
        return None
    refuses = box.area > max_area if target is None else is_whole_image(box, target, max_area)
    return None if refuses else box.center


def target_box(sample: Sample) -> Box:
    """The target's box (a polygon's bounds), which must have an area.

    Raises:
        BrokenRow: the box is a line or a dot, so that no answer could ever be right.
    """
    target = sample.target
    box = target.bounds if isinstance(target, Polygon) else target
    if not isinstance(box, Box):
        raise TypeError(f"sample {sample.id!r} has a target of kind {sample.kind!r}, not a box")
    if box.area <= 0.0:
        raise BrokenRow(sample.id, f"target box {box.xyxy} has no area; drop the row or widen the box")
    return box


def overlap(a: Box, b: Box) -> float:
    """IoU of two boxes in [0, 1]; 0 when they lie in different images."""
    return min(iou_pair(a.xyxy, b.xyxy), 1.0) if a.image == b.image else 0.0


def is_whole_image(box: Box, target: Box, max_area: float) -> bool:
    """Whether a box is too large to be an answer: over `max_area` of the image without being half right (IoU < 0.5).

    Without this rule the box of the whole image earns the target's area for nothing.
    """
    return box.area > max_area and not at_least(overlap(box, target), 0.5)

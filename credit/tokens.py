"""What the text says about each response token: where it stands, what it belongs to, what it points at.

All results are tensors whose first axis is the batch, so that they travel with TRL's own through shuffling and
splitting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attention.response import Reader, TextReader, coordinate_flags
from grounding.answer import Answer, ImageSize
from grounding.geometry import iou, point_in_box
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon

LISTED = re.compile(r"[\[(]\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){1,3}\s*[\])]")
SENTENCE_END = re.compile(r"(?:[.!?](?=\s|<|$)|\n|</think>|</answer>)\s*")


def sentence_ranges(text: str) -> list[tuple[int, int]]:
    """Character ranges of the sentences: up to a full stop, question or exclamation mark before a space, a line end,
    or a closing tag. They cover the text without gaps."""
    ranges, start = [], 0
    for match in SENTENCE_END.finditer(text):
        if match.end() > start:
            ranges.append((start, match.end()))
            start = match.end()
    if start < len(text):
        ranges.append((start, len(text)))
    return ranges


def rightness(answer: Answer, sample: Sample) -> float | None:
    """How right the region is that a piece of a thought names, in [0, 1]; None when nothing can be compared.

    A box is as right as its largest IoU with a target box; a point, or a box where the target is a point, is right
    (1) or wrong (0) by lying inside (containing it).
    """
    targets = [r.bounds if isinstance(r, Polygon) else r for r in regions_of(sample.target)]
    targets = [r for r in targets if isinstance(r, (Box, Point))]
    if not targets or not (answer.boxes or answer.points):
        return None
    best = 0.0
    for target in targets:
        for box in answer.boxes:
            if box.image != target.image:
                continue
            if isinstance(target, Box):
                best = max(best, float(iou(np.array(box.xyxy), np.array(target.xyxy))))
            else:
                best = max(best, float(point_in_box(np.array([target.x, target.y]), np.array(box.xyxy))))
        for point in answer.points:
            if point.image == target.image and isinstance(target, Box):
                best = max(best, float(point_in_box(np.array([point.x, point.y]), np.array(target.xyxy))))
    return best


def claims(text: str, thought_end: int, sizes: Sequence[ImageSize], sample: Sample, read: Reader) -> list[float]:
    """For each sentence of `sentence_ranges`, the rightness of the regions it names within the thought: the mean over
    its bracketed coordinates that can be compared, NaN where it names none."""
    values = []
    for start, end in sentence_ranges(text):
        found = []
        for match in LISTED.finditer(text, start, min(end, thought_end)):
            value = rightness(read(match.group(), sizes), sample)
            if value is not None:
                found.append(value)
        values.append(float(np.mean(found)) if found else float("nan"))
    return values


def annotate_response(
    reader: TextReader, ids: Sequence[int], sizes: Sequence[ImageSize], sample: Sample
) -> tuple[list[float], list[float], list[int]]:
    """Per token of one response: 1 for coordinates, the claim of its sentence (NaN for none), its sentence's index
    (-1 for tokens that are left out of the text)."""
    text, spans = reader.decoder.spans(ids)
    answer = reader.answer(text, sizes)
    coordinate = [float(flag) for flag in coordinate_flags(text, spans, answer)]
    thought_end = answer.char_span[0] if answer.char_span else max(text.rfind("</think>"), 0)
    ranges = sentence_ranges(text)
    values = claims(text, thought_end, sizes, sample, reader.piece)
    sentence, claim, at = [], [], 0
    for start, end in spans:
        while at < len(ranges) and ranges[at][1] <= start:
            at += 1
        known = end > start and at < len(ranges)
        sentence.append(at if known else -1)
        claim.append(values[at] if known else float("nan"))
    return coordinate, claim, sentence


def text_fields(
    reader: TextReader,
    ids: Tensor,
    mask: Tensor,
    sizes: Sequence[Sequence[ImageSize]],
    samples: Sequence[Sample],
) -> dict[str, Tensor]:
    """`coordinate`, `claim` and `sentence` of `annotate_response` for each response: (B, T) on the CPU.

    Args:
        ids: (B, T) response tokens.
        mask: (B, T) non-zero for tokens; what they are not has no coordinate (0), claim (NaN) or sentence (-1).
    """
    notes = [annotate_response(reader, *given) for given in zip(own_tokens(ids, mask), sizes, samples, strict=True)]
    empty = {"coordinate": 0.0, "claim": torch.nan, "sentence": -1}
    return {name: spread([note[at] for note in notes], mask, empty[name]) for at, name in enumerate(empty)}


def own_tokens(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens of each response, without padding."""
    return [own[kept.bool()].tolist() for own, kept in zip(ids.cpu(), mask.cpu(), strict=True)]


def spread(values: Sequence[Sequence[float]], mask: Tensor, empty: float) -> Tensor:
    """One value per token of each response, (B, T) with `empty` in the padding."""
    result = torch.full(mask.shape, empty)
    for index, own in enumerate(values):
        result[index, mask[index].bool().cpu()] = torch.tensor(own, dtype=result.dtype)
    return result

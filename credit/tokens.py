"""What the text says about each response token: where it stands, what it belongs to, what it points at.

All results are tensors whose first axis is the batch, so that they travel with TRL's own through shuffling and
splitting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from credit.capture import pretrained
from grounding.answer import Answer, ImageSize
from grounding.completion import check_grammar
from grounding.decoding import Decoder
from grounding.geometry import iou, point_in_box
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon

Reader = Callable[[str, Sequence[ImageSize]], Answer]  # reads an answer, or a piece of text that may hold one

NUMBER = re.compile(r"(?<![A-Za-z_\d.])\d+(?:\.\d+)?")  # the 2 of bbox_2d is part of a name
LISTED = re.compile(r"[\[(]\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){1,3}\s*[\])]")
SENTENCE_END = re.compile(r"(?:[.!?](?=\s|<|$)|\n|</think>|</answer>)\s*")


def overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Indices of the tokens with at least one character in [start, end)."""
    return [index for index, (low, high) in enumerate(spans) if max(low, start) < min(high, end)]


def coordinate_ranges(text: str, answer: Answer) -> list[tuple[int, int]]:
    """Character ranges of the numbers the answer was read from; the whole of it when it holds none
    (location tokens)."""
    if answer.where is None:
        return []
    start, end = answer.where
    numbers = [match.span() for match in NUMBER.finditer(text, start, end)]
    return numbers or [(start, end)]


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


def decoder_of(model: nn.Module, processor: Any, grammar: str = "think") -> Decoder:
    """How the completions of a policy, wrapped or not, are read."""
    config = pretrained(model).generation_config
    return Decoder.of(processor, None if config is None else config.eos_token_id, check_grammar(grammar))


@dataclass(frozen=True)
class TextReader:
    """How to read responses: their tokens, the whole response's answer, and what a piece of a thought points at."""

    decoder: Decoder
    answer: Reader
    piece: Reader


def annotate_response(
    reader: TextReader, ids: Sequence[int], sizes: Sequence[ImageSize], sample: Sample
) -> tuple[list[float], list[float], list[int]]:
    """Per token of one response: 1 for coordinates, the claim of its sentence (NaN for none), its sentence's index
    (-1 for tokens that are left out of the text)."""
    text, spans = reader.decoder.spans(ids)
    answer = reader.answer(text, sizes)
    coordinate = [float(flag) for flag in _coordinate(text, spans, answer)]
    thought_end = answer.where[0] if answer.where else max(text.rfind("</think>"), 0)
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


def answer_and_thought(
    reader: TextReader, ids: Sequence[int], sizes: Sequence[ImageSize]
) -> tuple[list[bool], list[bool]]:
    """Per token of one response: whether the answer's coordinates are read from it, and whether it stands before the
    answer. None of either where no answer can be read."""
    text, spans = reader.decoder.spans(ids)
    answer = reader.answer(text, sizes)
    border = 0 if answer.where is None else answer.where[0]
    return _coordinate(text, spans, answer), [start < end <= border for start, end in spans]


def _coordinate(text: str, spans: Sequence[tuple[int, int]], answer: Answer) -> list[bool]:
    coordinate = [False] * len(spans)
    for start, end in coordinate_ranges(text, answer):
        for index in overlaps(spans, start, end):
            coordinate[index] = True
    return coordinate


def merge_size(processor: Any) -> int:
    """How many patches of each side make one image token."""
    return getattr(getattr(processor, "image_processor", None), "merge_size", None) or 1


def image_cells(grids: Tensor, merge: int) -> list[tuple[int, int]]:
    """(rows, columns) of image tokens per image, from (N, 3) frames, rows and columns of patches; a video's frames
    stand one below the other."""
    return [(frames * rows // merge, columns // merge) for frames, rows, columns in grids.tolist()]


def region_coverage(ids: Tensor, image_token: int, grids: Sequence[tuple[int, int]], sample: Sample) -> Tensor:
    """Share of each token's image cell that the target covers, 0 for text.

    Args:
        ids: (P,) prompt; its image tokens are, image by image, the cells of the grids in reading order.
        grids: (rows, columns) of image tokens per image; for a video frame by frame.

    Returns:
        (P,) float32. A point fills the cell it lies in; overlapping targets add up to at most 1; a polygon counts as
        its bounding box. All 0 when the image tokens do not match the grids (a truncated prompt).
    """
    cover = torch.zeros(len(ids))
    places = (ids == image_token).nonzero().squeeze(-1)
    if len(places) != sum(rows * columns for rows, columns in grids):
        return cover
    parts = [
        sum(
            (
                _cells(region, rows, columns)
                for region in regions_of(sample.target)
                if getattr(region, "image", 0) == image
            ),
            torch.zeros(rows, columns),
        ).clamp(max=1.0)
        for image, (rows, columns) in enumerate(grids)
    ]
    if parts:
        cover[places.cpu()] = torch.cat([part.flatten() for part in parts])
    return cover


def _cells(region: Any, rows: int, columns: int) -> Tensor:
    """(rows, columns) share of each cell inside the region."""
    if isinstance(region, Polygon):
        region = region.bounds
    if isinstance(region, Point):
        cover = torch.zeros(rows, columns)
        cover[min(int(region.y * rows), rows - 1), min(int(region.x * columns), columns - 1)] = 1.0
        return cover
    if not isinstance(region, Box):
        return torch.zeros(rows, columns)
    across = _overlap(region.x1, region.x2, columns)
    down = _overlap(region.y1, region.y2, rows)
    return down[:, None] * across[None, :]


def _overlap(low: float, high: float, count: int) -> Tensor:
    """(count,) share of each of `count` equal cells of [0, 1] inside [low, high]."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    inside = torch.minimum(edges[1:], torch.tensor(high)) - torch.maximum(edges[:-1], torch.tensor(low))
    return (inside.clamp(min=0.0) * count).float()

"""Masks of the original image: drawn from outlines, read from COCO's run-length encoding, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.harness.items import XY, XYXY
from grounding.io import MAX_PIXELS

Mask = npt.NDArray[np.bool_]
TARGET, IGNORED = 1, 255


def sound(mask: Any) -> bool:
    """Whether this is a run-length encoding that can be decoded: the runs must add up to the area."""
    if not isinstance(mask, Mapping) or not {"size", "counts"} <= set(mask):
        return False
    size, counts = mask["size"], mask["counts"]
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        return False
    if size[0] * size[1] > MAX_PIXELS:
        return False
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        return False
    return sum(runs) == size[0] * size[1]


def _runs(counts: str) -> list[int] | None:
    """Run lengths from COCO's compressed text: five bits a character, from the third on relative to the one before
    the last. None when the text ends within a number or has a character outside of "0" to "o".
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs


def decode(mask: Mapping[str, Any]) -> Mask:
    """(height, width) of a `sound` mask."""
    height, width = mask["size"]
    runs = _runs(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"]
    # runs of 0 and 1 in turn, column by column
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def of_box(box: XYXY, width: int, height: int) -> Mask:
    """The filled box, edges rounded to whole pixels: the mask a box stands for."""
    mask = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = (max(0, round(c)) for c in box)
    mask[y1:y2, x1:x2] = True
    return mask


def painted(outlines: Sequence[tuple[int, Sequence[XY]]], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Outlines filled with their values, edges included, the largest first so that smaller ones stay on top.

    Vertices are cut to whole pixels, as LISA's data_processing.py does; it fills with OpenCV, whose edges can differ
    from these by a pixel.
    """

    def filled(value: int, points: Sequence[XY], onto: Image.Image) -> Image.Image:
        corners = [(int(x), int(y)) for x, y in points]
        ImageDraw.Draw(onto).polygon(corners, fill=value, outline=value)
        return onto

    areas = [np.count_nonzero(filled(1, points, Image.new("L", (width, height)))) for _, points in outlines]
    canvas = Image.new("L", (width, height))
    for index in np.argsort(areas, kind="stable")[::-1]:
        filled(*outlines[index], canvas)
    return np.asarray(canvas)


def overlap(predicted: Mask, truth: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Pixels in the intersection and in the union with `TARGET`; where truth is `IGNORED` nothing counts."""
    counted, target = truth != IGNORED, truth == TARGET
    intersection = np.count_nonzero(predicted & target)
    return intersection, np.count_nonzero((predicted | target) & counted)

"""Masks of the original image: drawn from outlines, read from COCO's run-length encoding, compared."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.harness.items import XY, XYXY
from grounding.errors import UsageError

Mask = npt.NDArray[np.bool_]
TARGET, IGNORED = 1, 255


def sound(mask: Any) -> bool:
    """Whether this is a run-length encoding that can be decoded: counts as a list must add up to the area."""
    if not isinstance(mask, Mapping) or not {"size", "counts"} <= set(mask):
        return False
    size, counts = mask["size"], mask["counts"]
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        return False
    if isinstance(counts, list):
        return all(isinstance(c, int) and c >= 0 for c in counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, str) and bool(counts) and counts.isascii()


def decode(mask: Mapping[str, Any]) -> Mask:
    """(height, width). Raises UsageError when pycocotools, which reads compressed counts, is not installed."""
    height, width = mask["size"]
    counts = mask["counts"]
    if isinstance(counts, list):  # runs of 0 and 1 in turn, column by column
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    try:
        tool = importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise UsageError("compressed masks need pycocotools: pip install pycocotools") from error
    return tool.decode({"size": [height, width], "counts": counts.encode()}).astype(bool)


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

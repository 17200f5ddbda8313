"""The row most GUI benchmarks share: image, box in pixels, instruction; and the base class for them.

ScreenSpot-Pro's own form, in which other sets are passed around as well::

    {"img_filename": "word_mac/shot.png", "bbox": [x1, y1, x2, y2], "img_size": [2560, 1440], "instruction": "...",
     "id": "word_macos_0", "application": "word", "platform": "macos", "ui_type": "text", "group": "Office"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.files import RowBenchmark, box, first, identity, picture, words
from benchmarks.harness.items import XYXY, BenchmarkItem, ItemImage, Truth

_NAMES = ("img_filename", "image_path", "img_path", "image")
_SIZES = ("img_size", "image_size")


class ClickBenchmark(RowBenchmark):
    """One click on one box.

    Attributes:
        axes: row keys whose values are sub-groups.
    """

    asks = "point"
    axes: ClassVar[Sequence[str]] = ()

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        groups = {axis: str(row[axis]) for axis in self.axes if isinstance(row.get(axis), str | int)}
        yield click_item(row, f"{file.stem}_{number}", box(row["bbox"]), groups)


def click_item(
    row: Mapping[str, Any], name: str, bbox: XYXY, groups: Mapping[str, str], instruction: str = "instruction"
) -> BenchmarkItem:
    """An item of such a row; the row's own `id` where it has one.

    Args:
        name: its id otherwise.
        bbox: pixels, corners.
        instruction: key of the words to use.
    """
    return BenchmarkItem(
        id=identity(row.get("id", name)),
        images=(picture_of(row),),
        instruction=words(row[instruction]),
        truth=Truth(boxes=(bbox,)),
        asks="point",
        groups=groups,
    )


def picture_of(row: Mapping[str, Any]) -> ItemImage:
    """The image a row names, with its size when the row has it."""
    size = next((row[key] for key in _SIZES if row.get(key)), (None, None))
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"img_size {size!r} is not [width, height]")
    return picture(first(row, _NAMES), *size)

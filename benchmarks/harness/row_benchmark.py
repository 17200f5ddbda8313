"""Benchmarks whose annotations are rows of a file. Where only the columns differ, a benchmark is a declaration.

ScreenSpot-Pro's own form, in which other sets are passed around as well::

    {"img_filename": "word_mac/shot.png", "bbox": [x1, y1, x2, y2], "img_size": [2560, 1440], "instruction": "...",
     "id": "word_macos_0", "application": "word", "platform": "macos", "ui_type": "text", "group": "Office"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.io.official_files import box, find, first, identity, naming, picture, words
from benchmarks.harness.io.row_files import read_rows
from benchmarks.harness.items import XYXY, BenchmarkItem, ItemImage, Rule, Truth

_IMAGES = ("img_filename", "image_path", "img_path", "image")
_SIZES = ("img_size", "image_size")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row hold what; of several names the first that is there counts.

    Attributes:
        id: the item's id, where rows have one.
        image, words: path of the image, the instruction.
        size: [width, height] in one column; or "width height", two of them.
        box: four numbers in one column; or "x1 y1 x2 y2", four of them.
    """

    id: str | None = "id"
    image: Sequence[str] = _IMAGES
    words: Sequence[str] = ("instruction",)
    size: Sequence[str] | str = _SIZES
    box: Sequence[str] | str = ("bbox",)


class RowBenchmark(Benchmark):
    """A benchmark whose annotations are rows of JSON, JSON lines, CSV or Parquet; by default, one box each.

    Attributes:
        patterns: file patterns below the data folder, per split; several files are read in order of their names.
            When the user gives a file instead of a folder, it is read as it is.
        parts: splits that the split "all" of a folder consists of.
        columns: what a row's columns hold.
        box_form: turns what stands in the box's column into corners: `box`, `corners` (of x, y, w, h), `unit_box` ...
        numbered: id of a row without one, of the `file` it is in and its `number` there; None where rows have ids.
        axes: columns whose values are sub-groups.
    """

    patterns: ClassVar[Mapping[str, Sequence[str]]]
    parts: ClassVar[Sequence[str]] = ()
    columns: ClassVar[Columns] = Columns()
    box_form: ClassVar[Callable[[Any], XYXY]] = staticmethod(box)
    numbered: ClassVar[str | None] = "{file}_{number}"
    axes: ClassVar[Sequence[str]] = ()

    def read(self, root: Path, split: str) -> Iterator[BenchmarkItem]:
        for part in self.parts if split == "all" and self.parts and root.is_dir() else (split,):
            for file in find(root, self.patterns, part, self.card.files):
                for number, (where, row) in enumerate(read_rows(file)):
                    with naming(where):
                        items = list(self.items_of(row, number, file, part))
                    yield from items

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        """The items of row `number` (from 0) of `file`. May raise what `naming` turns into `BrokenRow`."""
        name = self.numbered and self.numbered.format(file=file.stem, number=number)
        yield self.item(row, name, self.groups(row, file))

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        """The sub-group of a row on every axis."""
        return {axis: str(row[axis]) for axis in self.axes if isinstance(row.get(axis), str | int)}

    def item(
        self, row: Mapping[str, Any], name: str | None, groups: Mapping[str, str], bbox: XYXY | None = None
    ) -> BenchmarkItem:
        """The item of such a row.

        Args:
            name: its id, where the row has none; None refuses such a row.
            bbox: pixels, corners; by default what the row says.
        """
        columns = self.columns
        if bbox is None:
            four = (
                [row[key] for key in columns.box.split()] if isinstance(columns.box, str) else first(row, columns.box)
            )
            bbox = self.box_form(four)
        asked = row[columns.words[0]] if len(columns.words) == 1 else first(row, columns.words)
        return BenchmarkItem(
            id=identity(name if columns.id is None or (name and columns.id not in row) else row[columns.id]),
            images=(picture_of(row, columns),),
            instruction=words(asked),
            truth=Truth(boxes=(bbox,)),
            answer_kind=self.answer_kind,
            groups=groups,
        )


class ClickBenchmark(RowBenchmark):
    """One click on one box, edges included."""

    answer_kind = "point"
    rule = Rule(boundary="closed")


def picture_of(row: Mapping[str, Any], columns: Columns = Columns()) -> ItemImage:
    """The image a row names, with its size when the row has it."""
    if isinstance(columns.size, str):
        return picture(first(row, columns.image), *(row.get(key) for key in columns.size.split()))
    size = next((row[key] for key in columns.size if row.get(key)), (None, None))
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"img_size {size!r} is not [width, height]")
    return picture(first(row, columns.image), *size)

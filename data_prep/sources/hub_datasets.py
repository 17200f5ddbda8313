"""Any data set of the Hugging Face Hub, or any .parquet / .jsonl / .json, through a mapping in YAML.

    # python -m data_prep hub --mapping lisa.yaml --root DIR --out data/lisa
    name: lisa_grounding            # what `source` of the rows says
    license: Apache-2.0
    files: [data/train-*.parquet]   # below --root: .parquet, .jsonl, .json (an array), .csv; or, from the Hub:
    # hub: {path: omlab/LISA, name: null, split: train}
    split: train                    # a name, or {column: split}
    image: image                    # a column with bytes, {"bytes": ...}, a path, or a list of these
    image_folder: images
    instruction: problem            # a column, or a text with columns in braces: "Find {caption}."
    target:
      kind: box                     # box, boxes, point, points, span, text_box, absent
      column: solution              # dotted names reach into objects: objects.bbox
      fields: null                  # numbers in fields of their own: [x, y, width, height], in `column` or the row
      image: null                   # of several images, the one meant: a number from 0, or a column with it
      format: xyxy                  # xyxy, xywh, yxyx, cxcywh; for points xy or yx
      unit: pixel                   # pixel, percent, fraction, or the number that stands for a whole side: 1000
      text: answer                  # the answer's column, for text_box
    each: null                      # a column that holds a list: one sample an element, its fields beside the row's
    where: {type: human}            # only rows with these values
    thought: null                   # a column
    meta: [type]                    # columns to keep

Numbers in fields of their own, for example: CreateML has `{each: annotations, instruction: label, target: {kind: box,
column: coordinates, fields: [x, y, width, height], format: cxcywh}}`, Visual Genome `{each: regions, instruction:
phrase, target: {kind: box, fields: [x, y, width, height], format: xywh}}`, Label Studio `{each: annotations.0.result,
instruction: value.rectanglelabels.0, target: {kind: box, column: value, fields: [x, y, width, height], format: xywh,
unit: percent}}`.

Data sets that need code of their own to load are refused.
"""

from __future__ import annotations

import json
import string
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from data_prep import SPLITS, Item, Reject, Split, source
from data_prep.pipeline import spaces
from data_prep.pipeline.conversion import (
    BOX_FORMATS,
    POINT_FORMATS,
    SLACK,
    Rejected,
    box_from_xyxy,
    convert_rows,
    in_pixels,
    instruction,
    number,
    numbered,
    point_from_xy,
)
from data_prep.pipeline.images import ImageFolder, from_bytes
from data_prep.pipeline.presets import Conversion, Picture
from data_prep.pipeline.readers import Row, elsewhere, read_rows, require
from data_prep.pipeline.spaces import Spaces
from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.sample import ImageRef, Sample
from grounding.settings import Section
from grounding.targets import Absent, Box, Boxes, Point, Points, Span, Target, TextBox


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--mapping", type=Path, required=True, help="YAML file; see the top of data_prep/sources/hub_datasets.py"
    )
    spaces.add_arguments(parser)


def _files(args: Namespace, mapping: Mapping) -> list[Path]:
    if args.root is None:
        raise UsageError("--root is needed: the mapping names files")
    found: list[Path] = []
    for pattern in mapping.files:
        matches = sorted(path for path in args.root.glob(pattern) if path.is_file())
        if not matches:
            raise UsageError(
                f"{args.mapping}: files: nothing matches {pattern} in {args.root}{elsewhere(args.root, pattern)}"
            )
        found += matches
    return found


def _mapping(args: Namespace) -> Mapping:
    try:
        content = yaml.safe_load(require(args.mapping).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{args.mapping}: {error}") from error
    return Mapping.from_mapping(content, f"{args.mapping}:")


def _inputs(args: Namespace) -> list[Path]:
    mapping = _mapping(args)
    return [args.mapping, *(_files(args, mapping) if mapping.files else ())]


@source(
    "hub",
    reads="any Hub data set, Parquet or JSON, through --mapping FILE.yaml",
    license="given in the mapping",
    add_arguments=add_arguments,
    inputs=_inputs,
    needs_root=False,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    mapping = _mapping(args)

    def rows() -> Iterator[tuple[str, Any]]:
        if mapping.files:
            for path in _files(args, mapping):
                yield from read_rows(path)
        else:
            yield from _stream(mapping.hub)

    statistics = Spaces(f"{args.mapping}: target.unit {mapping.target.unit}", args)
    one = partial(mapping.convert, mapping.run(args, statistics))
    return statistics.watch(convert_rows(mapping.explode(rows()), one))


def _stream(hub: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from datasets import Image, load_dataset  # noqa: PLC0415  slow to import, needed here only

    try:
        data = load_dataset(**hub, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"the Hub data set {hub.get('path')}: {error}") from error
    for column, feature in (data.features or {}).items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))  # the bytes, as they are
    for count, row in enumerate(data, 1):
        yield f"{hub['path']}:{count}", row


_UNITS = {"percent": 100.0, "fraction": 1.0}


class TargetMapping(Section):
    """Where the target stands and how it is written."""

    kind: Literal["box", "boxes", "point", "points", "span", "text_box", "absent"]
    column: str = ""
    fields: tuple[str, ...] = ()
    format: str = ""
    unit: Any = "pixel"
    text: str = ""
    image: Any = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = 2 if self.kind.startswith(("point", "span")) else 4
        if self.fields and len(self.fields) != count:
            raise ValueError(f"fields {list(self.fields)!r}: a {self.kind} has {count} numbers")
        if self.kind != "absent" and not self.column and not self.fields:
            raise ValueError("column or fields must say where the numbers stand")
        if self.kind in ("boxes", "points", "text_box") and not self.column:
            raise ValueError(f"column must name the list of {self.kind}")
        formats: list[str] = list(POINT_FORMATS if self.kind.startswith("point") else BOX_FORMATS)
        if self.format and self.format not in formats:
            raise ValueError(f"format {self.format!r}{nearest(self.format, formats)}")
        if (
            self.unit != "pixel"
            and self.unit not in _UNITS
            and (isinstance(self.unit, bool) or not _positive(self.unit))
        ):
            raise ValueError(f"unit {self.unit!r} is none of pixel, {', '.join(_UNITS)}, and no number above 0")
        if self.kind == "text_box" and not self.text:
            raise ValueError("text must name the answer's column")
        return self

    def read(self, row: dict[str, Any], images: Sequence[ImageRef], spaces: Spaces) -> Target:
        """The target of a row, canonical. Raises Rejected or KeyError."""
        if self.kind == "absent":
            return Absent()
        value = lookup(row, self.column) if self.column else row
        if self.kind == "span":
            start, end = (number(v, "span") for v in self._numbers(value, 2))
            return Span(start, end)
        several = self.kind in ("boxes", "points", "text_box")
        if several and not isinstance(value, list):
            raise Rejected("wrong format", f"{self.column} is not a list: {value!r}")
        image = self._image(row, images)
        read = self._point if self.kind.startswith("point") else self._box
        found = tuple(read(item, image, images[image], spaces) for item in (value if several else [value]))
        if not several:
            return found[0]
        if self.kind == "points":
            return Points(found) if found else Absent()  # type: ignore[arg-type]
        boxes: tuple[Box, ...] = found  # type: ignore[assignment]
        if self.kind == "text_box":
            return TextBox(str(lookup(row, self.text)), boxes)
        return Boxes(boxes) if boxes else Absent()

    def _image(self, row: dict[str, Any], images: Sequence[ImageRef]) -> int:
        if self.image is None:
            if len(images) > 1:
                raise Rejected("image not named", f"target.image must say which of {len(images)} images is meant")
            return 0
        index = number(self.image if isinstance(self.image, int) else lookup(row, self.image), "target.image")
        if index not in range(len(images)):
            raise Rejected("image not named", f"target.image {index:g} of {len(images)}, counted from 0")
        return int(index)

    def _numbers(self, value: Any, count: int) -> list[Any]:
        """The numbers of one region: a list, a JSON text of one, or the fields of an object."""
        if isinstance(value, str):
            value = json.loads(value)
        if self.fields:
            return [lookup(value, name) for name in self.fields]
        if isinstance(value, dict) and count == 2 and {"x", "y"} <= set(value):
            return [value[axis] for axis in (self.format or "xy")]
        if isinstance(value, dict):
            keys = ", ".join(map(str, value))
            raise Rejected("wrong format", f"an object with the fields {keys}: name the {count} in target.fields")
        if len(value) != count:
            raise Rejected("wrong format", f"{self.kind} {value!r} needs {count} numbers")
        return list(value)

    def _frame(self, image: ImageRef) -> tuple[float, float, float]:
        if self.unit == "pixel":
            return image.width, image.height, SLACK
        whole = _UNITS.get(self.unit) or float(self.unit)
        return whole, whole, whole / 500

    def _box(self, value: Any, index: int, image: ImageRef, spaces: Spaces) -> Box:
        corners = BOX_FORMATS[self.format or "xyxy"](*(number(v, "box") for v in self._numbers(value, 4)))
        width, height, slack = self._frame(image)
        spaces.add(corners, (image.width, image.height), (width, height))
        if self.unit == "pixel":
            in_pixels(corners, image.width, image.height)
        return box_from_xyxy(corners, width, height, image=index, slack=slack)

    def _point(self, value: Any, index: int, image: ImageRef, spaces: Spaces) -> Point:
        place = POINT_FORMATS[self.format or "xy"](*(number(v, "point") for v in self._numbers(value, 2)))
        width, height, slack = self._frame(image)
        spaces.add(place, (image.width, image.height), (width, height))
        return point_from_xy(place, width, height, image=index, slack=slack)


class Mapping(Section):
    """A checked mapping; the attributes are the keys of the YAML file."""

    name: str
    image: str
    instruction: str
    target: TargetMapping
    license: str = "unknown"
    files: tuple[str, ...] = ()
    hub: dict[str, Any] = Field({})
    split: str | dict[str, str] = "train"
    image_folder: str = "."
    each: str | None = None
    where: dict[str, Any] = Field({})
    thought: str | None = None
    meta: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.files) == bool(self.hub):
            raise ValueError("give either files or hub")
        if isinstance(self.split, str) and split_of(self.split) is None:
            raise ValueError(f"split {self.split!r} is none of {', '.join(SPLITS)}; a column is {{column: NAME}}")
        if "{" in self.instruction:
            list(string.Formatter().parse(self.instruction))
        if self.hub.get("trust_remote_code"):
            raise ValueError("hub.trust_remote_code: code of a data set is never run")
        return self

    def explode(self, rows: Iterable[Row]) -> Iterator[Row]:
        """(row, row with an element's fields) for each element of the column `each` that `where` asks for."""
        for where, row in rows:
            if not isinstance(row, dict):
                yield where, row if isinstance(row, Rejected) else Rejected("wrong format", f"a row that is {row!r}")
                continue
            elements = [(where, {})] if self.each is None else self._elements(where, row)
            for place, element in elements:
                if isinstance(element, Rejected):
                    yield place, element
                    continue
                inner = {**row, **element} if isinstance(element, dict) else row
                if all(inner.get(column) == value for column, value in self.where.items()):
                    yield place, (row, inner)

    def _elements(self, where: str, row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        try:
            elements = lookup(row, self.each or "")
        except KeyError:
            return [(where, Rejected("wrong format", f"no field {self.each!r}"))]
        if not isinstance(elements, list):
            return [(where, Rejected("wrong format", f"{self.each} is not a list"))]
        return numbered(where, elements)

    def run(self, args: Namespace, spaces: Spaces) -> Conversion:
        """A run of the source that the mapping describes."""
        root = args.root if args.root is not None else Path()
        folder = ImageFolder(root / self.image_folder, check=args.images != "none", decode=args.decode)
        return Conversion(self.name, self.license, args, folder, spaces)

    def convert(self, run: Conversion, where: str, pair: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[Item]:
        """The item of one of `explode`'s pairs; tells the run's `spaces` all numbers."""
        whole, row = pair
        stem = _stem(where)
        values = lookup(row, self.image)
        # width and height of an element are its own, those of the row its image's
        size = whole if self.image in whole or self.each is None else row
        pictures = [
            _image(value, f"{stem}-{index}" if index else stem, run.folder, size)
            for index, value in enumerate(values if isinstance(values, list) else [values])
        ]
        thought = None if self.thought is None else lookup(row, self.thought)
        if thought is not None and not isinstance(thought, str):
            raise Rejected("wrong format", f"thought is {type(thought).__name__}")
        asked = instruction(fill(self.instruction, row))
        target = self.target.read(row, [image for image, _ in pictures], run.spaces)
        meta = {column: _scalar(lookup(row, column)) for column in self.meta}
        yield run.item(where, pictures, asked, target, split=self._split(row), thought=thought, meta=meta)

    def _split(self, row: dict[str, Any]) -> Split:
        name = self.split if isinstance(self.split, str) else str(lookup(row, self.split["column"]))
        split = split_of(name)
        if split is None:
            raise Rejected("unknown split", name)
        return split


def split_of(name: str) -> Split | None:
    """The split that a name stands for: train, val or validation or dev, test or testA."""
    names: dict[str, Split] = {**{split: split for split in SPLITS}, "dev": "val"}
    return next((split for prefix, split in names.items() if name.lower().startswith(prefix)), None)


def _positive(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(value) > 0
    except (TypeError, ValueError):
        return False


def lookup(row: Any, column: str) -> Any:
    """The value of a column; dots reach into objects, and numbers into lists. Raises KeyError."""
    if isinstance(row, dict) and column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise KeyError(column)
    return value


def fill(template: str, row: dict[str, Any]) -> Any:
    """A column's value, or a text with columns in braces. Only names stand in braces: nothing is evaluated."""
    if "{" not in template:
        return lookup(row, template)
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(str(lookup(row, name)))
    return "".join(parts)


def _image(value: Any, name: str, folder: ImageFolder, row: dict[str, Any]) -> Picture:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return from_bytes(name, value, row.get("width"), row.get("height"))
    if isinstance(value, str):
        return folder(value.removeprefix("./"), row.get("width"), row.get("height"))
    raise Rejected("missing image", f"the row holds {type(value).__name__}")


def _scalar(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _stem(where: str) -> str:
    """A file name made of what locates the row."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in where)

"""What the columns of a table are: image, what is asked for, where it is. Names decide; what they leave open is asked

file_name, caption, xmin, ymin, xmax, ymax          one region a row
image, instruction, bbox                            a list, or a text of numbers
image, objects: {bbox: [...], category: [...]}      lists side by side, as in Hub data sets
image, annotations: [{label, bbox}, ...]            one region an element
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_prep.importing.records import MarkedRegion, Record
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.readers import Row
from data_prep.sources.detections import CAPTIONS
from data_prep.sources.hub_datasets import lookup, split_of
from grounding.errors import UsageError
from grounding.registry import nearest

IMAGE = ("image", "image_path", "img", "img_path", "file_name", "filename", "image_file", "image_filename", "photo",
         "image_name", "img_filename", "img_name", "screenshot", "screenshot_path", "img_url", "picture", "path",
         "file", "images", "file_path", "filepath", "image_id")  # fmt: skip
TEXT = ("instruction", "referring_expression", "expression", "caption", "captions", "phrase", "query", "question",
        "problem", "prompt", "command", "task", "goal", "sentence", "sentences", "description", "ref_exp",
        "text")  # fmt: skip
LABEL = ("label", "class", "category", "class_name", "category_name", "name", "label_name", "categories", "labels",
         "object", "cls")  # fmt: skip
BOX = ("bbox", "box", "bounding_box", "bbox_2d", "gt_bbox", "target_bbox", "target_bounding_box", "solution",
       "bboxes", "boxes", "rect", "region", "bounding_boxes")  # fmt: skip
POINT = ("point", "point_2d", "click", "click_point", "coordinate", "coordinates", "center", "points", "gt_point")
FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("xyxy", ("xmin", "ymin", "xmax", "ymax")),
    ("xyxy", ("x_min", "y_min", "x_max", "y_max")),
    ("xyxy", ("x1", "y1", "x2", "y2")),
    ("xyxy", ("x0", "y0", "x1", "y1")),
    ("xyxy", ("left", "top", "right", "bottom")),
    ("cxcywh", ("x_center", "y_center", "width", "height")),
    ("cxcywh", ("cx", "cy", "w", "h")),
    ("cxcywh", ("center_x", "center_y", "width", "height")),
    ("xywh", ("x", "y", "width", "height")),
    ("xywh", ("x", "y", "w", "h")),
    ("xywh", ("left", "top", "width", "height")),
    ("xy", ("x", "y")),
    ("xy", ("click_x", "click_y")),
)
SIDES = (("width", "height"), ("image_width", "image_height"), ("img_width", "img_height"), ("w", "h"))
ROLES = ("image", "instruction", "label", "box", "point")


@dataclass(frozen=True, slots=True)
class TableColumns:
    """What was taken for what; dotted names reach into objects.

    Attributes:
        text: what is asked for; `label` says that it is a class.
        places: the one column of a box or point (a list, a text of numbers, or several of them), or one a number.
        kind: box or point.
        formats: in which order the numbers may stand.
        each: a column that holds a list of objects, one a region; text and places are then names inside it.
        sides: the columns with the image's width and height.
        split: the column with the split.
    """

    image: str
    text: str
    label: bool
    places: tuple[str, ...]
    kind: str
    formats: tuple[str, ...]
    each: str | None = None
    sides: tuple[str, str] | None = None
    split: str | None = None

    def told(self) -> list[tuple[str, str]]:
        """What is printed."""
        inside = f"{self.each}[]." if self.each else ""
        text = f"{inside}{self.text}" + (" (a class: all of one image together)" if self.label else "")
        lines = [("image", self.image), ("asked for", text)]
        lines.append((self.kind, ", ".join(inside + place for place in self.places)))
        if self.sides:
            lines.append(("image size", ", ".join(self.sides)))
        return [*lines, ("split", self.split)] if self.split else lines


def find_columns(rows: Sequence[Mapping[str, Any]], named: Mapping[str, str], what: str) -> TableColumns:
    """The columns of a table by the names of its first rows.

    Args:
        rows: of the beginning.
        named: what the user said: one of `ROLES` -> a column, or with commas between several.
        what: the file, for messages.

    Raises:
        UsageError: naming what was not found, and the columns there are.
    """
    for role in named:
        if role not in ROLES:
            raise UsageError(f"--column {role}: no role{nearest(role, list(ROLES))}")
    outer = _columns(rows)
    for name in (each for value in named.values() for each in value.split(",")):
        if name not in outer and not any(_has(row, name) for row in rows):
            raise UsageError(f"--column {name!r}: {what} has no such column{nearest(name, list(outer))}")
    image = named.get("image") or _first(IMAGE, outer, _is_image)
    if image is None:
        raise _missing(what, "image", outer)
    lists = (
        name for name, value in outer.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    )
    each, inner = None, outer
    if not _places(outer, named) and (each := next(lists, None)) is not None:
        inner = _columns([one for row in rows for one in lookup(row, each)[:20] if isinstance(one, dict)])
    found = _places(inner, named)
    if found is None:
        raise _missing(what, "box", outer)
    kind, formats, places = found
    text, label = named.get("instruction"), False
    if text is None and "label" in named:
        text, label = named["label"], True
    if text is None:
        rest = {name: value for name, value in inner.items() if name not in places and name != image}
        text = _first((*TEXT, *CAPTIONS), rest, _is_text)
        if text is None:
            text, label = _first(LABEL, rest, _is_text), True
        if text is None and each is not None:  # one instruction for all regions of a row
            text, label = _first((*TEXT, *CAPTIONS), outer, _is_text), False
    if text is None:
        raise _missing(what, "instruction", outer)
    free = [name for name in outer if name not in places or each]
    sides = next((pair for pair in SIDES if set(pair) <= set(free)), None)
    split = next((name for name in ("split", "subset", "set", "partition") if name in outer), None)
    if split is not None and not all(split_of(str(row.get(split))) for row in rows):
        split = None
    return TableColumns(image, text, label, places, kind, formats, each, sides, split)


def without_sides_as_box(columns: TableColumns) -> TableColumns:
    """x, y, width, height where the last two are the image's: then x, y is a point."""
    width, height = columns.places[2:]
    return replace(columns, places=columns.places[:2], kind="point", formats=("xy",), sides=(width, height))


def _columns(rows: Iterable[Mapping[str, Any]], prefix: str = "") -> dict[str, Any]:
    """Dotted names with the first value that is not empty."""
    found: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Mapping) and not {"bytes", "path"} & set(value):
                for key, inner in _columns([value], f"{prefix}{name}.").items():
                    found.setdefault(key, inner)
            elif value not in (None, "", []):
                found.setdefault(f"{prefix}{name}", value)
    return found


def _first(known: Sequence[str], columns: Mapping[str, Any], fits: Callable[[Any], bool]) -> str | None:
    plain = {name: re.sub(r"\W+", "_", name.rpartition(".")[2].lower()).strip("_") for name in columns}
    return next((name for want in known for name in columns if plain[name] == want and fits(columns[name])), None)


def _places(
    columns: Mapping[str, Any], named: Mapping[str, str]
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """Kind, formats and columns of the numbers."""
    for kind, formats, known in (("box", ("xyxy", "xywh"), BOX), ("point", ("xy",), POINT)):
        if kind in named:
            names = tuple(named[kind].split(","))
            return kind, ("xyxy", "xywh", "cxcywh") if kind == "box" else formats, names
        if {"box", "point"} & set(named):
            continue
        column = _first(known, columns, lambda value, count=4 if kind == "box" else 2: _is_place(value, count))
        if column is not None:
            return kind, formats, (column,)
        for format, names in FIELDS if kind == "box" else ():
            for prefix in dict.fromkeys(
                name[: -len(names[0])] for name in columns if name.lower().endswith(names[0])
            ):
                own = tuple(next((c for c in columns if c.lower() == f"{prefix}{n}".lower()), "") for n in names)
                if all(own):
                    return ("point" if len(own) == 2 else "box"), (format,), own
    return None


def _is_image(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 1 and _is_image(value[0])
    return isinstance(value, (str, bytes)) or (isinstance(value, Mapping) and bool({"bytes", "path"} & set(value)))


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and _is_text(value[0])
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def numbers_of(value: Any) -> Any:
    """A list, or the list in a text: ``[1, 2, 3, 4]``, ``1 2 3 4``, ``(1, 2)``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return [part for part in re.split(r"[\s,;()\[\]]+", value) if part]


def _is_place(value: Any, count: int) -> bool:
    found = numbers_of(value)
    if not isinstance(found, list) or not found:
        return False
    if isinstance(found[0], list):
        return _is_place(found[0], count)
    try:
        return len(found) == count and all(isinstance(float(each), float) for each in found)
    except (TypeError, ValueError):
        return False


def _has(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a column, also inside the objects of a list."""
    if name.rpartition(".")[2] in {key for value in row.values() for key in _inner_keys(value)}:
        return True
    try:
        lookup(row, name)
    except KeyError:
        return False
    return True


def _inner_keys(value: Any) -> Iterable[str]:
    return value[0].keys() if isinstance(value, list) and value and isinstance(value[0], Mapping) else ()


def _missing(what: str, role: str, columns: Iterable[str]) -> UsageError:
    told = {"image": "an image", "box": "a box or a point", "instruction": "what is asked for"}[role]
    example = {"box": "box=NAME or box=LEFT,TOP,RIGHT,BOTTOM"}.get(role, f"{role}=NAME")
    return UsageError(f"{what}: no column looks like {told}; it has {', '.join(columns)}: say --column {example}")


def table_records(rows: Iterable[Row], columns: TableColumns, classes: Sequence[str] | None = None) -> Iterator[Row]:
    """The records of a table. Rows of one image are one record, as far as the image is a path.

    Args:
        rows: all of them.
        classes: the names of classes that the table has numbers for.
    """
    gathered: dict[tuple[str, Any], tuple[str, list[MarkedRegion], set[Any]]] = {}
    for where, row in rows:
        if isinstance(row, Rejected):
            yield where, row
            continue
        try:
            image, split, size, regions = _read(where, row, columns, classes)
        except KeyError as error:
            yield where, Rejected("wrong format", f"no field {error}")
            continue
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            yield where, Rejected("wrong format", str(error))
            continue
        if isinstance(image, str):
            _, own, sizes = gathered.setdefault((image, split), (where, [], set()))
            own.extend(regions)
            sizes.add(size)
        else:
            yield where, Record(image, regions, *size, split)
    for (image, split), (where, regions, sizes) in gathered.items():
        if len(sizes) > 1:
            yield (
                where,
                Rejected(
                    "image size differs", f"{image} is {' and '.join(map(str, sorted(sizes, key=str)))} in its rows"
                ),
            )
        else:
            yield where, Record(image, regions, *sizes.pop(), split)


def _read(
    where: str, row: Mapping[str, Any], columns: TableColumns, classes: Sequence[str] | None
) -> tuple[Any, Any, tuple[Any, Any], list[MarkedRegion]]:
    image = lookup(row, columns.image)
    image = image[0] if isinstance(image, list) and len(image) == 1 else image
    if isinstance(image, Mapping) and not image.get("bytes"):
        image = image.get("path")
    size = (None, None) if columns.sides is None else tuple(lookup(row, side) for side in columns.sides)
    split = None if columns.split is None else split_of(str(row[columns.split]))
    parts = [row] if columns.each is None else lookup(row, columns.each)
    regions: list[MarkedRegion] = []
    for count, part in enumerate(parts, 1):
        place = where if columns.each is None else f"{where}-{count}"
        try:
            text = lookup(part, columns.text)
        except KeyError:
            text = lookup(row, columns.text)
        found = [lookup(part, name) for name in columns.places]
        value = numbers_of(found[0]) if len(found) == 1 else found
        several = isinstance(value, list) and bool(value) and isinstance(value[0], list)
        values = value if several else [value]
        texts = text if isinstance(text, list) else [text] * len(values)
        if not several:  # one place with several wordings
            values = values * len(texts)
        if len(texts) != len(values):
            error = Rejected("wrong format", f"{len(values)} places and {len(texts)} names for them")
            regions.append(MarkedRegion(place, None, (), error=error))
            continue
        for number, (name, numbers) in enumerate(zip(texts, values, strict=True), 1):
            if type(name) is int and columns.label:
                name = classes[name] if classes and 0 <= name < len(classes) else str(name)  # noqa: PLW2901
            own = f"{place}-{number}" if len(values) > 1 else place
            regions.append(MarkedRegion(own, name, numbers, columns.kind, columns.label))  # type: ignore[arg-type]
    return image, split, size, regions  # type: ignore[return-value]

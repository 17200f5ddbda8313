"""The one sample schema, in memory and as a row on disk.

A row is what `datasets` reads without help: every row has the same columns and types whatever the target is.

    {"schema": 1, "id": "...", "images": [{"path": "images/7.png", "width": 96, "height": 96}],
     "instruction": "...", "source": "...", "license": "...", "thought": null, "meta": "{}",
     "target": {"kind": "box", "text": null,
                "regions": [{"coords": [0.1, 0.2, 0.3, 0.4], "image": 0, "label": null}]}}

`coords` are canonical: xyxy for boxes, xy for points, x y x y ... for polygons, seconds for spans.

A sample that is answered in several turns has one column more, the calls before the answer:

    "turns": [{"tool": "zoom", "region": {"coords": [0, 0, 0.5, 0.5], "image": 0, "label": null}, "thought": "..."}]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grounding.answer import ImageSize
from grounding.errors import BrokenRow
from grounding.targets import (
    TARGET_KINDS,
    Absent,
    Box,
    Boxes,
    Point,
    Points,
    Polygon,
    Span,
    Target,
    TextBox,
    Unlabeled,
    kind_of,
)
from grounding.wording import MARK, timed, words_alone

SCHEMA_VERSION = 1
COLUMNS = ("schema", "id", "images", "instruction", "target", "source", "license", "thought", "meta")
_COLUMNS = frozenset(COLUMNS)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a data set: POSIX path relative to the data set's folder, and its size in pixels."""

    path: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or type(self.width) is not int or type(self.height) is not int:
            raise ValueError(
                f"image {self.path!r} of {self.width!r} x {self.height!r}: a text and whole numbers needed"
            )
        if not self.path or self.path.startswith("/") or ".." in self.path.split("/") or "\\" in self.path:
            raise ValueError(f"image path {self.path!r} must be relative and stay inside the data set's folder")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"image {self.path!r} has size {self.width}x{self.height}")


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """A turn that leads to the answer: a call of a tool, and what comes of it is the tool's business.

    Attributes:
        tool: its name.
        region: what it is called with, canonical in the original image.
        thought: before the call; places in it as in `Sample.thought`.
    """

    tool: str
    region: Box | Point
    thought: str | None = None

    def __post_init__(self) -> None:
        if not self.tool.isidentifier():
            raise ValueError(f"tool {self.tool!r} is no name")
        if not isinstance(self.region, (Box, Point)):
            raise ValueError(f"a turn's region is a {type(self.region).__name__}; give a box or a point")


_ASKED_AS = {"polygon": "box", "absent": "box", "unlabeled": "box"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to point at.

    Attributes:
        id: unique within its data set.
        images: one or more; video is a list of frames.
        instruction: what to find, in the source's own words, without any prompt wrapping. Where the text says at
            which places the images stand, it has one `<image>` mark for each (`grounding.wording`).
        target: the right answer, canonical.
        source: name of the data source (`data_prep` registry) the row came from.
        license: SPDX identifier or the source's own words; "unknown" is a fact too.
        thought: verified reasoning that leads to the answer; coordinates in it are canonical, written as in
            `grounding.wording` (dialects convert them).
        meta: flat extra facts (split, group, ui_type, duration in seconds, ...); JSON scalars only. `frame_times`
            are the seconds of the images in their video, separated by blanks: the prompt tells them.
        turns: calls of tools before the answer, in order; `thought` is then that of the last turn.
    """

    id: str
    images: tuple[ImageRef, ...]
    instruction: str
    target: Target
    source: str
    license: str
    thought: str | None = None
    meta: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    turns: tuple[ToolTurn, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("id is empty")
        if not self.images:
            raise ValueError("no images")
        if not words_alone(self.instruction):
            raise ValueError("instruction is empty")
        marks = self.instruction.count(MARK)
        if marks and marks != len(self.images):
            raise ValueError(f"instruction has {marks} {MARK} marks, the sample has {len(self.images)} images")
        times = len(self.frame_times)
        if times not in (0, len(self.images)):
            raise ValueError(f"meta.frame_times has {times} times for {len(self.images)} images")
        for region in (*regions_of(self.target), *(turn.region for turn in self.turns)):
            index = getattr(region, "image", 0)
            if type(index) is not int or not 0 <= index < len(self.images):
                raise ValueError(f"target points into image {index}, the sample has {len(self.images)}")

    def __hash__(self) -> int:
        """Of what has a hash: `meta` has none."""
        return hash((self.id, self.images, self.instruction, self.target))

    @property
    def kind(self) -> str:
        """The target's kind: a key of `grounding.targets.TARGET_KINDS`."""
        return kind_of(self.target)

    @property
    def answer_kind(self) -> str:
        """What a prompt asks for: `meta["ask"]`, else the target's kind, or a box where that would give it away."""
        named = self.meta.get("ask")
        return str(named) if named else _ASKED_AS.get(self.kind, self.kind)

    @property
    def words(self) -> str:
        """The instruction without its `<image>` marks, for a reader who is not shown the images."""
        return words_alone(self.instruction)

    @property
    def question(self) -> str:
        """The instruction as a prompt is made of it: frames of a video come each with its time."""
        placed = MARK in self.instruction or not self.frame_times
        return self.instruction if placed else timed(self.frame_times) + self.instruction

    @property
    def frame_times(self) -> tuple[float, ...]:
        """Seconds at which the images stand in their video (`meta["frame_times"]`); empty for other images."""
        return tuple(float(time) for time in str(self.meta.get("frame_times", "")).split())

    @property
    def sizes(self) -> tuple[ImageSize, ...]:
        """Original sizes, for callers whose processor does not resize."""
        return tuple(ImageSize(image.width, image.height) for image in self.images)


def regions_of(target: Target) -> tuple[Box | Point | Polygon | Span, ...]:
    """The regions a target consists of; empty for `Absent` and `Unlabeled`."""
    if isinstance(target, (Boxes, Points)):
        return target.items
    if isinstance(target, TextBox):
        return target.boxes
    if isinstance(target, (Absent, Unlabeled)):
        return ()
    return (target,)


def _coords(region: Box | Point | Polygon | Span) -> list[float]:
    if isinstance(region, Box):
        return list(region.xyxy)
    if isinstance(region, Point):
        return [region.x, region.y]
    if isinstance(region, Span):
        return [region.start, region.end]
    return [value for vertex in region.vertices for value in vertex]


def to_row(sample: Sample) -> dict[str, Any]:
    """The sample as a row of plain JSON types; `from_row` is its exact inverse."""
    row = {
        "schema": SCHEMA_VERSION,
        "id": sample.id,
        "images": [{"path": i.path, "width": i.width, "height": i.height} for i in sample.images],
        "instruction": sample.instruction,
        "target": {
            "kind": sample.kind,
            "text": sample.target.text if isinstance(sample.target, TextBox) else None,
            "regions": [_encoded(region) for region in regions_of(sample.target)],
        },
        "source": sample.source,
        "license": sample.license,
        "thought": sample.thought,
        "meta": json.dumps(dict(sample.meta), ensure_ascii=False, sort_keys=True),
    }
    if sample.turns:  # other rows look as they always did
        row["turns"] = [
            {"tool": turn.tool, "region": _encoded(turn.region), "thought": turn.thought} for turn in sample.turns
        ]
    return row


def _encoded(region: Box | Point | Polygon | Span) -> dict[str, Any]:
    return {"coords": _coords(region), "image": getattr(region, "image", 0), "label": region.label}


def from_row(row: Mapping[str, Any], where: str = "row") -> Sample:
    """Read and validate a row.

    Args:
        row: a mapping with the columns of `COLUMNS`.
        where: what to call the row in an error, for instance ``"train.jsonl:17"``.

    Raises:
        BrokenRow: naming the row and what is wrong with it.
    """
    try:
        if row["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {row['schema']}, this Fovea reads {SCHEMA_VERSION}")
        if "licence" in row:  # the column's name in rows written before version 0.2
            row = {"license" if key == "licence" else key: value for key, value in row.items()}
        unknown = row.keys() - _COLUMNS - {"turns"}
        if unknown:
            raise ValueError(f"unknown column {sorted(unknown)[0]!r}")
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise KeyError(missing[0])
        for column in ("id", "instruction", "source", "license"):
            if not isinstance(row[column], str):
                raise ValueError(f"{column} is {row[column]!r:.40}, not a text")
        if row["thought"] is not None and not isinstance(row["thought"], str):
            raise ValueError("thought is neither a text nor null")
        return Sample(
            id=row["id"],
            images=tuple(ImageRef(i["path"], i["width"], i["height"]) for i in row["images"]),
            instruction=row["instruction"],
            target=_target(row["target"]),
            source=row["source"],
            license=row["license"],
            thought=row["thought"],
            meta=_meta(row["meta"]),
            turns=tuple(map(_turn, row.get("turns") or ())),
        )
    except KeyError as error:
        raise BrokenRow(where, f"column {error} is missing") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BrokenRow(where, str(error)) from error


def _turn(encoded: Mapping[str, Any]) -> ToolTurn:
    region, thought = encoded["region"], encoded["thought"]
    if thought is not None and not isinstance(thought, str):
        raise ValueError("a turn's thought is neither a text nor null")
    if len(region["coords"]) not in (2, 4):
        raise ValueError(f"a turn's region has {len(region['coords'])} numbers, needs 2 or 4")
    place = _point(region) if len(region["coords"]) == 2 else _box(region)
    return ToolTurn(encoded["tool"], place, thought)


def _target(encoded: Mapping[str, Any]) -> Target:
    kind = encoded["kind"]
    if kind not in TARGET_KINDS:
        raise ValueError(f"unknown target kind {kind!r}")
    regions = encoded["regions"]
    if kind in ("absent", "unlabeled"):
        return Absent() if kind == "absent" else Unlabeled()
    if kind in ("box", "point", "polygon", "span") and len(regions) != 1:
        raise ValueError(f"target {kind} has {len(regions)} regions, needs 1")
    if kind == "boxes":
        return Boxes(tuple(_box(r) for r in regions))
    if kind == "text_box":
        if not isinstance(encoded["text"], str):
            raise ValueError("target text_box has no text")
        return TextBox(encoded["text"], tuple(_box(r) for r in regions))
    if kind == "points":
        return Points(tuple(_point(r) for r in regions))
    region = regions[0]
    if kind == "box":
        return _box(region)
    if kind == "point":
        return _point(region)
    coords = region["coords"]
    if kind == "span":
        start, end = coords
        return Span(start, end, region["label"])
    if len(coords) % 2:
        raise ValueError("polygon has an odd number of coordinates")
    vertices = tuple(zip(coords[::2], coords[1::2], strict=True))
    return Polygon(vertices, region["image"], region["label"])


def _box(region: Mapping[str, Any]) -> Box:
    x1, y1, x2, y2 = region["coords"]
    return Box(x1, y1, x2, y2, region["image"], region["label"])


def _point(region: Mapping[str, Any]) -> Point:
    x, y = region["coords"]
    return Point(x, y, region["image"], region["label"])


def _meta(text: str) -> dict[str, Any]:
    """The object that a row's text of meta stands for. Raises ValueError for any other value."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("meta is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"meta is a {type(found).__name__} where an object is needed")
    for key, value in found.items():
        if value is not None and not isinstance(value, (str, int, float)):
            raise ValueError(f"meta.{key} is a {type(value).__name__}; give a text, a number, true, false or null")
    return found

"""Read anybody's predictions: raw text in a declared dialect, or coordinates in a declared space.

One JSON object per line, matched to the benchmark by `id` (and `rollout`, where there are several)::

    {"id": "web-17", "output": "click(start_box='(512,300)')"}          --dialect ui_tars
    {"id": "web-17", "point": [640, 211]}                               --space pixel
    {"id": "web-17", "box": [0.1, 0.2, 0.3, 0.4]}                       --space unit
    {"id": "web-17", "boxes": [[...], [...]], "scores": [0.9, 0.4], "labels": ["cat", "dog"], "images": [0, 1]}
    {"id": "v3", "span": [3.5, 12.0]}   {"id": "v3", "spans": [[...]], "scores": [...]}      seconds, no space
    {"id": "r5", "mask": {"size": [h, w], "counts": "..."}}    COCO run-length encoding, of the original image
    {"id": "v3", "span": [3.5, 12.0], "saliency": [0.1, ...]}    a score per clip of two seconds
    {"id": "web-17", "absent": true}    {"id": "web-17", "text": "42", "boxes": [...]}

`seen` gives [width, height] of every image as the model was shown it; space "resized" and the dialects that answer
in pixels of the resized image need it. The ground truth plays no part in any of this.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.harness import masks
from benchmarks.harness.items import MISSING, XY, Item, Prediction, from_answer, sizes_of
from benchmarks.harness.results import Reply, read_jsonl
from grounding.answer import ImageSize, Status
from grounding.dialects import get_dialect
from grounding.errors import BrokenRow, UsageError

SPACES = ("pixel", "resized", "unit", "thousand")
_KEYS = {"id", "rollout", "output", "point", "points", "box", "boxes", "span", "spans", "scores", "labels", "images",
         "absent", "text", "seen", "mask", "saliency"}  # fmt: skip

Sizes: TypeAlias = tuple[tuple[int, int], ...]
_STRAY = 0.02  # share of coordinates outside their space that is not worth a word
_SHOWN = 3  # ids named in a message


@dataclass(frozen=True, slots=True)
class Reading:
    """How the user declares the file to be read.

    Attributes:
        space: unit of the coordinate fields.
        dialect, grammar: how `output` is worded.
    """

    space: str | None = None
    dialect: str | None = None
    grammar: str = "bare"


def read_predictions(path: Path, items: Sequence[Item], reading: Reading) -> list[tuple[Item, Reply]]:
    """A reply for every item, in the benchmark's order; an item without a line gets one marked missing.

    Raises:
        UsageError: the file is empty, has a line for an unknown item or two for one, or its coordinates need a
            declaration that was not given.
        BrokenRow: a line that is not an object, has no id, or has an unknown key.
    """
    return match_rows(((f"{path}:{number}", row) for number, row in read_jsonl(path)), items, reading)


def match_rows(
    rows: Iterable[tuple[str, dict[str, Any]]], items: Sequence[Item], reading: Reading
) -> list[tuple[Item, Reply]]:
    """`read_predictions` for rows that are already in memory, each with its name."""
    known = {item.id: item for item in items}
    found: dict[tuple[str, int], Reply] = {}
    unknown: list[str] = []
    for where, row in rows:
        if "id" not in row:
            raise BrokenRow(where, "no 'id'; `python eval.py items` lists the ids of a benchmark")
        extra = set(row) - _KEYS
        if extra:
            raise BrokenRow(where, f"unknown key {sorted(extra)[0]!r}; known: {', '.join(sorted(_KEYS))}")
        key = (str(row["id"]), int(row.get("rollout", 0)))
        if key in found:
            raise BrokenRow(where, f"a second prediction for id {key[0]!r}; number several with 'rollout'")
        item = known.get(key[0])
        if item is None:
            unknown.append(f"{key[0]!r} ({where})")
            continue
        found[key] = read_row(row, item, reading, where)
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise UsageError(
            f"no such item in the benchmark: {', '.join(unknown[:_SHOWN])}{more}; list the ids with `eval.py items`"
        )
    rollouts = 1 + max((rollout for _, rollout in found), default=0)
    missing = Reply(MISSING, missing=True)
    return [(item, found.get((item.id, r), replace(missing, rollout=r))) for item in items for r in range(rollouts)]


def read_row(row: dict[str, Any], item: Item, reading: Reading, where: str) -> Reply:
    """One line, read as declared. Raises UsageError when the declaration does not cover it."""
    seen = _seen(row.get("seen"), item, where)
    if "output" in row:
        if reading.dialect is None:
            raise UsageError(f"{where}: has raw text in 'output': say --dialect NAME")
        return read_output(str(row["output"]), item, reading, seen, rollout=int(row.get("rollout", 0)))
    return Reply(
        _coordinates(row, item, reading.space, seen, where), rollout=int(row.get("rollout", 0)), seen=seen or ()
    )


def read_output(
    output: str,
    item: Item,
    reading: Reading,
    seen: Sizes | None,
    *,
    rollout: int = 0,
    cost: dict[str, int] | None = None,
) -> Reply:
    """A raw output, parsed by the declared dialect with what the benchmark asks for."""
    dialect = get_dialect(reading.dialect)
    if not all(p.known for p in item.images) and dialect.space.scale is not None:
        raise UsageError(
            f"item {item.id!r}: dialect {reading.dialect!r} answers in parts of the image, whose size is not known; "
            "put the images into the data folder"
        )
    sizes = sizes_of(item, seen) or (ImageSize(1, 1),)
    answer = dialect.parse(output, sizes, grammar=reading.grammar, expect=item.asks)
    prediction = from_answer(answer, item)
    return Reply(prediction, output, rollout, seen or (), cost=cost or {})


def _seen(value: Any, item: Item, where: str) -> Sizes | None:
    if value is None:
        return None
    sizes = [value] if value and not isinstance(value[0], list) else value
    if len(sizes) != len(item.images) or any(len(s) != 2 for s in sizes):
        raise BrokenRow(where, f"'seen' needs [width, height] for each of {len(item.images)} images")
    return tuple((int(w), int(h)) for w, h in sizes)


def _coordinates(row: dict[str, Any], item: Item, space: str | None, seen: Sizes | None, where: str) -> Prediction:
    boxes = _numbers(row, "box", "boxes", 4)
    points = _numbers(row, "point", "points", 2)
    spans = _numbers(row, "span", "spans", 2)
    listed = [row[key] for key in ("boxes", "points", "spans") if row.get(key) is not None]
    text, absent = row.get("text"), bool(row.get("absent", False)) or (bool(listed) and not any(listed))
    mask, saliency = row.get("mask"), tuple(float(s) for s in row.get("saliency") or ())
    if mask is not None and not masks.sound(mask):
        raise BrokenRow(where, "'mask' needs COCO's run-length encoding, with the keys 'size' and 'counts'")
    if boxes is None or points is None or spans is None:
        return Prediction(Status.MALFORMED)
    if not (boxes or points or spans or absent or saliency or text is not None or mask is not None):
        return Prediction(Status.NO_ANSWER)
    if (boxes or points) and space not in SPACES:
        raise UsageError(f"{where}: has coordinates: say their unit with --space {'|'.join(SPACES)}")
    images = tuple(int(i) for i in row.get("images") or [0] * len(boxes or points))
    if len(images) != len(boxes or points) or any(not 0 <= i < max(1, len(item.images)) for i in images):
        raise BrokenRow(where, "'images' needs one valid image index per box or point")
    frame = Frame(item, space, seen, where)
    placed_boxes = tuple(frame.place(b, i) for b, i in zip(boxes, images, strict=False))
    placed_points = tuple(frame.place(p, i) for p, i in zip(points, images, strict=False))
    in_range = all(within(b, item, i) for b, i in zip(placed_boxes, images, strict=False)) and all(
        within(p, item, i) for p, i in zip(placed_points, images, strict=False)
    )
    return Prediction(
        status=Status.OK if in_range else Status.OUT_OF_RANGE,
        strict=in_range,
        boxes=placed_boxes,
        points=placed_points,
        spans=spans,
        images=images,
        labels=tuple(row.get("labels") or ()),
        scores=tuple(float(s) for s in row.get("scores") or ()),
        text=None if text is None else str(text),
        absent=absent,
        mask=mask,
        saliency=saliency,
    )


def _numbers(row: dict[str, Any], one: str, many: str, width: int) -> tuple[tuple[float, ...], ...] | None:
    """Tuples of `width` finite floats; None when something is there that is not that."""
    value = row.get(many) if row.get(one) is None else [row[one]]
    if value is None:
        return ()
    try:
        result = tuple(tuple(float(c) for c in entry) for entry in value)
    except (TypeError, ValueError):
        return None
    sound = all(len(entry) == width and all(map(math.isfinite, entry)) for entry in result)
    return result if sound else None


@dataclass(frozen=True, slots=True)
class Frame:
    """From a declared space to an item's frame.

    Attributes:
        space: one of `SPACES`.
        seen: sizes the model was shown, for space "resized".
        where: the line, for errors.
    """

    item: Item
    space: str | None
    seen: Sizes | None
    where: str

    def place(self, coords: Sequence[float], image: int) -> tuple[float, ...]:
        """Coordinates in the item's frame; nothing is clamped or reordered. Raises UsageError without a size."""
        if self.space == self.item.frame:
            return tuple(coords)
        if self.space == "pixel":
            fx, fy = self._size(image)
            return tuple(c / (fy if i % 2 else fx) for i, c in enumerate(coords))
        sx, sy = (1.0, 1.0) if self.item.frame == "unit" else self._size(image)
        if self.space == "resized":
            if self.seen is None:
                raise UsageError(
                    f"{self.where}: pixels of the resized image need the resized size: give 'seen': [[width, height]]"
                )
            dx, dy = self.seen[image]
        else:
            dx = dy = 1000 if self.space == "thousand" else 1
        return tuple(c / (dy if i % 2 else dx) * (sy if i % 2 else sx) for i, c in enumerate(coords))

    def _size(self, image: int) -> XY:
        pictures = self.item.images
        if not pictures or not pictures[image].known:
            raise UsageError(
                f"{self.where}: the size of the image of item {self.item.id!r} is needed but not in the annotations; "
                "put the images into the data folder, or give coordinates in the benchmark's own unit"
            )
        return float(pictures[image].width), float(pictures[image].height)


def within(coords: Sequence[float], item: Item, image: int) -> bool:
    """Inside the image and, for boxes, corners in order; True when the size is unknown and nothing is negative."""
    sx, sy = item.scale(image)
    inside = all(0 <= c <= (sy if i % 2 else sx) for i, c in enumerate(coords))
    return inside and (len(coords) < 4 or (coords[0] <= coords[2] and coords[1] <= coords[3]))


def space_warning(rows: Iterable[dict[str, Any]], items: Sequence[Item], space: str) -> str | None:
    """A sentence when the numbers of a file do not look like the space they are declared in; changes nothing.

    Judged from the coordinates and the image sizes alone.
    """
    sizes = {item.id: [(p.width, p.height) for p in item.images] for item in items}
    places = [place for row in rows for place in _places(row, sizes.get(str(row.get("id"))))]
    if not places:
        return None
    fits = Counter[str]()
    for x, y, width, height in places:
        fits["unit"] += 0 <= x <= 1 and 0 <= y <= 1
        fits["thousand"] += 0 <= x <= 1000 and 0 <= y <= 1000
        fits["pixel"] += 0 <= x <= (width or math.inf) and 0 <= y <= (height or math.inf)
    total = len(places)
    if fits["unit"] == total and space != "unit":
        return f"every coordinate lies in [0, 1]: space 'unit' is likelier than {space!r}; scored as declared"
    declared = "pixel" if space == "resized" else space
    outside = 1 - fits[declared] / total
    if outside <= _STRAY:
        return None
    best = max((s for s in ("thousand", "pixel") if s != declared), key=lambda s: fits[s])
    advice = f"; space {best!r} is likelier" if fits[best] / total > 1 - outside else ""
    return f"{outside:.1%} of the coordinates lie outside space {space!r}{advice}; scored as declared"


def _places(row: dict[str, Any], images: Sequence[tuple[int, int]] | None) -> Iterator[tuple[float, float, int, int]]:
    """(x, y, image width, image height) of every point and every corner of a row."""
    pairs = [(pair, i) for i, pair in enumerate(_numbers(row, "point", "points", 2) or ())]
    for i, four in enumerate(_numbers(row, "box", "boxes", 4) or ()):
        pairs += [(four[:2], i), (four[2:], i)]
    chosen = row.get("images") or []
    for (x, y), i in pairs:
        image = int(chosen[i]) if i < len(chosen) else 0
        width, height = images[image] if images and image < len(images) else (0, 0)
        yield x, y, width, height

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
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.harness.io.official_files import identity, listed, naming, numbers
from benchmarks.harness.io.results import ItemReply
from benchmarks.harness.io.row_files import KEY, Place, Row, row_at
from benchmarks.harness.items import MISSING, BenchmarkItem, Prediction
from benchmarks.harness.official_frame import DeclaredSpace, Sizes, from_answer, sizes_of, within
from benchmarks.harness.scoring import masks
from grounding.answer import Answer, ImageSize, Status
from grounding.crops import Crop
from grounding.dialects import get_dialect
from grounding.errors import BrokenRow, UsageError

SPACES = ("pixel", "resized", "unit", "thousand")
_KEYS = {"id", "rollout", "output", "point", "points", "box", "boxes", "span", "spans", "scores", "labels", "images",
         "absent", "text", "seen", "mask", "saliency", KEY}  # fmt: skip
_ANSWERS = ("output", "point", "points", "box", "boxes", "span", "spans", "absent", "text", "mask", "saliency")

_EITHER = (("box", "boxes"), ("point", "points"), ("span", "spans"))
_STRAY = 0.02  # share of coordinates outside their space that is not worth a word
_MANY = 0.2  # share outside from which on another space may be meant; models do miss the edge of an image
_SHOWN = 3  # ids named in a message


@dataclass(frozen=True, slots=True)
class PredictionFormat:
    """How the user declares the file to be read.

    Attributes:
        space: unit of the coordinate fields.
        dialect, grammar: how `output` is worded.
    """

    space: str | None = None
    dialect: str | None = None
    grammar: str = "bare"


class Predictions:
    """Rows of predictions by item and rollout. Of a file of JSON lines only their places stay in memory.

    Args:
        rows: each with its name, and its place in `path`, None for rows that are to be kept.

    Raises:
        BrokenRow: a row has no id, a key that no prediction has, or the id and rollout of another row.
    """

    def __init__(self, rows: Iterable[tuple[Row, Place | None]], path: Path | None = None):
        self._path = path
        self._lines, self._starts, self._kept = array("q"), array("q"), dict[int, Row]()
        self._numbers: dict[int, dict[str, int]] = defaultdict(dict)  # rollout, id: number of the row
        count, last = 0, ("", 0, "")
        for number, ((where, row), place) in enumerate(rows):
            name, rollout = _id(row, where), _rollout(row, where)
            extra = set(row) - _KEYS
            if extra:
                raise BrokenRow(where, f"unknown key {sorted(extra)[0]!r}; known: {', '.join(sorted(_KEYS - {KEY}))}")
            last = max(last, (where, rollout, name), key=lambda entry: entry[1])
            if self._numbers[rollout].setdefault(name, number) != number:
                raise BrokenRow(where, f"a second prediction for id {name!r}; number several with 'rollout'")
            if place is None:
                self._kept[number] = where, row
            else:
                self._lines.append(place[0])
                self._starts.append(place[1])
            count += 1
        where, highest, name = last
        if highest >= max(count, 1):
            raise BrokenRow(
                where, f"rollout {highest} of id {name!r}: they are numbered from 0, and the file has {count} lines"
            )
        self._rollouts = 1 + highest

    def replies(
        self, items: Iterable[BenchmarkItem], reading: PredictionFormat, check: SpaceCheck | None = None
    ) -> Iterator[tuple[BenchmarkItem, ItemReply]]:
        """A reply to every item, in the items' order; an item without a row gets one marked missing. Only once.

        Args:
            check: is shown the rows.

        Raises:
            UsageError: a row is for an unknown item, or its coordinates need a declaration that was not given.
            BrokenRow: a value that no prediction has.
        """
        missing = [ItemReply(MISSING, rollout=rollout, missing=True) for rollout in range(self._rollouts)]
        with self._path.open("rb") if self._path else nullcontext() as file:
            for item in items:
                for rollout, none in enumerate(missing):
                    number = self._numbers[rollout].pop(item.id, None)
                    if number is None:
                        yield item, none
                        continue
                    where, row = self._row(number, file)
                    if check is not None:
                        check.add(row, item)
                    yield item, read_row(row, item, reading, where)
            left = sorted(number for numbers in self._numbers.values() for number in numbers.values())
            if left:
                shown = [self._row(number, file) for number in left[:_SHOWN]]
                more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
                names = ", ".join(f"{_id(row, where)!r} ({where})" for where, row in shown)
                raise UsageError(f"no such item in the benchmark: {names}{more}; list the ids with `eval.py items`")

    def _row(self, number: int, file: BinaryIO | None) -> Row:
        if file is None or number in self._kept:
            return self._kept[number]
        return f"{self._path}:{self._lines[number]}", row_at(file, self._starts[number])


def match_rows(
    rows: Iterable[Row], items: Iterable[BenchmarkItem], reading: PredictionFormat
) -> list[tuple[BenchmarkItem, ItemReply]]:
    """`Predictions.replies` for rows in memory, each with its name."""
    return list(Predictions((row, None) for row in rows).replies(items, reading))


def _id(row: dict[str, Any], where: str) -> str:
    """The row's id: its own, or its key in an object of rows by id."""
    value = row.get("id", row.get(KEY))
    if value is None:
        raise BrokenRow(where, "no 'id'; `python eval.py items` lists the ids of a benchmark")
    with naming(where):
        name = identity(value)
    if KEY in row and row[KEY] != name:
        raise BrokenRow(where, f"its 'id' is {name!r}, its key in the file {row[KEY]!r}")
    return name


def _rollout(row: dict[str, Any], where: str) -> int:
    value = row.get("rollout", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BrokenRow(where, f"'rollout' is a whole number from 0, this is {value!r}")
    return value


def read_row(row: dict[str, Any], item: BenchmarkItem, reading: PredictionFormat, where: str) -> ItemReply:
    """One line, read as declared. A line without an answer, or with nothing but null, is a missing one.

    Raises:
        UsageError: the declaration does not cover it.
        BrokenRow: a value of a kind no prediction has. Coordinates that cannot be read are a wrong answer instead.
    """
    row = {key: value for key, value in row.items() if value is not None}
    rollout, seen = _rollout(row, where), _seen(row.get("seen"), item, where)
    answers = [key for key in _ANSWERS if key in row]
    if not answers:
        return ItemReply(MISSING, rollout=rollout, missing=True)
    clash = answers if "output" in row else next((pair for pair in _EITHER if set(pair) <= set(row)), ())
    if len(clash) > 1:
        raise BrokenRow(where, f"has both {clash[0]!r} and {clash[1]!r}")
    if "output" not in row:
        return ItemReply(_coordinates(row, item, reading.space, seen, where), rollout=rollout, seen=seen or ())
    if not isinstance(row["output"], str):
        raise BrokenRow(where, f"'output' is the model's text, this is {row['output']!r:.60}")
    if reading.dialect is None:
        raise UsageError(f"{where}: has raw text in 'output': say --dialect NAME")
    needs_seen(reading, item, seen, where)
    return read_output(row["output"], item, reading, seen, rollout=rollout)


def needs_seen(reading: PredictionFormat, item: BenchmarkItem, seen: Sizes | None, where: str) -> None:
    """Raises UsageError when an output's pixels are those of a resized image whose size is not told."""
    in_pixels = get_dialect(reading.dialect).space.scale is None and item.answer_kind != "span"
    if in_pixels and seen is None and reading.space != "pixel":
        raise UsageError(
            f"{where}: dialect {reading.dialect!r} answers in pixels of the image as the model was shown it: give "
            "'seen': [[width, height]] in the line, or --space pixel where images were not resized"
        )


def read_output(
    output: str,
    item: BenchmarkItem,
    reading: PredictionFormat,
    seen: Sizes | None,
    *,
    rollout: int = 0,
    cost: dict[str, int] | None = None,
    episode: dict[str, Any] | None = None,
) -> ItemReply:
    """A raw output, parsed by the declared dialect with what the benchmark asks for.

    Args:
        episode: of an answer in several turns (`Output.episode`), whose numbers may be of a crop.
    """
    dialect = get_dialect(reading.dialect)
    in_parts = dialect.space.scale is not None or bool(seen)
    if item.answer_kind != "span" and in_parts != (item.frame == "unit") and not all(p.known for p in item.images):
        raise UsageError(
            f"item {item.id!r}: answers of dialect {reading.dialect!r} need the size of the image, which is not "
            "known; put the images into the data folder"
        )
    sizes = sizes_of(item, seen) or (ImageSize(1, 1),)
    answer = read_answer(output, sizes, reading, item.answer_kind, episode)
    prediction = from_answer(answer, item)
    turns = None if episode is None else episode["turns"]
    return ItemReply(prediction, output, rollout, seen or (), cost=cost or {}, turns=turns)


def read_answer(
    output: str,
    sizes: Sequence[ImageSize],
    reading: PredictionFormat,
    answer_kind: str,
    episode: dict[str, Any] | None = None,
) -> Answer:
    """What a raw output says, in the canonical frame of the whole images.

    Args:
        sizes: of the images, as the model saw them.
        episode: of an answer in several turns (`Output.episode`), whose numbers may be of a crop.
    """
    frame = (episode or {}).get("frame")
    if frame is not None:
        sizes = (ImageSize(*frame["size"]),)
    answer = get_dialect(reading.dialect).parse(output, sizes, grammar=reading.grammar, answer_kind=answer_kind)
    return answer if frame is None else Crop(frame["image"], tuple(frame["pixels"]), *frame["of"]).answer(answer)


def _seen(value: Any, item: BenchmarkItem, where: str) -> Sizes | None:
    if value is None:
        return None
    sizes = [value] if isinstance(value, list) and value and not isinstance(value[0], list) else value
    with naming(where):
        pairs = [numbers(size, 2) for size in listed(sizes)]
    if len(pairs) != len(item.images) or any(side < 1 or not side.is_integer() for pair in pairs for side in pair):
        raise BrokenRow(where, f"'seen' needs [width, height] in pixels for each of {len(item.images)} images")
    return tuple((int(w), int(h)) for w, h in pairs)


def _coordinates(
    row: dict[str, Any], item: BenchmarkItem, space: str | None, seen: Sizes | None, where: str
) -> Prediction:
    boxes = _numbers(row, "box", "boxes", 4)
    points = _numbers(row, "point", "points", 2)
    spans = _numbers(row, "span", "spans", 2)
    if boxes is None or points is None or spans is None:
        return Prediction(Status.MALFORMED)
    absent, text = row.get("absent", False), row.get("text")
    if not isinstance(absent, bool):
        raise BrokenRow(where, f"'absent' is true or false, this is {absent!r}")
    if isinstance(text, bool) or not isinstance(text, str | int | float | None):
        raise BrokenRow(where, f"'text' is words, this is {text!r:.60}")
    # An empty list says "nothing" where several are asked for; elsewhere it is what a script writes after a failure
    several = item.answer_kind in ("boxes", "points")
    absent = absent or (several and any(row.get(key) == [] for key in ("boxes", "points")))
    mask, saliency = row.get("mask"), _listed(row, "saliency", None, where)
    if mask is not None and not masks.sound(mask):
        raise BrokenRow(where, "'mask' needs COCO's run-length encoding, with the keys 'size' and 'counts'")
    if not (boxes or points or spans or absent or saliency or text is not None or mask is not None):
        return Prediction(Status.NO_ANSWER)
    if (boxes or points) and space not in SPACES:
        raise UsageError(f"{where}: has coordinates: say their unit with --space {'|'.join(SPACES)}")
    regions = boxes or points
    images = tuple(_listed(row, "images", len(regions), where)) or (0,) * len(regions)
    if not all(isinstance(i, int) and 0 <= i < max(1, len(item.images)) for i in images):
        raise BrokenRow(where, f"'images' holds indices of the {len(item.images)} images, from 0")
    labels = _listed(row, "labels", len(regions), where)
    if not all(isinstance(label, str | None) for label in labels):
        raise BrokenRow(where, "'labels' holds texts")
    scores = _listed(row, "scores", len(regions or spans), where)
    with naming(f"{where}: 'scores' or 'saliency'"):
        scores, saliency = numbers(scores), numbers(saliency)
    frame = DeclaredSpace(item, space, seen, where)
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
        labels=tuple(labels),
        scores=tuple(scores),
        text=None if text is None else str(text),
        absent=absent,
        mask=mask,
        saliency=tuple(saliency),
    )


def _listed(row: dict[str, Any], key: str, length: int | None, where: str) -> list[Any]:
    """The list under a key, [] without one. Raises BrokenRow: no list, or one of another length."""
    value = row.get(key, [])
    if not isinstance(value, list) or (key in row and length not in (None, len(value))):
        needed = "" if length is None else f" of {length}, one per answer"
        raise BrokenRow(where, f"{key!r} is a list{needed}; this is {value!r:.60}")
    return value


def _numbers(row: dict[str, Any], one: str, many: str, width: int) -> tuple[tuple[float, ...], ...] | None:
    """Tuples of `width` finite floats; None when something is there that is not that."""
    value = row.get(many) if row.get(one) is None else [row[one]]
    if value is None:
        return ()
    try:
        return tuple(tuple(numbers(entry, width)) for entry in listed(value)) if value != [] else ()
    except ValueError:
        return None


class SpaceCheck:
    """Counts the coordinates of rows that lie inside the space they are declared in, and in the others.

    Judged from the coordinates and the image sizes alone; changes nothing.
    """

    def __init__(self, space: str):
        self._space = space
        self._fits, self._total = Counter[str](), 0

    def add(self, row: dict[str, Any], item: BenchmarkItem | None) -> None:
        sizes = None if item is None else [(p.width, p.height) for p in item.images]
        for x, y, width, height in _places(row, sizes):
            self._total += 1
            self._fits["unit"] += 0 <= x <= 1 and 0 <= y <= 1
            self._fits["thousand"] += 0 <= x <= 1000 and 0 <= y <= 1000
            self._fits["pixel"] += 0 <= x <= (width or math.inf) and 0 <= y <= (height or math.inf)

    def warning(self) -> str | None:
        """A sentence when the numbers do not look like the declared space."""
        space, fits, total = self._space, self._fits, self._total
        if not total:
            return None
        if fits["unit"] == total and space != "unit":
            return f"every coordinate lies in [0, 1]: space 'unit' is likelier than {space!r}; scored as declared"
        declared = "pixel" if space == "resized" else space
        outside = 1 - fits[declared] / total
        if outside <= _STRAY:
            return None
        best = max((s for s in ("thousand", "pixel") if s != declared), key=lambda s: fits[s])
        likelier = outside >= _MANY and fits[best] / total > 1 - outside
        advice = f"; space {best!r} is likelier" if likelier else ""
        return f"{outside:.1%} of the coordinates lie outside space {space!r}{advice}; scored as declared"


def space_warning(rows: Iterable[dict[str, Any]], items: Sequence[BenchmarkItem], space: str) -> str | None:
    """The warning of `SpaceCheck` about rows in memory."""
    known = {item.id: item for item in items}
    check = SpaceCheck(space)
    for row in rows:
        check.add(row, known.get(str(row.get("id", row.get(KEY)))))
    return check.warning()


def _places(row: dict[str, Any], images: Sequence[tuple[int, int]] | None) -> Iterator[tuple[float, float, int, int]]:
    """(x, y, image width, image height) of every point and every corner of a row."""
    pairs = [(pair, i) for i, pair in enumerate(_numbers(row, "point", "points", 2) or ())]
    for i, four in enumerate(_numbers(row, "box", "boxes", 4) or ()):
        pairs += [(four[:2], i), (four[2:], i)]
    chosen = row.get("images")
    for (x, y), i in pairs:
        image = chosen[i] if isinstance(chosen, list) and i < len(chosen) and isinstance(chosen[i], int) else 0
        width, height = images[image] if images and 0 <= image < len(images) else (0, 0)
        yield x, y, width, height

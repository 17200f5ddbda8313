"""Read official annotation files: find them, go through their rows, name the row when one is unusable."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness.items import XY, XYXY, ItemImage
from benchmarks.harness.official_frame import DIGITS
from grounding.errors import BrokenRow, UsageError
from grounding.io import replacing

_MARGIN = 0.1
EXTRACTED = "extracted_images"  # folder beside a Parquet file, for images that come inside it


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn what a bad row raises into `BrokenRow` with the row's name."""
    try:
        yield
    except KeyError as error:
        raise BrokenRow(where, f"has no {error}") from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise BrokenRow(where, str(error) or "has another form than the benchmark's rows") from error


def find(root: Path, patterns: Mapping[str, Sequence[str]], split: str, wanted: str) -> list[Path]:
    """Annotation files of a split.

    Raises:
        UsageError: an unknown split, or no such file; says what the folder should hold.
    """
    if root.is_file():
        return [root]
    if split not in patterns:
        raise UsageError(f"no split {split!r}; there are {', '.join(patterns)}")
    for pattern in patterns[split]:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if found:
            return found
    raise UsageError(f"{root}: has none of {', '.join(patterns[split])}; needed: {wanted}")


def number(value: Any) -> float:
    """A finite number, also when written as a text. Raises ValueError."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"{_short(value)} is not a number")
    return result


def numbers(value: Any, length: int | None = None) -> list[float]:
    """A list of finite numbers. Raises ValueError."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"a list of numbers is needed, this is {_short(value)}")
    if length is not None and len(value) != length:
        raise ValueError(f"{length} numbers are needed, {_short(value)} has {len(value)}")
    return [number(entry) for entry in value]


def corners(xywh: Any) -> XYXY:
    """Corner, width, height -> two corners. Raises ValueError."""
    x, y, w, h = numbers(xywh, 4)
    if w < 0 or h < 0:
        raise ValueError(f"box {_short(xywh)} has a negative width or height")
    return box((x, y, x + w, y + h))


def box(xyxy: Any) -> XYXY:
    """Two corners in order, rounded as predictions are: on an edge, noise of the last digit must not decide.

    Raises:
        ValueError: not four numbers, or the second corner lies left of the first or above it.
    """
    x1, y1, x2, y2 = (round(value, DIGITS) for value in numbers(xyxy, 4))
    if x2 < x1 or y2 < y1:
        raise ValueError(f"box {_short(xyxy)} has x2 < x1 or y2 < y1: corners in order are needed, not x, y, w, h")
    return x1, y1, x2, y2


def unit_box(xyxy: Any) -> XYXY:
    """`box` in [0, 1], which it may leave by a tenth, as some official ones do. Raises ValueError."""
    return as_written(box(xyxy))


def as_written(xyxy: Any) -> XYXY:
    """`unit_box`, with its corners in any order. Raises ValueError."""
    x1, y1, x2, y2 = (round(value, DIGITS) for value in numbers(xyxy, 4))
    if min(x1, y1, x2, y2) < -_MARGIN or max(x1, y1, x2, y2) > 1 + _MARGIN:
        raise ValueError(f"box {_short(xyxy)} is not in [0, 1]")
    return x1, y1, x2, y2


def span(value: Any) -> XY:
    """Start and end in seconds. Raises ValueError."""
    start, end = numbers(value, 2)
    if not 0 <= start <= end:
        raise ValueError(f"span {_short(value)} is not 0 <= start <= end")
    return start, end


def vertices(points: Any) -> tuple[XY, ...]:
    """A list of x y pairs, at least one. Raises ValueError."""
    if not isinstance(points, list | tuple) or not points:
        raise ValueError(f"a list of points is needed, this is {_short(points)}")
    return tuple((x, y) for x, y in (numbers(point, 2) for point in points))


def polygon(flat: Any) -> tuple[XY, ...]:
    """x y x y ... -> vertices; at least three. Raises ValueError."""
    values = numbers(flat)
    if len(values) % 2 or len(values) < 6:
        raise ValueError(f"a polygon of {len(values)} numbers")
    return tuple(zip(values[::2], values[1::2], strict=True))


def first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The value of the first of these keys that is there. Raises KeyError with the first key."""
    for key in keys:
        if row.get(key) not in (None, ""):
            return row[key]
    raise KeyError(keys[0])


def words(value: Any) -> str:
    """An instruction or a name. Raises ValueError: it is no text."""
    if not isinstance(value, str):
        raise ValueError(f"a text is needed, this is {_short(value)}")
    return value


def listed(value: Any) -> list[Any]:
    """A list that is not empty. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list is needed, this is {_short(value)}")
    return value


def identity(value: Any) -> str:
    """An id: a text or a whole number. Raises ValueError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{_short(value)} is not an id")
    return str(value)


def picture(path: Any, width: Any = None, height: Any = None) -> ItemImage:
    """An image and its size; a size that is missing (None, 0 or an empty text) is unknown. Raises ValueError."""
    if not words(path):
        raise ValueError("the image's name is empty")
    sides = [0.0 if side in (None, "") else number(side) for side in (width, height)]
    if any(side < 0 or not side.is_integer() for side in sides) or (sides[0] == 0) != (sides[1] == 0):
        raise ValueError(f"image size {_short(width)} x {_short(height)} is not a size in pixels")
    return ItemImage(path, int(sides[0]), int(sides[1]))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def embedded(value: Any, file: Path) -> ItemImage:
    """The picture of an image column: a path, or bytes that are written out once beside the Parquet file."""
    if isinstance(value, str):
        return picture(value)
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if data is None:
        if isinstance(value, Mapping) and value.get("path"):
            return picture(value["path"])
        raise ValueError("the image column has neither bytes nor a path")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height, suffix = image.width, image.height, (image.format or "png").lower()
    except (OSError, Image.DecompressionBombError, TypeError) as error:
        raise ValueError(f"not a readable image: {error}") from error
    name = f"{EXTRACTED}/{hashlib.sha256(data).hexdigest()[:24]}.{suffix}"
    target = file.parent / name
    if not target.is_file():
        with replacing(target) as part:
            part.write_bytes(data)
    return ItemImage(name, width, height)

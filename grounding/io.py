"""Samples and images on disk. Reading streams; writing is atomic; a bad row is named, never skipped.

A data set is a folder: ``{train,val,test}.{jsonl|parquet}``, ``images/`` and ``manifest.json``.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.sample import ImageRef, Sample, from_row, to_row

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself warns of a decompression bomb
# Formats that may be opened. Others that Pillow knows start programs (EPS runs Ghostscript).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_BATCH = 1024  # rows in memory at a time

_REGION = pa.struct([("coords", pa.list_(pa.float64())), ("image", pa.int32()), ("label", pa.string())])
ARROW_SCHEMA = pa.schema(
    [
        ("schema", pa.int32()),
        ("id", pa.string()),
        ("images", pa.list_(pa.struct([("path", pa.string()), ("width", pa.int32()), ("height", pa.int32())]))),
        ("instruction", pa.string()),
        ("target", pa.struct([("kind", pa.string()), ("text", pa.string()), ("regions", pa.list_(_REGION))])),
        ("source", pa.string()),
        ("license", pa.string()),
        ("thought", pa.string()),
        ("meta", pa.string()),
    ]
)
_TURNS = pa.field(
    "turns", pa.list_(pa.struct([("tool", pa.string()), ("region", _REGION), ("thought", pa.string())]))
)


def read_samples(path: str | Path, limit: int | None = None) -> Iterator[Sample]:
    """The samples of a ``.jsonl`` or ``.parquet`` file in order, at most `limit`, a batch in memory at a time.

    Raises:
        UsageError: at once when there is no such file or its suffix is another.
        BrokenRow: while iterating, naming the file and the row (lines and rows count from 1).
    """
    path = Path(path)
    rows = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}.get(path.suffix)
    if rows is None:
        raise UsageError(f"{path}: cannot read {path.suffix or 'a file without suffix'}, give .jsonl or .parquet")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return (from_row(row, where) for where, row in itertools.islice(rows(path), limit))


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Write samples to a ``.jsonl`` or ``.parquet`` file and return their number.

    The file appears under its name only when it is complete; what was there before stays until then.

    Raises:
        UsageError: another suffix.
        FoveaError: the file cannot be written (no space, no permission).
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{path}: cannot write {path.suffix or 'a file without suffix'}, give .jsonl or .parquet")
    with replacing(path) as temporary:
        return (_write_jsonl if path.suffix == ".jsonl" else _write_parquet)(temporary, samples)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well, and vanishes otherwise.

    Raises:
        FoveaError: the operating system refuses (no space, no permission).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)  # mkstemp makes it private
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FoveaError(f"{path}: cannot be written: {error.strerror or error}") from error


def open_image(root: str | Path, ref: ImageRef, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image `ref` of the data set in folder `root`, decoded, upright, in RGB.

    The EXIF orientation is applied, as viewers and annotation tools do, and `ref` gives the size after that.
    Transparent pixels are laid over white; deeper pixels than 8 bits are scaled to 8 bits.

    Raises:
        BrokenRow: the file is missing, outside `root` (also through a link), not an image, truncated, larger than
            `max_pixels`, or of another size than `ref` says.
    """
    where = ref.path
    try:  # realpath: Path.resolve raises RuntimeError for links that lead in a circle
        base = Path(os.path.realpath(root))
        path = Path(os.path.realpath(base / ref.path))
        if not path.is_relative_to(base):
            raise BrokenRow(where, f"image lies outside the data set's folder {base}")
        if not path.is_file():
            raise BrokenRow(where, f"no such image in {base}")
    except (OSError, ValueError) as error:
        raise BrokenRow(where[:200], f"is no path of a file: {error}") from error
    picture = read_image(path, where, max_pixels)
    if picture.size != (ref.width, ref.height):
        raise BrokenRow(where, f"image is {picture.width}x{picture.height}, the row says {ref.width}x{ref.height}")
    return picture


def read_image(data: Path | bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image as models take it (`upright_rgb`), from a file or from its content.

    Args:
        where: what to call it in an error.

    Raises:
        BrokenRow: not an image, truncated, or larger than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BrokenRow(where, f"image has {image.width}x{image.height} pixels, more than {max_pixels}")
            return upright_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenRow(where, f"image is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise BrokenRow(where, f"not a readable image: {unread_format(data)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise BrokenRow(where, f"not a readable image: {error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image as models take it: turned as its EXIF orientation says, over white, in RGB of 8 bits."""
    unsigned = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT) == (1,)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        upright = _eight_bits(np.asarray(upright), unsigned)
    return _on_white(upright)


_SAMPLE_FORMAT = 339  # of TIFF; Pillow reads unsigned 32 bits as signed ones


def _eight_bits(values: np.ndarray, unsigned: bool) -> Image.Image:
    """Grey pixels of 16 or 32 bits or floats, scaled to 8 bits.

    White is 65535 in 16 bits. Elsewhere it is the first of 1 (floats only), 255 and 65535 that no pixel exceeds;
    beyond these, and where pixels are negative, the darkest pixel is black and the brightest white.
    """
    if values.dtype.itemsize == 2:
        low, white = 0.0, 65535.0
    else:
        grey = values.view(np.uint32) if unsigned and values.dtype == np.int32 else values
        values = np.nan_to_num(grey.astype(np.float32), posinf=0.0, neginf=0.0)
        low, white = float(values.min()), float(values.max())
        scales = (1.0, 255.0, 65535.0) if grey.dtype.kind == "f" else (255.0, 65535.0)
        if low >= 0:
            low, white = next(((0.0, scale) for scale in scales if white <= scale), (low, white))
    return Image.fromarray(np.round((values - low) * (255 / max(white - low, 1e-30))).astype(np.uint8), "L")


_UNREAD = (
    (4, b"ftypavif", "AVIF"), (4, b"ftypheic", "HEIC"), (4, b"ftypmif1", "HEIF"), (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"), (4, b"jP  ", "JPEG 2000"), (0, b"%PDF", "PDF"), (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "Photoshop"), (0, b"<svg", "SVG"), (0, b"<?xml", "XML or SVG"), (0, b"version https://git-lfs",
    "a Git LFS pointer: fetch the file itself"), (0, b"<!DOCTYPE html", "a web page"), (0, b"<html", "a web page"),
)  # fmt: skip


def unread_format(data: Path | bytes) -> str:
    """What a file is that is none of `IMAGE_FORMATS`, in words: "AVIF; convert it to PNG, JPEG or WebP"."""
    if isinstance(data, Path):
        with data.open("rb") as stream:
            head = stream.read(64)
    else:
        head = data[:64]
    if not head:
        return "the file is empty"
    for offset, mark, name in _UNREAD:
        if head[offset:].startswith(mark):
            return name if "pointer" in name else f"it is {name}; convert it to PNG, JPEG or WebP"
    return f"not an image in {', '.join(IMAGE_FORMATS)}"


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            yield where, row_of(line, where)


def row_of(line: bytes, where: str) -> dict[str, Any]:
    """The row a line of a ``.jsonl`` file holds. Raises `BrokenRow` where it is no JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenRow(where, f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BrokenRow(where, f"a {type(row).__name__} where an object is needed")
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise BrokenRow(f"{path}:{number + 1}", f"not a readable Parquet file: {error}") from error


def _write_jsonl(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(json.dumps(to_row(sample), ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    remaining = iter(samples)
    # The column of turns is there for data sets that begin with a sample of several: all files used to lack it
    first = list(itertools.islice(remaining, _BATCH))
    schema = ARROW_SCHEMA.append(_TURNS) if any(sample.turns for sample in first) else ARROW_SCHEMA
    remaining = itertools.chain(first, remaining)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := [to_row(sample) for sample in itertools.islice(remaining, _BATCH)]:
            if schema is ARROW_SCHEMA and any("turns" in row for row in batch):
                raise FoveaError(
                    f"{path}: a sample with turns comes after {count} without; put it first, or write .jsonl"
                )
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
    return count

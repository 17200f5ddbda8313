"""Streaming readers of the files that annotations come in. Memory stays flat however long the file is."""

from __future__ import annotations

import csv
import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import SPLITS
from data_prep.pipeline.conversion import Rejected
from grounding.errors import UsageError

T = TypeVar("T")
Row = tuple[str, Any]
"""Where it stands, and the row; or a `Rejected` in place of a row that cannot be read."""

_CHUNK = 1 << 20
_MAX_VALUE = 256 << 20
"""Characters of the longest single array element; a longer one means the file is not what it should be."""


def require(path: Path) -> Path:
    """`path`, if it is a file (a pipe or a device would block); UsageError otherwise."""
    try:
        if path.is_file():
            return path
        what = "is no regular file" if path.exists() else "does not exist"
    except OSError as error:  # a name too long, no permission
        what = f"cannot be opened ({error.strerror})"
    raise UsageError(f"{str(path)[:300]} {what}; see `python -m data_prep list` for where to get it")


def add_files(parser: ArgumentParser, annotations: str, images: str = ".") -> None:
    """Add `--annotations` and `--image-folder` with the names that the source's own download has."""
    parser.add_argument(
        "--annotations",
        action="several",
        default=[annotations],
        help=f".json, .jsonl, .csv or .parquet files, or patterns, below --root ({annotations})",
    )
    parser.add_argument("--image-folder", default=images, help=f"folder of the images below --root ({images})")


def split_argument(parser: ArgumentParser) -> None:
    """Add `--as-split`, for files that do not say which split they are."""
    parser.add_argument("--as-split", choices=SPLITS, default="train", help="file of the data set the rows go to")


def annotation_files(args: Namespace) -> list[Path]:
    """The files that `--annotations` names, in a fixed order.

    Raises:
        UsageError: a name or pattern matches nothing.
    """
    files: list[Path] = []
    for pattern in args.annotations:
        path = args.root / pattern
        found = [path] if path.is_file() else sorted(file for file in args.root.glob(pattern) if file.is_file())
        if not found:
            raise UsageError(
                f"--annotations {pattern}: nothing of that name in {args.root}{elsewhere(args.root, pattern)}"
            )
        files += found
    return files


def elsewhere(root: Path, name: str) -> str:
    """Where a file or pattern that `root` lacks is found nearby, as the end of a message; empty where it is not."""
    pattern = any(mark in name for mark in "*?[")  # would fit anything further up
    above = [] if pattern else [*root.resolve().parents][:2]
    below = (path for pattern in ("*/", "*/*/") for path in sorted(root.glob(pattern)))
    folders = (folder for folder in (*above, *islice(below, 500)) if next(folder.glob(name), None))
    found = next(folders, None)
    return "" if found is None else f"; it is in {found}: give --root {found}"


def read_annotations(args: Namespace) -> Iterator[Row]:
    """The rows of all files that `--annotations` names."""
    for path in annotation_files(args):
        yield from read_rows(path)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .json (an array), .csv or .parquet file.

    Raises:
        UsageError: another suffix.
    """
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": read_jsonl,
        ".json": read_json_array,
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
    }
    if path.suffix not in readers:
        raise UsageError(f"{path}: give a .jsonl, .json, .csv or .parquet file")
    if path.suffix == ".json":
        with require(path).open("rb") as stream:
            if _is_lines(stream):
                return read_jsonl(path)
    return readers[path.suffix](path)


def _is_lines(stream: IO[bytes]) -> bool:
    """Whether a file holds one JSON object a line, whatever it is called."""
    lines = [line for line in islice(stream, 3) if line.strip()]
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict) for line in lines[:2])
    except (ValueError, RecursionError):
        return False


def read_csv(path: Path) -> Iterator[Row]:
    """(``"name:line"``, row) for every row of a CSV file whose first line names the columns; values are texts.

    The columns are apart by commas, semicolons or tabs.
    """
    with require(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        rows = csv.DictReader(stream, delimiter=max(",;\t", key=header.count))
        try:
            for row in rows:
                bad = None in row or None in row.values()
                yield f"{path.name}:{rows.line_num}", Rejected("wrong format", "other columns") if bad else row
        except csv.Error as error:
            yield f"{path.name}:{rows.line_num}", Rejected("damaged file", f"not readable as CSV: {error}")


def read_parquet(path: Path) -> Iterator[Row]:
    """(``"name:row"``, row) for every row of a Parquet file, a few at a time: rows may hold whole images."""
    count = 0
    try:
        with pq.ParquetFile(require(path)) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    count += 1
                    yield f"{path.name}:{count}", row
    except (pa.ArrowException, OSError) as error:
        yield f"{path.name}:{count + 1}", Rejected("damaged file", f"not readable as Parquet: {error}")


def read_jsonl(path: Path) -> Iterator[Row]:
    """(``"name:line"``, row) for every non-empty line; a line that is not JSON comes as a `Rejected`."""
    with require(path).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, Rejected("not JSON", str(error))


def read_json_array(path: Path, key: str | None = None) -> Iterator[Row]:
    """(``"name:index"``, element) of the array a JSON file consists of, or of the array under a top-level key.

    Damage (a truncated file) comes as one `Rejected` at the end, after everything before it.
    Under a missing key there is nothing.

    Raises:
        UsageError: the file holds something else than an array, or than an object where a key is given.
    """
    label = path.name if key is None else f"{path.name}:{key}"
    with require(path).open(encoding="utf-8", errors="surrogateescape") as stream:
        head = stream.read(_HEAD)
        _check_kind(path, head, "[" if key is None else "{")
        stream.seek(0)
        reader = _Reader(stream)
        yield from _numbered(label, reader.elements() if key is None else reader.elements_under(key))


def read_json_object(path: Path) -> Iterator[Row]:
    """(``"name:number"``, (key, value)) for every entry of the object a JSON file consists of."""
    with require(path).open(encoding="utf-8", errors="surrogateescape") as stream:
        yield from _numbered(path.name, _Reader(stream).pairs())


_HEAD = 4096
_KNOWN = (
    ({"shapes", "imagePath"}, "a LabelMe file, one object for one image"),
    ({"shapes", "flags"}, "a LabelMe file, one object for one image"),
    ({"images", "annotations"}, "a file in COCO's format: `python -m data_prep coco` reads it"),
    ({"images", "categories"}, "a file in COCO's format: `python -m data_prep coco` reads it"),
    ({"info", "licenses"}, "a file in COCO's format: `python -m data_prep coco` reads it"),
    ({"type", "features"}, "GeoJSON"),
)


def _check_kind(path: Path, head: str, wanted: str) -> None:
    """Raise UsageError when a JSON text begins otherwise than with `wanted`, saying what the file seems to be."""
    text = head.lstrip("\ufeff \t\r\n")
    if not text or text.startswith(wanted):
        return
    if text.startswith("{"):
        keys = list(dict.fromkeys(re.findall(r'"([^"\\]{1,40})"\s*:', text)))
        kind = next((kind for marks, kind in _KNOWN if marks <= set(keys)), None)
        told = kind or f"an object with the fields {', '.join(keys[:6])}"
        raise UsageError(f"{path}: an array of rows is needed, this is {told}")
    if text.startswith("["):
        raise UsageError(f"{path}: an object is needed, this is an array")
    line = text.splitlines()[0]
    csv_like = "," in line and not line.startswith("<")
    told = "it looks like CSV: give it the suffix .csv" if csv_like else f"it begins {line[:40]!r}"
    raise UsageError(f"{path}: this is not JSON; {told}")


def _numbered(label: str, values: Iterator[Any]) -> Iterator[Row]:
    """The values with where they stand; damage comes as a `Rejected` at the end."""
    count = 0
    try:
        for count, value in enumerate(values, 1):
            yield f"{label}:{count}", value
    except (ValueError, RecursionError) as error:
        yield f"{label}:{count + 1}", Rejected("not JSON", f"the file is damaged or truncated: {error}")


_AFTER_VALUE = tuple(" \t\r\n,:]}")


class _Reader:
    """A window over a JSON text in which `json` decodes one value after the other.

    ijson would do the same for sound files. It stops at NaN and at bytes that are no UTF-8, of which here one row is
    rejected, not the rest of the file.
    """

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0

    def elements(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        return self._items("[", "]", self._value)

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """(key, value) of the object that comes next."""
        return ((name, self._value()) for name in self._items("{", "}", self._name))

    def elements_under(self, key: str) -> Iterator[Any]:
        """The elements of the array under a key of the object that comes next; none when there is no such key."""
        for name in self._items("{", "}", self._name):
            if name == key:
                yield from self.elements()
                return
            if self._peek() == "[":
                for _ in self.elements():  # element by element: the skipped array may be the large one
                    pass
            else:
                self._value()

    def _items(self, opening: str, closing: str, read: Callable[[], T]) -> Iterator[T]:
        """What `read` gives for each item between two brackets; the caller may read on before the next comma."""
        self._expect(opening)
        if self._peek() == closing:
            self._at += 1
            return
        while True:
            yield read()
            if self._peek() == closing:
                self._at += 1
                return
            self._expect(",")

    def _name(self) -> str:
        name = self._value()
        self._expect(":")
        return name

    def _fill(self) -> bool:
        """Read on, dropping what is done; False at the end. The step doubles, so long values cost linear time."""
        keep = self._text[self._at :]
        if len(keep) > _MAX_VALUE:
            raise ValueError("one value is longer than 256 MB")
        more = self._stream.read(max(_CHUNK, len(keep)))
        self._text, self._at = keep + more, 0
        return bool(more)

    def _peek(self) -> str:
        """The next character that is not white space; '' at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            raise ValueError(f"expected {character!r}, found {found or 'the end'!r}")
        self._at += 1

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError:
                if self._fill():
                    continue
                raise
            if self._text[end : end + 1] not in _AFTER_VALUE and self._fill():  # a number goes on in the next chunk
                continue
            self._at = end
            return value

"""Rows of a file: JSON, JSON lines, CSV or Parquet, in the shapes people write them, each with its place.

A `.json` may be a list of rows, an object of rows by id (``{"web-17": {...}}``; `KEY` holds the id), JSON lines, or
an object that holds any of these under one of `HOLDERS`, or lists by name (``{"web": [...], "mobile": [...]}``).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from grounding.errors import BrokenRow, UsageError

KEY = "__key__"
HOLDERS = ("results", "details", "predictions", "annotations", "data", "samples", "items", "answers")
_NAMES = ("id", "idx", "qid", "image_id", "question_id")  # an object with one of these is a row itself
_BATCH = 64

Row: TypeAlias = tuple[str, dict[str, Any]]
Place: TypeAlias = tuple[int, int]  # of a row in a file of JSON lines: number of the line, first byte


def read_rows(path: Path) -> Iterator[Row]:
    """(where, row) of every row. JSON lines, CSV and Parquet are streamed.

    Raises:
        UsageError: no such file, nothing in it, or not of a form above.
        BrokenRow: a row that cannot be read or is not an object, named.
    """
    yield from (row for row, _ in located_rows(path))


def located_rows(path: Path) -> Iterator[tuple[Row, Place | None]]:
    """`read_rows`, each with its place; None in files other than JSON lines."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    reader = {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _json)
    where = None
    for where, row, *place in reader(path):
        yield (where, row), place[0] if place else None
    if where is None:
        raise UsageError(f"{path}: the file is empty")


def load_json(path: Path, *needed: str) -> Any:
    """The content of a JSON file; with `needed`, an object with a list under each of these keys.

    Raises:
        UsageError: the file is missing, is not JSON, or lacks a list.
    """
    try:
        content = parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    for key in needed:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UsageError(f"{path}: has no list {key!r}")
    return content


def parse(text: str) -> Any:
    """JSON whose objects have every key once. Raises ValueError (RecursionError when nested too deep)."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} appears twice in one object")
    return found


def row_at(file: BinaryIO, start: int) -> dict[str, Any]:
    """The row of a line that `located_rows` has read."""
    file.seek(start)
    found: dict[str, Any] = json.loads(file.readline().removeprefix(b"\xef\xbb\xbf"))
    return found


def _json(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, b""), next(lines, None)
    if not first:
        return
    if _is_line(first.strip().removeprefix(b"\xef\xbb\xbf"), path.suffix, second is None):
        yield from _lines(path)
    else:
        yield from _within(load_json(path), str(path))


def _is_line(first: bytes, suffix: str, alone: bool) -> bool:
    """Whether the first line of a file is a row by itself, or meant as one; `alone`: there is no other line."""
    try:
        row = parse(first.decode())
    except (ValueError, RecursionError):
        return first[:1] == b"{" and (first[-1:] == b"}" or (suffix == ".jsonl" and len(first) > 1))
    return not alone or (suffix == ".jsonl" and isinstance(row, dict) and _holder(row) is None)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any], Place]]:
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            text = line.strip().removeprefix(b"\xef\xbb\xbf")
            if not text:
                continue
            where = f"{path}:{number}"
            try:
                row = parse(text.decode())
            except (ValueError, RecursionError) as error:
                raise BrokenRow(where, f"not JSON: {error}") from error
            yield where, _row(row, where), (number, start)


def _within(content: Any, where: str) -> Iterator[Row]:
    """The rows inside a JSON value, of whichever of the shapes above it has."""
    if isinstance(content, list):
        for n, row in enumerate(content):
            content[n] = None  # who has read a row may forget it
            yield f"{where}[{n}]", _row(row, f"{where}[{n}]")
        return
    if not isinstance(content, dict):
        raise UsageError(f"{where}: rows are needed, this is {_kind(content)}")
    holder = _holder(content)
    values = list(content.values())
    if any(isinstance(content.get(name), str | int | float) for name in _NAMES):
        yield where, content
    elif holder is not None:
        yield from _within(content[holder], where)
    elif values and all(isinstance(value, dict) for value in values):
        yield from ((f"{where}[{key}]", {**row, KEY: key}) for key, row in content.items())
    elif values and all(isinstance(value, list) and value and isinstance(value[0], dict) for value in values):
        for key, rows in content.items():
            yield from _within(rows, f"{where}[{key}]")
    elif values and any(isinstance(value, dict | list) for value in values) and not _looks_like_row(content):
        raise UsageError(f"{where}: rows are needed: a list of objects, objects by id, or JSON lines")
    elif values:
        yield where, content


def _holder(content: Mapping[str, Any]) -> str | None:
    """The key under which an object holds rows."""

    def holds(value: Any) -> bool:
        if isinstance(value, list):
            return not value or isinstance(value[0], dict)
        return isinstance(value, dict) and all(isinstance(part, dict | list) for part in value.values())

    return next((key for key in HOLDERS if key in content and holds(content[key])), None)


def _looks_like_row(content: Mapping[str, Any]) -> bool:
    """One answer or annotation by itself, with its words or numbers: some values are plain, lists hold numbers."""
    return any(isinstance(value, str | int | float) for value in content.values())


def _row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BrokenRow(where, f"a JSON object is needed, this is {_kind(row)}")
    return row


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _csv(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if None in row or None in row.values():
                    raise BrokenRow(f"{path}:{number}", "has not as many fields as the first line")
                yield f"{path}:{number}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield f"{path}:{number}", row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not readable as Parquet: {error}") from error

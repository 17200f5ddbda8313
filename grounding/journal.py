"""Append-only JSON lines that survive a kill at any moment: a header line, then one row a line, keyed by ``id``.

Only a line that ends in a newline counts. What a killed writer left after the last newline is cut off before
anything is appended, and readers ignore it. Lines that are complete are never changed, so a journal may be
read while another process writes it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from grounding.errors import BrokenRow, FoveaError, UsageError

_HEADER = b'{"header": '
_CHUNK = 1 << 16


class Journal:
    """A journal to append to; made with `header` when there is none. For one process, one thread at a time.

    Args:
        path: the file; its folder is made. Each rank writes a file of its own, for instance ``kept-3.jsonl``.
        header: what the rows depend on, of plain JSON types. The same for all ranks.

    Attributes:
        ids: of the rows written so far.

    Raises:
        UsageError: the file was written with another header, or is no journal. It is left as it is.
        BrokenRow: a complete line of it cannot be read.
        FoveaError: the operating system refuses.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]):
        self.path = Path(path)
        self.ids: set[str] = set()
        header = json.loads(json.dumps(header))  # as it will be read
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._open(header):
                self.ids.update(row["id"] for row in read_journal(self.path))
        except OSError as error:
            raise _refused(self.path, error) from error

    def _open(self, header: Mapping[str, Any]) -> bool:
        """Open the file for appending, its torn tail cut off; False when it was new."""
        self._file = self.path.open("ab", buffering=0)
        try:
            with self.path.open("rb") as file:
                end = _end_of_lines(file)
                found = _read_header(file, self.path, end)
            if found is None:
                self._file.truncate(0)
                self._write(_HEADER + _encode(header) + b"}\n")
                return False
            _compare(self.path, found, header)
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise
        return True

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row with a new ``id``, as one line that is handed to the operating system at once.

        Raises:
            ValueError: there is a row of this id.
            FoveaError: the operating system refuses (no space); the file is as it was.
        """
        if not isinstance(row["id"], str) or row["id"] in self.ids:
            raise ValueError(f"{self.path}: the id {row['id']!r} is not a text, or is there already")
        self._write(_encode(row) + b"\n")
        self.ids.add(row["id"])

    def _write(self, line: bytes) -> None:
        before = os.fstat(self._file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(before)
            raise _refused(self.path, error) from error

    def sync(self) -> None:
        """Wait until every row is on the disk, safe from a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_journal(path: str | Path) -> bool:
    """Whether a file begins as journals do."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def read_header(path: str | Path) -> dict[str, Any] | None:
    """The header of a journal; None when there is no file, or one whose writer was killed in its first line.

    Raises:
        UsageError: the file is no journal.
    """
    path = Path(path)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return _read_header(file, path, _end_of_lines(file))


def read_journal(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal that were complete when reading began, in order; nothing when there is no file.

    Raises:
        UsageError: the file is no journal.
        BrokenRow: a complete line is no JSON object with an ``id``.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        end = _end_of_lines(file)
        if _read_header(file, path, end) is None:
            return
        rest = end - file.tell()
        for number, line in enumerate(file, start=2):
            rest -= len(line)
            if rest < 0:  # torn, or written since
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BrokenRow(
                    f"{path}:{number}", f"not JSON: {error}; remove the line, it is done again"
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise BrokenRow(f"{path}:{number}", "no object with an 'id'; remove the line, it is done again")
            yield row


def read_journals(folder: str | Path, pattern: str) -> Iterator[dict[str, Any]]:
    """The rows of the journals of all ranks, file by file, each id once.

    Args:
        pattern: of their names, for instance ``kept-*.jsonl``.

    Raises:
        UsageError: they differ in their headers, or a file is no journal.
        BrokenRow: as `read_journal`.
    """
    first: tuple[Path, dict[str, Any]] | None = None
    seen: set[str] = set()
    for path in sorted(Path(folder).glob(pattern), key=_in_order):
        header = read_header(path)
        if header is None:
            continue
        first = first or (path, header)
        _compare(path, header, first[1], f"{first[0].name} has")
        for row in read_journal(path):
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts rank 2 before rank 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _encode(row: Mapping[str, Any]) -> bytes:
    # A lone surrogate (broken input text) has no UTF-8 form; ASCII escapes bring it back unchanged
    text = json.dumps(row, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(row).encode()


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last complete line ends, in bytes; looked for from the end."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - _CHUNK)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _read_header(file: BinaryIO, path: Path, end: int) -> dict[str, Any] | None:
    """The header, read from the start of `file`, or None where its writer was killed before it was complete."""
    file.seek(0)
    line = file.readline() if end else file.read(_CHUNK)
    if end == 0 and (line.startswith(_HEADER) or _HEADER.startswith(line)):
        return None
    try:
        row = json.loads(line) if line.startswith(_HEADER) else None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row["header"], dict):
        raise UsageError(f"{path}: is not a file of this command; move it away, or write to another folder")
    return row["header"]


def _compare(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], whose: str = "this run has") -> None:
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if key not in found or key not in wanted or found[key] != wanted[key]:
            raise UsageError(
                f"{path}: was written with {key}={_short(found.get(key))}, {whose} {_short(wanted.get(key))};"
                " remove the file, or write to another folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _refused(path: Path, error: OSError) -> FoveaError:
    return FoveaError(f"{path}: cannot be written: {error.strerror or error}; what is there is whole, run again")

"""Journals: whatever a killed writer leaves behind, complete rows are read and the rest is written again."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.journal import Journal, read_header, read_journal, read_journals

HEADER = {"kind": "test", "seed": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "kept-0.jsonl"
    with Journal(path, HEADER) as journal:
        journal.append({"id": "a", "text": "ä\n\udcff"})
        journal.append({"id": "b", "nested": {"x": [1, None]}})
        journal.sync()
    return path


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read_journal(path)]


def test_rows_come_back_and_a_second_run_knows_them(path: Path) -> None:
    assert list(read_journal(path)) == [{"id": "a", "text": "ä\n\udcff"}, {"id": "b", "nested": {"x": [1, None]}}]
    with Journal(path, dict(reversed(HEADER.items()))) as journal:
        assert journal.ids == {"a", "b"}
        journal.append({"id": "c"})
    assert ids(path) == ["a", "b", "c"]


@pytest.mark.parametrize("tail", [b"{", b'{"id": "c", "score": 1', b'{"id": "c", "score": 12}', b"\0\0\0", b"\xff"])
def test_a_tail_without_newline_is_not_a_row_even_if_it_is_json(path: Path, tail: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert ids(path) == ["a", "b"]
    assert path.read_bytes() == whole + tail
    with Journal(path, HEADER) as journal:
        assert journal.ids == {"a", "b"}
        journal.append({"id": "c", "score": 123})
    assert path.read_bytes() == whole + b'{"id": "c", "score": 123}\n'


def test_every_cut_leaves_the_rows_before_it(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = max(whole[:length].count(b"\n") - 1, 0)
        assert ids(path) == ["a", "b"][:kept]
        with Journal(path, HEADER) as journal:
            assert len(journal.ids) == kept
        assert read_header(path) == HEADER


def test_another_header_is_refused_and_the_first_key_that_differs_is_named(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"torn")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"kept-0\.jsonl: was written with seed=1, this run has 2;"):
        Journal(path, {**HEADER, "seed": 2})
    with pytest.raises(UsageError, match="was written with model=null, this run has"):
        Journal(path, {**HEADER, "model": "x"})
    with pytest.raises(UsageError, match="was written with seed=1, this run has null"):
        Journal(path, {"kind": "test"})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\nmore", b'{"id": "a"}\n', b"[]\n", b'{"header": 1}\n', b"\n"]
)
def test_a_file_of_the_users_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not a file of this command"):
        Journal(path, HEADER)
    with pytest.raises(UsageError, match="is not a file of this command"):
        list(read_journal(path))
    assert path.read_bytes() == content


def test_a_complete_line_that_is_broken_is_named(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for bad, reason in (
        (b'{"id": "a", \n', "not JSON"),
        (b"[1]\n", "no object with an 'id'"),
        (b"{}\n", "no object"),
    ):
        path.write_bytes(lines[0] + lines[1] + bad + lines[2])
        with pytest.raises(BrokenRow, match=reason) as caught:
            list(read_journal(path))
        assert caught.value.where == f"{path}:3"
        with pytest.raises(BrokenRow, match=reason):
            Journal(path, HEADER)


def test_an_id_is_written_once(path: Path) -> None:
    with Journal(path, HEADER) as journal, pytest.raises(ValueError, match="there already"):
        journal.append({"id": "a"})
    with Journal(path, HEADER) as journal, pytest.raises(ValueError, match="not a text"):
        journal.append({"id": 7})
    assert ids(path) == ["a", "b"]


def test_rows_of_all_ranks_each_once_in_order_of_rank(tmp_path: Path) -> None:
    for rank, rows in ((10, "ec"), (2, "bc"), (0, "a")):
        with Journal(tmp_path / f"kept-{rank}.jsonl", HEADER) as journal:
            for name in rows:
                journal.append({"id": name, "rank": rank})
    (tmp_path / "kept-3.jsonl").write_bytes(b'{"hea')  # killed in its first line
    (tmp_path / "kept-5.jsonl.part").write_text("not asked for")
    rows = [(row["id"], row["rank"]) for row in read_journals(tmp_path, "kept-*.jsonl")]
    assert rows == [("a", 0), ("b", 2), ("c", 2), ("e", 10)]
    with Journal(tmp_path / "kept-11.jsonl", {**HEADER, "seed": 2}):
        pass
    with pytest.raises(UsageError, match=r"kept-11\.jsonl: was written with seed=2, kept-0\.jsonl has 1"):
        list(read_journals(tmp_path, "kept-*.jsonl"))


def test_nothing_where_nothing_is(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none.jsonl")) == list(read_journals(tmp_path, "*.jsonl")) == []
    assert read_header(tmp_path / "none.jsonl") is None


def test_reading_stops_at_what_was_complete_when_it_began(path: Path) -> None:
    torn = path.read_bytes() + b'{"id": "c", '
    path.write_bytes(torn)
    rows = read_journal(path)
    assert next(rows)["id"] == "a"
    with Journal(path, HEADER) as journal:  # cuts the tail that the reader may have in its buffer, and goes on
        journal.append({"id": "d", "text": "x" * 100_000})
    assert [row["id"] for row in rows] == ["b"]
    assert ids(path) == ["a", "b", "d"]


def test_a_full_disk_leaves_no_part_of_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    journal = Journal(path, HEADER)

    class Full:
        def __init__(self, file):
            self.file, self.calls = file, 0
            self.fileno, self.truncate, self.close = file.fileno, file.truncate, file.close

        def write(self, data):
            self.calls += 1
            if self.calls == 1:
                return self.file.write(data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

    with journal:
        whole, journal._file = journal._file, Full(journal._file)
        with pytest.raises(FoveaError, match="No space left on device"):
            journal.append({"id": "c"})
        assert path.read_bytes() == before
        journal._file = whole
        journal.append({"id": "c"})
    assert ids(path) == ["a", "b", "c"]


WRITER = """
import sys
from grounding.journal import Journal
with Journal(sys.argv[1], {"kind": "kill"}) as journal:
    number = len(journal.ids)
    print(number, flush=True)
    while True:
        journal.append({"id": str(number), "text": "x" * 50_000})
        number += 1
"""


def test_kills_lose_nothing_that_was_complete_and_readers_never_stumble(tmp_path: Path) -> None:
    path = tmp_path / "kept-0.jsonl"
    count = 0
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert int(writer.stdout.readline()) >= count
        deadline = time.monotonic() + 10
        while len(found := ids(path)) < count + 20 and time.monotonic() < deadline:
            assert found == [str(number) for number in range(len(found))]
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        found = ids(path)
        assert found == [str(number) for number in range(len(found))]
        assert len(found) >= count + 20
        count = len(found)
    assert all(len(json.loads(line)) for line in path.read_bytes().split(b"\n")[:count])

"""What a chat endpoint answered, kept on disk: a rerun asks nothing twice.

A folder suits several processes and shared disks; a single SQLite file suits one process and very many replies.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grounding.errors import FoveaError
from grounding.io import replacing


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's answer.

    Attributes:
        texts: one for each choice; "" where the server sent none.
        input_tokens, output_tokens: what the server says it read and wrote; 0 when it does not say.
    """

    texts: tuple[str, ...]
    input_tokens: int = 0
    output_tokens: int = 0


class Replies(Protocol):
    """Replies of one text by the name of their request."""

    def get(self, name: str) -> Reply | None: ...

    def put(self, name: str, reply: Reply) -> None: ...


class RepliesFolder:
    """One small file a reply; an entry that is damaged is as good as none.

    Args:
        folder: made when the first reply comes.
        purpose: what an error calls it.
    """

    def __init__(self, folder: Path, purpose: str):
        self._folder = folder
        self._purpose = purpose

    def _file(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.json"

    def get(self, name: str) -> Reply | None:
        try:
            row = json.loads(self._file(name).read_text(encoding="utf-8"))
            text, given, taken = row["reply"], int(row.get("input", 0)), int(row.get("output", 0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Reply((text,), given, taken) if isinstance(text, str) else None

    def put(self, name: str, reply: Reply) -> None:
        (text,) = reply.texts
        row = {"reply": text, "input": reply.input_tokens, "output": reply.output_tokens}
        path = self._file(name)
        try:
            with replacing(path) as part:
                part.write_text(json.dumps(row), encoding="utf-8")
        except FoveaError as error:
            raise FoveaError(f"{self._purpose} {error}; free space or name another folder") from error


class RepliesFile:
    """An SQLite file; may be shared between the threads of one process.

    Raises:
        FoveaError: the file is something else, or cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store = sqlite3.connect(path, check_same_thread=False, timeout=60)
            tables = {name for (name,) in self._store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables <= {"replies"}:
                raise FoveaError(f"{path}: holds something else than replies; name another file")
            self._store.execute("PRAGMA journal_mode=WAL")
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT, input INT, output INT)"
            )
        except sqlite3.Error as error:
            raise FoveaError(f"{path}: {error}; move it away to start with an empty cache") from error

    def get(self, name: str) -> Reply | None:
        with self._lock:
            row = self._store.execute(
                "SELECT reply, input, output FROM replies WHERE request = ?", (name,)
            ).fetchone()
        return None if row is None else Reply((str(row[0]),), row[1], row[2])

    def put(self, name: str, reply: Reply) -> None:
        (text,) = reply.texts
        try:
            with self._lock, self._store:
                self._store.execute(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                    (name, text, reply.input_tokens, reply.output_tokens),
                )
        except sqlite3.Error as error:
            raise FoveaError(f"{self._path}: {error}; nothing is lost, run the same command again") from error

    def totals(self) -> tuple[int, int, int]:
        """How many replies there are, and their tokens read and written."""
        with self._lock:
            count, given, taken = self._store.execute(
                "SELECT COUNT(*), COALESCE(SUM(input), 0), COALESCE(SUM(output), 0) FROM replies"
            ).fetchone()
        return int(count), int(given), int(taken)

    def close(self) -> None:
        self._store.close()

"""Where a conversion stands, on disk and in memory: shared by the writer and the publisher."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep import SPLITS
from grounding.errors import UsageError
from grounding.io import replacing

KIND = "data set"
"""What its folder is marked as."""

WORK = ".convert"
"""Folder of a run under way, in that of the data set."""

REJECTS = "rejects.jsonl"
NAMES = (*(f"{split}.jsonl" for split in SPLITS), REJECTS)
"""The files rows are appended to."""

NOT_IDENTITY = {"out", "max_rejects", "overwrite", "start", "benchmark_reader"}
"""Arguments that do not change what a run produces, and what the command hands in."""


@dataclass(slots=True)
class State:
    """Where a run stands: what `state.json` holds."""

    fingerprint: str
    items: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    kinds: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    first_reject: str = ""
    finished: bool = False

    @property
    def kept(self) -> int:
        return sum(self.rows.values())

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `State.read(state.as_dict())` is the same state."""
        return asdict(self)

    @classmethod
    def read(cls, row: dict[str, Any]) -> State:
        """The state that `as_dict` wrote. Raises ValueError for anything else."""
        fresh = asdict(cls(""))
        if row.keys() != fresh.keys() or any(type(row[key]) is not type(value) for key, value in fresh.items()):
            raise ValueError("it has other keys or types than it was written with")
        counts = [row["items"], *(n for key in ("sizes", "rows", "kinds", "rejects") for n in row[key].values())]
        if row["sizes"].keys() != fresh["sizes"].keys() or row["rows"].keys() != fresh["rows"].keys():
            raise ValueError("it has other files than this run")
        if not all(isinstance(number, int) and number >= 0 for number in counts):
            raise ValueError("a count is no number")
        return cls(**row)


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(row: dict[str, Any]) -> bytes:
    """One line of JSON, UTF-8; lone surrogates (broken input text) become question marks."""
    return _to_json(row).encode("utf-8", "replace") + b"\n"


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` in one step that survives a power cut."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of ours. Raises UsageError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; move it away and run again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: a {type(found).__name__} where an object is needed; move it away and run again")
    return found


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

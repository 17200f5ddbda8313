"""One writer at a time in a folder, over processes.

The lock is the operating system's and falls when its process ends, however it ends. It belongs to the process that
took it, not to workers forked from it, so an orphaned worker does not keep the folder locked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from grounding.errors import FoveaError, UsageError

LOCK_NAME = ".fovea.lock"
"""Name of the lock file. It holds the writer's process id, and is removed by the writer; not the user's content."""

_held: set[Path] = set()  # a second lock of the same process would succeed, and its end release both


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Hold `folder`, which is made when missing, for this process until the block ends.

    Raises:
        UsageError: another process, or this one, is writing there.
        FoveaError: the operating system refuses (no permission, a file system without locks).
    """
    path = Path(folder).resolve() / LOCK_NAME
    if path in _held:
        raise _taken(folder, str(os.getpid()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(folder, path)
    except OSError as error:
        raise FoveaError(f"{folder}: cannot be locked: {error.strerror or error}; write to another folder") from error
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with file:
            path.unlink(missing_ok=True)


def _lock(folder: str | Path, path: Path) -> BinaryIO:
    while True:
        file = path.open("a+b")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            pid = file.read(20).decode("ascii", "replace").strip()
            file.close()
            raise _taken(folder, pid) from None
        except BaseException:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            return file
        file.close()  # the last writer removed the file between our two calls


def _taken(folder: str | Path, pid: str) -> UsageError:
    return UsageError(
        f"{folder}: another run is writing here (pid {pid or 'unknown'});"
        " wait for it to end, or write to another folder"
    )

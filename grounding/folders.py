"""Folders that a command owns. Files that are not in its own listing are never replaced or removed.

    FOLDER/.fovea.jsonl        the listing: what kind of folder it is, and every file of ours in it
    FOLDER/.fovea.new/         the next content while it is being built
    FOLDER/.fovea.next.jsonl   its listing, once it is complete: from here on the next run completes the publication

Content is put in place in an order that leaves no mixture after a kill: the files of the old listing are removed,
then the listing is emptied, then the new files are moved in (folders first, ``manifest.json`` last), then the new
listing takes its name. Each step can be repeated.

A folder has one writer at a time, over processes (`writing`). The lock is the operating system's and falls when its
process ends, however it ends. It belongs to the process that took it, not to workers forked from it, so an orphaned
worker does not keep the folder locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from grounding.errors import FoveaError, UsageError
from grounding.io import replacing
from grounding.journal import Journal, read_header, read_journal

LISTING = ".fovea.jsonl"
PAGE = b'<meta name="generator" content="Fovea">'
"""In the first lines of every HTML page of ours."""
STAGING = ".fovea.new"
_NEXT = ".fovea.next.jsonl"
LOCK_NAME = ".fovea.lock"
"""Name of the lock file. It holds the writer's process id, and is removed by the writer; not the user's content."""
_held: set[Path] = set()  # a second lock of the same process would succeed, and its end release both


def check_apart(out: Path, inputs: Iterable[Path], option: str = "--out") -> None:
    """Refuse to write where something is read, links followed.

    Raises:
        UsageError: `out` is one of `inputs`, inside it, or above it.
    """
    place = real(out)
    try:
        place.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name too long, a file where a folder is needed
        raise UsageError(f"{option} {str(out)[:200]}: {error.strerror}; give a new or empty folder") from error
    for path in inputs:
        read = real(path)
        for relation, wrong in (
            ("is", place == read),
            ("lies inside", read in place.parents),
            ("holds", place in read.parents),
        ):
            if wrong:
                raise UsageError(f"{option} {out}: {relation} {path}, which is read; give a folder beside it")


def real(path: Path) -> Path:
    """`path` with all links followed. Raises UsageError for one that no file can have."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)[:200]!r}: is no path: {error}") from error


def check_owned(folder: Path, kind: str) -> None:
    """Refuse a folder that is neither missing, nor empty, nor one of `kind` that a command of ours made.

    Raises:
        UsageError: saying what it is.
    """
    try:
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise UsageError(f"{folder}: is not a folder; give a new or empty one")
        names = {entry.name for entry in os.scandir(folder)} - {LOCK_NAME}
        if LISTING not in names:
            if names:
                raise UsageError(f"{folder}: is not empty and no {kind} of ours; give a new or empty folder")
            return
        header = read_header(folder / LISTING)
    except OSError as error:
        raise UsageError(f"{str(folder)[:200]}: {error.strerror}; give a new or empty folder") from error
    if header is not None and header.get("kind") != kind:
        raise UsageError(f"{folder}: holds a {header.get('kind')}, no {kind}; give a new or empty folder")


def claim(folder: Path, kind: str) -> None:
    """Make `folder` and mark it as one of `kind` of ours. Several processes may do so at once.

    Raises:
        UsageError: as `check_owned`.
        FoveaError: the operating system refuses.
    """
    check_owned(folder, kind)
    if read_header(folder / LISTING) is None:
        with replacing(folder / LISTING) as part, Journal(part, {"kind": kind}):
            pass


def check_new(file: Path, mark: bytes | None = None, option: str = "--out") -> None:
    """Refuse to write over a file that is there, unless it begins as all of this command's files do.

    Args:
        mark: what the first 4 KiB of each file of this command hold.

    Raises:
        UsageError: it is the user's.
    """
    try:
        if not os.path.lexists(file):
            return
        if mark is not None and file.is_file():
            with file.open("rb") as stream:
                if mark in stream.read(4096):
                    return
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {str(file)[:200]!r}: cannot be looked at: {error}; give another name") from error
    raise UsageError(f"{option} {file}: exists and was not made by this command; give another name, or move it away")


@contextmanager
def owning(folder: Path, kind: str) -> Iterator[None]:
    """Hold `folder` as its only writer; it is made, marked as ours, and an interrupted publication is completed.

    Raises:
        UsageError: as `check_owned`, or another run is writing there.
        FoveaError: the operating system refuses.
    """
    check_owned(folder, kind)
    with writing(folder):
        claim(folder, kind)
        _put_in_place(folder, kind)
        yield


@contextmanager
def rebuilding(folder: Path, kind: str) -> Iterator[Path]:
    """An empty folder to fill; what is in it becomes the content of `folder` when the block ends well.

    Raises:
        UsageError: as `owning`; or a file of somebody else's is in the way.
        FoveaError: the operating system refuses.
    """
    with owning(folder, kind):
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        try:
            (folder / STAGING).mkdir()
            yield folder / STAGING
            publish(folder, kind)
        except OSError as error:
            raise FoveaError(f"{folder}: {error.strerror or error}") from error
        finally:
            if not (folder / _NEXT).exists():
                shutil.rmtree(folder / STAGING, ignore_errors=True)


def publish(folder: Path, kind: str) -> None:
    """Replace the content of `folder`, which the caller is `owning`, by that of its `STAGING`.

    Raises:
        UsageError: a file that is not of the listing has the name of a new one; nothing has been changed.
        FoveaError: the operating system refuses.
    """
    old = _listed(folder)
    _check_free(folder / STAGING, folder, "", old)
    with replacing(folder / _NEXT) as part, Journal(part, {"kind": kind}) as listing:
        for path in _files(folder / STAGING):
            name = path.relative_to(folder / STAGING).as_posix()
            listing.append({"id": name, "bytes": path.stat().st_size})
    _put_in_place(folder, kind)


def _listed(folder: Path) -> dict[str, int]:
    """The files of ours that are as we left them, with their sizes."""
    base = real(folder)
    outside: dict[str, bool] = {}  # folders a listing must not lead to: through a link, "..", or from the top
    found = {}
    for row in read_journal(folder / LISTING):
        name, size = row["id"], row.get("bytes")
        parent = os.path.dirname(name)  # noqa: PTH120  called once a file
        if parent not in outside:
            place = base / parent
            outside[parent] = real(place) != place or not place.is_relative_to(base)
        with suppress(OSError, ValueError):
            if not outside[parent] and os.lstat(base / name).st_size == size:
                found[name] = size
    return found


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield Path(entry.path)


def _check_free(source: Path, target: Path, prefix: str, old: dict[str, int]) -> None:
    for entry in os.scandir(source):
        place, name = target / entry.name, prefix + entry.name
        if not os.path.lexists(place):
            continue
        if entry.is_dir() and place.is_dir() and not place.is_symlink():
            _check_free(Path(entry.path), place, f"{name}/", old)
        elif name not in old or entry.is_dir():
            raise UsageError(f"{place}: is not of this command, or was changed since; move it away and run again")


def _put_in_place(folder: Path, kind: str) -> None:
    """From whatever point it was interrupted at; nothing is done where nothing is to be put in place."""
    for part in folder.glob("..fovea.*"):  # of a writer that was killed
        part.unlink(missing_ok=True)
    if not (folder / _NEXT).exists():
        return
    try:
        old = sorted(_listed(folder), key=lambda name: ("/" in name, name))  # manifest and rows before images
        for name in old:
            (folder / name).unlink(missing_ok=True)
        parents = {str(parent) for name in old for parent in PurePosixPath(name).parents} - {"."}
        for parent in sorted(parents, reverse=True):  # the deepest first
            with suppress(OSError):  # not empty
                (folder / parent).rmdir()
        with replacing(folder / LISTING) as part, Journal(part, {"kind": kind}):
            pass
        _move(folder / STAGING, folder)
        (folder / _NEXT).replace(folder / LISTING)
        shutil.rmtree(folder / STAGING, ignore_errors=True)
    except OSError as error:
        raise FoveaError(
            f"{folder}: {error.strerror or error}; nothing is lost, run the same command again"
        ) from error


def _move(source: Path, target: Path) -> None:
    entries = list(os.scandir(source)) if source.exists() else []
    for entry in sorted(entries, key=lambda e: (not e.is_dir(), e.name == "manifest.json", e.name)):
        place = target / entry.name
        if not os.path.lexists(place):
            Path(entry.path).rename(place)
        elif entry.is_dir() and place.is_dir() and not place.is_symlink():
            _move(Path(entry.path), place)
        else:
            raise UsageError(f"{place}: is not of this command; move it away and run again")


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

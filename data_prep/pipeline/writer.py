"""Run a source and write a data set: atomic, resumable, counted.

    OUT/train.jsonl (val, test)   the rows, in the order the source yields them
    OUT/images/                   linked, copied or new
    OUT/rejects.jsonl             every row that was not converted, with its reason
    OUT/manifest.json             counts, rejects by reason, hashes, license, source versions, seed; put in place last

While running, rows are appended to files in OUT/.convert/ and every few thousand items a checkpoint is committed:
the files are flushed, then `state.json` with their lengths is replaced. A run that was killed truncates the files
to the last checkpoint, skips as many items of the source, and goes on. The data set is built beside what OUT holds
and put in place when it is complete (`grounding.folders`). So a rerun after a kill at any moment gives the same
bytes, a rerun of a finished run does nothing, and what is not ours in OUT stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import SPLITS, Item, Reject, Source
from data_prep.pipeline.images import inside
from data_prep.pipeline.readers import elsewhere
from grounding import folders
from grounding.errors import FoveaError, UsageError
from grounding.folders import STAGING, check_apart, owning
from grounding.io import read_samples, replacing, write_samples
from grounding.redact import redact
from grounding.sample import SCHEMA_VERSION, Sample, to_row

KIND = "data set"
"""What its folder is marked as."""

WORK = ".convert"
"""Folder of a run under way, in that of the data set."""

REJECTS = "rejects.jsonl"
NAMES = (*(f"{split}.jsonl" for split in SPLITS), REJECTS)
"""The files rows are appended to."""

NOT_IDENTITY = {"out", "max_rejects", "overwrite", "start", "pictures", "file", "folder"} | {
    "benchmark_reader",
    "benchmark_questions",
}
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


CHECK_EVERY = 1000  # items between two looks at the share of rejects; fixed, so that a rerun stops at the same item
COMMIT_ITEMS = 4000  # a commit waits for the disk: some 30 ms a file
COMMIT_SECONDS = 10.0
REMEMBER = 50_000  # names of images known to be in place; more are looked up again


def run(spec: Source, args: Namespace, progress: Callable[[State], None] | None = None) -> dict[str, Any]:
    """Convert with source `spec` into `args.out`.

    Args:
        spec: the source.
        args: its arguments plus root, out, limit, seed, images ("link", "copy" or "none"), format ("jsonl" or
            "parquet"), val (share of rows moved to the validation split, by image), max_rejects, overwrite.
        progress: called with the state after every item.

    Returns:
        The manifest.

    Raises:
        UsageError: OUT is where the source reads, holds something else, or another run is writing there.
        FoveaError: too many rejects, nothing converted, or the disk refuses.
    """
    out: Path = args.out
    check_apart(out, _read_paths(args))
    inputs = _hash_inputs(spec, args)
    fingerprint = _fingerprint(spec, args, inputs)
    done = _finished(out, fingerprint, args.overwrite)
    if done is not None and not (out / WORK).exists():
        return done
    with owning(out, KIND):
        try:
            done = _finished(out, fingerprint, args.overwrite)
            work = out / WORK
            if done is None:
                state = _resume(out, fingerprint)
                if not state.finished:
                    _convert(spec, args, work, state, progress)
                done = publish(spec, args, work, state, inputs)
            _discard(out)
        except OSError as error:
            reason = error.strerror or error
            raise FoveaError(f"{out}: {reason}; nothing is lost, run the same command again") from error
    return done


def _read_paths(args: Namespace) -> Iterator[Path]:
    """Every existing file and folder that the arguments name for reading."""
    if vars(args).get("file") is not None:  # `import` reads that, and only the images it names
        yield args.file
        return
    for name, value in vars(args).items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Path) and name not in ("out", "cache"):
                yield item
            elif isinstance(item, str):  # patterns and folders below --root, NAME=DIR
                folder = item.partition("=")[2]
                path = Path(folder) if folder else args.root and args.root / item
                if path and _exists(path):
                    yield path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text too long for a path
        return False


def _hash_inputs(spec: Source, args: Namespace) -> dict[str, dict[str, Any]]:
    """Name, size and SHA-256 of the files that decide the result."""
    hashes = {}
    for path in spec.inputs(args) if spec.inputs else ():
        if not path.is_file():
            inside_root = args.root is not None and path.is_relative_to(args.root)
            hint = elsewhere(args.root, str(path.relative_to(args.root))) if inside_root else ""
            raise UsageError(f"{path} does not exist; {spec.name} reads {spec.reads}{hint}")
        name = path.relative_to(args.root) if args.root and path.is_relative_to(args.root) else path.name
        hashes[str(name)] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return hashes


def _fingerprint(spec: Source, args: Namespace, inputs: dict[str, dict[str, Any]]) -> str:
    """What makes two runs the same: the source, its arguments, and the content of its inputs."""
    ignored = NOT_IDENTITY | ({"root"} if inputs else set())
    identity = {key: str(value) for key, value in sorted(vars(args).items()) if key not in ignored}
    text = json.dumps([spec.name, SCHEMA_VERSION, identity, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(out: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The manifest if this very run is complete; without `overwrite`, another one's is in the way."""
    path = out / "manifest.json"
    if not path.exists():
        return None
    found = read_json(path)
    if found.get("fingerprint") == fingerprint:
        return found
    if not overwrite:
        raise UsageError(f"{out} holds a data set made with other arguments; choose another --out or add --overwrite")
    return None


def _resume(out: Path, fingerprint: str) -> State:
    """The last committed state with the files cut to it; a fresh one when the last run was another."""
    work, state = out / WORK, State(fingerprint)
    path = work / "state.json"
    if path.exists():
        try:
            found = State.read(read_json(path))
            if found.fingerprint == fingerprint and (out / STAGING).is_dir():
                state = found
        except ValueError as error:
            raise UsageError(f"{path}: is damaged ({error}); remove {work} and run again") from error
    if not state.items:
        _discard(out)
    work.mkdir(exist_ok=True)
    (out / STAGING).mkdir(exist_ok=True)
    for name in NAMES:
        with (work / name).open("ab") as handle:
            handle.truncate(state.sizes[name])
    write_json(path, state.as_dict())
    return state


def _discard(out: Path) -> None:
    """Remove the files of a run under way; its folder stays if there is something else in it."""
    work = out / WORK
    shutil.rmtree(out / STAGING, ignore_errors=True)
    if work.is_dir():
        shutil.rmtree(work / "views", ignore_errors=True)
        for path in (*(work / name for name in (*NAMES, "state.json", "image")), *work.glob(".state.json.*")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            work.rmdir()


def _convert(
    spec: Source, args: Namespace, work: Path, state: State, progress: Callable[[State], None] | None
) -> None:
    args.start = state.items
    converting = spec.convert(args)
    produced = iter(converting) if spec.seeks else islice(converting, state.items, None)
    files = {name: (work / name).open("ab") for name in NAMES}
    committed_items, committed_at, sizes = state.items, time.monotonic(), dict(state.sizes)
    placed: set[str] = set()
    try:
        while args.limit is None or state.kept < args.limit:
            item = next(produced, None)
            if item is None:
                break
            if isinstance(item, Sample):
                item = Item(item)
            name, row = _place(item, args, work, placed) if isinstance(item, Item) else (REJECTS, item)
            _append(files[name], name, row, state)
            state.items += 1
            if state.items % CHECK_EVERY == 0:
                _check(state, args)
            if state.items - committed_items >= COMMIT_ITEMS or time.monotonic() - committed_at > COMMIT_SECONDS:
                _commit(work, files, state, sizes)
                committed_items, committed_at, sizes = state.items, time.monotonic(), dict(state.sizes)
            if progress:
                progress(state)
        _close(converting)  # what it still has to put away must be done when the run counts as finished
        _check(state, args)
        if not state.kept:
            raise FoveaError(f"{spec.name}: nothing was converted from {args.root}{_summary(state, args)}")
        state.finished = True
        _commit(work, files, state, sizes)
    finally:
        _close(converting)
        for handle in files.values():
            handle.close()


def _close(converting: Iterable[Any]) -> None:
    if isinstance(converting, Generator):
        converting.close()


def _append(handle: Any, name: str, row: Sample | Reject, state: State) -> None:
    if isinstance(row, Reject):
        state.rejects[row.reason] = state.rejects.get(row.reason, 0) + 1
        told = f"{row.where}: {row.reason}, {row.detail[:200]}".removesuffix(", ")
        state.first_reject = state.first_reject or told.encode("utf-8", "replace").decode()
        encoded: dict[str, Any] = {"where": row.where, "reason": row.reason, "detail": row.detail}
    else:
        state.rows[name.removesuffix(".jsonl")] += 1
        state.kinds[row.kind] = state.kinds.get(row.kind, 0) + 1
        encoded = to_row(row)
    data = encode(encoded)
    handle.write(data)
    state.sizes[name] += len(data)


def _place(item: Item, args: Namespace, work: Path, placed: set[str]) -> tuple[str, Sample]:
    """Put the item's images in place, unless they are among `placed`; the file its row goes to, and the row."""
    if args.images != "none":
        for name, content in item.files.items():
            if name in placed:
                continue
            target = inside(args.out / STAGING, name)
            if target.parent == args.out / STAGING:  # where the rows are written
                raise UsageError(f"the source puts the image {name!r} beside the rows; name it images/{name}")
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                _put(content, target, work / "image", link=args.images == "link")
            if len(placed) >= REMEMBER:
                placed.clear()
            placed.add(name)
    split = item.split
    if args.val and split == "train":
        key = f"{args.seed}:{item.sample.images[0].path}".encode()
        if int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) < args.val * 2**64:
            split = "val"
    return f"{split}.jsonl", item.sample


def _put(content: Path | bytes, target: Path, temporary: Path, link: bool) -> None:
    if isinstance(content, bytes):
        temporary.write_bytes(content)
    else:
        content = content.resolve()
        if link:
            try:
                os.link(content, target)
                return
            except OSError:  # another file system, or one without hard links
                pass
        shutil.copyfile(content, temporary)
    temporary.replace(target)


def _commit(work: Path, files: dict[str, Any], state: State, sizes: dict[str, int]) -> None:
    """Put the files that have grown beyond `sizes` on the disk, then the state that counts on them."""
    for name, handle in files.items():
        if state.sizes[name] != sizes[name]:
            handle.flush()
            os.fsync(handle.fileno())
    write_json(work / "state.json", state.as_dict())


def _check(state: State, args: Namespace) -> None:
    if state.items and state.rejected / state.items > args.max_rejects:
        raise FoveaError(
            f"stopped: {state.rejected} of {state.items} rows rejected, more than --max-rejects"
            f" {args.max_rejects:g}{_summary(state, args)}"
        )


def _summary(state: State, args: Namespace) -> str:
    if not state.rejects:
        return ""
    reasons = sorted(state.rejects.items(), key=lambda pair: (-pair[1], pair[0]))
    told = ", ".join(f"{count} {reason}" for reason, count in reasons[:6])
    return f" ({told}; the first: {state.first_reject}); see {args.out / WORK / REJECTS}"


def publish(
    spec: Source, args: Namespace, work: Path, state: State, inputs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Build the data set in `args.out` from the finished run in `work`: rows join the images, all is put in place.

    It can be repeated from the start at any moment, because it reads what the run left in `work` and changes nothing
    there.

    Args:
        inputs: name -> size and hash of the files the source read.

    Returns:
        The manifest.
    """
    final = args.out / STAGING
    for path in final.iterdir():  # of a run that was killed here
        if path.is_file():
            path.unlink()
    rows, kinds, rejects = _rows(work, final, state)
    if spec.finish:
        spec.finish(final)
    if args.format == "parquet":
        for split in rows:
            write_samples(final / f"{split}.parquet", read_samples(final / f"{split}.jsonl"))
            (final / f"{split}.jsonl").unlink()
    names = sorted([REJECTS, *(f"{split}.{args.format}" for split in rows)])
    manifest = {
        "source": spec.name,
        "schema": SCHEMA_VERSION,
        "license": vars(args).get("license") or spec.license,
        "home": spec.home,
        "seed": args.seed,
        "arguments": {k: _plain(v) for k, v in sorted(vars(args).items()) if k not in NOT_IDENTITY | {"root"}},
        "inputs": inputs,
        "rows": rows,
        "targets": kinds,
        "images": sum(len(files) for folder, _, files in os.walk(final) if Path(folder) != final),
        "rejected": sum(rejects.values()),
        "rejects": rejects,
        "files": {name: {"bytes": (final / name).stat().st_size, "sha256": sha256(final / name)} for name in names},
        "fingerprint": state.fingerprint,
    }
    write_json(final / "manifest.json", manifest)
    folders.publish(args.out, KIND)
    return manifest


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, bool, type(None))) else redact(str(value))


def _rows(work: Path, final: Path, state: State) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Copy the rows, without those whose id came before; counts by split, by kind of target, by reject's reason."""
    repeated = _repeated(work)
    seen: set[int] = set()
    rows: dict[str, int] = {}
    kinds, rejects = dict(state.kinds), dict(state.rejects)
    shutil.copyfile(work / REJECTS, final / REJECTS)
    for split in (split for split in SPLITS if state.rows[split]):
        name = f"{split}.jsonl"
        rows[split] = state.rows[split]
        if not repeated:
            shutil.copyfile(work / name, final / name)
            continue
        with (
            (work / name).open("rb") as lines,
            (final / name).open("wb") as kept,
            (final / REJECTS).open("ab") as dropped,
        ):
            for line, digest in zip(lines, _digests(work / name), strict=True):
                if digest not in seen:
                    kept.write(line)
                    if digest in repeated:
                        seen.add(digest)
                    continue
                row = json.loads(line)
                dropped.write(encode({"where": row["id"], "reason": "duplicate id", "detail": f"again in {split}"}))
                rows[split] -= 1
                kinds[row["target"]["kind"]] -= 1
                rejects["duplicate id"] = rejects.get("duplicate id", 0) + 1
    return rows, dict(sorted(kinds.items())), dict(sorted(rejects.items()))


def _digests(path: Path) -> Iterator[int]:
    """A 64-bit digest of each row's id. A row begins with schema and id, so it need not be parsed."""
    with path.open("rb") as handle:
        for line in handle:
            head, _, _ = line.partition(b',"images":')
            yield int.from_bytes(hashlib.blake2b(head, digest_size=8).digest())


def _repeated(work: Path) -> set[int]:
    """Digests of the ids that occur more than once; eight bytes of memory for a row."""
    files = [work / f"{split}.jsonl" for split in SPLITS]
    digests = np.fromiter((digest for file in files for digest in _digests(file)), dtype=np.uint64)
    digests.sort()
    return {int(value) for value in digests[1:][digests[1:] == digests[:-1]]}

"""The last step of a conversion: the rows join the images beside what OUT holds, then all is put in place.

It can be repeated from the start at any moment, because it reads what the run left in .convert/ and changes
nothing there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import SPLITS, Source
from data_prep.pipeline.state import KIND, NOT_IDENTITY, REJECTS, State, encode, sha256, write_json
from grounding import folders
from grounding.folders import STAGING
from grounding.io import read_samples, write_samples
from grounding.redact import redact
from grounding.sample import SCHEMA_VERSION


def publish(
    spec: Source, args: Namespace, work: Path, state: State, inputs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Build the data set in `args.out` from the finished run in `work`.

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
        "images": sum(len(files) for _, _, files in os.walk(final / "images")),
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

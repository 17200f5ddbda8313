"""Perceptual hashes of images and groups of near-duplicates.

A hash is pHash of the `imagehash` library with 16 x 16 coefficients: 256 bits, enough to tell screens apart whose
layout is alike (64 bits are not). Two images within `distance` bits count as the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imagehash
import numpy as np

from data_prep.cot.teacher import in_order
from grounding.errors import BrokenRow, UsageError
from grounding.io import open_image
from grounding.journal import Journal, read_journal
from grounding.sample import ImageRef

BITS = 256
SIDE = 16
Hash = np.ndarray  # (32,) uint8


def image_hash(root: Path, ref: ImageRef) -> Hash:
    """The hash of an image, which is decoded for it: (32,) uint8. Raises BrokenRow for one that cannot be read."""
    return np.packbits(imagehash.phash(open_image(root, ref), hash_size=SIDE).hash.ravel())


class ImageHashes:
    """Hashes of a data set's images, kept in a file so that an interrupted run does not start over.

    Args:
        root: folder of the data set.
        cache: a journal of {"id", "path", "stamp", "hash" | "error"}; appended to.
        parallel: images decoded at once.
    """

    def __init__(self, root: Path, cache: Path, parallel: int = 4):
        self._root = root
        self._cache = cache
        self._parallel = parallel
        self.index: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self._hashes: list[Hash] = []

    def read(self, images: Iterable[ImageRef]) -> np.ndarray:
        """Hash every distinct image; rows of the result belong to `index[path]`: (N, 32) uint8."""
        kept: dict[str, dict[str, str]] = {}

        def work(ref: ImageRef) -> dict[str, str]:
            stamp = self._stamp(ref)
            found = kept.get(ref.path)
            if found and found["stamp"] == stamp:
                return found
            row = {"id": f"{ref.path} {stamp}", "path": ref.path, "stamp": stamp}
            try:
                return {**row, "hash": image_hash(self._root, ref).tobytes().hex()}
            except BrokenRow as error:
                return {**row, "error": error.reason}

        with Journal(self._cache, {"kind": "image hashes", "bits": BITS}) as journal:
            kept.update((row["path"], row) for row in read_journal(self._cache))
            for ref, row in in_order(work, _distinct(images), self._parallel):
                if row["id"] not in journal.ids:
                    journal.append(row)
                if "error" in row:
                    self.errors[ref.path] = row["error"]
                else:
                    self.index[ref.path] = len(self._hashes)
                    self._hashes.append(np.frombuffer(bytes.fromhex(row["hash"]), dtype=np.uint8))
        return np.array(self._hashes, dtype=np.uint8).reshape(-1, BITS // 8)

    def _stamp(self, ref: ImageRef) -> str:
        try:
            status = (self._root / ref.path).stat()
        except OSError:
            return "missing"
        return f"{status.st_size}-{status.st_mtime_ns}-{ref.width}x{ref.height}"


def _distinct(images: Iterable[ImageRef]) -> Iterable[ImageRef]:
    seen: set[str] = set()
    for ref in images:
        if ref.path not in seen:
            seen.add(ref.path)
            yield ref


def distances(hashes: np.ndarray, one: Hash) -> np.ndarray:
    """Bits in which each row of `hashes` (N, 32) differs from `one` (32,): (N,)."""
    return np.bitwise_count(hashes ^ one).sum(axis=1, dtype=np.int64)


def groups(hashes: np.ndarray, distance: int) -> np.ndarray:
    """The group of each hash (N,): the index of the first image of the group.

    Two hashes within `distance` share at least one of `distance + 1` bands of bits, so only images that agree in a
    band are compared.

    Raises:
        UsageError: `distance` is not in 0..31.
    """
    if not 0 <= distance < BITS // 8:
        raise UsageError(f"--distance {distance} is not in 0..{BITS // 8 - 1}")
    if not len(hashes):
        return np.empty(0, np.int64)
    distinct, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    leader = first.copy()  # of each distinct hash: where a member of its group first occurs

    def find(n: int) -> int:
        while leader[n] != first[n]:
            n = position[leader[n]]
        return n

    position = {int(place): n for n, place in enumerate(first)}
    for band in np.array_split(np.arange(BITS // 8), distance + 1):
        _, bucket = np.unique(distinct[:, band], axis=0, return_inverse=True)
        order = np.argsort(bucket.ravel(), kind="stable")
        starts = np.flatnonzero(np.diff(bucket.ravel()[order])) + 1
        for members in np.split(order, starts):
            for k, one in enumerate(members[:-1]):
                rest = members[k + 1 :]
                for other in rest[distances(distinct[rest], distinct[one]) <= distance]:
                    a, b = sorted((find(int(one)), find(int(other))), key=lambda n: first[n])
                    leader[b] = first[a]
    return np.array([first[find(n)] for n in inverse.ravel()], dtype=np.int64)


class Known:
    """Hashes of foreign images (benchmarks), to be asked whether an image is among them."""

    def __init__(self, hashes: np.ndarray, names: list[str]):
        self._hashes = hashes
        self._names = names

    def name_of(self, one: Hash, distance: int) -> str | None:
        """The name of a foreign image that is the same picture, None when there is none."""
        if not len(self._hashes):
            return None
        found = distances(self._hashes, one)
        nearest = int(found.argmin())
        return self._names[nearest] if found[nearest] <= distance else None

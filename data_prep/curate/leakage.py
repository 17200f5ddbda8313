"""What a benchmark shows and asks, so that none of it is trained on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep import SPLITS
from data_prep.curate.hashes import BITS, Known, image_hash
from data_prep.curate.rules import is_telling, normalized
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.images import image_size
from grounding.errors import BrokenRow, UsageError
from grounding.io import read_samples
from grounding.sample import ImageRef


@dataclass
class HeldOut:
    """Pictures and instructions that must not be trained on.

    Attributes:
        known: hashes of the pictures.
        instructions: normalized telling instruction -> where it comes from.
        images, missing: how many pictures were hashed, and how many are not on disk (only their
            instructions count then).
    """

    known: Known = field(default_factory=lambda: Known(np.empty((0, BITS // 8), np.uint8), []))
    instructions: dict[str, str] = field(default_factory=dict)
    images: int = 0
    missing: int = 0


Shown = tuple[str, Path, list[str], str]
"""Name, folder of the images, path of each, instruction."""

BenchmarkReader = Callable[[str, Path], Iterator[tuple[Path, list[str], str]]]
"""(name of a benchmark, folder of its files) -> for each item the folder of the images, path of each as the adapter
says it, instruction. Benchmarks build on this package, so the command hands it in: `args.benchmark_reader`."""


def read_held_out(args: Namespace) -> HeldOut:
    """Everything `--benchmark NAME=DIR` and `--against DIR` name.

    Raises:
        UsageError: no such benchmark or folder, or pictures are missing (without `--words-only`).
    """
    held = HeldOut()
    hashes: list[np.ndarray] = []
    names: list[str] = []
    seen: set[Path] = set()
    for name, root, images, instruction in _shown(args):
        if is_telling(instruction):
            held.instructions.setdefault(normalized(instruction), name)
        for path in images:
            file = root / path
            if file in seen:
                continue
            seen.add(file)
            digest = _hash(root, path)
            if digest is None:
                held.missing += 1
            else:
                hashes.append(digest)
                names.append(f"{name}: {path}")
    held.images = len(hashes)
    if held.missing and not args.words_only:
        raise UsageError(
            f"{held.missing} of {held.missing + held.images} held-out pictures are not on disk, so copies of them"
            " would stay unseen; fetch them, or add --words-only to compare instructions alone where they are missing"
        )
    held.known = Known(np.array(hashes, np.uint8).reshape(-1, BITS // 8), names)
    return held


def _hash(root: Path, path: str) -> np.ndarray | None:
    """The hash of a picture whatever its size; None when it cannot be read."""
    try:
        return image_hash(root, ImageRef(path, *image_size(root / path)))
    except (BrokenRow, Rejected):
        return None


def _shown(args: Namespace) -> Iterator[Shown]:
    for folder in args.against:
        files = [folder / f"{split}.{suffix}" for split in SPLITS for suffix in ("jsonl", "parquet")]
        if not any(file.is_file() for file in files):
            raise UsageError(f"--against {folder}: no train, val or test file")
        for file in filter(Path.is_file, files):
            for sample in read_samples(file):
                images = [image.path for image in sample.images]
                yield f"{folder.name}/{file.stem}", folder, images, sample.instruction
    for pair in args.benchmark:
        name, mark, folder = pair.partition("=")
        if not mark:
            raise UsageError(f"--benchmark {pair}: give NAME=DIR")
        reader: BenchmarkReader = args.benchmark_reader
        finders: dict[Path, PictureFinder] = {}
        for images, paths, instruction in reader(name, Path(folder)):
            find = finders.setdefault(images, PictureFinder(images))
            yield name, images, [found for path in paths for found in find(path)], instruction


class PictureFinder:
    """Paths of a benchmark's image: as the adapter says, or else files of that name below the folder.

    Of several files of one name, those count whose folders agree with the adapter's path; where none do, all of them:
    a picture too many is a row lost, one too few a leak.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._by_name: dict[str, list[str]] | None = None

    def __call__(self, path: str) -> list[str]:
        if (self._folder / path).is_file():
            return [path]
        if self._by_name is None:
            self._by_name = {}
            for file in sorted(self._folder.rglob("*")):
                if file.suffix.lower() in _SUFFIXES:
                    self._by_name.setdefault(file.name, []).append(file.relative_to(self._folder).as_posix())
        found = self._by_name.get(PurePosixPath(path).name, [path])
        return [file for file in found if file.endswith(f"/{path}")] or found


_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")

"""Write the pages: one HTML file, statistics, and the rows in pieces that a browser loads as they are needed.

    OUT/index.html       the page itself, the same for every data set
    OUT/data/stats.js    counts and histograms
    OUT/data/index.js    what filters need of every row: about 60 bytes each
    OUT/data/rows-N.js   PIECE rows each, loaded when they come into view

Everything is a script, not JSON, because a browser that opens a file loads no JSON beside it. Images are not copied:
the page points at those of the data set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep import SPLITS
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.readers import read_rows
from data_prep.pipeline.writer import read_json
from grounding.errors import BrokenRow, UsageError
from grounding.folders import check_apart, real, rebuilding
from grounding.sample import Sample, from_row, regions_of
from grounding.targets import Box, Point, Polygon, Span

PIECE = 500
SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # square root of the area
WORDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 80)
GRID = 16


@dataclass
class Statistics:
    """What the plots show."""

    kinds: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    thoughts: Counter[int] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    centers: list[int] = field(default_factory=lambda: [0] * (GRID * GRID))
    broken: list[str] = field(default_factory=list)

    def add(self, sample: Sample, split: str) -> None:
        self.kinds[sample.kind] += 1
        self.splits[split] += 1
        self.sources[sample.source] += 1
        self.words[_bucket(len(sample.instruction.split()), WORDS)] += 1
        if sample.thought:
            self.thoughts[_bucket(len(sample.thought.split()), WORDS)] += 1
        first = sample.images[0]
        size = f"{first.width}x{first.height}"
        self.images[size if size in self.images or len(self.images) < 200 else "other sizes"] += 1
        for region in regions_of(sample.target):
            if isinstance(region, Span):
                continue
            box = region.bounds if isinstance(region, Polygon) else region
            center = box if isinstance(box, Point) else box.center
            column, row = min(GRID - 1, int(center.x * GRID)), min(GRID - 1, int(center.y * GRID))
            self.centers[row * GRID + column] += 1
            if isinstance(box, Box):
                self.sizes[_bucket(box.area**0.5, SIZES)] += 1


def _bucket(value: float, bounds: tuple[float, ...]) -> int:
    return next((n for n, bound in enumerate(bounds) if value <= bound), len(bounds))


def _histogram(counts: Counter[int], bounds: tuple[float, ...]) -> list[tuple[str, int]]:
    names = [f"<= {bound:g}" for bound in bounds] + [f"> {bounds[-1]:g}"]
    return [(name, counts[n]) for n, name in enumerate(names)]


def build(root: Path, out: Path | None = None) -> int:
    """Write the pages of the data set in `root`; the number of rows.

    Args:
        out: folder of the pages, apart from `root`; ``ROOT/view`` when not given.

    Raises:
        UsageError: `root` holds no data set, or `out` something else than pages.
    """
    if out is not None and real(out) != real(root / "view"):
        check_apart(out, [root])
    if not root.is_dir():
        raise UsageError(f"--root {root}: is not a folder; give the folder of a data set")
    out = out or root / "view"
    with rebuilding(out, "view of a data set") as new:
        return _build(root, out, new)


def _build(root: Path, out: Path, new: Path) -> int:
    data = new / "data"
    data.mkdir()
    statistics, number = Statistics(), 0
    names: dict[str, dict[str, int]] = {"kinds": {}, "splits": {}, "sources": {}}
    index: list[str] = []
    piece: list[Any] = []
    for split, sample in _rows(root, statistics):
        statistics.add(sample, split)
        index.append(_dump([*(_code(names[group], value) for group, value in
                     (("kinds", sample.kind), ("splits", split), ("sources", sample.source))),
                     int(bool(sample.thought)), sample.instruction[:200]]))  # fmt: skip
        piece.append(_row(sample))
        number += 1
        if len(piece) == PIECE:
            _write(data / f"rows-{number // PIECE - 1}.js", f"fovea.piece({number // PIECE - 1}, {_dump(piece)});\n")
            piece = []
    if piece:
        _write(data / f"rows-{number // PIECE}.js", f"fovea.piece({number // PIECE}, {_dump(piece)});\n")
    if not number:
        raise UsageError(f"{root}: no row can be read{': ' + statistics.broken[0] if statistics.broken else ''}")
    _write(data / "index.js", "fovea.index([\n" + ",\n".join(index) + "\n]);\n")
    facts = _facts(root, out, statistics, names, number)
    _write(data / "stats.js", f"fovea.stats({_dump(facts)});\n")
    shutil.copyfile(Path(__file__).with_name("page.html"), new / "index.html")
    return number


def _rows(root: Path, statistics: Statistics) -> Iterator[tuple[str, Sample]]:
    for split in SPLITS:
        for suffix in ("jsonl", "parquet"):
            path = root / f"{split}.{suffix}"
            if not path.is_file():
                continue
            for where, row in read_rows(path):
                try:
                    if isinstance(row, Rejected):
                        raise BrokenRow(where, str(row))
                    yield split, from_row(row, where)
                except BrokenRow as error:
                    if len(statistics.broken) < 100:
                        statistics.broken.append(str(error).replace(f"{root}/", ""))


def _row(sample: Sample) -> list[Any]:
    """id, instruction, images, regions, text, thought, meta: as short as it goes."""
    regions = []
    for region in regions_of(sample.target):
        if isinstance(region, Span):
            regions.append([-1, [region.start, region.end], region.label])
        elif isinstance(region, Polygon):
            regions.append([region.image, [round(v, 4) for xy in region.vertices for v in xy], region.label])
        else:
            coords = region.xyxy if isinstance(region, Box) else (region.x, region.y)
            regions.append([region.image, [round(v, 4) for v in coords], region.label])
    images = [[image.path, image.width, image.height] for image in sample.images[:16]]
    text = getattr(sample.target, "text", None)
    return [sample.id, sample.instruction, images, regions, text, sample.thought, dict(sample.meta)]


def _code(codes: dict[str, int], value: str) -> int:
    return codes.setdefault(value, len(codes))


def _facts(
    root: Path, out: Path, statistics: Statistics, names: dict[str, dict[str, int]], number: int
) -> dict[str, Any]:
    manifest = root / "manifest.json"
    made = read_json(manifest) if manifest.is_file() else {}
    return {
        "title": root.resolve().name,
        "images": Path(os.path.relpath(root.resolve(), out.resolve())).as_posix(),
        "rows": number,
        "piece": PIECE,
        "names": {group: list(codes) for group, codes in names.items()},
        "counts": {
            "kind": statistics.kinds.most_common(),
            "split": statistics.splits.most_common(),
            "source": statistics.sources.most_common(20),
            "image size": statistics.images.most_common(12),
            "rejected": sorted(made.get("rejects", {}).items(), key=lambda pair: -pair[1]),
        },
        "histograms": {
            "box size (square root of its share of the image)": _histogram(statistics.sizes, SIZES),
            "words of an instruction": _histogram(statistics.words, WORDS),
            "words of a thought": _histogram(statistics.thoughts, WORDS) if statistics.thoughts else [],
        },
        "centers": statistics.centers,
        "grid": GRID,
        "broken": statistics.broken,
        "license": made.get("license", ""),
    }


def _dump(value: Any) -> str:
    """JSON that is also JavaScript, wherever it stands."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")

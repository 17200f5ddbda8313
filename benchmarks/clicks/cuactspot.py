"""CUActSpot: one or several ordered clicks (drags, multiple targets) on text, tables, canvases, images and GUIs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.io.official_files import first, identity, naming, vertices, words
from benchmarks.harness.io.row_files import load_json
from benchmarks.harness.items import XY, BenchmarkItem, ItemImage, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.row_benchmark import RowBenchmark
from benchmarks.harness.scoring import decide
from grounding import geometry
from grounding.errors import UsageError


@BENCHMARKS.register("cuactspot")
class CUActSpot(RowBenchmark):
    """One JSON file per screenshot."""

    answer_kind = "points"
    rule = Rule(boundary="closed", over="modality")
    patterns: ClassVar = {"test": ["**/ActSpot/*.json", "*.json"]}
    card = read_card(__file__, "cuactspot")

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        folders = [folder for folder in (root, root / "data" / "ActSpot", root / "ActSpot") if folder.is_dir()]
        files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
        if not files:
            raise UsageError(f"{root}: has no NAME.json; needed: {self.card.files}")
        items = []
        for number, file in enumerate(files):
            with naming(str(file)):
                items += self.items_of(load_json(file), number, file, split)
        return items

    def image_root(self, root: Path) -> Path:
        return next(f for f in (root, root / "data" / "ActSpot", root / "ActSpot") if any(f.glob("*.json")))

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        name = identity(row["image_id"])
        outlines = [p for p in row["polygons"] if p.get("points")]
        strange = sorted({str(p["type"]) for p in outlines} - {"Target", "Banned"})
        if strange:
            raise ValueError(f"polygon type {strange[0]!r} is none of Target, Banned")
        targets = [p for p in outlines if p["type"] == "Target"]
        ranks = [_rank(p.get("rank")) for p in targets]
        yield BenchmarkItem(
            id=name,
            images=(ItemImage(f"{name}.png"),),
            instruction=words(first(row, ("task_en", "task"))),
            truth=Truth(polygons=tuple(vertices(p["points"]) for p in targets)),
            answer_kind=self.answer_kind,
            groups={"modality": name.partition("-")[0], "clicks": str(max(1, _most(ranks)))},
            meta={"ranks": ranks, "banned": [vertices(p["points"]) for p in outlines if p["type"] == "Banned"]},
        )

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        points = prediction.clicks
        if not points:
            return decide.WRONG if prediction.absent else decide.unreadable(rule)
        return decide.RIGHT if _right(item, points, rule) else decide.WRONG


def _rank(value: Any) -> str:
    """ "" without a rank, else a whole number from 1."""
    if value in (None, ""):
        return ""
    if isinstance(value, bool) or not str(value).isdigit() or int(value) < 1:
        raise ValueError(f"rank {value!r} is not a whole number from 1")
    return str(int(value))


def _most(ranks: Sequence[str]) -> int:
    return max((int(rank) for rank in ranks if rank), default=0)


def _right(item: BenchmarkItem, points: Sequence[XY], rule: Rule) -> bool:
    def inside(point: XY, outline: Sequence[XY]) -> bool:
        if len(outline) < 3:
            return False
        return bool(geometry.point_in_polygon(point, np.asarray(outline), boundary=rule.boundary))

    if any(inside(p, outline) for outline in item.meta["banned"] for p in points):
        return False
    targets, ranks = item.truth.polygons, item.meta["ranks"]
    if not targets:
        return True
    if all(rank == "" for rank in ranks):
        return all(any(inside(p, outline) for p in points) for outline in targets)
    if any(rank == "" for rank in ranks) or len(points) < _most(ranks):
        return False
    return all(
        any(inside(points[k - 1], outline) for outline, rank in zip(targets, ranks, strict=True) if rank == str(k))
        for k in range(1, _most(ranks) + 1)
    )

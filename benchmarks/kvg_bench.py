"""KVG-Bench: name-dropping expressions that need expert knowledge (aircraft, birds, dogs, ...)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.files import RowBenchmark, embedded, first, identity, listed, numbers, unit_box, words
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, Rule, Truth
from benchmarks.harness.rows import parse

_BOX = re.compile(r"\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)\s*,\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)")


@BENCHMARKS.register("kvg_bench")
class KVGBench(RowBenchmark):
    """Ten domains; several true boxes are alternatives."""

    asks = "box"
    patterns: ClassVar = {"test": ["**/*kvg*.parquet", "**/*.parquet", "**/*.json*"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,), average="macro", over="domain")
    card = Card(
        title="KVG-Bench",
        paper="Ma et al. 2025, DeepPerception, arXiv:2503.12797",
        get="https://huggingface.co/datasets/MaxyLee/KVG-Bench",
        license="Apache-2.0 (to be checked on the Hub)",
        files="kvg-bench.parquet with the images inside; boxes as text, <|box_start|>(x1,y1),(x2,y2)<|box_end|>, in "
        "thousandths",
        rule="IoU >= 0.5 with the best of the true boxes (evaluate.py); mean over the domains",
        size={"test": 1336},
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        answer = first(row, ("answer", "solution", "gt_bbox", "bbox"))
        domain = next((str(row[key]) for key in ("category", "domain", "class") if row.get(key)), "all")
        query = words(first(row, ("query", "question", "problem", "expression", "prompt")))
        images = listed(row.get("images") or [row["image"]])
        yield BenchmarkItem(
            id=identity(row.get("id", number)),
            images=tuple(embedded(image, file) for image in images),
            instruction=query.replace("<image>", "").strip(),
            truth=Truth(boxes=tuple(_boxes(answer))),
            asks=self.asks,
            groups={"domain": domain},
            frame="unit",
        )


def _boxes(answer: Any) -> Iterable[XYXY]:
    """Thousandths to [0, 1]; the text form, or lists of numbers."""
    found: list[Any] = [list(match) for match in _BOX.findall(answer)] if isinstance(answer, str) else []
    if not found:
        found = listed(parse(answer) if isinstance(answer, str) else answer)
        found = found if isinstance(found[0], list) else [found]
    for four in found:
        yield unit_box([value / 1000 for value in numbers(four, 4)])

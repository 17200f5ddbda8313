"""Visual-CoT, detection part: the region that answers a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.files import RowBenchmark, box, picture, words
from benchmarks.harness.items import BenchmarkItem, Card, Rule, Truth

_SETS = ("docvqa", "textcap", "textvqa", "dude", "sroie", "infographicsvqa", "flickr30k", "gqa", "openimages", "vsr",
         "cub", "emotic", "visual7w")  # fmt: skip


@BENCHMARKS.register("viscot")
class VisCoT(RowBenchmark):
    """One file per source; "all" reads every one there is."""

    asks = "box"
    splits = ("all", *_SETS)
    patterns: ClassVar = {
        "all": ["**/benchmark_det/*.jsonl"],
        **{name: [f"**/benchmark_det/{name}.jsonl", f"**/{name}.jsonl"] for name in _SETS},
    }
    rule = Rule(iou_op="ge", thresholds=(0.5,), average="macro", over="source")
    card = Card(
        title="Visual-CoT detection",
        paper="Shao et al. 2024, Visual CoT, arXiv:2403.16999",
        get="https://github.com/deepcs233/Visual-CoT (viscot_benchmark/benchmark_det)",
        license="Apache-2.0 (annotations); images: terms of their sources",
        files="SOURCE.jsonl: rows {img_path, expression, bbox xyxy in pixels, width, height}",
        rule="IoU >= 0.5 per source; mean over the sources",
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        yield BenchmarkItem(
            id=f"{file.stem}-{number}",
            images=(picture(row["img_path"], row.get("width"), row.get("height")),),
            instruction=words(row["expression"]),
            truth=Truth(boxes=(box(row["bbox"]),)),
            asks=self.asks,
            groups={"source": file.stem},
        )

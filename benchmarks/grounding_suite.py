"""GroundingSuite-Eval: stuff, parts, several and single objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.files import RowBenchmark, box, identity, picture, words
from benchmarks.harness.items import BenchmarkItem, Card, Rule, Truth

_CLASSES = {1: "stuff", 2: "part", 3: "multi", 4: "single"}


@BENCHMARKS.register("grounding_suite")
class GroundingSuite(RowBenchmark):
    """Boxes; the masks of the set are not scored."""

    asks = "box"
    patterns: ClassVar = {"test": ["**/GroundingSuite-Eval.jsonl", "**/*.parquet"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,), over="class")
    card = Card(
        title="GroundingSuite-Eval",
        paper="Hu et al. 2025, GroundingSuite, arXiv:2503.10596",
        get="https://github.com/hustvl/GroundingSuite; images: COCO unlabeled2017",
        license="Apache-2.0 (annotations); images: COCO terms of use",
        files="GroundingSuite-Eval.jsonl (xyxy in pixels) and unlabeled2017/",
        rule="IoU >= 0.5 (evaluate_grounding.py); micro average and per class. The original skips items whose image "
        "or prediction is missing; here they count as wrong.",
        size={"test": 3715},
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        height, width = (row.get("segmentation") or {}).get("size") or (None, None)
        yield BenchmarkItem(
            id=identity(row["idx"]),
            images=(picture(row["image_path"], width, height),),
            instruction=words(row["caption"]),
            truth=Truth(boxes=(box(row["box"]),), labels=(str(row.get("label", "")),)),
            asks=self.asks,
            groups={"class": _CLASSES.get(row["class_id"]) or identity(row["class_id"])},
        )

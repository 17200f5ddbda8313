"""One region per question: sets that differ in their columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.io.official_files import (
    embedded,
    first,
    identity,
    listed,
    numbers,
    unit_box,
    words,
)
from benchmarks.harness.io.row_files import parse
from benchmarks.harness.items import XYXY, BenchmarkItem, Rule, Truth, read_card
from benchmarks.harness.row_benchmark import Columns, RowBenchmark

_SETS = ("docvqa", "textcap", "textvqa", "dude", "sroie", "infographicsvqa", "flickr30k", "gqa", "openimages", "vsr",
         "cub", "emotic", "visual7w")  # fmt: skip


@BENCHMARKS.register("viscot")
class VisCoT(RowBenchmark):
    """One file per source; "all" reads every one there is."""

    answer_kind = "box"
    splits = ("all", *_SETS)
    columns = Columns(id=None, image=("img_path",), words=("expression",), size="width height")
    numbered = "{file}-{number}"
    patterns: ClassVar = {
        "all": ["**/benchmark_det/*.jsonl"],
        **{name: [f"**/benchmark_det/{name}.jsonl", f"**/{name}.jsonl"] for name in _SETS},
    }
    rule = Rule(iou_op="ge", thresholds=(0.5,), average="macro", over="source")
    card = read_card(__file__, "viscot")

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        return {"source": file.stem}


_CLASSES = {1: "stuff", 2: "part", 3: "multi", 4: "single"}


@BENCHMARKS.register("grounding_suite")
class GroundingSuite(RowBenchmark):
    """Boxes; the masks of the set are not scored."""

    answer_kind = "box"
    columns = Columns(id="idx", image=("image_path",), words=("caption",), box=("box",))
    numbered = None
    patterns: ClassVar = {"test": ["**/GroundingSuite-Eval.jsonl", "**/*.parquet"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,), over="class")
    card = read_card(__file__, "grounding_suite")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        size = (row.get("segmentation") or {}).get("size")  # height, width
        yield from super().items_of({**row, "img_size": size and size[::-1]}, number, file, split)

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        return {"class": _CLASSES.get(row["class_id"]) or identity(row["class_id"])}


_BOX = re.compile(r"\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)\s*,\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)")


@BENCHMARKS.register("kvg_bench")
class KVGBench(RowBenchmark):
    """Ten domains; several true boxes are alternatives."""

    answer_kind = "box"
    patterns: ClassVar = {"test": ["**/*kvg*.parquet", "**/*.parquet", "**/*.json*"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,), average="macro", over="domain")
    card = read_card(__file__, "kvg_bench")

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
            answer_kind=self.answer_kind,
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

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
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, Rule, Truth
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
    card = Card(
        title="Visual-CoT detection",
        paper="Shao et al. 2024, Visual CoT, arXiv:2403.16999",
        get="https://github.com/deepcs233/Visual-CoT (viscot_benchmark/benchmark_det)",
        license="Apache-2.0 (annotations); images: terms of their sources",
        files="SOURCE.jsonl: rows {img_path, expression, bbox xyxy in pixels, width, height}",
        rule="IoU >= 0.5 per source; mean over the sources",
    )

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

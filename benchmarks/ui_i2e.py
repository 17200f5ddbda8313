"""UI-I2E-Bench: explicit and implicit instructions for interface elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item
from benchmarks.harness.files import box, first
from benchmarks.harness.items import BenchmarkItem, Card, Rule


@BENCHMARKS.register("ui_i2e")
class UII2E(ClickBenchmark):
    """`instr_type` 2 is implicit, everything else explicit."""

    patterns: ClassVar = {"test": ["**/*i2e*.jsonl", "*.jsonl", "**/*i2e*.json", "*.json", "**/*.parquet"]}
    rule = Rule(boundary="closed", average="micro", over="instruction")
    card = Card(
        title="UI-I2E-Bench",
        paper="Liu et al. 2025, UI-E2I-Synth, arXiv:2504.11257",
        get="https://huggingface.co/datasets/vaundys/I2E-Bench",
        license="not stated",
        files="one JSON lines file {image, instruction, bounding_box xyxy in pixels, source, el_type, "
        "annotations: {instr_type}} and the images",
        rule="click inside the box, edges included (i2e-bench-eval.py); micro average",
        size={"test": 1477},
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        kind = (row.get("annotations") or {}).get("instr_type", "unknown")
        if isinstance(kind, str) and kind.isdigit():
            kind = int(kind)
        words = ("implicit" if kind == 2 else "explicit") if isinstance(kind, int) else str(kind).lower()
        groups = {
            "instruction": words,
            "source": str(row.get("source", "unknown")),
            "element": str(row.get("el_type", "unknown")).lower(),
        }
        bbox = box(first(row, ("bounding_box", "bbox")))
        yield click_item(row, str(number), bbox, groups)

"""Showdown clicks: what people clicked on while working on macOS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item
from benchmarks.harness.files import box
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule

_README = "generalagents/showdown, clicks/README.md"


@BENCHMARKS.register("showdown")
class Showdown(ClickBenchmark):
    """The public development set."""

    splits = ("dev",)
    patterns: ClassVar = {"dev": ["**/data.csv", "**/*showdown*.csv", "*.csv", "**/*.jsonl", "**/*.parquet"]}
    rule = Rule(boundary="closed")
    card = Card(
        title="Showdown clicks (dev)",
        paper="General Agents 2025, The Showdown Computer Control Evaluation Suite",
        get="https://huggingface.co/datasets/generalagents/showdown-clicks",
        license="Apache-2.0",
        files="a CSV with id, image, instruction, x1, y1, x2, y2, width, height; and the images",
        rule="click inside the box, edges included; micro average",
        size={"dev": 557},
        published=(
            Published("ace-control-medium", 77.56, _README),
            Published("ace-control-small", 72.89, _README),
        ),
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        sized = {**row, "img_size": (row.get("width"), row.get("height"))}
        bbox = box([row[key] for key in ("x1", "y1", "x2", "y2")])
        yield click_item(sized, str(number), bbox, {})

"""RefChartQA: a question about a chart, its answer, and the regions that prove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.detection import coco_ap
from benchmarks.harness.items import BenchmarkItem, Card, Prediction, Rule, Verdict
from benchmarks.harness.samples import read_split
from benchmarks.harness.words import relaxed_match


@BENCHMARKS.register("refchartqa")
class RefChartQA(Benchmark):
    """Right is who answers right; grounding is AP@0.5."""

    asks = "text_box"
    splits = ("test", "val", "train")
    rule = Rule(over="type")
    card = Card(
        title="RefChartQA",
        paper="Vogel et al. 2025, RefChartQA, arXiv:2503.23131",
        get="https://huggingface.co/datasets/omoured/RefChartQA, then: python -m data_prep refchartqa",
        license="AGPL-3.0 (annotations); charts: ChartQA, GPL-3.0",
        files="the data set folder data_prep makes",
        rule="relaxed accuracy of the answer (numbers within 5 %); AP@0.5 of the boxes, all of one class",
        size={"train": 55789, "val": 6223, "test": 11690},
    )

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        return read_split(root, split, self.asks)

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            right = prediction.text is not None and relaxed_match(prediction.text, item.truth.text or "")
            verdicts.append(Verdict(right, float(right)))
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        drawn = [replace(item, truth=replace(item.truth, labels=())) for item in scored.items]
        return {"AP50": coco_ap(drawn, scored.answers)["AP50"]}

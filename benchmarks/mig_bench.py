"""MIG-Bench: find the object in one of several images; ten tasks, boxes in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness import judge
from benchmarks.harness.benchmark import Scored, thresholds
from benchmarks.harness.files import RowBenchmark, as_written, listed, picture, words
from benchmarks.harness.items import BenchmarkItem, Card, Prediction, Rule, Truth, Verdict


@BENCHMARKS.register("mig_bench")
class MIGBench(RowBenchmark):
    """The question names the image; which one a box is said to lie in is not checked, as in the original."""

    asks = "box"
    patterns: ClassVar = {"test": ["**/MIG_data.json", "**/*.json"]}
    rule = Rule(iou_op="ge", thresholds=(0.3, 0.5, 0.7), main=0.5, average="macro", over="task")
    card = Card(
        title="MIG-Bench",
        paper="Li et al. 2025, Migician, arXiv:2501.05767",
        get="https://huggingface.co/datasets/Michael4933/MIG-Bench; annotations: thunlp/Migician eval/MIG-Bench",
        license="Apache-2.0",
        files="MIG_data.json (boxes xyxy in [0, 1]) and images/",
        rule="IoU >= 0.3 / 0.5 / 0.7 and mean IoU per task, averaged over the ten tasks; an unreadable answer has "
        "IoU 0 (eval/MIG_bench_eval.py). The original divides numbers above 1 by 1000: declare --space thousand. "
        "Five of the official boxes have swapped corners: nothing overlaps them, here as there.",
        size={"test": 4295},
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        yield BenchmarkItem(
            id=str(number),
            images=tuple(
                picture(words(path).removeprefix("./").removeprefix("MIG-Bench/")) for path in listed(row["images"])
            ),
            instruction=words(row["question"]),
            truth=Truth(boxes=(as_written(row["answer"]),)),
            asks=self.asks,
            groups={"task": words(row["task"])},
            frame="unit",
        )

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        anywhere = [_in_first(p) if any(p.images) else p for p in predictions]
        return judge.boxes(items, anywhere, rule)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        tasks: dict[str, list[Verdict]] = {}
        for item, verdict in zip(scored.items, scored.verdicts, strict=True):
            tasks.setdefault(item.groups["task"], []).append(verdict)
        parts = [thresholds(part, scored.rule) for part in tasks.values()]
        sizes = [len(part) for part in tasks.values()]
        macro = {
            f"macro_accuracy@{t:g}": sum(p[f"correct@{t:g}"] / n for p, n in zip(parts, sizes, strict=True))
            / len(parts)
            for t in scored.rule.thresholds
        }
        return {
            **thresholds(scored.verdicts, scored.rule),
            **macro,
            "macro_mean_iou": sum(p["mean_iou"] for p in parts) / len(parts),
        }


def _in_first(prediction: Prediction) -> Prediction:
    return Prediction(prediction.status, prediction.strict, boxes=prediction.boxes, absent=prediction.absent)

"""Flickr30k Entities: the boxes of a caption's phrases, by either of the two protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.data_sets import read_split
from benchmarks.harness.items import XYXY, BenchmarkItem, Prediction, Rule, Verdict, read_card
from benchmarks.harness.scoring import decide
from grounding import geometry

_RANKS = (1, 5, 10)


@BENCHMARKS.register("flickr30k")
class Flickr30k(Benchmark):
    """Any-box protocol: one of the phrase's boxes has to be found."""

    answer_kind = "boxes"
    splits = ("test", "val")
    rule = Rule(iou_op="ge", thresholds=(0.5,))
    merged: ClassVar[bool] = False
    card = read_card(__file__, "flickr30k")

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        items = [item for item in read_split(root, split, self.answer_kind) if item.truth.boxes]
        return (
            [replace(i, truth=replace(i.truth, boxes=(_hull(i.truth.boxes),))) for i in items]
            if self.merged
            else items
        )

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        value = _best(prediction.boxes[:1], item.truth.boxes)
        return decide.unreadable(rule) if prediction.failed else decide.at_threshold(value, rule)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        pairs = list(scored.pairs)
        return {
            f"recalled@{k}": sum(
                decide.reaches(_best(p.boxes[:k], i.truth.boxes), scored.rule.main, scored.rule.iou_op)
                for i, p in pairs
            )
            for k in _RANKS
        }


@BENCHMARKS.register("flickr30k_merged")
class Flickr30kMerged(Flickr30k):
    """Merged-box protocol: the smallest box around all of the phrase's boxes."""

    merged = True
    card = read_card(__file__, "flickr30k_merged")


def _hull(boxes: Sequence[XYXY]) -> XYXY:
    columns = list(zip(*boxes, strict=True))
    return min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3])


def _best(answered: Sequence[XYXY], true: Sequence[XYXY]) -> float:
    if not answered or not true:
        return 0.0
    return float(geometry.iou_matrix(np.asarray(answered), np.asarray(true)).max())

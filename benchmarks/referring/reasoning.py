"""ReasonSeg / LISA-Grounding: implicit questions, scored on the box around the target and on its mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Scored, thresholds
from benchmarks.harness.io.official_files import (
    box,
    listed,
    naming,
    picture,
    vertices,
    words,
)
from benchmarks.harness.io.row_files import load_json
from benchmarks.harness.items import XY, BenchmarkItem, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.row_benchmark import Columns, RowBenchmark
from benchmarks.harness.scoring import masks


@BENCHMARKS.register("reasonseg")
class ReasonSeg(RowBenchmark):
    """LISA-Grounding's file of boxes, or the original folder of outlines."""

    answer_kind = "box"
    columns = Columns(image=("image",), words=("normal_caption", "problem"), size="width height", box=("solution",))
    numbered = "{number}"
    splits = ("test", "val")
    patterns: ClassVar = {
        "test": ["**/lisa_test.json", "**/*lisa*test*.json*"],
        "val": ["**/lisa_val.json", "**/*lisa*val*.json*"],
    }
    rule = Rule(iou_op="gt", thresholds=(0.5,))
    card = read_card(__file__, "reasonseg")

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        outlines = sorted((root / split).glob("*.json")) if root.is_dir() else []
        if not outlines:
            return super().read(root, split)
        items = []
        for file in outlines:
            with naming(str(file)):
                items += _labelme(load_json(file), file, split)
        return items

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        return super().judge(items, [_boxed(p) for p in predictions], rule)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        figures = thresholds(scored.verdicts, scored.rule)
        outlined = [(i, p) for i, p in scored.pairs if i.meta.get("outlines")]
        sized = [(i, p) for i, p in outlined if i.images[0].known]
        if not sized:
            return figures
        counts = np.array([_overlap(i, p) for i, p in sized], dtype=float)  # (images, 2)
        intersection, union = counts.T
        per_image = np.where(union > 0, intersection / (union + 1e-5), 1.0)
        drawn = "" if any(p.mask is not None for _, p in sized) else "box_"
        return figures | {
            "masks": len(sized),
            f"{drawn}gIoU": float(per_image.mean()),
            f"{drawn}cIoU": float(intersection.sum() / (union.sum() + 1e-10)),
        }


def _boxed(prediction: Prediction) -> Prediction:
    """A prediction of a mask only, with the box around it."""
    if prediction.mask is None or prediction.boxes:
        return prediction
    rows, columns = np.nonzero(masks.decode(prediction.mask))
    if not len(rows):
        return prediction
    around = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return replace(prediction, boxes=(around,), images=(0,))


def _overlap(item: BenchmarkItem, prediction: Prediction) -> tuple[int, int]:
    """Intersection and union in pixels; a mask of another size than the image counts as empty."""
    width, height = item.images[0].width, item.images[0].height
    predicted = np.zeros((height, width), dtype=bool)
    if prediction.mask is not None:
        found = masks.decode(prediction.mask)
        predicted = found if found.shape == predicted.shape else predicted
    elif prediction.boxes:
        predicted = masks.of_box(prediction.boxes[0], width, height)
    return masks.overlap(predicted, masks.painted(item.meta["outlines"], width, height))


def _labelme(content: Mapping[str, Any], file: Path, split: str) -> list[BenchmarkItem]:
    outlines = [_outline(s) for s in listed(content["shapes"]) if s["label"].lower() != "flag"]  # deprecated marks
    corners = [corner for value, points in outlines if value == masks.TARGET for corner in points]
    if not corners:
        raise ValueError("no shape is a target")
    xs, ys = zip(*corners, strict=True)
    return [
        BenchmarkItem(
            id=f"{file.stem}-0",
            images=(picture(f"{split}/{file.stem}.jpg"),),
            instruction=words(listed(content["text"])[0]).strip(),
            truth=Truth(boxes=(box((min(xs), min(ys), max(xs), max(ys))),)),
            answer_kind="box",
            groups={"query": "sentence" if content.get("is_sentence") else "phrase"},
            meta={"outlines": outlines},
        )
    ]


def _outline(shape: Mapping[str, Any]) -> tuple[int, tuple[XY, ...]]:
    value = masks.IGNORED if "ignore" in shape["label"].lower() else masks.TARGET
    return value, vertices(shape["points"])

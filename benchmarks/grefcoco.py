"""gRefCOCO: expressions for no, one or several objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.files import corners, first, identity, listed, naming, picture, words
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, Prediction, Rule, Truth, Verdict
from benchmarks.harness.rows import read_rows
from data_prep.sources.referring import read_instances
from grounding import geometry
from grounding.errors import UsageError


@BENCHMARKS.register("grefcoco")
class GRefCOCO(Benchmark):
    """An image is right when its F1 is 1."""

    asks = "boxes"
    splits = ("val", "testA", "testB")
    rule = Rule(iou_op="ge", thresholds=(0.5,), over="targets")
    card = Card(
        title="gRefCOCO (GREC)",
        paper="Liu et al. 2023, GRES, arXiv:2306.00968; He et al. 2023, GREC, arXiv:2308.16182",
        get="https://github.com/henghuiding/gRefCOCO; images: COCO train2014",
        license="CC-BY-NC-SA-4.0 (annotations)",
        files="grefs(unc).json and instances.json, in the folder or in grefcoco/",
        rule="greedy matching by generalized IoU, each pair at least 0.5; share of expressions with F1 = 1. Without "
        "a target, right means no box; N-acc and T-acc as in mdetr/datasets/refexp.py. An output nothing can be "
        "read from is wrong here; the original, a detector, has no such outputs.",
    )

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        folder = root / "grefcoco" if (root / "grefcoco").is_dir() else root
        refs = folder / "grefs(unc).json"
        if not refs.is_file() or not (folder / "instances.json").is_file():
            raise UsageError(f"{root}: has not both grefs(unc).json and instances.json; needed: {self.card.files}")
        with naming(str(folder / "instances.json")):
            images, boxes = read_instances(folder / "instances.json")
        items: list[BenchmarkItem] = []
        for where, ref in read_rows(refs):
            with naming(where):
                if words(ref["split"]) == split:
                    items += _expressions(ref, images[ref["image_id"]], boxes)
        return items

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            if item.truth.absent:
                right = prediction.absent and not prediction.boxes
                verdicts.append(Verdict(right, float(right)))
            else:
                f1 = matched_f1(prediction.boxes, item.truth.boxes, rule.main)
                verdicts.append(Verdict(f1 >= 1.0, f1))
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        pairs = list(scored.pairs)
        empty = [p for i, p in pairs if i.truth.absent]
        present = [p for i, p in pairs if not i.truth.absent]
        return {
            "no_target": len(empty),
            "no_target_without_box": sum(not p.boxes for p in empty),
            "N_acc": sum(not p.boxes for p in empty) / len(empty) if empty else 0.0,
            "T_acc": sum(bool(p.boxes) for p in present) / len(present) if present else 0.0,
            "mean_F1": sum(v.value for v in scored.verdicts) / len(scored.verdicts) if scored.verdicts else 0.0,
        }


def matched_f1(answered: Sequence[XYXY], true: Sequence[XYXY], threshold: float) -> float:
    """F1 of a greedy one-to-one matching, best generalized IoU first."""
    hits = 0
    if answered and true:
        table = geometry.giou(np.asarray(answered)[:, None, :], np.asarray(true)[None, :, :])
        for _ in range(min(table.shape)):
            best = np.unravel_index(int(table.argmax()), table.shape)
            if table[best] < threshold:
                break
            hits += 1
            table[best[0], :] = table[:, best[1]] = 0.0
    return 2 * hits / (len(answered) + len(true)) if answered or true else 1.0


def _expressions(ref: dict[str, Any], image: dict[str, Any], boxes: dict[int, list[float]]) -> list[BenchmarkItem]:
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"ann_id {ids} names no annotation, or one twice; [-1] is an expression without a target")
    found = tuple(corners(boxes[i]) for i in ids if i != -1)
    targets = "none" if not found else "one" if len(found) == 1 else "several"
    return [
        BenchmarkItem(
            id=f"{identity(ref['ref_id'])}-{identity(sentence['sent_id'])}",
            images=(picture(image["file_name"], image["width"], image["height"]),),
            instruction=words(first(sentence, ("sent", "raw"))),
            truth=Truth(boxes=found, absent=not found),
            asks="boxes",
            groups={"targets": targets},
        )
        for sentence in listed(ref["sentences"])
    ]

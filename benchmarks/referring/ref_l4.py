"""Ref-L4: long expressions, many categories, boxes of every size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Scored, thresholds
from benchmarks.harness.io.official_files import corners
from benchmarks.harness.items import BenchmarkItem, Rule, read_card
from benchmarks.harness.row_benchmark import Columns, RowBenchmark
from benchmarks.harness.scoring import decide

# COCO's category numbers : those of Objects365 that the authors merge them with (evaluation.py)
_PAIRS = (
    "1:1 2:47 3:6 4:59 5:115 6:56 7:117 8:66 9:22 10:41 11:177 13:128 14:250 15:25 16:56 17:140 18:93 "
    "19:79 20:100 21:97 22:145 23:296 24:179 25:181 27:39 28:40 31:13 32:44 33:194 34:220 35:119 36:174 "
    "37:100000 38:155 39:138 40:114 41:146 42:147 43:205 44:9 46:36 47:11 48:89 49:85 50:94 51:26 52:113 "
    "53:83 54:266 55:104 56:142 57:153 58:235 59:144 60:151 61:98 62:3 63:51 64:26 65:76 67:98 70:154 "
    "72:37 73:74 74:116 75:133 76:107 77:62 78:164 79:135 80:278 81:82 82:134 84:19 85:95 86:31 87:170 "
    "88:70 89:328 90:227 "
)
_MERGED = {f"refcoco_{coco}": f"o365_{objects}" for coco, objects in (pair.split(":") for pair in _PAIRS.split())}
_STEPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


@BENCHMARKS.register("ref_l4")
class RefL4(RowBenchmark):
    """Splits as on the Hub."""

    answer_kind = "box"
    columns = Columns(image=("file_name",), words=("caption",), size="width height")
    box_form = staticmethod(corners)
    numbered = None
    splits = ("test", "val", "all")
    patterns: ClassVar = {
        "test": ["**/*test*.parquet", "**/*test*.json*"],
        "val": ["**/*val*.parquet", "**/*val*.json*"],
        "all": ["**/*.parquet", "**/*.json*"],
    }
    rule = Rule(iou_op="gt", thresholds=(0.5, 0.75, 0.9), over="size")
    card = read_card(__file__, "ref_l4")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        category = row.get("ori_category_id")
        meta = {} if category is None else {"category": _MERGED.get(str(category), str(category))}
        yield from (replace(item, meta=meta) for item in super().items_of(row, number, file, split))

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        side = math.sqrt(float(row["bbox"][2]) * float(row["bbox"][3]))
        return {"size": "small" if side < 128 else "medium" if side <= 256 else "large"}

    def summarize(self, scored: Scored) -> dict[str, Any]:
        figures = thresholds(scored.verdicts, scored.rule)
        hits = [sum(decide.reaches(v.value, step, scored.rule.iou_op) for v in scored.verdicts) for step in _STEPS]
        figures["mAcc"] = sum(hits) / len(hits) / len(scored.verdicts) if scored.verdicts else 0.0
        classes: dict[str, list[float]] = defaultdict(list)
        for item, verdict in zip(scored.items, scored.verdicts, strict=True):
            if "category" in item.meta:
                classes[item.meta["category"]].append(verdict.value)
        if classes:
            steps = [[_share(values, step, scored.rule.iou_op) for values in classes.values()] for step in _STEPS]
            figures |= {"classes": len(classes), "class_Acc": fmean(steps[0]), "class_mAcc": fmean(map(fmean, steps))}
        return figures


def _share(values: Sequence[float], threshold: float, op: str) -> float:
    return sum(decide.reaches(value, threshold, op) for value in values) / len(values)

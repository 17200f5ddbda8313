"""MMBench-GUI, level 2 (element grounding): six platforms, basic and advanced instructions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item
from benchmarks.harness.files import box, identity, numbers
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule


@BENCHMARKS.register("mmbench_gui")
class MMBenchGUI(ClickBenchmark):
    """An original row has a basic and an advanced instruction; copies have one row for each."""

    patterns: ClassVar = {
        "test": ["**/L2_annotations.json", "**/*MMbench_GUI*.json", "**/*MMBench*GUI*.json", "*.json"]
    }
    axes = ("group", "platform", "ui_type")
    rule = Rule(boundary="closed", average="micro", over="platform")
    card = Card(
        title="MMBench-GUI L2",
        paper="Wang et al. 2025, MMBench-GUI, arXiv:2507.19478",
        get="https://huggingface.co/datasets/OpenGVLab/MMBench-GUI",
        license="Apache-2.0",
        files="L2_annotations.json and the images",
        rule="click inside the box, edges included; platforms weighted by their number of items, which is the micro "
        "average",
        size={"test": 3594},
        published=(Published("MAI-UI-8B", 88.76, "Tongyi-MAI/MAI-UI, output_server/MMBench.jsonl: 3190 of 3594"),),
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        groups = {axis: str(row[axis]) for axis in self.axes if axis in row}
        bbox = box(row["bbox"])
        if "instruction" in row:
            yield click_item(row, f"{file.stem}_{number}", bbox, groups)
            return
        for level in ("basic", "advanced"):
            name = f"{identity(row.get('index', number))}_{level}"
            entry = {**row, "id": name, "instruction": row[f"{level}_instruction"]}
            if max(bbox) <= 1:  # the original annotates in [0, 1]
                sides = numbers(row["image_size"], 2) * 2
                entry_box = box([side * float(part) for side, part in zip(sides, row["bbox"], strict=True)])
            else:
                entry_box = bbox
            yield click_item(entry, name, entry_box, {**groups, "group": level})

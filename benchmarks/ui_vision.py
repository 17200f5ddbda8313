"""UI-Vision, element grounding: desktop software; basic, functional and spatial questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item
from benchmarks.harness.files import box, find, naming
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule
from benchmarks.harness.rows import read_rows

_PARTS = ("basic", "functional", "spatial")


@BENCHMARKS.register("ui_vision")
class UIVision(ClickBenchmark):
    """The headline is the mean of the three parts."""

    splits = ("all", *_PARTS)
    patterns: ClassVar = {part: [f"**/element_grounding_{part}.json"] for part in _PARTS}
    rule = Rule(boundary="closed", average="macro", over="part")
    card = Card(
        title="UI-Vision element grounding",
        paper="Nayak et al. 2025, UI-Vision, arXiv:2503.15661",
        get="https://huggingface.co/datasets/ServiceNow/ui-vision",
        license="MIT",
        files="element_grounding_{basic,functional,spatial}.json and element_grounding/ with the images",
        rule="click inside the box, edges included; mean of basic, functional and spatial",
        size={"basic": 1772, "functional": 1772, "spatial": 1935, "all": 5479},
        published=(
            Published("MAI-UI, best reported", 49.2, "github.com/Tongyi-MAI/MAI-UI README.md", "mean accuracy"),
            Published("Phi-Ground", 27.2, "github.com/microsoft/Phi-Ground README.md", "mean accuracy"),
        ),
    )

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        parts = _PARTS if split == "all" and root.is_dir() else (split,)
        return [item for part in parts for item in self._part(root, part)]

    def _part(self, root: Path, part: str) -> Iterable[BenchmarkItem]:
        for file in find(root, self.patterns, part, self.card.files):
            part = next((p for p in _PARTS if p in file.stem), part)
            for number, (where, row) in enumerate(read_rows(file)):
                with naming(where):
                    yield self._item(row, f"{part}_{number}", part)

    def _item(self, row: Mapping[str, Any], identity: str, part: str) -> BenchmarkItem:
        groups = {"part": part}
        for axis, key in (("element", "element_type"), ("category", "category")):
            if row.get(key):
                groups[axis] = str(row[key])
        words = "instruction" if "instruction" in row else "prompt_to_evaluate"
        return click_item(row, identity, box(row["bbox"]), groups, words)

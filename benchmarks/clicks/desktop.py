"""One click on an element of a GUI: sets that differ in their columns."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.io.official_files import (
    box,
    corners,
    find,
    identity,
    numbers,
    polygon,
    words,
)
from benchmarks.harness.items import BenchmarkItem, Rule, Truth, read_card
from benchmarks.harness.row_benchmark import ClickBenchmark, Columns, picture_of

log = logging.getLogger("fovea.eval")

_PARTS = ("basic", "functional", "spatial")


@BENCHMARKS.register("ui_vision")
class UIVision(ClickBenchmark):
    """The headline is the mean of the three parts."""

    splits = ("all", *_PARTS)
    parts = _PARTS
    columns = Columns(words=("instruction", "prompt_to_evaluate"))
    patterns: ClassVar = {part: [f"**/element_grounding_{part}.json"] for part in _PARTS}
    rule = Rule(boundary="closed", average="macro", over="part")
    card = read_card(__file__, "ui_vision")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        part = next((p for p in _PARTS if p in file.stem), split)
        named = {"element": row.get("element_type"), "category": row.get("category")}
        groups = {"part": part, **{axis: str(name) for axis, name in named.items() if name}}
        yield self.item(row, f"{part}_{number}", groups)


@BENCHMARKS.register("mmbench_gui")
class MMBenchGUI(ClickBenchmark):
    """An original row has a basic and an advanced instruction; copies have one row for each."""

    patterns: ClassVar = {
        "test": ["**/L2_annotations.json", "**/*MMbench_GUI*.json", "**/*MMBench*GUI*.json", "*.json"]
    }
    axes = ("group", "platform", "ui_type")
    rule = Rule(boundary="closed", average="micro", over="platform")
    card = read_card(__file__, "mmbench_gui")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        groups = self.groups(row, file)
        if "instruction" in row:
            yield self.item(row, f"{file.stem}_{number}", groups)
            return
        bbox = box(row["bbox"])
        if max(bbox) <= 1:  # the original annotates in [0, 1]
            sides = numbers(row["image_size"], 2) * 2
            bbox = box([side * float(part) for side, part in zip(sides, row["bbox"], strict=True)])
        for level in ("basic", "advanced"):
            name = f"{identity(row.get('index', number))}_{level}"
            entry = {**row, "id": name, "instruction": row[f"{level}_instruction"]}
            yield self.item(entry, name, {**groups, "group": level}, bbox)


@BENCHMARKS.register("ui_i2e")
class UII2E(ClickBenchmark):
    """`instr_type` 2 is implicit, everything else explicit."""

    columns = Columns(box=("bounding_box", "bbox"))
    numbered = "{number}"
    patterns: ClassVar = {"test": ["**/*i2e*.jsonl", "*.jsonl", "**/*i2e*.json", "*.json", "**/*.parquet"]}
    rule = Rule(boundary="closed", average="micro", over="instruction")
    card = read_card(__file__, "ui_i2e")

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        kind = (row.get("annotations") or {}).get("instr_type", "unknown")
        if isinstance(kind, str) and kind.isdigit():
            kind = int(kind)
        return {
            "instruction": ("implicit" if kind == 2 else "explicit") if isinstance(kind, int) else str(kind).lower(),
            "source": str(row.get("source", "unknown")),
            "element": str(row.get("el_type", "unknown")).lower(),
        }


@BENCHMARKS.register("showdown")
class Showdown(ClickBenchmark):
    """The public development set."""

    splits = ("dev",)
    columns = Columns(size="width height", box="x1 y1 x2 y2")
    numbered = "{number}"
    patterns: ClassVar = {"dev": ["**/data.csv", "**/*showdown*.csv", "*.csv", "**/*.jsonl", "**/*.parquet"]}
    card = read_card(__file__, "showdown")


@BENCHMARKS.register("osworld_g")
class OSWorldG(ClickBenchmark):
    """Split "refined" has the rewritten instructions."""

    splits = ("test", "refined")
    patterns: ClassVar = {
        "test": ["**/OSWorld-G.json", "**/OSWorld-G_sspro_format.json"],
        "refined": ["**/OSWorld-G_refined.json", "**/OSWorld-G_refined_sspro_format.json"],
    }
    card = read_card(__file__, "osworld_g")

    def read(self, root: Path, split: str) -> Iterator[BenchmarkItem]:
        if any("sspro_format" in file.name for file in find(root, self.patterns, split, self.card.files)):
            log.warning(
                "warning: in this copy of OSWorld-G polygons were converted as if they were boxes, and refusals "
                "became empty boxes; both are restored here, so scores differ from those computed on the copy"
            )
        return super().read(root, split)

    def image_root(self, root: Path) -> Path:
        folder = super().image_root(root)
        return folder / "images" if (folder / "images").is_dir() else folder

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        row = row if "box_type" in row else {**row, **_restored(row["bbox"])}
        groups = {"shape": str(row["box_type"])}
        kinds = row.get("GUI_types") or row.get("ui_type") or ()
        for kind in (kinds,) if isinstance(kinds, str) else kinds:
            groups[f"type {kind}"] = "yes"
        yield BenchmarkItem(
            id=identity(row.get("id", number)),
            images=(picture_of(row),),
            instruction=words(row["instruction"]),
            truth=_truth(row),
            answer_kind=self.answer_kind,
            groups=groups,
        )


def _truth(row: Mapping[str, Any]) -> Truth:
    kind, coordinates = row["box_type"], row.get("box_coordinates")
    if kind == "bbox":
        return Truth(boxes=(corners(coordinates),))
    if kind == "polygon":
        return Truth(polygons=(polygon(coordinates),))
    if kind == "refusal":
        return Truth(absent=True)
    raise ValueError(f"box_type {kind!r} is none of bbox, polygon, refusal")


def _restored(bbox: Any) -> dict[str, Any]:
    """What a row of the copy was: there, every outline had its second corner added to the first."""
    flat = numbers(bbox)
    if len(flat) > 4:
        x, y, far_x, far_y, *rest = flat
        return {"box_type": "polygon", "box_coordinates": [x, y, far_x - x, far_y - y, *rest]}
    if not any(flat):
        return {"box_type": "refusal"}
    x, y, far_x, far_y = numbers(flat, 4)
    return {"box_type": "bbox", "box_coordinates": [x, y, far_x - x, far_y - y]}

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
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule, Truth
from benchmarks.harness.row_benchmark import ClickBenchmark, Columns, picture_of

log = logging.getLogger("fovea.eval")

_PARTS = ("basic", "functional", "spatial")
_SHOWDOWN = "generalagents/showdown, clicks/README.md"
_MAI_UI = "Tongyi-MAI/MAI-UI, on its altered annotations, output_local/"


@BENCHMARKS.register("ui_vision")
class UIVision(ClickBenchmark):
    """The headline is the mean of the three parts."""

    splits = ("all", *_PARTS)
    parts = _PARTS
    columns = Columns(words=("instruction", "prompt_to_evaluate"))
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
    card = Card(
        title="UI-I2E-Bench",
        paper="Liu et al. 2025, UI-E2I-Synth, arXiv:2504.11257",
        get="https://huggingface.co/datasets/vaundys/I2E-Bench",
        license="not stated",
        files="one JSON lines file {image, instruction, bounding_box xyxy in pixels, source, el_type, "
        "annotations: {instr_type}} and the images",
        rule="click inside the box, edges included (i2e-bench-eval.py); micro average",
        size={"test": 1477},
    )

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
    card = Card(
        title="Showdown clicks (dev)",
        paper="General Agents 2025, The Showdown Computer Control Evaluation Suite",
        get="https://huggingface.co/datasets/generalagents/showdown-clicks",
        license="Apache-2.0",
        files="a CSV with id, image, instruction, x1, y1, x2, y2, width, height; and the images",
        rule="click inside the box, edges included; micro average",
        size={"dev": 557},
        published=(
            Published("ace-control-medium", 77.56, _SHOWDOWN),
            Published("ace-control-small", 72.89, _SHOWDOWN),
        ),
    )


@BENCHMARKS.register("osworld_g")
class OSWorldG(ClickBenchmark):
    """Split "refined" has the rewritten instructions."""

    splits = ("test", "refined")
    patterns: ClassVar = {
        "test": ["**/OSWorld-G.json", "**/OSWorld-G_sspro_format.json"],
        "refined": ["**/OSWorld-G_refined.json", "**/OSWorld-G_refined_sspro_format.json"],
    }
    card = Card(
        title="OSWorld-G",
        paper="Xie et al. 2025, Scaling Computer-Use Grounding (Jedi), arXiv:2505.13227",
        get="https://github.com/xlang-ai/OSWorld-G (benchmark/)",
        license="Apache-2.0",
        files="OSWorld-G.json or OSWorld-G_refined.json, and images/",
        rule="a click (or the center of a predicted box) inside the box, edges included, or inside the polygon "
        "(even-odd); on a refusal the model has to decline. Copies in ScreenSpot-Pro's form have mangled polygons "
        "and refusals nobody can win; both are restored, with a warning.",
        size={"test": 564, "refined": 564},
        published=(
            Published("MAI-UI-8B", 60.99, f"{_MAI_UI} OS_G.json: 344 of 564", "accuracy, test"),
            Published("MAI-UI-8B", 68.79, f"{_MAI_UI} OS_G_Refine.json: 388 of 564", "accuracy, refined"),
            Published("MAI-UI, best reported", 70.9, "github.com/Tongyi-MAI/MAI-UI README.md", "accuracy"),
        ),
    )

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

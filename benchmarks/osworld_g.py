"""OSWorld-G: desktop elements as boxes, elements of free form as polygons, and requests that cannot be met."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import picture_of
from benchmarks.harness.files import RowBenchmark, corners, find, identity, numbers, polygon, words
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule, Truth

log = logging.getLogger("fovea.eval")
_MAI_UI = "Tongyi-MAI/MAI-UI, on its altered annotations, output_local/"


@BENCHMARKS.register("osworld_g")
class OSWorldG(RowBenchmark):
    """Split "refined" has the rewritten instructions."""

    asks = "point"
    splits = ("test", "refined")
    patterns: ClassVar = {
        "test": ["**/OSWorld-G.json", "**/OSWorld-G_sspro_format.json"],
        "refined": ["**/OSWorld-G_refined.json", "**/OSWorld-G_refined_sspro_format.json"],
    }
    rule = Rule(boundary="closed", average="micro")
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

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
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
            asks=self.asks,
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

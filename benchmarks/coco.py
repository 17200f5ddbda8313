"""COCO detection, and the sets in its format: ODinW and OVDEval."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.grefcoco import matched_f1
from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.detection import coco_ap, thinned
from benchmarks.harness.files import corners, find, load_json, naming
from benchmarks.harness.items import Card, Item, Picture, Prediction, Published, Rule, Truth, Verdict

_GLIP = "github.com/microsoft/GLIP README.md"
_RULE = (
    "COCO AP by pycocotools; answers without scores get 1.0, which shifts AP. Items also count as right when every "
    "box is found and none is added, class ignored (F1 = 1 at IoU 0.5)."
)


class _CocoFormat(Benchmark):
    asks = "boxes"
    rule = Rule(iou_op="ge", thresholds=(0.5,))
    patterns: ClassVar[dict[str, list[str]]]

    def read(self, root: Path, split: str) -> list[Item]:
        return [item for file in find(root, self.patterns, split, self.card.files) for item in _items(file)]

    def image_root(self, root: Path) -> Path:
        folder = super().image_root(root)
        found = [f for f in (folder / "val2017", folder / "images", folder / "images" / "val2017") if f.is_dir()]
        return found[0] if found else folder

    def judge(self, items: Sequence[Item], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            if not item.truth.boxes:
                verdicts.append(Verdict(prediction.absent, float(prediction.absent)))
            else:
                f1 = matched_f1(prediction.boxes, item.truth.boxes, rule.main)
                verdicts.append(Verdict(f1 >= 1.0, f1))
        return verdicts

    def summarise(
        self, items: Sequence[Item], predictions: Sequence[Prediction], verdicts: Sequence[Verdict], rule: Rule
    ) -> dict[str, Any]:
        figures: dict[str, Any] = {"mean_F1": sum(v.value for v in verdicts) / max(1, len(verdicts))}
        sets: dict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(items):
            sets[item.groups["set"]].append(row)
        aps = []
        for name, rows in sets.items():
            names = {label: number for number, label in items[rows[0]].meta["categories"].items()}
            part = coco_ap([items[r] for r in rows], [predictions[r] for r in rows], names)
            aps.append(part["AP"])
            prefix = "" if len(sets) == 1 else f"{name} "
            figures |= {f"{prefix}{key}": value for key, value in part.items()}
        if len(sets) > 1:
            figures["mean_AP"] = sum(aps) / len(aps)
        return figures

    def prompt(self, item: Item) -> str:
        return item.instruction


def _items(file: Path) -> list[Item]:
    content = load_json(file)
    categories = {c["id"]: str(c["name"]) for c in content["categories"]}
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in content["annotations"]:
        annotations[row["image_id"]].append(row)
    items = []
    for image in content["images"]:
        rows = annotations[image["id"]]
        with naming(f"{file}: image {image['id']}"):
            items.append(
                Item(
                    id=str(image["id"]),
                    images=(Picture(image["file_name"], int(image["width"]), int(image["height"])),),
                    instruction=str(image.get("text") or ", ".join(categories.values())),
                    truth=Truth(
                        boxes=tuple(corners(r["bbox"]) for r in rows),
                        labels=tuple(categories[r["category_id"]] for r in rows),
                        absent=not rows,
                    ),
                    asks="boxes",
                    groups={"set": file.parent.name if file.stem.startswith("annotations") else file.stem},
                    meta={
                        "categories": categories,
                        "areas": {i: float(r["area"]) for i, r in enumerate(rows) if "area" in r},
                        "crowds": tuple(i for i, r in enumerate(rows) if r.get("iscrowd")),
                    },
                )
            )
    return items


@BENCHMARKS.register("coco")
class Coco(_CocoFormat):
    """COCO val2017, every category at once."""

    splits = ("val2017",)
    patterns: ClassVar = {"val2017": ["**/instances_val2017.json", "*.json"]}
    card = Card(
        title="COCO detection",
        paper="Lin et al. 2014, arXiv:1405.0312",
        get="https://cocodataset.org (2017 val images, train/val annotations)",
        licence="CC-BY-4.0 (annotations); images: Flickr terms",
        files="annotations/instances_val2017.json and val2017/; predictions: COCO results, or boxes with labels",
        rule=_RULE,
        size={"val2017": 5000},
        published=(
            Published("GLIP-L, zero-shot", 51.4, _GLIP, "AP"),
            Published("GLIP-T, zero-shot", 46.6, _GLIP, "AP"),
        ),
    )


@BENCHMARKS.register("odinw")
class ODinW(_CocoFormat):
    """One COCO file per data set of the collection; give a single one with --data FILE."""

    splits = ("test", "valid")
    patterns: ClassVar = {
        "test": ["**/test/annotations_without_background.json", "**/test/_annotations.coco.json"],
        "valid": ["**/valid/annotations_without_background.json", "**/valid/_annotations.coco.json"],
    }
    card = Card(
        title="ODinW",
        paper="Li et al. 2022, ELEVATER, arXiv:2204.08790",
        get="https://github.com/microsoft/GLIP (ODinW-13 / ODinW-35)",
        licence="per data set",
        files="SET/test/annotations_without_background.json beside the images of each set",
        rule=_RULE + " The collection's score is the mean AP over its sets.",
        published=(
            Published("GLIP-L, zero-shot", 51.2, _GLIP, "mean AP, 13 sets"),
            Published("GLIP-T, zero-shot", 42.7, _GLIP, "mean AP, 13 sets"),
        ),
    )


@BENCHMARKS.register("ovdeval")
class OVDEval(_CocoFormat):
    """One COCO file per aspect (attribute, negation, relationship, ...)."""

    patterns: ClassVar = {"test": ["**/*.json"]}
    card = Card(
        title="OVDEval",
        paper="Yao et al. 2023, arXiv:2308.13177",
        get="https://github.com/om-ai-lab/OVDEval",
        licence="Apache-2.0 (annotations)",
        files="one COCO file per aspect, and the images",
        rule=_RULE
        + " NMS-AP is AP after removing, per true box, all but the best scored of the boxes with IoU > 0.5, "
        "whatever their labels (eval.py).",
    )

    def summarise(
        self, items: Sequence[Item], predictions: Sequence[Prediction], verdicts: Sequence[Verdict], rule: Rule
    ) -> dict[str, Any]:
        left = [thinned(p, i.truth.boxes) for i, p in zip(items, predictions, strict=True)]
        after = super().summarise(items, left, verdicts, rule)
        named = {re.sub(r"(mean_)?AP", r"NMS-\g<0>", name): value for name, value in after.items() if "AP" in name}
        return super().summarise(items, predictions, verdicts, rule) | named

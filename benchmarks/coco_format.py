"""COCO detection, and the sets in its format: ODinW and OVDEval."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.official_files import corners, find, identity, naming, number, picture, words
from benchmarks.harness.io.row_files import load_json
from benchmarks.harness.items import BenchmarkItem, Rule, Truth, read_card
from benchmarks.harness.scoring.average_precision import NO_TRUTH, coco_ap, thinned
from grounding.errors import UsageError


class _CocoFormat(Benchmark):
    answer_kind = "boxes"
    rule = Rule(iou_op="ge", thresholds=(0.5,))
    patterns: ClassVar[dict[str, list[str]]]

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        files = self.files(root, split)
        names = [self.set_name(file, root) for file in files]
        return [
            item
            for file, name in zip(files, names, strict=True)
            for item in _items(file, name, f"{name}/" if len(files) > 1 else "", self.folder(file, root))
        ]

    def files(self, root: Path, split: str) -> list[Path]:
        return find(root, self.patterns, split, self.card.files)

    def set_name(self, file: Path, root: Path) -> str:
        """What the file's figures are called, unique among the files read."""
        return file.stem if root.is_file() else file.relative_to(root).with_suffix("").as_posix()

    def folder(self, file: Path, root: Path) -> str:
        """What stands before a file name of this annotation file, relative to `image_root`."""
        return ""

    def image_root(self, root: Path) -> Path:
        folder = super().image_root(root)
        found = [f for f in (folder / "val2017", folder / "images", folder / "images" / "val2017") if f.is_dir()]
        return found[0] if found else folder

    def summarize(self, scored: Scored) -> dict[str, Any]:
        figures: dict[str, Any] = {"mean_F1": sum(v.value for v in scored.verdicts) / max(1, len(scored.verdicts))}
        sets: dict[str, list[int]] = defaultdict(list)
        for row, item in enumerate(scored.items):
            sets[item.groups["set"]].append(row)
        aps = []
        for name, rows in sets.items():
            names = {label: number for number, label in scored.items[rows[0]].meta["categories"].items()}
            part = coco_ap([scored.items[r] for r in rows], [scored.answers[r] for r in rows], names)
            aps.append(part["AP"])
            prefix = "" if len(sets) == 1 else f"{name} "
            figures |= {f"{prefix}{key}": value for key, value in part.items()}
        if len(sets) > 1:
            known = [ap for ap in aps if ap > NO_TRUTH]
            figures["mean_AP"] = sum(known) / len(known) if known else NO_TRUTH
        return figures


def _items(file: Path, name: str, prefix: str, folder: str) -> list[BenchmarkItem]:
    """The images of a COCO file as items.

    Args:
        name: of the set.
        prefix: of the ids, where several files are read: each counts its images from the same number.
        folder: put before every file name.
    """
    content = load_json(file, "images", "annotations", "categories")
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    used: set[Any] = set()
    with naming(str(file)):
        known = {identity(image["id"]): image["id"] for image in content["images"]}
        if len({type(number) for number in known.values()}) > 1:
            raise ValueError("image ids are numbers and texts")
    for index, row in enumerate(content["annotations"]):
        with naming(f"{file}: annotations[{index}]"):
            if known.get(identity(row["image_id"])) != row["image_id"]:
                raise ValueError(f"there is no image {row['image_id']!r}")
            annotations[row["image_id"]].append(row)
            used.add(row["category_id"])
    with naming(f"{file}: categories"):
        ids = {row["id"] for row in content["categories"]}
        categories = _categories(content["categories"], used)
    items = []
    for image in content["images"]:
        rows = annotations[image["id"]]
        with naming(f"{file}: image {image['id']}"):
            items.append(
                BenchmarkItem(
                    id=f"{prefix}{identity(image['id'])}",
                    images=(picture(folder + words(image["file_name"]), image["width"], image["height"]),),
                    instruction=words(image.get("text") or ", ".join(categories.values())),
                    truth=Truth(
                        boxes=tuple(corners(r["bbox"]) for r in rows),
                        labels=tuple(categories[r["category_id"]] for r in rows),
                        absent=not rows,
                    ),
                    answer_kind="boxes",
                    groups={"set": name},
                    meta={
                        "coco_image_id": image["id"],
                        "categories": categories,
                        "category_ids": ids,
                        "areas": {i: number(r["area"]) for i, r in enumerate(rows) if "area" in r},
                        "crowds": tuple(i for i, r in enumerate(rows) if r.get("iscrowd")),
                    },
                )
            )
    return items


def _categories(rows: list[dict[str, Any]], used: set[Any]) -> dict[Any, str]:
    """Names by id. Of two categories with one name, as Roboflow writes a set and its only class, the one with boxes.

    Raises:
        ValueError: an id twice, or two categories of one name that both have boxes.
    """
    names: dict[Any, str] = {}
    for row in rows:
        if row["id"] in names:
            raise ValueError(f"id {row['id']!r} appears twice")
        names[row["id"]] = words(row["name"])
    for name, count in Counter(names.values()).items():
        same = [key for key, value in names.items() if value == name]
        with_boxes = [key for key in same if key in used]
        if len(with_boxes) > 1:
            raise ValueError(f"{with_boxes[0]!r} and {with_boxes[1]!r} are both called {name!r}")
        if count > 1:
            kept = (with_boxes or same)[0]
            names = {key: value for key, value in names.items() if key not in same or key == kept}
    return names


@BENCHMARKS.register("coco")
class Coco(_CocoFormat):
    """COCO val2017, every category at once."""

    splits = ("val2017",)
    patterns: ClassVar = {"val2017": ["**/instances_val2017.json", "*.json"]}
    card = read_card(__file__, "coco")


@BENCHMARKS.register("odinw")
class ODinW(_CocoFormat):
    """One COCO file per data set of the collection; give a single one with --data FILE."""

    splits = ("test", "valid")
    names: ClassVar = ("annotations_without_background.json", "_annotations.coco.json")
    card = read_card(__file__, "odinw")

    def files(self, root: Path, split: str) -> list[Path]:
        """Of every folder of the split the file without background images, where there is one."""
        if root.is_file():
            return [root]
        folders = sorted({file.parent for name in self.names for file in root.glob(f"**/{split}/{name}")})
        if not folders:
            raise UsageError(f"{root}: has no **/{split}/{self.names[0]}; needed: {self.card.files}")
        return [next(folder / name for name in self.names if (folder / name).is_file()) for folder in folders]

    def set_name(self, file: Path, root: Path) -> str:
        if root.is_file():
            return file.parent.parent.name
        return file.parent.parent.relative_to(root).as_posix() if file.parent.parent != root else root.name

    def folder(self, file: Path, root: Path) -> str:
        return "" if root.is_file() else f"{file.parent.relative_to(root).as_posix()}/"

    def image_root(self, root: Path) -> Path:
        return root if root.is_dir() else root.parent


@BENCHMARKS.register("ovdeval")
class OVDEval(_CocoFormat):
    """One COCO file per aspect (attribute, negation, relationship, ...)."""

    patterns: ClassVar = {"test": ["**/*.json"]}
    card = read_card(__file__, "ovdeval")

    def summarize(self, scored: Scored) -> dict[str, Any]:
        left = [thinned(p, i.truth.boxes) for i, p in scored.pairs]
        after = super().summarize(replace(scored, answers=left))
        named = {re.sub(r"(mean_)?AP", r"NMS-\g<0>", name): value for name, value in after.items() if "AP" in name}
        return super().summarize(scored) | named

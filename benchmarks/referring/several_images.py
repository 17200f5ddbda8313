"""Questions about several images: MIG-Bench and MC-Bench."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored, thresholds
from benchmarks.harness.io.official_files import (
    as_written,
    corners,
    find,
    first,
    identity,
    listed,
    naming,
    picture,
    words,
)
from benchmarks.harness.io.row_files import load_json
from benchmarks.harness.items import BenchmarkItem, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.row_benchmark import RowBenchmark
from benchmarks.harness.scoring import decide
from benchmarks.harness.scoring.average_precision import weighted_ap50
from grounding import geometry


@BENCHMARKS.register("mig_bench")
class MIGBench(RowBenchmark):
    """The question names the image; which one a box is said to lie in is not checked, as in the original."""

    answer_kind = "box"
    patterns: ClassVar = {"test": ["**/MIG_data.json", "**/*.json"]}
    rule = Rule(iou_op="ge", thresholds=(0.3, 0.5, 0.7), main=0.5, average="macro", over="task")
    card = read_card(__file__, "mig_bench")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        yield BenchmarkItem(
            id=str(number),
            images=tuple(
                picture(words(path).removeprefix("./").removeprefix("MIG-Bench/")) for path in listed(row["images"])
            ),
            instruction=words(row["question"]),
            truth=Truth(boxes=(as_written(row["answer"]),)),
            answer_kind=self.answer_kind,
            groups={"task": words(row["task"])},
            frame="unit",
        )

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        anywhere = [_in_first(p) if any(p.images) else p for p in predictions]
        return decide.boxes(items, anywhere, rule)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        tasks: dict[str, list[Verdict]] = {}
        for item, verdict in zip(scored.items, scored.verdicts, strict=True):
            tasks.setdefault(item.groups["task"], []).append(verdict)
        parts = [thresholds(part, scored.rule) for part in tasks.values()]
        sizes = [len(part) for part in tasks.values()]
        macro = {
            f"macro_accuracy@{t:g}": sum(p[f"correct@{t:g}"] / n for p, n in zip(parts, sizes, strict=True))
            / len(parts)
            for t in scored.rule.thresholds
        }
        return {
            **thresholds(scored.verdicts, scored.rule),
            **macro,
            "macro_mean_iou": sum(p["mean_iou"] for p in parts) / len(parts),
        }


def _in_first(prediction: Prediction) -> Prediction:
    return Prediction(prediction.status, prediction.strict, boxes=prediction.boxes, absent=prediction.absent)


_GROUP = "group {}"
_DIGITS = re.compile(r"\d+")


@BENCHMARKS.register("mc_bench")
class MCBench(Benchmark):
    """An item is a pair of images."""

    answer_kind = "boxes"
    patterns: ClassVar = {"test": ["**/MC-Bench_coco_format.json", "**/*coco_format*.json"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,))
    card = read_card(__file__, "mc_bench")

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        return [item for file in find(root, self.patterns, split, self.card.files) for item in _items(file)]

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        told = prediction.absent or bool(prediction.boxes)
        right = told and set(_images(prediction)) == set(item.truth.box_images)
        return decide.RIGHT if right else decide.WRONG

    def summarize(self, scored: Scored) -> dict[str, Any]:
        pairs = list(scored.pairs)
        named = [replace(p, images=_images(p), labels=_labels(p)) for p in scored.answers]
        several = [row for row, item in enumerate(scored.items) if _GROUP.format(2) in item.truth.labels]
        ways = {row: _names(scored.items[row], named[row], (0, 1)) for row in several}
        matched = list(named)
        for row in several:
            matched[row] = _renamed(named[row], ways[row])
        last = _last(scored.items) if several else None
        kept = [matched[row] if last and row == last[0] else p for row, p in enumerate(named)]
        script = list(named)
        if last:
            row, image = last
            for old, new in _names(scored.items[row], named[row], (image, 1 - image)).items():
                script[row] = _renamed(script[row], {old: new})
        present = sum(set(_images(p)) == set(i.truth.box_images) for i, p in pairs)
        return {
            "image_level": present,
            "image_accuracy": present / len(pairs) if pairs else 0.0,
            "AP50": _instance_level(scored.items, kept),
            "AP50_matched": _instance_level(scored.items, matched),
            "AP50_script": _instance_level(scored.items, script),
        }


def _images(prediction: Prediction) -> tuple[int, ...]:
    """The image of every box."""
    return tuple(prediction.images[i] if i < len(prediction.images) else 0 for i in range(len(prediction.boxes)))


def _labels(prediction: Prediction) -> tuple[str, ...]:
    """The group of every box."""
    found = [prediction.labels[i] if i < len(prediction.labels) else None for i in range(len(prediction.boxes))]
    return tuple(_GROUP.format(_number(label or "")) for label in found)


def _names(item: BenchmarkItem, prediction: Prediction, images: Sequence[int]) -> dict[str, str]:
    """Which true group fits each of the answered groups 1 .. k best; empty where there are more than true ones.

    Of all ways to give them different true groups, the one with the highest mean IoU over the pairs of boxes that a
    Hungarian matching makes within each image and group; of equal ones the first, groups in order of their numbers.
    """
    true = sorted(set(item.truth.labels), key=_number)
    answered = [_GROUP.format(number) for number in range(1, len(set(prediction.labels)) + 1)]
    ways = [dict(zip(answered, way, strict=True)) for way in itertools.permutations(true, len(answered))]
    return max(ways, key=lambda names: _mean_iou(item, prediction, names, images), default={})


def _renamed(prediction: Prediction, names: Mapping[str, str]) -> Prediction:
    """All groups renamed at once, so that two can swap their names."""
    return replace(prediction, labels=tuple(names.get(label or "", label) for label in prediction.labels))


def _last(items: Sequence[BenchmarkItem]) -> tuple[int, int]:
    """Row and image of the last image with a second group, in the order in which the script goes through them.

    That is the order of a Python set of their ids, filled in order of the annotations.
    """
    found = [
        (order, item.meta["image_ids"][image], (row, image))
        for row, item in enumerate(items)
        for order, image, label in zip(
            item.meta["annotations"], item.truth.box_images, item.truth.labels, strict=True
        )
        if label == _GROUP.format(2)
    ]
    at = {identity: place for _, identity, place in found}
    return at[list({identity for _, identity, _ in sorted(found)})[-1]]


def _number(label: str) -> int:
    """Of a group's name; 1 without one."""
    match = _DIGITS.search(label)
    return int(match[0]) if match else 1


def _mean_iou(item: BenchmarkItem, prediction: Prediction, names: Mapping[str, str], images: Sequence[int]) -> float:
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - half a second for the other benchmarks

    answers = list(zip(prediction.boxes, prediction.images, prediction.labels, strict=True))
    truths = list(zip(item.truth.boxes, item.truth.box_images, item.truth.labels, strict=True))
    values: list[float] = []
    for (answered, true), image in itertools.product(names.items(), images):
        ours = [box for box, *place in answers if place == [image, answered]]
        theirs = [box for box, *place in truths if place == [image, true]]
        if ours and theirs:
            table = geometry.iou_matrix(np.asarray(ours), np.asarray(theirs))
            values += table[linear_sum_assignment(-table)].tolist()
    return sum(values) / len(values) if values else 0.0


def _instance_level(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> float:
    halves = [_half(i, p, image) for i, p in zip(items, predictions, strict=True) for image in (0, 1)]
    groups = sorted({label for item in items for label in item.truth.labels}, key=_number)
    numbers = {name: number for number, name in enumerate(groups, 1)}
    return weighted_ap50([i for i, _ in halves], [p for _, p in halves], numbers)["AP50"]


def _items(file: Path) -> list[BenchmarkItem]:
    content = load_json(file, "images", "annotations")
    with naming(f"{file}: categories"):
        groups = {c["id"]: _GROUP.format(_number(words(c["name"]))) for c in content.get("categories", ())}
    with naming(str(file)):
        images = {image["id"]: image for image in content["images"]}
        if len(images) < len(content["images"]):
            raise ValueError("an image id appears twice")
    boxes: dict[Any, list[tuple[int, Any, str]]] = defaultdict(list)
    for number, row in enumerate(content["annotations"]):
        with naming(f"{file}: annotations[{number}]"):
            if row["image_id"] not in images:
                raise ValueError(f"there is no image {row['image_id']!r}")
            category = row.get("category_id")
            group = _GROUP.format(1) if category is None else groups[category]
            boxes[row["image_id"]].append((number, row["bbox"], group))
    items, done = [], set()
    for image in content["images"]:
        if image["id"] in done:
            continue
        with naming(f"{file}: image {image['id']}"):
            other = images[image["pair_image_id"]]
            if other is image or other["pair_image_id"] != image["id"]:
                raise ValueError(f"is not the pair of image {other['id']}")
            done |= {image["id"], other["id"]}
            items.append(_item([image, other], boxes))
    return items


def _item(pair: Sequence[dict[str, Any]], boxes: Mapping[Any, list[tuple[int, Any, str]]]) -> BenchmarkItem:
    found = [
        (corners(b), index, group, number)
        for index, image in enumerate(pair)
        for number, b, group in boxes.get(image["id"], ())
    ]
    head = pair[0]
    return BenchmarkItem(
        id="-".join(identity(image["id"]) for image in pair),
        images=tuple(picture(i["file_name"], i["width"], i["height"]) for i in pair),
        instruction=words(first(head, ("text", "caption", "description", "prompt"))),
        truth=Truth(
            boxes=tuple(box for box, _, _, _ in found),
            box_images=tuple(image for _, image, _, _ in found),
            labels=tuple(group for _, _, group, _ in found),
            absent=not found,
        ),
        answer_kind="boxes",
        groups={key: str(head[key]) for key in ("task", "type", "text_type", "prompt_type") if head.get(key)},
        meta={"image_ids": [image["id"] for image in pair], "annotations": [number for _, _, _, number in found]},
    )


def _half(item: BenchmarkItem, prediction: Prediction, image: int) -> tuple[BenchmarkItem, Prediction]:
    """One image of a pair, as an item and a prediction of its own."""
    true = [i for i, at in enumerate(item.truth.box_images) if at == image]
    kept = [i for i, at in enumerate(prediction.images) if at == image]
    truth = Truth(boxes=tuple(item.truth.boxes[i] for i in true), labels=tuple(item.truth.labels[i] for i in true))
    half = Prediction(
        prediction.status,
        boxes=tuple(prediction.boxes[i] for i in kept),
        labels=tuple(prediction.labels[i] for i in kept),
        scores=tuple(prediction.scores[i] for i in kept if i < len(prediction.scores)),
    )
    meta = {"coco_image_id": item.meta["image_ids"][image]}
    return BenchmarkItem(
        f"{item.id}#{image}", (item.images[image],), item.instruction, truth, "boxes", meta=meta
    ), half

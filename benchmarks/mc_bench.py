"""MC-Bench: one question about a pair of images; instances to find may lie in either, in both, or in none.

Instances that belong together form groups. Which of them an answer calls 1 and which 2 is its own affair, so answered
groups are first matched with the true ones. Labels name them: "1" or "group 1"; a box without a label is in group 1.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.detection import weighted_ap50
from benchmarks.harness.files import corners, find, load_json, naming
from benchmarks.harness.items import Card, Item, Picture, Prediction, Rule, Truth, Verdict
from grounding import geometry

_GROUP = "group {}"
_NUMBER = re.compile(r"\d+")


@BENCHMARKS.register("mc_bench")
class MCBench(Benchmark):
    """An item is a pair of images."""

    asks = "boxes"
    patterns: ClassVar = {"test": ["**/MC-Bench_coco_format.json", "**/*coco_format*.json"]}
    rule = Rule(iou_op="ge", thresholds=(0.5,))
    card = Card(
        title="MC-Bench",
        paper="Xu et al. 2024, MC-Bench, arXiv:2410.12332",
        get="https://github.com/XuYunqiu/MC-Bench",
        licence="not stated",
        files="MC-Bench_coco_format.json (images with pair_image_id, annotations xywh) and the images",
        rule="image level: a pair is right when each image has boxes exactly if it should. Instance level: "
        "AP50 per group of instances, weighted by its number of true boxes, after matching answered with true groups "
        "by mean IoU (eval_mc_bench.py). As published, the script keeps the matching of the last pair only, since it "
        "reads the file anew for each: AP50 is what it gives, AP50_matched keeps all. An answer nothing can be read "
        "from is wrong here; image_level counts it as having no boxes, as the script does.",
    )

    def read(self, root: Path, split: str) -> list[Item]:
        items: list[Item] = []
        for file in find(root, self.patterns, split, self.card.files):
            content = load_json(file)
            groups = {c["id"]: str(c["name"]) for c in content.get("categories", [])}
            boxes: dict[Any, list[tuple[Any, str]]] = defaultdict(list)
            for row in content["annotations"]:
                group = groups.get(row.get("category_id"), _GROUP.format(1))
                boxes[row["image_id"]].append((row["bbox"], group))
            images = {image["id"]: image for image in content["images"]}
            done: set[Any] = set()
            for image in content["images"]:
                if image["id"] in done:
                    continue
                with naming(f"{file}: image {image['id']}"):
                    pair = images[image["pair_image_id"]]
                    done |= {image["id"], pair["id"]}
                    items.append(_item([image, pair], boxes))
        return items

    def judge(self, items: Sequence[Item], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            right = set(_images(prediction)) == set(item.truth.box_images) and (
                prediction.absent or bool(prediction.boxes)
            )
            verdicts.append(Verdict(right, float(right)))
        return verdicts

    def summarise(
        self, items: Sequence[Item], predictions: Sequence[Prediction], verdicts: Sequence[Verdict], rule: Rule
    ) -> dict[str, Any]:
        pairs = list(zip(items, predictions, strict=True))
        named = [replace(p, images=_images(p), labels=_labels(p)) for p in predictions]
        several = [row for row, item in enumerate(items) if _GROUP.format(2) in item.truth.labels]
        matched = list(named)
        for row in several:
            matched[row] = _relabelled(items[row], named[row])
        as_script = [matched[row] if row in several[-1:] else p for row, p in enumerate(named)]
        present = sum(set(_images(p)) == set(i.truth.box_images) for i, p in pairs)
        return {
            "image_level": present,
            "image_accuracy": present / len(pairs) if pairs else 0.0,
            "AP50": _instance_level(items, as_script),
            "AP50_matched": _instance_level(items, matched),
        }


def _images(prediction: Prediction) -> tuple[int, ...]:
    """The image of every box."""
    return tuple(prediction.images[i] if i < len(prediction.images) else 0 for i in range(len(prediction.boxes)))


def _labels(prediction: Prediction) -> tuple[str, ...]:
    """The group of every box."""
    found = [prediction.labels[i] if i < len(prediction.labels) else None for i in range(len(prediction.boxes))]
    numbers = [_NUMBER.search(label or "") for label in found]
    return tuple(_GROUP.format(int(number[0]) if number else 1) for number in numbers)


def _relabelled(item: Item, prediction: Prediction) -> Prediction:
    """The answered groups 1 .. k under the names of the true groups that fit best.

    Of all ways to give them different true groups, the one with the highest mean IoU over the pairs of boxes that a
    Hungarian matching makes within each image and group. More groups than there are stay as they are.
    """
    true = sorted(set(item.truth.labels))
    answered = [_GROUP.format(number) for number in range(1, len(set(prediction.labels)) + 1)]
    ways = [dict(zip(answered, way, strict=True)) for way in itertools.permutations(true, len(answered))]
    if not answered or not ways:
        return prediction
    best = max(ways, key=lambda names: _mean_iou(item, prediction, names))
    return replace(prediction, labels=tuple(best.get(label or "", label) for label in prediction.labels))


def _mean_iou(item: Item, prediction: Prediction, names: Mapping[str, str]) -> float:
    answers = list(zip(prediction.boxes, prediction.images, prediction.labels, strict=True))
    truths = list(zip(item.truth.boxes, item.truth.box_images, item.truth.labels, strict=True))
    values: list[float] = []
    for (answered, true), image in itertools.product(names.items(), (0, 1)):
        ours = [box for box, *place in answers if place == [image, answered]]
        theirs = [box for box, *place in truths if place == [image, true]]
        if ours and theirs:
            table = geometry.iou_matrix(np.asarray(ours), np.asarray(theirs))
            values += table[linear_sum_assignment(-table)].tolist()
    return sum(values) / len(values) if values else 0.0


def _instance_level(items: Sequence[Item], predictions: Sequence[Prediction]) -> float:
    halves = [_half(i, p, image) for i, p in zip(items, predictions, strict=True) for image in (0, 1)]
    groups = sorted({label for item in items for label in item.truth.labels}, key=lambda name: (len(name), name))
    numbers = {name: number for number, name in enumerate(groups, 1)}
    return weighted_ap50([i for i, _ in halves], [p for _, p in halves], numbers)["AP50"]


def _item(pair: Sequence[dict[str, Any]], boxes: dict[Any, list[tuple[Any, str]]]) -> Item:
    found = [(corners(b), index, group) for index, image in enumerate(pair) for b, group in boxes[image["id"]]]
    first = pair[0]
    return Item(
        id="-".join(str(image["id"]) for image in pair),
        images=tuple(Picture(i["file_name"], int(i["width"]), int(i["height"])) for i in pair),
        instruction=str(first.get("text") or first.get("caption") or first.get("description") or first["prompt"]),
        truth=Truth(
            boxes=tuple(box for box, _, _ in found),
            box_images=tuple(image for _, image, _ in found),
            labels=tuple(group for _, _, group in found),
            absent=not found,
        ),
        asks="boxes",
        groups={key: str(first[key]) for key in ("task", "type", "text_type", "prompt_type") if first.get(key)},
    )


def _half(item: Item, prediction: Prediction, image: int) -> tuple[Item, Prediction]:
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
    return Item(f"{item.id}#{image}", (item.images[image],), item.instruction, truth, "boxes"), half

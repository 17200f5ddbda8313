"""COCO average precision through pycocotools, for answers that list boxes."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness.items import XYXY, BenchmarkItem, Prediction
from benchmarks.harness.official_frame import DIGITS
from grounding import geometry
from grounding.errors import UsageError

NO_TRUTH = -1.0  # what pycocotools gives where no true box counts
_FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def coco_ap(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], categories: Mapping[str, int] | None = None
) -> dict[str, float]:
    """AP and its usual companions, as pycocotools prints them: `NO_TRUTH` where there is no such true box.

    Raises:
        UsageError: pycocotools is not installed.

    Args:
        items: one per image (or per question); boxes in pixels, with labels when there are categories. Where scores
            tie, images count in order of `meta["coco_image_id"]`, else as they come.
        categories: name -> id; None treats every box as the same class. Labels of answers are matched by name, where
            no name is the same with case ignored; a box without a known label counts in no class.

    Answers of language models rarely have scores. Without them every box has score 1, and AP then depends on how
    ties are broken; compare only runs that are alike in this.
    """
    evaluation = _evaluate(items, predictions, {"": 1} if categories is None else categories)
    return {name: float(value) for name, value in zip(_FIGURES, evaluation.stats[:6], strict=True)}


def weighted_ap50(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], categories: Mapping[str, int]
) -> dict[str, float]:
    """AP50 as the mean over categories weighted by their number of true boxes, as MC-Bench's script has it.

    Raises, args: as `coco_ap`.
    """
    evaluation = _evaluate(items, predictions, categories)
    weights = Counter(categories[label] for item in items for label in item.truth.labels)
    total = 0.0
    for column, category in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][0, :, column, 0, 2]  # IoU 0.5, any area, 100 boxes per image
        known = precision[precision > NO_TRUTH]
        total += weights[category] * float(known.mean()) if len(known) else 0.0
    return {"AP50": total / sum(weights.values()) if weights else NO_TRUTH}


def thinned(prediction: Prediction, truth: Sequence[XYXY], threshold: float = 0.5) -> Prediction:
    """What OVDEval's NMS leaves of an answer: of all boxes over one true box, whatever their labels, the best scored.

    For each true box the prediction of the highest score among those with IoU > threshold stays (the later one of
    equals) and the others go, unless they are the best for another true box; boxes over no true box stay. From
    OVDEval's eval.py: a detector that says "red cup" and "blue cup" of the same cup must decide.
    """
    boxes = prediction.boxes
    if not boxes or not truth:
        return prediction
    scores = np.array([prediction.scores[i] if i < len(prediction.scores) else 1.0 for i in range(len(boxes))])
    kept: set[int] = set()
    removed: set[int] = set()
    for overlap in geometry.iou_matrix(np.asarray(truth), np.asarray(boxes)):
        over = np.flatnonzero(overlap > threshold)
        ranked = over[np.argsort(scores[over], kind="stable")[::-1]].tolist()
        kept.update(ranked[:1])
        removed.update(ranked[1:])
    left = [i for i in range(len(boxes)) if i in kept or i not in removed]

    def of(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in left if i < len(values))

    return replace(
        prediction,
        boxes=of(boxes),
        images=of(prediction.images),
        labels=of(prediction.labels),
        scores=of(prediction.scores),
    )


def _evaluate(
    items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], categories: Mapping[str, int]
) -> Any:
    """pycocotools' evaluation. categories: label -> id; one called "" takes every box."""
    coco, cocoeval = _tool("pycocotools.coco"), _tool("pycocotools.cocoeval")
    category_of = _Categories(categories)
    order = sorted(range(len(items)), key=lambda row: items[row].meta.get("coco_image_id", row))
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, row in enumerate(order):
        item, prediction = items[row], predictions[row]
        for index, box in enumerate(item.truth.boxes):
            category = category_of[item.truth.labels[index] if index < len(item.truth.labels) else ""]
            entry = _entry(truth, image, category, box)
            entry["area"] = item.meta.get("areas", {}).get(index, entry["area"])
            entry["iscrowd"] = int(index in item.meta.get("crowds", ()))
        for index, box in enumerate(prediction.boxes):
            category = category_of[(prediction.labels[index] if index < len(prediction.labels) else None) or ""]
            if category is not None:
                score = prediction.scores[index] if index < len(prediction.scores) else 1.0
                _entry(found, image, category, box)["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        pair = []
        for annotations in (truth, found):
            dataset = coco.COCO()
            dataset.dataset = {
                "images": [{"id": image} for image in range(len(items))],
                "categories": [{"id": number, "name": name} for name, number in categories.items()],
                "annotations": annotations,
            }
            dataset.createIndex()
            pair.append(dataset)
        evaluation = cocoeval.COCOeval(*pair, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


class _Categories(dict[str, "int | None"]):
    """Category ids by label: as it is written, else the only one equal up to case and blanks, else None."""

    def __init__(self, categories: Mapping[str, int]):
        super().__init__(categories)
        self.any = categories.get("")
        counts = Counter(name.lower() for name in categories)
        self.folded = {name.lower(): number for name, number in categories.items() if counts[name.lower()] == 1}

    def __missing__(self, label: str) -> int | None:
        self[label] = self.folded.get(label.strip().lower()) if self.any is None else self.any
        return self[label]


def _entry(annotations: list[dict[str, Any]], image: int, category: int | None, box: XYXY) -> dict[str, Any]:
    """A new annotation at the end of the list."""
    # Rounded: a width that went through corners must be the one that was written, where an IoU lies on a threshold
    x, y, w, h = (round(value, DIGITS) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
    entry = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h]}
    annotations.append(entry | {"area": w * h, "iscrowd": 0})
    return annotations[-1]


def _tool(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError("average precision needs pycocotools: pip install pycocotools") from error

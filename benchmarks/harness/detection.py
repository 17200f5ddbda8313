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

from benchmarks.harness.items import XYXY, Item, Prediction
from grounding import geometry
from grounding.errors import UsageError

_FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def coco_ap(
    items: Sequence[Item], predictions: Sequence[Prediction], categories: Mapping[str, int] | None = None
) -> dict[str, float]:
    """AP and its usual companions.

    Raises:
        UsageError: pycocotools is not installed.

    Args:
        items: one per image (or per question); boxes in pixels, with labels when there are categories.
        categories: name -> id; None treats every box as the same class. Labels of answers are matched by name,
            case ignored; a box without a known label counts in no class.

    Answers of language models rarely have scores. Without them every box has score 1, and AP then depends on how
    ties are broken; compare only runs that are alike in this.
    """
    names = {"": 1} if categories is None else {name.lower(): number for name, number in categories.items()}
    evaluation = _evaluate(items, predictions, names)
    if evaluation is None:
        return dict.fromkeys(_FIGURES, 0.0)
    return {name: max(0.0, float(value)) for name, value in zip(_FIGURES, evaluation.stats[:6], strict=True)}


def weighted_ap50(
    items: Sequence[Item], predictions: Sequence[Prediction], categories: Mapping[str, int]
) -> dict[str, float]:
    """AP50 as the mean over categories weighted by their number of true boxes, as MC-Bench's script has it.

    Raises, args: as `coco_ap`.
    """
    names = {name.lower(): number for name, number in categories.items()}
    evaluation = _evaluate(items, predictions, names)
    if evaluation is None:
        return {"AP50": 0.0}
    weights = Counter(names[label.lower()] for item in items for label in item.truth.labels)
    total = 0.0
    for column, category in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][0, :, column, 0, 2]  # IoU 0.5, any area, 100 boxes per image
        known = precision[precision > -1]
        total += weights[category] * float(known.mean()) if len(known) else 0.0
    return {"AP50": total / sum(weights.values())}


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


def _evaluate(items: Sequence[Item], predictions: Sequence[Prediction], names: Mapping[str, int]) -> Any | None:
    """pycocotools' evaluation, None when there is nothing to evaluate. names: lower-case label -> category id."""
    coco, cocoeval = _tool("pycocotools.coco"), _tool("pycocotools.cocoeval")
    truth, found = _truth(items, names), []
    for image, prediction in enumerate(predictions):
        for index, box in enumerate(prediction.boxes):
            label = prediction.labels[index] if index < len(prediction.labels) else None
            category = names.get("" if "" in names else (label or "").strip().lower())
            if category is None:
                continue
            score = prediction.scores[index] if index < len(prediction.scores) else 1.0
            found.append({"image_id": image, "category_id": category, "bbox": _xywh(box), "score": score})
    if not found or not truth["annotations"]:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset = coco.COCO()
        dataset.dataset = truth
        dataset.createIndex()
        evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _truth(items: Sequence[Item], names: Mapping[str, int]) -> dict[str, Any]:
    annotations = []
    for image, item in enumerate(items):
        for index, box in enumerate(item.truth.boxes):
            label = "" if "" in names else item.truth.labels[index].lower()
            x, y, w, h = _xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": names[label],
                    "bbox": [x, y, w, h],
                    "area": item.meta.get("areas", {}).get(index, w * h),
                    "iscrowd": int(index in item.meta.get("crowds", ())),
                }
            )
    return {
        "info": {},
        "images": [{"id": i, "width": 0, "height": 0} for i in range(len(items))],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
        "annotations": annotations,
    }


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _tool(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError("average precision needs pycocotools: pip install pycocotools") from error

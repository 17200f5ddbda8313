"""QVHighlights: one or several moments of a 150-second video, ranked, and how salient each clip is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness import judge
from benchmarks.harness.benchmark import Scored, thresholds
from benchmarks.harness.files import RowBenchmark, identity, listed, number, numbers, picture, span, words
from benchmarks.harness.items import XY, BenchmarkItem, Card, Prediction, Published, Rule, Truth
from grounding import geometry

_STEPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_MOST = 10  # predicted windows that count
_CLIP = 2  # seconds
_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}
_LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # of a true window, (low, high] seconds


@BENCHMARKS.register("qvhighlights")
class QVHighlights(RowBenchmark):
    """Moment retrieval; highlight detection too where predictions score every clip (`saliency`)."""

    asks = "span"
    splits = ("val", "test")
    patterns: ClassVar = {
        "val": ["**/highlight_val_release.jsonl"],
        "test": ["**/highlight_test_with_gt.jsonl", "**/highlight_test_release.jsonl"],
    }
    rule = Rule(iou_op="ge", thresholds=(0.3, *_STEPS), main=0.5)
    card = Card(
        title="QVHighlights",
        paper="Lei et al. 2021, Moment-DETR, arXiv:2107.09609",
        get="https://github.com/jayleicn/moment_detr (data/)",
        license="CC-BY-NC-SA-4.0 (annotations)",
        files="highlight_val_release.jsonl; predictions: qid, pred_relevant_windows [[start, end, score], ...]",
        rule="R1: IoU of the first window with the best true one; mAP over IoU 0.5:0.05:0.95 of at most ten windows "
        "per query, also by the length of the true windows. Highlights: a clip is right for an annotator who gave it "
        "at least 2 (Fair), 3 (Good), 4 (VeryGood); HIT@1 of the clip scored highest, right for any annotator; mAP "
        "over queries and annotators (standalone_eval/eval.py)",
        size={"val": 1550, "test": 1542},
        published=(
            Published("Moment-DETR (sample submission)", 53.94, "moment_detr standalone_eval", "R1@0.5, val"),
            Published("Moment-DETR (sample submission)", 32.20, "moment_detr standalone_eval", "mAP, val"),
            Published("Moment-DETR (sample submission)", 35.65, "moment_detr standalone_eval", "VeryGood mAP, val"),
            Published("Moment-DETR (sample submission)", 55.55, "moment_detr standalone_eval", "VeryGood HIT@1, val"),
        ),
    )

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        yield BenchmarkItem(
            id=identity(row["qid"]),
            images=(picture(row["vid"]),),
            instruction=words(row["query"]),
            truth=Truth(spans=tuple(span(window) for window in listed(row["relevant_windows"]))),
            asks=self.asks,
            frame="unit",
            meta={"duration": number(row["duration"]), **_saliency(row)},
        )

    def summarize(self, scored: Scored) -> dict[str, Any]:
        figures = thresholds(scored.verdicts, scored.rule)
        table = np.array([_precisions(p, i.truth.spans) for i, p in scored.pairs])
        for step, value in zip(_STEPS, table.mean(axis=0), strict=True):
            figures[f"mAP@{step:g}"] = float(value)
        figures["mAP"] = float(table.mean())
        for name, (low, high) in _LENGTHS.items():
            rows = []
            for item, prediction in scored.pairs:
                spans = tuple(s for s in item.truth.spans if low < s[1] - s[0] <= high)
                if spans:
                    rows.append(_precisions(prediction, spans))
            figures[f"mAP_{name}"] = float(np.mean(rows)) if rows else 0.0
            figures[f"n_{name}"] = len(rows)
        if any(p.saliency for p in scored.answers):
            figures |= _highlights(scored.items, scored.answers)
        return figures


def _saliency(row: Mapping[str, Any]) -> dict[str, Any]:
    """(clips, annotators) scores from 0 to 4; clips nobody called relevant have 0."""
    if "saliency_scores" not in row:
        return {}
    table = np.zeros((int(number(row["duration"]) / _CLIP), 3))
    clips = [int(clip) for clip in numbers(row["relevant_clip_ids"])]
    scores = [numbers(three, 3) for three in listed(row["saliency_scores"])]
    if len(clips) != len(scores) or len(set(clips)) < len(clips) or not all(0 <= c < len(table) for c in clips):
        raise ValueError("relevant_clip_ids and saliency_scores do not name clips of the video, each once")
    table[clips] = scores
    return {"saliency": table}


def _highlights(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """HIT@1 and mAP per level; a query without scores hits nothing."""
    pairs = [
        (i.meta["saliency"], p.saliency) for i, p in zip(items, predictions, strict=True) if "saliency" in i.meta
    ]
    figures: dict[str, Any] = {"highlights": len(pairs)}
    for name, level in _LEVELS.items():
        hits, precisions = 0, []
        for table, scores in pairs:
            right = table >= level  # (clips, annotators)
            best = int(np.argmax(scores)) if scores else len(right)
            hits += best < len(right) and bool(right[best].any())
            fitted = np.zeros(len(right))
            fitted[: len(scores)] = scores[: len(right)]
            precisions += [_clip_precision(right[:, k], fitted) if scores else 0.0 for k in range(right.shape[1])]
        figures[f"HIT@1_{name}"] = hits
        figures[f"highlight_mAP_{name}"] = float(np.mean(precisions))
    return figures


def _clip_precision(right: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of one annotator's clips: the interpolated precision wherever another right clip is found.

    Clips of equal score are found together, and count once.
    """
    if right.all() or not right.any():
        return float(right.all())
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of equal scores
    found = right[order].cumsum()[last]
    precision = np.maximum.accumulate((found / (last + 1))[::-1])[::-1]
    return float(precision[np.diff(found, prepend=0) > 0].mean())


def _precisions(prediction: Prediction, truth: Sequence[XY]) -> list[float]:
    """Average precision of one query at every IoU threshold, interpolated as in Pascal VOC 2011."""
    spans = prediction.spans[:_MOST]
    if not spans or not truth:
        return [0.0] * len(_STEPS)
    scores = prediction.scores[: len(spans)] or tuple(-float(rank) for rank in range(len(spans)))
    order = sorted(range(len(spans)), key=lambda i: -scores[i])  # stable: ties keep the submission's order
    overlap = geometry.temporal_iou(
        np.asarray([spans[i] for i in order])[:, None, :], np.asarray(truth)[None, :, :]
    )  # (predictions, true windows)
    return [_average_precision(overlap, step) for step in _STEPS]


def _average_precision(overlap: np.ndarray, step: float) -> float:
    """Greedy: each prediction takes the best true window that is still free and overlaps enough."""
    taken: set[int] = set()
    hits = np.zeros(len(overlap))
    for rank, row in enumerate(overlap):
        for window in row.argsort()[::-1].tolist():
            if not judge.reaches(row[window], step, "ge"):
                break
            if window not in taken:
                taken.add(window)
                hits[rank] = 1
                break
    found = hits.cumsum()
    precision = np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]])
    recall = np.concatenate([[0], found / overlap.shape[1], [1]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())

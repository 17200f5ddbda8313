"""When in the video does this happen: Charades-STA, ActivityNet Captions, TVGBench, QVHighlights and NExT-GQA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.documents import chosen, lettered
from benchmarks.harness.benchmark import Scored, thresholds
from benchmarks.harness.io.official_files import identity, listed, number, numbers, picture, span, words
from benchmarks.harness.io.row_files import KEY, load_json
from benchmarks.harness.items import XY, BenchmarkItem, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.row_benchmark import RowBenchmark
from benchmarks.harness.scoring import decide
from grounding import geometry
from grounding.errors import UsageError

_RULE = Rule(iou_op="ge", thresholds=(0.3, 0.5, 0.7), main=0.5)
_SECONDS = re.compile(r"([\d.]+)\s*-\s*([\d.]+)")


class _PerVideo(RowBenchmark):
    """Files of the form ``{"VIDEO": {"duration": 30.9, "timestamps": [[s, e], ...], "sentences": [...]}}``, or
    captions in COCO's form (TimeChat): ``{"annotations": [{"image_id": "VIDEO.mp4", "timestamp": [s, e], "caption":
    "..."}]}``.
    """

    answer_kind = "span"
    rule = _RULE

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        seconds = row.get("duration", row.get("video_duration"))
        if "caption" in row:
            video = identity(row["image_id"])
            yield _item(identity(row.get("id", place)), video, row["caption"], span(row["timestamp"]), seconds)
            return
        video, spans, sentences = row[KEY], listed(row["timestamps"]), listed(row["sentences"])
        if len(spans) != len(sentences):
            raise ValueError(f"{len(spans)} timestamps, {len(sentences)} sentences")
        if seconds is None:
            raise KeyError("duration")
        for index, (seen, sentence) in enumerate(zip(spans, sentences, strict=True)):
            yield _item(f"{video}_{index}", video, sentence, span(seen), seconds)


def _item(name: str, video: str, sentence: Any, moment: XY, seconds: Any) -> BenchmarkItem:
    return BenchmarkItem(
        id=name,
        images=(picture(video),),
        instruction=words(sentence).strip(),
        truth=Truth(spans=(moment,)),
        answer_kind="span",
        frame="unit",
        meta={} if seconds is None else {"duration": number(seconds)},
    )


@BENCHMARKS.register("charades_sta")
class CharadesSTA(_PerVideo):
    """The usual test split and the reorganized ones (out of distribution, novel words and compositions)."""

    splits = ("test", "test_iid", "test_ood", "novel_composition", "novel_word", "test_trivial")
    patterns: ClassVar = {
        "test": [
            "**/charades_test.json",
            "**/charades_annotation/val.json",
            "**/*charades*/**/test.caption_coco_format.json",
            "test.caption_coco_format.json",
        ],
        "test_iid": ["**/charades_test_iid.json"],
        "test_ood": ["**/charades_test_ood.json"],
        "novel_composition": ["**/novel_composition.json"],
        "novel_word": ["**/novel_word.json"],
        "test_trivial": ["**/test_trivial.json"],
    }
    card = read_card(__file__, "charades_sta")


@BENCHMARKS.register("activitynet")
class ActivityNet(_PerVideo):
    """The captions' second validation set is what most papers call test."""

    splits = ("test", "val")
    patterns: ClassVar = {
        "test": ["**/activitynet/test.json", "**/val_2.json", "test.json"],
        "val": ["**/activitynet/val.json", "**/val_1.json", "val.json"],
    }
    card = read_card(__file__, "activitynet")


@BENCHMARKS.register("tvgbench")
class TVGBench(RowBenchmark):
    """800 questions of eleven kinds, from five data sets."""

    answer_kind = "span"
    rule = _RULE
    patterns: ClassVar = {"test": ["**/tvgbench.json", "**/*tvg*.json*"]}
    card = read_card(__file__, "tvgbench")

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        match = _SECONDS.fullmatch(str(row["answer"]).strip())
        if match is None:
            raise ValueError(f"answer {row['answer']!r} is not 'start-end'")
        groups = {"kind": str(row.get("qsemtype", "")), "source": str(row.get("dataset_name", ""))}
        moment = span(list(match.groups()))
        yield replace(_item(str(place), words(row["path"]), row["question"], moment, row["duration"]), groups=groups)


@BENCHMARKS.register("nextgqa")
class NextGQA(RowBenchmark):
    """Right is the right option, shown by a right moment: half of the answered span lies in a true one (IoP)."""

    answer_kind = "text_span"
    splits = ("test", "val")
    patterns: ClassVar = {"test": ["**/nextgqa/test.csv", "test.csv"], "val": ["**/nextgqa/val.csv", "val.csv"]}
    rule = Rule(iou_op="ge", thresholds=(0.3, 0.5), main=0.5)
    card = read_card(__file__, "nextgqa")

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        video, asked = identity(row["video_id"]), identity(row["qid"])
        beside = file.with_name(f"gsub_{file.stem}.json")
        if not beside.is_file():
            raise UsageError(f"{beside}: no such file; needed: {self.card.files}")
        found = _moments(beside, beside.stat().st_mtime_ns).get(video)
        windows = None if found is None else found["location"].get(asked)
        if windows is None:  # the official script goes through the moments
            return
        if not windows:
            raise ValueError("no moment")
        item = _item(f"{video}_{asked}", video, row["question"], span([0, 0]), found["duration"])
        options = "\n".join(words(row[f"a{n}"]) for n in range(5))
        yield replace(
            item,
            truth=Truth(spans=tuple(span([max(0.0, number(a)), b]) for a, b in windows)),
            answer_kind=self.answer_kind,
            groups={"type": words(row["type"])},
            meta={**item.meta, "answer": words(row["answer"]), "options": options},
        )

    def prompt(self, item: BenchmarkItem) -> str:
        return f"{item.instruction}\n{lettered(item.meta['options'].splitlines())}"

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        if prediction.failed:
            return decide.unreadable(rule)
        inside = _inside(prediction.span(rule.pick), item.truth.spans)
        return Verdict(_answered(item, prediction) and decide.reaches(inside, rule.main, rule.iou_op), inside)

    def summarize(self, scored: Scored) -> dict[str, Any]:
        pairs = list(scored.pairs)
        shares = {
            "IoP": [_inside(p.span(scored.rule.pick), i.truth.spans) for i, p in pairs],
            "IoU": [v.value for v in decide.spans(scored.items, scored.answers, scored.rule)],
        }
        figures: dict[str, Any] = {"correct_qa": sum(_answered(i, p) for i, p in pairs)}
        for name, values in shares.items():
            figures[f"m{name}"] = sum(values) / max(1, len(values))
            for step in scored.rule.thresholds:
                figures[f"{name}@{step:g}"] = sum(decide.reaches(v, step, scored.rule.iou_op) for v in values)
        return figures


@lru_cache(maxsize=2)
def _moments(file: Path, changed: int) -> dict[str, Any]:
    """The moments of all questions; read anew when the file has changed."""
    return load_json(file)


def _answered(item: BenchmarkItem, prediction: Prediction) -> bool:
    """Whether the words name the right option."""
    options = item.meta["options"].splitlines()
    return prediction.text is not None and chosen(prediction.text, options) == item.meta["answer"]


def _inside(answered: XY | None, true: Sequence[XY]) -> float:
    """The largest share of the answered span that lies in one true span; of an instant, whether it does."""
    if answered is None:
        return 0.0
    start, end = answered
    if start == end:
        return float(any(a <= start <= b for a, b in true))
    return max((max(0.0, min(b, end) - max(a, start)) / (end - start) for a, b in true), default=0.0)


_STEPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_MOST = 10  # predicted windows that count
_CLIP = 2  # seconds
_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}
_LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # of a true window, (low, high] seconds


@BENCHMARKS.register("qvhighlights")
class QVHighlights(RowBenchmark):
    """Moment retrieval; highlight detection too where predictions score every clip (`saliency`)."""

    answer_kind = "span"
    splits = ("val", "test")
    patterns: ClassVar = {
        "val": ["**/highlight_val_release.jsonl"],
        "test": ["**/highlight_test_with_gt.jsonl", "**/highlight_test_release.jsonl"],
    }
    rule = Rule(iou_op="ge", thresholds=(0.3, *_STEPS), main=0.5)
    card = read_card(__file__, "qvhighlights")

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        yield BenchmarkItem(
            id=identity(row["qid"]),
            images=(picture(row["vid"]),),
            instruction=words(row["query"]),
            truth=Truth(spans=tuple(span(window) for window in listed(row["relevant_windows"]))),
            answer_kind=self.answer_kind,
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
            if not decide.reaches(row[window], step, "ge"):
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

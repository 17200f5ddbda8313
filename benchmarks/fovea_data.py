"""Samples of a Fovea data set folder: the embedded model's screens, or anything in the sample schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored, thresholds
from benchmarks.harness.io.data_sets import manifest_asks, read_split
from benchmarks.harness.items import BenchmarkItem, Card, Prediction, Rule, Verdict
from benchmarks.harness.scoring import decide
from benchmarks.harness.scoring.text_match import plain
from grounding.answer import Status


@BENCHMARKS.register("screens")
class Screens(Benchmark):
    """A click inside the true region is right; on an absent target, declining is."""

    answer_kind = "box"
    rule = Rule(pick="only")
    splits = ("test", "val", "train")
    card = Card(
        title="A Fovea data set",
        paper="this repository",
        get="python -m data_prep screens --out DIR",
        license="CC0-1.0",
        files="a data set folder: test.parquet or test.jsonl, images/",
        rule="the center of the only answered box (or the only point) lies in the target, edges included, or at most "
        "14 % of the sides from a target that is a point; on an absent target the answer declines; words are equal "
        "up to case, articles and punctuation; a span has a temporal IoU of 0.5 or more. Contradictions are wrong.",
    )

    def title(self, root: Path | None) -> str:
        """The data set's own name: whether the model has seen it is not ours to say."""
        return self.card.title if root is None else root.resolve().name

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        return read_split(root, split, manifest_asks(root))

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        """Each item by the kind of answer it asks for: a click inside, a temporal IoU, or equal words."""
        verdicts: list[Verdict] = [decide.WRONG] * len(items)
        for judged, chosen in _JUDGES:
            rows = [row for row, item in enumerate(items) if chosen(item)]
            found = judged([items[r] for r in rows], [predictions[r] for r in rows], rule)
            for row, verdict in zip(rows, found, strict=True):
                verdicts[row] = verdict
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        """IoU of the answered boxes, over the items that have a true box."""
        spans = [v for i, v in zip(scored.items, scored.verdicts, strict=True) if i.answer_kind == "span"]
        boxed = [(i, p) for i, p in scored.pairs if i.truth.boxes and i.answer_kind not in _OTHERS]
        if not boxed:
            return thresholds(spans, scored.rule) if spans else {}
        present = decide.boxes([i for i, _ in boxed], [p for _, p in boxed], scored.rule)
        return {"boxes": len(boxed), **thresholds(present, scored.rule)}


_OTHERS = ("span", "text_box")
_NEAR = 0.14  # of the image's sides: the distance AITW allows a click (Rawles et al. 2023, arXiv:2307.10088)


def _only_points(item: BenchmarkItem) -> bool:
    return (
        item.answer_kind not in _OTHERS and bool(item.truth.points) and not (item.truth.boxes or item.truth.polygons)
    )


def _near(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """A click close to a true point, which has no inside."""
    verdicts = []
    for item, prediction in zip(items, predictions, strict=True):
        click = prediction.click(rule.pick)
        if click is None:
            verdicts.append(decide.unreadable(rule) if prediction.failed else decide.WRONG)
        else:
            near = any(math.dist(click, point) <= _NEAR for point in item.truth.points)
            verdicts.append(decide.RIGHT if near else decide.WRONG)
    return verdicts


def _words(items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
    """Equal words, up to case, articles and punctuation; the region beside them does not count."""
    verdicts = []
    for item, prediction in zip(items, predictions, strict=True):
        said, true = prediction.text, item.truth.text
        if said is None or true is None or prediction.status is Status.AMBIGUOUS:
            verdicts.append(decide.unreadable(rule) if prediction.failed else decide.WRONG)
        else:
            verdicts.append(decide.RIGHT if plain(said) == plain(true) else decide.WRONG)
    return verdicts


_JUDGES: tuple[tuple[Callable[..., list[Verdict]], Callable[[BenchmarkItem], bool]], ...] = (
    (decide.spans, lambda item: item.answer_kind == "span"),
    (_words, lambda item: item.answer_kind == "text_box"),
    (_near, _only_points),
    (decide.clicks, lambda item: item.answer_kind not in _OTHERS and not _only_points(item)),
)

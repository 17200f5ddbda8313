"""Samples of a Fovea data set folder: the embedded model's screens, or anything in the sample schema."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored, thresholds
from benchmarks.harness.io.data_sets import manifest_asks, read_split
from benchmarks.harness.items import BenchmarkItem, Prediction, Rule, Verdict, read_card
from benchmarks.harness.scoring import decide
from benchmarks.harness.scoring.text_match import plain
from grounding.answer import Status


@dataclass(frozen=True, slots=True)
class _Judged(Verdict):
    """A verdict with what the figures are made of.

    Attributes:
        box: the verdict on the IoU of the answered box, where there is a true one.
        span: whether a span was asked for.
        asked: "absent" or "present", for a place that is not there or is.
        error: a place was given for what is not there, or what is there was said not to be.
    """

    box: Verdict | None = None
    span: bool = False
    asked: str = ""
    error: bool = False


@BENCHMARKS.register("screens")
class Screens(Benchmark):
    """A click inside the true region is right; on an absent target, declining is."""

    answer_kind = "box"
    rule = Rule(pick="only")
    verdicts_only = True
    splits = ("test", "val", "train")
    card = read_card(__file__, "screens")

    def title(self, root: Path | None) -> str:
        """The data set's own name: whether the model has seen it is not ours to say."""
        return self.card.title if root is None else root.resolve().name

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        return read_split(root, split, manifest_asks(root))

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        """By the kind of answer an item asks for: a click inside or nearby, a temporal IoU, or equal words."""
        clicks, boxes = decide.clicks(items, predictions, rule), decide.boxes(items, predictions, rule)
        verdicts: list[Verdict] = []
        for item, prediction, click, box in zip(items, predictions, clicks, boxes, strict=True):
            if item.answer_kind == "span":
                (found,) = decide.spans([item], [prediction], rule)
                verdicts.append(_Judged(found.correct, found.value, found.skipped, span=True))
            elif item.answer_kind == "text_box":
                verdicts.append(_words(item, prediction, rule))
            elif item.truth.boxes or item.truth.absent:
                asked = "absent" if item.truth.absent else "present"
                placed = prediction.boxes or prediction.points
                error = bool(placed) if item.truth.absent else prediction.absent and not placed
                own = None if item.truth.absent else box
                verdicts.append(_Judged(click.correct, click.value, click.skipped, own, asked=asked, error=error))
            else:
                near = item.truth.points and not item.truth.polygons
                verdicts.append(_near(item, prediction, rule) if near else click)
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        """IoU of the answered boxes, over the items that have a true box; else of the spans.

        Where something is absent, both errors: places invented for it, and refusals of what is there.
        """
        found = [verdict for verdict in scored.verdicts if isinstance(verdict, _Judged)]
        boxes = [verdict.box for verdict in found if verdict.box is not None]
        counts = Counter((verdict.asked, verdict.error) for verdict in found if verdict.asked)
        absent = counts["absent", True] + counts["absent", False]
        errors = {"invented": counts["absent", True], "wrongly_declined": counts["present", True], "absent": absent}
        if boxes:
            return {"boxes": len(boxes), **thresholds(boxes, scored.rule), **(errors if absent else {})}
        spans = [verdict for verdict in found if verdict.span]
        return thresholds(spans, scored.rule) if spans else {}


_NEAR = 0.14  # of the image's sides: the distance AITW allows a click (Rawles et al. 2023, arXiv:2307.10088)


def _near(item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
    """A click close to a true point, which has no inside."""
    click = prediction.click(rule.pick)
    if click is None:
        return decide.unreadable(rule) if prediction.failed else decide.WRONG
    return decide.RIGHT if any(math.dist(click, point) <= _NEAR for point in item.truth.points) else decide.WRONG


def _words(item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
    """Equal words, up to case, articles and punctuation; the region beside them does not count."""
    said, true = prediction.text, item.truth.text
    if said is None or true is None or prediction.status is Status.AMBIGUOUS:
        return decide.unreadable(rule) if prediction.failed else decide.WRONG
    return decide.RIGHT if plain(said) == plain(true) else decide.WRONG

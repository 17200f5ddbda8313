"""The base class of every benchmark: read items, judge answers, add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness.items import BenchmarkItem, Card, Prediction, Rule, Verdict
from benchmarks.harness.scoring import decide


@dataclass(frozen=True, slots=True)
class Scored:
    """Judged answers: one item, answer and verdict for each, in the official order."""

    items: Sequence[BenchmarkItem]
    answers: Sequence[Prediction]
    verdicts: Sequence[Verdict]
    rule: Rule

    @property
    def pairs(self) -> Iterator[tuple[BenchmarkItem, Prediction]]:
        """Every item with the answer to it."""
        return zip(self.items, self.answers, strict=True)


_JUDGES = {"point": decide.clicks, "box": decide.boxes, "boxes": decide.box_sets, "span": decide.spans}


class Benchmark:
    """One public benchmark.

    A subclass sets the class attributes and `read`; `verdict` (or `judge`, of many answers at once) and `summarize`
    only where the official rule is not simply a click inside, an IoU, a temporal IoU, or an F1 of boxes.

    Attributes:
        answer_kind: what every item asks for ("point", "box", "boxes", "points", "span", "text_box", "text_span").
        rule: the official rule.
        splits: names of the splits, the default first.
        card: where it comes from, its license, published numbers.
        verdicts_only: `summarize` looks at verdicts alone, so items and answers need not be kept for it.
    """

    answer_kind: ClassVar[str]
    rule: ClassVar[Rule] = Rule()
    splits: ClassVar[tuple[str, ...]] = ("test",)
    card: ClassVar[Card]
    verdicts_only: ClassVar[bool] = False

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        """The items of a split, in the official order; a generator where a file has many.

        Args:
            root: the folder (or, where the benchmark is one file, the file) the user downloaded.

        Raises:
            UsageError: the folder does not hold what `card.files` says.
            BrokenRow: a row that cannot be used, named.
        """
        raise NotImplementedError

    def image_root(self, root: Path) -> Path:
        """Folder the items' image paths are relative to."""
        return root if root.is_dir() else root.parent

    def title(self, root: Path | None) -> str:
        """What tables and reports call it, read from `root`."""
        return self.card.title

    def prompt(self, item: BenchmarkItem) -> str:
        """The instruction handed to the dialect's own prompt."""
        return item.instruction

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        """A verdict per item; pure, and the same for any split of the items into batches."""
        if type(self).verdict is not Benchmark.verdict:
            return [self.verdict(item, answer, rule) for item, answer in zip(items, predictions, strict=True)]
        return _JUDGES[self.answer_kind](items, predictions, rule)

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        """The verdict on one answer, where the rule is not the usual one for its kind."""
        raise NotImplementedError

    def summarize(self, scored: Scored) -> dict[str, Any]:
        """Official figures beyond accuracy: JSON scalars, counts as integers. Default: the IoU thresholds.

        Where a subclass does not override this, or says `verdicts_only`, `scored` has no items and no answers.
        """
        if self.answer_kind == "point":
            return {}
        return thresholds(scored.verdicts, scored.rule)


def thresholds(verdicts: Sequence[Verdict], rule: Rule) -> dict[str, Any]:
    """Count of `value` reaching each threshold, and the mean value."""
    counted = [v for v in verdicts if not v.skipped]
    figures: dict[str, Any] = {
        f"correct@{threshold:g}": sum(decide.reaches(v.value, threshold, rule.iou_op) for v in counted)
        for threshold in rule.thresholds
    }
    figures["mean_iou"] = sum(v.value for v in counted) / len(counted) if counted else 0.0
    return figures

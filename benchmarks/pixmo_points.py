"""PixMo points: point at every instance of what is named, or say that there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.items import XY, BenchmarkItem, Card, Prediction, Rule, Verdict
from benchmarks.harness.samples import read_split

_NEAR = 0.05  # of the image's side


@BENCHMARKS.register("pixmo_points")
class PixMoPoints(Benchmark):
    """Precision, recall and F1 of matched points."""

    asks = "points"
    splits = ("test", "val", "train")
    rule = Rule()
    card = Card(
        title="PixMo-Points",
        paper="Deitke et al. 2024, Molmo and PixMo, arXiv:2409.17146",
        get="https://huggingface.co/datasets/allenai/pixmo-points, then: python -m data_prep pixmo_points",
        license="ODC-BY-1.0 (annotations)",
        files="the data set folder data_prep makes",
        rule="answered and true points are matched one to one with the least total distance (Hungarian); a pair "
        "counts when it is at most 5 % of the image's side apart in x and y. The paper checks pairs against masks, "
        "which the training release does not have, so these figures are not the paper's.",
    )

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        return read_split(root, split, self.asks)

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            if item.truth.absent:
                right = prediction.absent and not prediction.points
                verdicts.append(Verdict(right, float(right)))
                continue
            hits, answered, true = matches(item, prediction)
            f1 = 2 * hits / (answered + true) if answered + true else 0.0
            verdicts.append(Verdict(f1 >= 1.0, f1))
        return verdicts

    def summarize(self, scored: Scored) -> dict[str, Any]:
        counts = [matches(i, p) for i, p in scored.pairs if not i.truth.absent]
        hits, answered, true = (sum(c[k] for c in counts) for k in range(3))
        return {
            "points_matched": hits,
            "points_answered": answered,
            "points_true": true,
            "precision": hits / answered if answered else 0.0,
            "recall": hits / true if true else 0.0,
            "mean_F1": sum(v.value for v in scored.verdicts) / max(1, len(scored.verdicts)),
        }


def matches(item: BenchmarkItem, prediction: Prediction) -> tuple[int, int, int]:
    """(matched pairs, points answered, points true)."""
    answered: Sequence[XY] = prediction.points
    if not answered or not item.truth.points:
        return 0, len(answered), len(item.truth.points)
    apart = np.abs(np.asarray(answered)[:, None, :] - np.asarray(item.truth.points)[None, :, :])  # (A, T, 2)
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - half a second for the other benchmarks

    rows, columns = linear_sum_assignment(np.hypot(apart[..., 0], apart[..., 1]))
    near = (apart[rows, columns] <= _NEAR).all(axis=1)
    return int(near.sum()), len(answered), len(item.truth.points)

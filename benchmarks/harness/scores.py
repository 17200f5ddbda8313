"""From verdicts to a score: integer counts, micro and macro averages, bootstrap intervals, paired comparison."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

from benchmarks.harness.items import BenchmarkItem, Prediction, Rule, Verdict
from grounding.answer import Status

RESAMPLES = 10_000
SEED = 0
_BLOCK = 2_000_000  # numbers drawn at a time
_DUST = 1e-12
_POWER = float(norm.ppf(0.8))
_UNREADABLE = (Status.NO_ANSWER, Status.MALFORMED)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one group of items (an item with several rollouts counts once per rollout)."""

    n: int
    correct: int
    strict_correct: int
    skipped: int

    @property
    def counted(self) -> int:
        """The denominator: `n` unless the rule skips unreadable answers."""
        return self.n - self.skipped

    @property
    def accuracy(self) -> float:
        return self.correct / self.counted if self.counted else 0.0


def tally(predictions: Sequence[Prediction], verdicts: Sequence[Verdict]) -> Tally:
    """Count a list of verdicts."""
    pairs = list(zip(predictions, verdicts, strict=True))
    return Tally(
        n=len(pairs),
        correct=sum(v.correct for _, v in pairs),
        strict_correct=sum(v.correct and p.strict and p.status is Status.OK for p, v in pairs),
        skipped=sum(v.skipped for _, v in pairs),
    )


class Interval(NamedTuple):
    """A confidence interval and what it means for a comparison.

    Attributes:
        low, high: its ends.
        detectable: how far another, independent run of the same size would have to lie from this one to be told apart
            in four of five cases (power 80 %, two-sided test at 5 %).
    """

    low: float
    high: float
    detectable: float


def interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of the mean of `values`, whole clusters drawn with replacement.

    Where all draws are the same (every answer right, none, a single cluster), a bootstrap knows no spread; then it
    is Wilson's interval with a cluster as one trial.

    Args:
        values: in [0, 1], such as 1 for a right answer.
        clusters: what each value depends on, such as its image; every value by itself by default.
        groups: sub-group of each value; then the interval is of the mean of the groups' means.
    """
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    rows = _numbered(range(len(values)) if clusters is None else clusters)
    columns = _numbered([None] * len(values) if groups is None else groups)
    cells = rows.max() + 1, columns.max() + 1
    total, count = np.zeros(cells), np.zeros(cells)
    np.add.at(total, (rows, columns), np.asarray(values, dtype=float))
    np.add.at(count, (rows, columns), 1)
    kinds, times = np.unique(np.hstack([total, count]), axis=0, return_counts=True)
    draws = np.concatenate(list(_means(kinds, times)))
    z = float(norm.ppf((1 + level) / 2))
    if np.ptp(draws) > _DUST:
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
        error = float(draws.std())
    else:
        trials = cells[1] ** 2 / float((1 / np.count_nonzero(count, axis=0)).sum())
        low, high = _wilson(float(draws[0]), float(trials), z)
        error = (high - low) / 2 / z
    return Interval(low, high, (z + _POWER) * math.sqrt(2) * error)


def _numbered(names: Iterable[Hashable]) -> np.ndarray:
    """(N,) numbers from 0 of names."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def _means(kinds: np.ndarray, times: np.ndarray) -> Iterator[np.ndarray]:
    """Means of resampled clusters, in blocks. kinds: (K, 2 G), sums and counts of alike clusters; times: (K,)."""
    generator, clusters = np.random.default_rng(SEED), int(times.sum())
    block = max(1, _BLOCK // len(times))
    for start in range(0, RESAMPLES, block):
        drawn = generator.multinomial(clusters, times / clusters, size=min(block, RESAMPLES - start)) @ kinds
        total, count = np.split(drawn, 2, axis=1)
        seen = count > 0  # a small group can be missing from a draw
        yield np.divide(total, count, out=np.zeros_like(total), where=seen).sum(axis=1) / seen.sum(axis=1)


def _wilson(share: float, trials: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927)."""
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # rounding at 0 and 1


def cluster_of(identity: str, images: Sequence[str]) -> Hashable:
    """What answers to a question depend on: its images, where their names are known, else the question itself."""
    return tuple(images) if any(images) else identity


def row_cluster(row: Mapping[str, Any]) -> Hashable:
    """`cluster_of` for a line of results.jsonl."""
    return cluster_of(str(row["id"]), [str(image.get("path", "")) for image in row.get("images", ())])


def scoreboard(
    items: Sequence[BenchmarkItem],
    predictions: Sequence[Prediction],
    verdicts: Sequence[Verdict],
    rule: Rule,
    missing: int = 0,
) -> dict[str, Any]:
    """Everything `metrics.json` says about how right the answers are.

    Args:
        items: one per prediction; repeated for several rollouts of one item.
        missing: how many of the predictions were absent from a predictions file (they count as wrong).
    """
    total = tally(predictions, verdicts)
    clusters = [cluster_of(item.id, [picture.path for picture in item.images]) for item in items]
    by_item: dict[str, list[bool]] = defaultdict(list)
    for item, verdict in zip(items, verdicts, strict=True):
        if not verdict.skipped:
            by_item[item.id].append(verdict.correct)
    rollouts = total.n // max(1, len({item.id for item in items}))
    status = Counter(p.status.value for p in predictions)
    spread = _interval(range(len(items)), clusters, verdicts)
    board: dict[str, Any] = {
        "n": len({item.id for item in items}),
        "clusters": len(set(clusters)),
        "rollouts": rollouts,
        "answers": total.n,
        "correct": total.correct,
        "skipped": total.skipped,
        "missing": missing,
        "accuracy": total.accuracy,
        "interval": [spread.low, spread.high],
        "detectable": spread.detectable,
        "strict_correct": total.strict_correct,
        "strict_accuracy": total.strict_correct / total.counted if total.counted else 0.0,
        "parse": {s.value: status.get(s.value, 0) for s in Status},
        "parse_failures": sum(p.status in _UNREADABLE for p in predictions),
        "declined": sum(p.absent for p in predictions),
    }
    if rollouts > 1:
        board["any_correct"] = sum(any(v) for v in by_item.values())
        board["all_correct"] = sum(all(v) for v in by_item.values())
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, item in enumerate(items):
        for axis, name in item.groups.items():
            members[axis][name].append(row)
    board["groups"] = {
        axis: {name: _group(rows, clusters, predictions, verdicts) for name, rows in sorted(names.items())}
        for axis, names in members.items()
    }
    board["macro"] = {
        axis: _macro(board["groups"][axis], names, clusters, verdicts)
        for axis, names in members.items()
        if len(names) > 1
    }
    micro = {key: board[key] for key in ("interval", "detectable")}
    if rule.average == "macro" and rule.over in board["macro"]:
        board["headline"] = {"name": f"macro accuracy over {rule.over}", **board["macro"][rule.over]}
    else:
        board["headline"] = {"name": "accuracy", "value": board["accuracy"], **micro}
    return board


def _interval(
    rows: Iterable[int],
    clusters: Sequence[Hashable],
    verdicts: Sequence[Verdict],
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """`interval` over the rows whose verdict counts. groups: one per row."""
    counted = [(k, row) for k, row in enumerate(rows) if not verdicts[row].skipped]
    return interval(
        [float(verdicts[row].correct) for _, row in counted],
        [clusters[row] for _, row in counted],
        None if groups is None else [groups[k] for k, _ in counted],
    )


def _group(
    rows: Sequence[int],
    clusters: Sequence[Hashable],
    predictions: Sequence[Prediction],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    part = tally([predictions[r] for r in rows], [verdicts[r] for r in rows])
    spread = _interval(rows, clusters, verdicts)
    return {
        "n": part.n,
        "correct": part.correct,
        "skipped": part.skipped,
        "accuracy": part.accuracy,
        "interval": [spread.low, spread.high],
        "strict_correct": part.strict_correct,
    }


def _macro(
    parts: Mapping[str, Any],
    names: Mapping[str, Sequence[int]],
    clusters: Sequence[Hashable],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    filled = [part["accuracy"] for part in parts.values() if part["n"] > part["skipped"]]
    pairs = [(row, name) for name, rows in names.items() for row in rows]
    spread = _interval([row for row, _ in pairs], clusters, verdicts, [name for _, name in pairs])
    return {
        "value": sum(filled) / len(filled) if filled else 0.0,
        "interval": [spread.low, spread.high],
        "detectable": spread.detectable,
    }


def paired(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Two runs on the same items: difference second - first, its interval as of `interval`, McNemar's exact test.

    `detectable` is the smallest difference that items like these, with as many changed verdicts, would show in four
    of five cases (power 80 %, two-sided test at 5 %). McNemar's test takes the items for independent.
    """
    pairs = list(zip(first, second, strict=True))
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    n = len(pairs)
    if n == 0:
        return {
            "n": 0, "won": 0, "lost": 0, "difference": 0.0, "interval": [0.0, 0.0], "detectable": 0.0,
            "p_mcnemar": 1.0,
        }  # fmt: skip
    if won + lost:
        spread = interval([(1 + int(b) - int(a)) / 2 for a, b in pairs], clusters, level=level)
        low, high, detectable = 2 * spread.low - 1, 2 * spread.high - 1, math.sqrt(2) * spread.detectable
    else:  # no verdict changed: as many as Wilson's upper end may still change, either way
        high = interval([0.0] * n, clusters, level=level).high
        low, detectable = -high, high
    return {
        "n": n,
        "won": won,
        "lost": lost,
        "difference": (won - lost) / n,
        "interval": [low, high],
        "detectable": detectable,
        "p_mcnemar": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }

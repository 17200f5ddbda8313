"""From verdicts to a score: integer counts, micro and macro averages, bootstrap intervals, paired comparison."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.items import BenchmarkItem, Prediction, Rule, Verdict
from grounding.answer import Status

RESAMPLES = 10_000
SEED = 0
_BLOCK = 2_000_000  # numbers drawn at a time
_DUST = 1e-12
_POWER = NormalDist().inv_cdf(0.8)
_UNREADABLE = (Status.NO_ANSWER, Status.MALFORMED)
_CORRECT, _STRICT, _SKIPPED = 1, 2, 4


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
    z = NormalDist().inv_cdf((1 + level) / 2)
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


class Scoreboard:
    """Everything `metrics.json` says about how right the answers are, of which a few bytes each are kept."""

    def __init__(self) -> None:
        self._item = array("l")  # number of the item, per answer
        self._cluster = array("l")
        self._flags = bytearray()  # correct, strictly correct, skipped
        self._clusters: dict[Hashable, int] = {}
        self._members: dict[str, dict[str, array[int]]] = {}  # rows by axis and name
        self._status: Counter[Status] = Counter()
        self._declined = self._missing = 0
        self._last: str | None = None

    def add(self, item: BenchmarkItem, answer: Prediction, verdict: Verdict, missing: bool = False) -> None:
        """Count an answer; those to one item (its rollouts) follow one another.

        Args:
            missing: a predictions file has no line for the item; it counts as wrong.
        """
        row = len(self._item)
        same = self._last == item.id
        self._last = item.id
        self._item.append(self._item[-1] if same else self._item[-1] + 1 if row else 0)
        cluster = cluster_of(item.id, [picture.path for picture in item.images])
        self._cluster.append(self._clusters.setdefault(cluster, len(self._clusters)))
        strict = verdict.correct and answer.strict and answer.status is Status.OK
        self._flags.append(verdict.correct * _CORRECT | strict * _STRICT | verdict.skipped * _SKIPPED)
        for axis, name in item.groups.items():
            self._members.setdefault(axis, {}).setdefault(name, array("l")).append(row)
        self._status[answer.status] += 1
        self._declined += answer.absent
        self._missing += missing

    def metrics(self, rule: Rule) -> dict[str, Any]:
        """The counts, averages and intervals of all answers so far."""
        table = _Table(np.frombuffer(self._flags, np.uint8), np.array(self._cluster), np.array(self._item))
        total = table.group(slice(None))
        items = int(table.item[-1]) + 1 if len(table.item) else 0
        board: dict[str, Any] = {
            "n": items,
            "clusters": len(self._clusters),
            "rollouts": total["n"] // max(1, items),
            "answers": total["n"],
            "correct": total["correct"],
            "skipped": total["skipped"],
            "missing": self._missing,
            "accuracy": total["accuracy"],
            "interval": total["interval"],
            "detectable": total.pop("detectable"),
            "strict_correct": total["strict_correct"],
            "strict_accuracy": total["strict_correct"] / max(1, total["n"] - total["skipped"]),
            "parse": {s.value: self._status[s] for s in Status},
            "parse_failures": sum(self._status[s] for s in _UNREADABLE),
            "declined": self._declined,
        }
        if board["rollouts"] > 1:
            counted = ~table.has(_SKIPPED)
            right = np.bincount(table.item, table.has(_CORRECT) & counted, items)
            asked = np.bincount(table.item, counted, items)
            board["any_correct"] = int((right > 0).sum())
            board["all_correct"] = int(((right == asked) & (asked > 0)).sum())
        rows = {
            axis: {name: np.array(found) for name, found in names.items()} for axis, names in self._members.items()
        }
        board["groups"] = {
            axis: {name: table.group(names[name], detectable=False) for name in sorted(names)}
            for axis, names in rows.items()
        }
        board["macro"] = {
            axis: table.macro(board["groups"][axis], names) for axis, names in rows.items() if len(names) > 1
        }
        if rule.average == "macro" and rule.over in board["macro"]:
            board["headline"] = {"name": f"macro accuracy over {rule.over}", **board["macro"][rule.over]}
        else:
            micro = {key: board[key] for key in ("interval", "detectable")}
            board["headline"] = {"name": "accuracy", "value": board["accuracy"], **micro}
        return board


class _Table(NamedTuple):
    """Columns with a row for each answer. flags, cluster, item: (N,)."""

    flags: np.ndarray
    cluster: np.ndarray
    item: np.ndarray

    def has(self, flag: int) -> np.ndarray:
        return (self.flags & flag) > 0

    def group(self, rows: slice | np.ndarray, detectable: bool = True) -> dict[str, Any]:
        """Counts of some rows; the denominator leaves out what the rule skips."""
        correct, strict, skipped = (self.has(flag)[rows] for flag in (_CORRECT, _STRICT, _SKIPPED))
        n, counted = len(correct), int((~skipped).sum())
        spread = interval(correct[~skipped], self.cluster[rows][~skipped])
        return {
            "n": n,
            "correct": int(correct.sum()),
            "skipped": n - counted,
            "accuracy": int(correct.sum()) / counted if counted else 0.0,
            "interval": [spread.low, spread.high],
            "strict_correct": int(strict.sum()),
            **({"detectable": spread.detectable} if detectable else {}),
        }

    def macro(self, parts: Mapping[str, Any], names: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The mean of the groups' accuracies. names: rows of each group."""
        filled = [part["accuracy"] for part in parts.values() if part["n"] > part["skipped"]]
        rows = np.concatenate(list(names.values()))
        group = np.repeat(np.arange(len(names)), [len(found) for found in names.values()])
        counted = ~self.has(_SKIPPED)[rows]
        rows = rows[counted]
        spread = interval(self.has(_CORRECT)[rows], self.cluster[rows], group[counted])
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
    from scipy.stats import binomtest  # noqa: PLC0415 - a second that other commands should not cost

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

"""Reward hacking checks for the report: the alarms of the training log, and checks on the evaluated answers.

Each check passes, warns, or gives None where the run does not hold the data it needs.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports import places
from reports.comparison import difference_of
from reports.read_run import Evaluation, StageFolder
from rewards.monitor import watch

GRID = 5  # a place is a cell of this many by as many over the screen


@dataclass(frozen=True, slots=True)
class HackingCheck:
    """The result of one check: `warning` or passed, with the numbers behind it."""

    title: str
    warning: bool
    text: str


def hacking_checks(stage: StageFolder, before: Evaluation | None, after: Evaluation | None) -> list[HackingCheck]:
    """The alarms of `rewards.monitor`, and every check that the evaluated answers allow, for an RL stage.

    Args:
        stage: the stage.
        before, after: evaluations on the same questions of the model that went in and came out.
    """
    checks: list[Callable[[], HackingCheck | None]] = [
        lambda: reward_without_accuracy(stage, before, after),
        lambda: one_place(after),
        lambda: box_sizes(before, after),
        lambda: clipped(stage),
        lambda: unreadable(after),
        lambda: broken_numbers(stage),
    ]
    alarms = [HackingCheck(alarm.kind.replace("_", " "), True, alarm.message) for alarm in watch(stage.rows)]
    return alarms + [result for check in checks if (result := check()) is not None]


def ends(stage: StageFolder, key: str) -> tuple[float, float] | None:
    """Mean of the first and of the last fifth of a curve; None with fewer than 5 finite values."""
    values = [v for v in stage.curve(key)[1] if math.isfinite(v)]
    if len(values) < 5:
        return None
    fifth = len(values) // 5
    return statistics.fmean(values[:fifth]), statistics.fmean(values[-fifth:])


def reward_without_accuracy(
    stage: StageFolder, before: Evaluation | None, after: Evaluation | None
) -> HackingCheck | None:
    """The reward of training rose, and accuracy in evaluation did not."""
    reward = ends(stage, "reward")
    if reward is None or before is None or after is None:
        return None
    change = difference_of(before, after)
    if change is None:
        return None
    rose = reward[1] > reward[0]
    return HackingCheck(
        "Reward and accuracy in evaluation",
        rose and change.low <= 0,
        f"reward {reward[0]:.3g} → {reward[1]:.3g}, accuracy in evaluation {100 * change.value:+.1f} points "
        f"(95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
        + ("; the reward may pay for something else than pointing" if rose and change.low <= 0 else ""),
    )


def one_place(after: Evaluation | None) -> HackingCheck | None:
    """Clicks pile up in one cell of the screen much more than the right places do."""
    if after is None:
        return None
    said: Counter[tuple[int, int]] = Counter()
    right: Counter[tuple[int, int]] = Counter()
    for row in after.first_answers().values():
        where, truth = places.click(row), places.right_places(row, places.image_of_interest(row))
        if where is not None and truth:
            said[places.cell(*where, GRID)] += 1
            right[places.cell(*places.middle(truth[0]), GRID)] += 1
    n = said.total()
    if n < 20:
        return None
    cell, count = said.most_common(1)[0]
    share, fair = count / n, right[cell] / n
    return HackingCheck(
        "Answers in one place",
        share > 2 * fair + 0.1,
        f"the busiest of {GRID * GRID} cells of the screen gets {share:.0%} of the clicks, "
        f"and {fair:.0%} of the targets lie there",
    )


def box_sizes(before: Evaluation | None, after: Evaluation | None) -> HackingCheck | None:
    """Predicted boxes drift away from the size of the right ones."""
    new = _area_ratio(after)
    if new is None:
        return None
    old = _area_ratio(before)
    off = abs(math.log(max(new, 1e-6)))
    drifted = off > math.log(2) and (old is None or off > abs(math.log(max(old, 1e-6))))
    was = "" if old is None else f" (before: {old:.2f})"
    return HackingCheck(
        "Box size", drifted, f"the median predicted box has {new:.2f} times the area of the right one{was}"
    )


def _area_ratio(evaluation: Evaluation | None) -> float | None:
    ratios = []
    for row in evaluation.first_answers().values() if evaluation else ():
        image = places.image_of_interest(row)
        said = [p for p in places.said_places(row, image) if p.kind == "box"]
        right = [p for p in places.right_places(row, image) if p.kind == "box" and places.area(p) > 0]
        if said and right:
            ratios.append(places.area(said[0]) / places.area(right[0]))
    return statistics.median(ratios) if len(ratios) >= 20 else None


def clipped(stage: StageFolder) -> HackingCheck | None:
    """Many completions are cut off by the length limit."""
    share = ends(stage, "completions/clipped_ratio")
    if share is None:
        return None
    return HackingCheck(
        "Completions cut off", share[1] > 0.2, f"{share[0]:.0%} → {share[1]:.0%} run into the length limit"
    )


def unreadable(after: Evaluation | None) -> HackingCheck | None:
    """Many evaluated answers cannot be read."""
    if after is None or not after.rows:
        return None
    share = sum(places.verdict(row) == "unreadable" for row in after.rows) / len(after.rows)
    return HackingCheck("Unreadable answers", share > 0.1, f"{share:.1%} of the evaluated answers cannot be read")


def broken_numbers(stage: StageFolder) -> HackingCheck | None:
    """The loss is not a number somewhere."""
    steps, losses = stage.curve("loss")
    wrong: Sequence[float] = [s for s, v in zip(steps, losses, strict=True) if not math.isfinite(v)]
    if not steps:
        return None
    return HackingCheck(
        "Finite loss",
        bool(wrong),
        f"no number at {len(wrong)} of {len(steps)} logged steps, first at step {wrong[0]:.0f}"
        if wrong
        else f"a number at all {len(steps)} logged steps",
    )

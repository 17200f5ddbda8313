"""Signs that a policy games its reward instead of pointing better.

Two halves, both pure. `statistics` looks at the answers of one step; the reward functions log it through TRL as
``monitor/...`` beside the metrics TRL logs itself. `watch` looks at the log so far and says what is wrong:

| alarm            | what is seen                                                                    |
|------------------|---------------------------------------------------------------------------------|
| reward_only      | the reward rises while held-out accuracy stays where it was                     |
| one_place        | clicks scatter far less than the targets do                                     |
| box_drift        | boxes grow or shrink away from the size of the targets                          |
| short_answers    | completions lose more than half of their length                                 |
| no_spread        | in most groups every answer earns the same, so there is nothing to learn from   |

    monitor = RewardHackingMonitor()
    for alarm in monitor.new_alarms(records):       # each kind once; the report asks `watch` for all of them
        logger.warning(alarm.message)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, isfinite, log
from statistics import fmean, median
from typing import Any

import numpy as np

from grounding.answer import Answer
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon

READABLE, SPREAD, AREA = "monitor/readable", "monitor/place_spread", "monitor/box_area"
LENGTH, NO_SPREAD, REWARD = "completions/mean_length", "frac_reward_zero_std", "reward"
# Rewards that are 1 for a right answer and 0 for a wrong one: their mean over held-out rollouts is an accuracy.
HELD_OUT = {f"eval_rewards/{name}/mean": name for name in ("click_in_box", "iou_above")}


@dataclass(frozen=True, slots=True)
class MonitorLimits:
    """When to warn. Windows are numbers of logged records.

    Attributes:
        window: records that are averaged at the start and at the end of the log; twice as many are needed to judge.
        reward_rise: rise of the mean reward that is worth a look.
        held_out_gain: gain of held-out accuracy below which it counts as flat.
        spread: scatter of the clicks over the scatter of the targets.
        area: factor between the areas of answers and targets, either way.
        length: share of the starting length that must be left.
        no_spread: share of groups without spread.
    """

    window: int = 10
    reward_rise: float = 0.1
    held_out_gain: float = 0.01
    spread: float = 0.5
    area: float = 3.0
    length: float = 0.5
    no_spread: float = 0.8


@dataclass(frozen=True, slots=True)
class Alarm:
    """One warning.

    Attributes:
        kind: a row of the module's table.
        step: the last step that was looked at.
        metric: key of the log record that shows it.
        before, now: its mean at the start and at the end of the log.
        message: one line for a log, with the numbers and what to look at.
    """

    kind: str
    step: int
    metric: str
    before: float
    now: float
    message: str


def statistics(answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, float]:
    """What one step's answers look like, against their own targets; keys without a meaning for them are left out.

    Returns:
        monitor/readable: share of answers with status OK.
        monitor/place_spread: root-mean-square distance of the clicks from their mean, over the same of the targets. 1
            where answers scatter like targets, 0 where all click one place. Needs targets in different places.
        monitor/box_area: typical (geometric mean) ratio of the answer's box area to the target's.
    """
    found = {READABLE: fmean(answer.ok for answer in answers)} if answers else {}
    clicks, places, ratios = [], [], []
    for answer, sample in zip(answers, samples, strict=True):
        target = _place(sample)
        if target is None or not answer.ok or answer.click is None:
            continue
        center = target.center if isinstance(target, Box) else target
        clicks.append((answer.click.x, answer.click.y))
        places.append((center.x, center.y))
        if isinstance(target, Box) and answer.box is not None and target.area > 0 and answer.box.area > 0:
            ratios.append(log(answer.box.area / target.area))
    if len(clicks) > 1 and (around := _scatter(places)) > 0.01:
        found[SPREAD] = _scatter(clicks) / around
    if ratios:
        found[AREA] = exp(fmean(ratios))
    return found


def _place(sample: Sample) -> Box | Point | None:
    regions = regions_of(sample.target)
    if len(regions) != 1:
        return None
    region = regions[0].bounds if isinstance(regions[0], Polygon) else regions[0]
    return region if isinstance(region, (Box, Point)) else None


def _scatter(places: Sequence[tuple[float, float]]) -> float:
    xy = np.array(places)
    return float(np.sqrt(((xy - xy.mean(axis=0)) ** 2).sum(axis=1).mean()))


def watch(
    records: Sequence[Mapping[str, Any]], held_out: str | None = None, limits: MonitorLimits | None = None
) -> list[Alarm]:
    """The alarms a training log gives at its end.

    Args:
        records: logged metrics in the order of the steps, each with ``step``; keys may be missing from any of them.
        held_out: key of the held-out accuracy, in the records of evaluations; None is the first of `HELD_OUT` there
            is, and without one that alarm is not given.
        limits: thresholds.
    """
    limits = limits or MonitorLimits()
    held_out = held_out or next((key for record in records for key in HELD_OUT if key in record), None)
    step = max((int(record["step"]) for record in records if "step" in record), default=0)
    alarms = []
    for kind, metric, rule in (
        ("one_place", SPREAD, _one_place),
        ("box_drift", AREA, _box_drift),
        ("short_answers", LENGTH, _short_answers),
        ("no_spread", NO_SPREAD, _no_spread),
        ("reward_only", REWARD, partial(_reward_only, accuracy=_numbers(records, held_out))),
    ):
        values = _numbers(records, metric)
        if len(values) < 2 * limits.window:
            continue
        before, now = fmean(values[: limits.window]), fmean(values[-limits.window :])
        seen = rule(before, now, limits)
        if seen:
            alarms.append(
                Alarm(kind, step, metric, before, now, f"step {step}: {seen} ({metric} {before:.3g} -> {now:.3g})")
            )
    return alarms


class RewardHackingMonitor:
    """Watches a training log while it grows, and gives an alarm of each kind once."""

    def __init__(self, limits: MonitorLimits | None = None):
        self._limits, self._given = limits, set[str]()

    def new_alarms(self, records: Sequence[Mapping[str, Any]]) -> list[Alarm]:
        """The alarms of `watch` on the log so far, of kinds that were not given before."""
        fresh = [alarm for alarm in watch(records, limits=self._limits) if alarm.kind not in self._given]
        self._given.update(alarm.kind for alarm in fresh)
        return fresh


def _reward_only(before: float, now: float, limits: MonitorLimits, accuracy: Sequence[float]) -> str | None:
    if now - before < limits.reward_rise or len(accuracy) < 2:
        return None
    recent = median(accuracy[-max(1, len(accuracy) // 3) :])
    if recent - accuracy[0] >= limits.held_out_gain:
        return None
    return f"reward rises, held-out accuracy does not ({accuracy[0]:.3g} -> {recent:.3g}); read some answers"


def _one_place(before: float, now: float, limits: MonitorLimits) -> str | None:
    gathered = now < limits.spread and now < before
    return "clicks gather in one place while the targets do not" if gathered else None


def _box_drift(before: float, now: float, limits: MonitorLimits) -> str | None:
    drifted = now > 0 < before and abs(log(now)) > max(log(limits.area), abs(log(before)))
    return f"boxes grow {'larger' if now > 1 else 'smaller'} than their targets" if drifted else None


def _short_answers(before: float, now: float, limits: MonitorLimits) -> str | None:
    return "completions lose their length, the thought perhaps" if now < limits.length * before else None


def _no_spread(before: float, now: float, limits: MonitorLimits) -> str | None:
    return "most groups earn one and the same reward and teach nothing" if now > limits.no_spread else None


def _numbers(records: Sequence[Mapping[str, Any]], key: str | None) -> list[float]:
    """The finite values of a metric in the order of the log."""
    values = (record.get(key) for record in records if key is not None)
    return [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and isfinite(v)]

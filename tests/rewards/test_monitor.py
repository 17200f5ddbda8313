"""The monitor: each alarm from a made-up log that shows it, none from one that does not."""

import math
import random

import pytest

from grounding.targets import Box, Boxes, Point
from rewards.monitor import MonitorLimits, RewardHackingMonitor, statistics, watch
from tests.rewards.making import ABSENT, UNREADABLE, a_sample, boxes, clicks


def log(steps=40, **curves):
    """A log with one record a step; a curve is a function of the share of training that is done."""
    names = {
        "reward": "reward",
        "spread": "monitor/place_spread",
        "area": "monitor/box_area",
        "length": "completions/mean_length",
        "zero": "frac_reward_zero_std",
    }
    healthy = {
        "reward": lambda t: 0.3 + 0.4 * t,
        "spread": lambda t: 0.9,
        "area": lambda t: 1.3,
        "length": lambda t: 60 - 10 * t,
        "zero": lambda t: 0.2 + 0.3 * t,
    }
    rng = random.Random(0)
    records = []
    for step in range(steps):
        values = {names[key]: curve(step / (steps - 1)) for key, curve in {**healthy, **curves}.items()}
        records.append({"step": step, **{key: value * rng.uniform(0.97, 1.03) for key, value in values.items()}})
        if step % 10 == 9:
            records.append({"step": step, "eval_accuracy": 0.3 + 0.3 * step / steps})
    return records


def kinds(records, **more):
    return [alarm.kind for alarm in watch(records, held_out="eval_accuracy", **more)]


def test_a_healthy_run_gives_no_alarm():
    assert kinds(log()) == []


@pytest.mark.parametrize(
    ("kind", "curves"),
    [
        ("one_place", {"spread": lambda t: 0.9 * (1 - t) + 0.02}),
        ("box_drift", {"area": lambda t: math.exp(3 * t)}),
        ("box_drift", {"area": lambda t: math.exp(-3 * t)}),
        ("short_answers", {"length": lambda t: 60 * (1 - t) + 4}),
        ("no_spread", {"zero": lambda t: min(1.0, 0.2 + t)}),
    ],
)
def test_each_sign_gives_its_alarm(kind, curves):
    (alarm,) = watch(log(**curves), held_out="eval_accuracy")
    assert alarm.kind == kind
    assert alarm.step == 39
    assert alarm.message.startswith("step 39: ")
    assert "\n" not in alarm.message
    assert f"{alarm.now:.3g}" in alarm.message


def test_reward_up_while_held_out_accuracy_is_flat():
    records = [r | {"eval_accuracy": 0.4} if "eval_accuracy" in r else r for r in log()]
    assert kinds(records) == ["reward_only"]
    assert watch(records) == []  # without held-out accuracy nobody can tell
    assert kinds(log(reward=lambda t: 0.4)) == []


def test_boxes_that_find_back_to_their_targets_are_no_drift():
    assert kinds(log(area=lambda t: 20 - 10 * t)) == []


def test_a_monitor_gives_each_alarm_once_and_finds_the_held_out_accuracy():
    records = [dict(r, **{"eval_rewards/iou_above/mean": 0.4}) if "eval_accuracy" in r else r for r in log()]
    monitor = RewardHackingMonitor()
    assert (
        [alarm.kind for alarm in monitor.new_alarms(records)] == ["reward_only"] == [a.kind for a in watch(records)]
    )
    assert monitor.new_alarms(records) == []


def test_a_short_or_empty_or_odd_log_gives_no_alarm():
    assert watch([]) == []
    assert kinds(log(zero=lambda t: 1.0)[:15]) == []
    assert kinds([{"step": i, "reward": float("nan"), "frac_reward_zero_std": None} for i in range(50)]) == []


def test_limits_can_be_set():
    records = log(zero=lambda t: 0.6)
    assert kinds(records) == []
    assert kinds(records, limits=MonitorLimits(no_spread=0.5)) == ["no_spread"]
    assert kinds(records[:8], limits=MonitorLimits(no_spread=0.5, window=3)) == ["no_spread"]


def test_statistics_by_hand():
    samples = [a_sample(Box(0.1, 0.1, 0.3, 0.3)), a_sample(Box(0.7, 0.7, 0.9, 0.9))]
    found = statistics([boxes((0.1, 0.1, 0.3, 0.3)), boxes((0.4, 0.4, 0.8, 0.8))], samples)
    # areas 1 and 4 times the target's; centers (0.2, 0.2) and (0.6, 0.6) against (0.2, 0.2) and (0.8, 0.8)
    assert found["monitor/box_area"] == pytest.approx(2.0)
    assert found["monitor/place_spread"] == pytest.approx(2 / 3)
    assert found["monitor/readable"] == 1.0


def test_answers_in_one_place_have_no_spread():
    samples = [a_sample(Point(x / 10, x / 10)) for x in range(8)]
    assert statistics([clicks((0.5, 0.5))] * 8, samples)["monitor/place_spread"] == pytest.approx(0.0, abs=1e-9)
    assert statistics([clicks((x / 10, x / 10)) for x in range(8)], samples)["monitor/place_spread"] == pytest.approx(
        1.0
    )


def test_what_has_no_meaning_is_left_out():
    one_prompt = [a_sample()] * 4
    assert statistics([clicks((0.1, 0.1)), *UNREADABLE], one_prompt) == {"monitor/readable": 0.25}
    assert statistics([clicks((0.1, 0.1))] * 4, one_prompt) == {
        "monitor/readable": 1.0
    }  # one target: no spread to match
    assert statistics([ABSENT] * 4, one_prompt) == {"monitor/readable": 1.0}
    assert statistics([boxes((0, 0, 0, 0))], [a_sample()]) == {"monitor/readable": 1.0}
    assert statistics([boxes((0, 0, 0.1, 0.1))], [a_sample(Boxes((Box(0, 0, 1, 1),) * 2))]) == {
        "monitor/readable": 1.0
    }
    assert statistics([], []) == {}

"""Counting, averaging, intervals and paired comparison, on cases worked by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.compare import compare
from benchmarks.harness.items import BenchmarkItem, ItemImage, Prediction, Rule, Truth, Verdict
from benchmarks.harness.scoring import intervals
from grounding.answer import Status
from grounding.errors import UsageError


def scoreboard(items, predictions, verdicts, rule):
    counted = intervals.Scoreboard()
    for item, prediction, verdict in zip(items, predictions, verdicts, strict=True):
        counted.add(item, prediction, verdict)
    return counted.metrics(rule)


def board(verdicts, groups, strict=None, rule=None, failed=()):
    items = [
        BenchmarkItem(str(n), (ItemImage("x", 9, 9),), "q", Truth(), "box", groups={"g": name})
        for n, name in enumerate(groups)
    ]
    strict = strict or [True] * len(verdicts)
    predictions = [
        Prediction(Status.NO_ANSWER) if n in failed else Prediction(Status.OK, strict=s, boxes=((0, 0, 1, 1),))
        for n, s in enumerate(strict)
    ]
    return scoreboard(items, predictions, [Verdict(v, float(v)) for v in verdicts], rule or Rule())


def test_micro_and_macro_differ_as_they_should():
    # group a: 3 of 4, group b: 0 of 1 -> micro 3/5, macro (0.75 + 0) / 2
    result = board([1, 1, 1, 0, 0], "aaaab", rule=Rule(average="macro", over="g"))
    assert (result["n"], result["correct"], result["accuracy"]) == (5, 3, 0.6)
    assert result["macro"]["g"]["value"] == 0.375
    assert result["headline"]["value"] == 0.375
    assert result["groups"]["g"]["a"]["correct"] == 3


def test_strict_accuracy_and_parse_failures_are_counted():
    result = board([1, 1, 0, 0], "aaaa", strict=[True, False, True, True], failed=(3,))
    assert (result["correct"], result["strict_correct"], result["parse_failures"]) == (2, 1, 1)
    assert result["parse"]["no_answer"] == 1


def test_skipped_answers_leave_the_denominator_but_are_reported():
    items = [BenchmarkItem(str(n), (), "q", Truth(), "points") for n in range(3)]
    verdicts = [Verdict(True, 1.0), Verdict(False, 0.0), Verdict(False, 0.0, skipped=True)]
    result = scoreboard(items, [Prediction(Status.OK)] * 3, verdicts, Rule(failure="skip"))
    assert (result["n"], result["skipped"], result["accuracy"]) == (3, 1, 0.5)


def test_rollouts():
    items = [BenchmarkItem(name, (), "q", Truth(), "box") for name in "aabb"]
    verdicts = [Verdict(v, v) for v in (True, False, True, True)]
    result = scoreboard(items, [Prediction(Status.OK)] * 4, verdicts, Rule())
    assert (result["n"], result["rollouts"], result["accuracy"]) == (2, 2, 0.75)
    assert (result["any_correct"], result["all_correct"]) == (2, 1)


def test_the_interval_of_a_proportion_is_the_binomial_one():
    found = intervals.interval([True] * 500 + [False] * 500)
    # 1.96 * sqrt(0.25 / 1000) = 0.031
    assert found.low == pytest.approx(0.469, abs=0.002)
    assert found.high == pytest.approx(0.531, abs=0.002)
    # (1.96 + 0.84) * sqrt(2 * 0.25 / 1000)
    assert found.detectable == pytest.approx(0.0626, abs=0.001)


def test_rollouts_and_questions_of_one_image_are_one_observation():
    # 24 images of six answers each, all right or all wrong: as 24 coins, 1.96 * sqrt(0.25 / 24) = 0.2
    images = [image for image in range(24) for _ in range(6)]
    right = [image % 2 == 0 for image in images]
    for groups in (None, ["a"] * len(images)):
        found = intervals.interval(right, images, groups)
        assert (found.low, found.high) == pytest.approx((0.3, 0.7), abs=0.03)
    items = [
        BenchmarkItem(
            f"{image}-{k}", (ItemImage(f"{image}.png", 9, 9),), "q", Truth(), "box", groups={"g": "ab"[k % 2]}
        )
        for k, image in enumerate(images)
    ]
    verdicts = [Verdict(r, float(r)) for r in right]
    result = scoreboard(items, [Prediction(Status.OK)] * len(items), verdicts, Rule(average="macro", over="g"))
    assert result["clusters"] == 24
    for interval in (result["interval"], result["groups"]["g"]["a"]["interval"], result["headline"]["interval"]):
        assert interval == pytest.approx([0.3, 0.7], abs=0.03)


def test_where_a_bootstrap_knows_no_spread_it_is_wilsons_interval():
    # n / (n + z^2) with z^2 = 3.8415
    assert intervals.interval([True] * 8)[:2] == pytest.approx((8 / 11.8415, 1.0), abs=1e-4)
    assert intervals.interval([False] * 8)[:2] == pytest.approx((0.0, 3.8415 / 11.8415), abs=1e-4)
    assert intervals.interval([True] * 80, [n // 10 for n in range(80)])[:2] == pytest.approx(
        (8 / 11.8415, 1.0), abs=1e-4
    )
    low, high, _ = intervals.interval([True, False] * 5, [0] * 10)  # one image: next to nothing is known
    assert low < 0.1
    assert high > 0.9
    same = intervals.paired([True] * 8, [True] * 8)
    assert same["interval"] == pytest.approx([-3.8415 / 11.8415, 3.8415 / 11.8415], abs=1e-4)
    assert same["detectable"] > 0.3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_intervals_hold_the_estimate(verdicts):
    low, high, _ = intervals.interval([float(v) for v in verdicts])
    assert 0 <= low <= sum(verdicts) / len(verdicts) <= high <= 1


def test_paired_difference_and_mcnemar():
    first = [True] * 5 + [False] * 5 + [True] * 90
    second = [False] * 1 + [True] * 4 + [True] * 5 + [True] * 90
    result = intervals.paired(first, second)
    assert (result["won"], result["lost"], result["difference"]) == (5, 1, 0.04)
    assert result["p_mcnemar"] == pytest.approx(14 / 64)  # 2 * (C(6,0) + C(6,1)) / 2^6
    assert result["interval"][0] <= 0.04 <= result["interval"][1]
    assert intervals.paired([True], [True])["p_mcnemar"] == 1.0


def test_compare_lists_what_changed(tmp_path):
    for name, verdicts in (("a", (1, 1, 0)), ("b", (1, 0, 1))):
        (tmp_path / name).mkdir()
        rows = [
            {"id": str(n), "correct": bool(v), "groups": {"g": "x"}, "instruction": f"thing {n}"}
            for n, v in enumerate(verdicts)
        ]
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = compare(tmp_path / "a", tmp_path / "b")
    assert "only B right 1   only A right 1" in text
    assert "- 1: thing 1" in text
    assert "+ 2: thing 2" in text
    (tmp_path / "b" / "results.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UsageError, match="2 are in one only"):
        compare(tmp_path / "a", tmp_path / "b")

"""A recipe's list of rewards as YAML gives it: names, weights, schedules, and every way to get it wrong."""

import pytest

from grounding.errors import UsageError
from rewards.spec import has_weight_schedule, interpolate, read_specs, weights


def test_names_weights_and_labels():
    specs = read_specs(["iou", {"name": "iou", "weight": 2, "label": "iou_late"}, "trl.rewards.think_format_reward"])
    assert [spec.display for spec in specs] == ["iou", "iou_late", "think_format_reward"]
    assert weights(specs) == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([{"name": "iou", "wieght": 1}], r"rewards.0: unknown key 'wieght'; did you mean 'weight'"),
        ([{"weight": 1}], r"rewards.0.name is missing"),
        (["iou", "iou"], "'iou' stands there twice"),
        ([], "the list is empty"),
        ("iou", r"^rewards: a list is needed, got 'iou'"),
        ([3], "rewards.0: a name or a mapping is needed"),
        ([{"name": "iou", "weight": "big"}], r"rewards.0.weight: a finite number"),
        ([{"name": "iou", "weight": float("nan")}], r"rewards.0.weight: a finite number"),
        ([{"name": "iou", "params": [1]}], r"rewards.0.params: a mapping"),
        ([{"name": "iou", "clip": [1, 0]}], r"rewards.0.clip: \[1.0, 0.0\] is not in order"),
        ([{"name": "iou", "clip": 1}], r"rewards.0.clip: two numbers"),
        ([{"name": "iou", "kinds": ["boxs"]}], "did you mean 'boxes'"),
        ([{"name": "iou", "sources": "refcoco"}], r"rewards.0.sources: a list is needed"),
        ([{"name": "iou", "when": {"format": "good"}}], r"rewards.0.when.0: needs \{format: ok\}"),
        ([{"name": "iou", "when": {"reward": "format"}}], r"rewards.0.when.0: needs"),
        ([{"name": "iou", "schedule": {"weight": []}}], r"rewards.0.schedule.weight: a list"),
        ([{"name": "iou", "schedule": {"weight": [[5, 1], [5, 2]]}}], "steps must grow"),
        ([{"name": "iou", "schedule": [[0, 1]]}], r"rewards.0.schedule: a mapping"),
    ],
)
def test_a_wrong_list_is_a_usage_error_that_names_the_key(config, message):
    with pytest.raises(UsageError, match=message):
        read_specs(config)


def test_schedules_are_piecewise_linear():
    knots = ((10.0, 0.0), (20.0, 1.0), (40.0, 0.5))
    assert [interpolate(knots, step) for step in (0, 10, 15, 20, 30, 40, 99)] == [0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5]


def test_a_weight_schedule_is_for_trl():
    specs = read_specs(["iou", {"name": "format", "schedule": {"weight": [[0, 1.0], [100, 0.0]]}}])
    assert has_weight_schedule(specs)
    assert [weights(specs, step) for step in (0, 25, 200)] == [[1.0, 1.0], [1.0, 0.75], [1.0, 0.0]]
    assert not has_weight_schedule(specs[:1])

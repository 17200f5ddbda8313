"""Rewards tried before a training: what is shown, and what is found."""

import pytest

from grounding.answer import ImageSize
from grounding.dialects import DIALECTS, get_dialect
from grounding.errors import FoveaError, UsageError
from grounding.targets import Absent, Box, Boxes, Point, Points, Polygon, Span, TextBox
from rewards import REWARDS
from rewards.compose import build_rewards
from rewards.trial import try_rewards
from tests.rewards.making import TARGET, a_sample

PROMPT = [{"role": "user", "content": "?"}]
POLYGON = Polygon(((0.2, 0.2), (0.4, 0.2), (0.4, 0.4), (0.2, 0.4)))
TARGETS = [TARGET, POLYGON, Point(0.2, 0.3), Boxes((TARGET,)), Points((Point(0.2, 0.3),)), Span(1.0, 2.0)]
TARGETS += [TextBox("B", (TARGET,)), Absent()]


def row(target=TARGET, answer_kind=None, **more):
    sample = a_sample(target, **({"meta": {"duration": 9.0}} if isinstance(target, Span) else {}))
    return {
        "prompt": PROMPT,
        "sample": sample,
        "sizes": (ImageSize(200, 100),),
        "answer_kind": answer_kind or sample.answer_kind,
        "images": ["never looked at"],
        **more,
    }


def tried(*specs, grammar="think", rows=(), dialect="qwen3_vl"):
    return try_rewards(build_rewards(list(specs), dialect, grammar), dialect, grammar, list(rows) or [row()])


def by_length(completions, completion_ids, **columns):
    return [float(len(ids)) for ids in completion_ids]


def wants_a_text(completions, **columns):
    return [len(text.strip()) for text in completions]


def test_a_right_a_wrong_and_no_answer():
    trials = tried("iou", "format", "region_consistency", {"name": "iou", "kinds": ["span"], "label": "other"})
    assert [(t.reward, t.right, t.wrong, t.unreadable) for t in trials] == [
        ("iou", pytest.approx(1.0), 0.0, 0.0),
        ("format", 1.0, 1.0, 0.0),
        ("region_consistency", 1.0, 1.0, 0.0),  # each is alone where it is
        ("other", None, None, None),
    ]
    assert str(trials[1]) == "right 1, wrong 1, unreadable 0"
    assert str(trials[3]) == "right -, wrong -, unreadable -"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_every_reward_can_be_tried_on_every_kind_it_scores(target):
    given = row(target)
    for name in REWARDS:
        entry = REWARDS.get(name)
        kind = a_sample(target).kind
        if entry.kinds and kind not in entry.kinds:
            continue
        (trial,) = tried(name, rows=[given])
        low, high = entry.range
        assert trial.right is None or low <= trial.unreadable <= high
        clicks_for_boxes = name == "matched_points" and kind == "boxes"  # scores points, which nobody asked for here
        if entry.family in ("box", "point", "detection", "span", "text") and not clicks_for_boxes:
            assert trial.right > max(trial.wrong, trial.unreadable), name


def test_judges_are_not_asked():
    (trial,) = tried({"name": "judged_thought", "params": {"url": "http://nowhere.invalid/v1", "model": "m"}})
    assert (trial.right, trial.wrong, trial.unreadable) == (None, None, None)


def test_functions_from_outside_are_called_as_trl_calls_them():
    (trial,) = tried(f"{__name__}.by_length", grammar="bare")
    assert (trial.right, trial.unreadable) == (5.0, 1.0)
    with pytest.raises(FoveaError, match="wants_a_text' raised AttributeError: 'list' object has no attribute"):
        assert tried(f"{__name__}.wants_a_text")  # TRL gives messages where the prompt is one


def test_schedules_are_tried_at_each_of_their_steps():
    with pytest.raises(UsageError, match="alpha"):
        tried({"name": "gaussian_point", "schedule": {"alpha": [[0, 1], [10, -1]]}})


def test_a_target_a_reward_cannot_score_is_found():
    with pytest.raises(UsageError, match="'iou' scores targets of kind box, polygon; sample 'one' is of kind 'span'"):
        tried("iou", rows=[row(Span(1.0, 2.0))])


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_answers_in_its_own_words(dialect):
    kinds = get_dialect(dialect).kinds
    asked = "box" if "box" in kinds else "point"
    (trial,) = tried("click_in_box", grammar="bare", dialect=dialect, rows=[row(answer_kind=asked)])
    assert (trial.right, trial.wrong, trial.unreadable) == (1.0, 0.0, 0.0)
    assert get_dialect(dialect).render(Box(0, 0, 1, 1) if asked == "box" else Point(0, 0), [ImageSize(9, 9)])

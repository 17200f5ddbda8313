"""Every reward of a recipe on a right, a wrong and an unreadable answer, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from grounding.answer import ImageSize
from grounding.completion import Grammar, render_completion
from grounding.dialects import Dialect, get_dialect
from grounding.sample import Sample, regions_of
from grounding.targets import Absent, Box, Boxes, Point, Points, Polygon, Span, Target, TextBox
from rewards.compose import RewardFunction

UNREADABLE = "~"
THOUGHT = "The thing that is asked for can be seen in the image."
MAPS = {"attention": [[1.0]], "general": [[1.0]], "sinks": [[0.0]]}  # columns that a trainer adds to the rows


@dataclass(frozen=True, slots=True)
class Trial:
    """What one reward pays for three answers to one sample; None where it does not apply or asks a judge.

    Attributes:
        reward: its name in logs.
        sample, kind: id and target kind of the sample.
        right, wrong, unreadable: the values.
        texts: the three answers.
    """

    reward: str
    sample: str
    kind: str
    right: float | None
    wrong: float | None
    unreadable: float | None
    texts: tuple[str, ...] = ()

    def __str__(self) -> str:
        values = {"right": self.right, "wrong": self.wrong, "unreadable": self.unreadable}
        return ", ".join(f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in values.items())


def try_rewards(
    functions: Sequence[RewardFunction],
    dialect: str | Dialect,
    grammar: Grammar,
    rows: Sequence[Mapping[str, Any]],
    *,
    tokenize: Callable[[str], Sequence[int]] = lambda text: range(len(text.split())),
) -> list[Trial]:
    """Call every reward the way TRL does, on three answers to each row: the target, another place, no answer at all.

    Schedules are tried at each of their steps as well. Rewards that ask a judge over the network are not called;
    attention rewards see an even map. Functions from outside are called: a recipe is code.

    Args:
        functions: of `build_rewards`.
        dialect, grammar: the policy's.
        rows: of the data, with the columns of a trainer (`sample`, `sizes`, `answer_kind`, `prompt`, its own); one of
            each source and kind is enough.
        tokenize: a completion's token ids; without, a word counts as a token.

    Raises:
        FoveaError: a reward raised, or returned something that is no number, with its name and the sample's.
        UsageError: a parameter, a column or a target kind that the reward cannot work with.
    """
    words = get_dialect(dialect) if isinstance(dialect, str) else dialect
    trials = []
    for row in rows:
        sample, sizes = row["sample"], row["sizes"]
        texts = _completions(sample, row.get("answer_kind"), words, grammar, sizes)
        columns = {key: [value] * len(texts) for key, value in {**MAPS, **row, "num_generations": len(texts)}.items()}
        prompts = columns.pop("prompt", [""] * len(texts))
        for key in ("images", "completion"):
            columns.pop(key, None)
        chat = not isinstance(prompts[0], str)
        for function in functions:
            values: Sequence[float | None] = [None] * len(texts)
            for step in () if function.remote else reversed(function.spec.steps):  # the first step's values stay
                values = function(
                    prompts=prompts,
                    completions=[[{"role": "assistant", "content": text}] if chat else text for text in texts],
                    completion_ids=[list(tokenize(text)) for text in texts],
                    trainer_state=SimpleNamespace(global_step=step),
                    **columns,
                )
            right, wrong, unreadable = values
            trials.append(Trial(function.__name__, sample.id, sample.kind, right, wrong, unreadable, tuple(texts)))
    return trials


def _completions(
    sample: Sample, answer_kind: str | None, dialect: Dialect, grammar: Grammar, sizes: Sequence[ImageSize]
) -> list[str]:
    thought = THOUGHT
    if sample.thought is not None and grammar != "bare":
        thought = dialect.render_thought(sample.thought, sizes)
    wrong = elsewhere(sample.target)
    right = wrong if sample.kind == "unlabeled" else sample.target  # nobody knows: a place, twice
    targets = (_asked_for(target, answer_kind) for target in (right, wrong))
    return [*(render_completion(dialect.render(t, sizes), thought, grammar) for t in targets), UNREADABLE]


def _asked_for(target: Target, answer_kind: str | None) -> Target:
    """A target as an answer of the kind asked for: a point for a box, a list for one thing."""
    if isinstance(target, Polygon):
        target = target.bounds
    regions = regions_of(target)
    boxes = tuple(region for region in regions if isinstance(region, Box))
    if answer_kind in ("point", "points") and boxes and not isinstance(target, TextBox):
        points = tuple(box.center for box in boxes)
        return points[0] if answer_kind == "point" else Points(points)
    if answer_kind == "boxes" and isinstance(target, Box):
        return Boxes((target,))
    return Points((target,)) if answer_kind == "points" and isinstance(target, Point) else target


def elsewhere(target: Target) -> Target:
    """A wrong answer of the target's kind: a small box far from it, a later span, other words, a place for none."""
    regions = regions_of(target)
    if isinstance(target, Absent) or not regions:
        return Box(0.9, 0.9, 0.98, 0.98)
    first = regions[0]
    if isinstance(first, Span):
        return Span(first.end + 1, first.end + 2)
    if isinstance(first, Point):
        x, y = (0.06 if value > 0.5 else 0.94 for value in (first.x, first.y))
        point = Point(x, y, first.image, first.label)
        return Points((point,)) if isinstance(target, Points) else point
    bounds = first.bounds if isinstance(first, Polygon) else first
    x, y = (0.02 if value > 0.5 else 0.9 for value in (bounds.center.x, bounds.center.y))
    box = Box(x, y, x + 0.08, y + 0.08, bounds.image, bounds.label)
    if isinstance(target, TextBox):
        return TextBox(f"{target.text} or something else", (box,))
    return Boxes((box,)) if isinstance(target, Boxes) else box

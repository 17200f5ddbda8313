"""How each sort of reward runs over a batch: one answer at a time, a group at a time, or the way TRL calls it."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from grounding.answer import Answer, Status
from grounding.errors import FoveaError, UsageError
from grounding.registry import nearest
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Boxes, Point, Points, Polygon, Span, Target, TextBox, Unlabeled
from rewards import REWARDS, Reward
from rewards.reader import RewardBatch
from rewards.spec import RewardSpec

# What a reward is given to look at its parameters with, before there is any data
PROBE: dict[str, Any] = {"text": "", "tokens": (), "messages": (), "prompt": "", "sizes": (), "places": ()}
PROBE |= {"executed_calls": None, "turns": None, "attention": [[1.0]], "general": [[1.0]], "sinks": None}
_BOX, _POINT = Box(0.1, 0.1, 0.2, 0.2), Point(0.1, 0.1)
PROBES: dict[str, Target] = {"box": _BOX, "boxes": Boxes((_BOX,)), "point": _POINT, "points": Points((_POINT,))}
PROBES |= {"span": Span(0.0, 1.0), "text_box": TextBox("B", (_BOX,)), "absent": Absent()}
PROBES["unlabeled"] = Unlabeled()
PROBES["polygon"] = Polygon(((0.1, 0.1), (0.2, 0.1), (0.2, 0.2)))

Scores: TypeAlias = list[float | None]
Scorer: TypeAlias = Callable[[RewardBatch, Sequence[bool]], Scores]  # a batch, which completions count -> values


def build_scorer(spec: RewardSpec) -> Scorer:
    """The scorer of a recipe's entry, its weight, conditions and clip left aside.

    Raises:
        UsageError: no such reward, or a parameter it does not have.
    """
    found = REWARDS.get(spec.name)
    if not isinstance(found, Reward):
        if not callable(found):
            raise UsageError(f"reward {spec.name!r} is a {type(found).__name__}, not a function")
        names = list(inspect.signature(found).parameters)
        if not names or names[0] not in ("answer", "answers"):
            return ForeignScorer(spec, _trl_function(found, names, spec))
        found = _undecorated(found, spec.name)
    for key in (*spec.params, *(key for key in spec.schedule if key != "weight")):
        if key not in found.params:
            raise UsageError(f"reward {spec.name!r}: unknown parameter {key!r}{nearest(key, list(found.params))}")
    for key, value in spec.params.items():
        _check_type(spec.name, key, value, found.params[key])
    for key, knots in spec.schedule.items():
        for _, value in knots if key != "weight" else ():
            _check_type(spec.name, key, value, found.params[key])
    if spec.name in REWARDS:
        _check_values(spec, found)
    if found.group:
        return GroupScorer(spec, found)
    return RemoteScorer(spec, found) if found.remote else AnswerScorer(spec, found)


@dataclass(frozen=True)
class AnswerScorer:
    """A reward that sees one answer at a time."""

    spec: RewardSpec
    reward: Reward

    def __call__(self, batch: RewardBatch, wanted: Sequence[bool]) -> Scores:
        params = self.spec.params_at(batch.step)
        reward, name, function = self.reward, self.reward.name, self.reward.function
        scores: Scores = []
        with NamedErrors(name) as at:
            for i, (answer, sample, *_) in enumerate(batch.rollouts):
                if not (wanted[i] and applies(reward, sample)):
                    scores.append(None)
                    continue
                at.sample = sample.id
                extras = batch.extras(reward, i) if reward.needs else {}
                scores.append(score_of(function(answer, sample, **extras, **params), name, sample.id))
        return scores


@dataclass(frozen=True)
class RemoteScorer:
    """A reward that waits for a network: answers in parallel, at most its parameter `concurrency` at once.

    Where one answer of a group could not be judged (None), the whole group goes without this reward; else the
    answers that were judged would seem better or worse than that one for no reason of their own.
    """

    spec: RewardSpec
    reward: Reward

    def __call__(self, batch: RewardBatch, wanted: Sequence[bool]) -> Scores:
        params = self.spec.params_at(batch.step)

        def score(i: int) -> float | None:
            rollout, extras = batch.rollouts[i], batch.extras(self.reward, i)
            with NamedErrors(self.reward.name, rollout.sample.id):
                value = self.reward.function(rollout.answer, rollout.sample, **extras, **params)
            return score_of(value, self.reward.name, rollout.sample.id)

        counted = [
            i for i, rollout in enumerate(batch.rollouts) if wanted[i] and applies(self.reward, rollout.sample)
        ]
        scores: Scores = [None] * len(batch)
        pool = ThreadPoolExecutor(max_workers=max(1, int({**self.reward.params, **params}["concurrency"])))
        try:
            for i, value in zip(counted, pool.map(score, counted), strict=True):
                scores[i] = value
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure nothing more is asked
        for group in batch.groups if any(scores[i] is None for i in counted) else ():
            if any(scores[i] is None for i in group):
                for i in group:
                    scores[i] = None
        return scores


@dataclass(frozen=True)
class GroupScorer:
    """A reward that sees all answers to one prompt."""

    spec: RewardSpec
    reward: Reward

    def __call__(self, batch: RewardBatch, wanted: Sequence[bool]) -> Scores:
        params = self.spec.params_at(batch.step)
        scores: Scores = [None] * len(batch)
        for group in batch.groups:
            rollouts = [batch.rollouts[i] for i in group]
            sample = rollouts[0].sample
            if not (wanted[group[0]] and applies(self.reward, sample)):
                continue
            each = [batch.extras(self.reward, i) for i in group]
            extras = {need: [values[need] for values in each] for need in each[0]}
            with NamedErrors(self.reward.name, sample.id):
                values = self.reward.function([rollout.answer for rollout in rollouts], sample, **extras, **params)
            for i, value in zip(group, _listed(values, len(group), self.reward.name), strict=True):
                scores[i] = score_of(value, self.reward.name, sample.id)
        return scores


@dataclass(frozen=True)
class ForeignScorer:
    """A function with TRL's own signature: TRL's reward functions, or anybody's."""

    spec: RewardSpec
    function: Callable[..., Any]

    def __call__(self, batch: RewardBatch, wanted: Sequence[bool]) -> Scores:
        samples = dict.fromkeys(getattr(sample, "id", "?") for sample in batch.columns.get("sample", ()))
        with NamedErrors(self.spec.name, among=", ".join(map(repr, samples))[:200]):
            values = self.function(completions=batch.completions, **batch.columns)
            if inspect.isawaitable(values):
                values = asyncio.run(_result(values))
        listed = _listed(values, len(batch), self.spec.name)  # NaN is TRL's own word for "does not apply"
        return [
            None
            if not wanted[i] or (hasattr(value, "__float__") and math.isnan(value))
            else score_of(value, self.spec.name)
            for i, value in enumerate(listed)
        ]


class NamedErrors:
    """Turns what a reward raises into one line that names the reward, its line and the sample; our own errors pass.

    Attributes:
        sample: id of the sample that is being scored; empty where that is not known.
        among: ids of those of which one is being scored.

    Raises:
        FoveaError: the reward raised anything that is no `FoveaError`.
    """

    def __init__(self, name: str, sample: str = "", among: str = ""):
        self.name, self.sample, self.among = name, sample, among

    def __enter__(self) -> NamedErrors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FoveaError):
            where = f" for sample {self.sample!r}" if self.sample else ""
            what = " ".join(str(error).split())
            # The first frame is ours, the second the reward's; it may have called a library that raised
            frames = traceback.extract_tb(error.__traceback__)[1:]
            own = [frame for frame in frames if frame.filename == frames[0].filename]
            places = [f"at {Path(own[-1].filename).name}:{own[-1].lineno}"] if own else []
            places += [f"one of samples {self.among}"] if self.among else []
            told = f" ({', '.join(places)})" if places else ""
            raise FoveaError(f"reward {self.name!r} raised {type(error).__name__}{where}: {what}{told}") from error


def score_of(value: Any, name: str, sample: str = "") -> float | None:
    """What a reward returned as a float; None, where it does not apply, stays.

    Raises:
        FoveaError: neither a number nor None, or NaN or infinity: a bug of the reward, not a wrong answer.
    """
    if value is None or (type(value) is float and math.isfinite(value)):
        return value
    where = f" for sample {sample!r}" if sample else ""
    if not hasattr(value, "__float__"):
        raise FoveaError(f"reward {name!r} returned {str(value)[:40]!r}{where}; a number or None is needed")
    with NamedErrors(name, sample):
        number = float(value)
    if not math.isfinite(number):
        raise FoveaError(f"reward {name!r} returned {number}{where}")
    return number


def _listed(values: Any, count: int, name: str) -> list[Any]:
    """The values of several completions as a list of the right length; raises FoveaError where they are not."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise FoveaError(f"reward {name!r} returned {str(values)[:40]!r}; a list of {count} numbers is needed")
    with NamedErrors(name):
        listed = list(values)
    if len(listed) != count:
        raise FoveaError(f"reward {name!r} returned {len(listed)} values for {count} completions")
    return listed


def _check_values(spec: RewardSpec, reward: Reward) -> None:
    """Raises UsageError for parameters the reward cannot work with, at any step of a schedule.

    A reward looks at its parameters before the answer, so an answer of nothing is enough to ask it.
    """
    if reward.remote or not {need.removesuffix("?") for need in reward.needs} <= PROBE.keys():
        return
    kind = reward.kinds[0] if reward.kinds else "box"
    sample = Sample(
        "probe", (ImageRef("probe", 1, 1),), "?", PROBES[kind], "probe", "CC0-1.0", meta={"duration": 2.0}
    )
    nothing = Answer(Status.NO_ANSWER)
    given = {need.removesuffix("?"): PROBE[need.removesuffix("?")] for need in reward.needs}
    given = {need: [value] for need, value in given.items()} if reward.group else given
    for step in spec.steps:
        try:
            with NamedErrors(spec.name):
                reward.function([nothing] if reward.group else nothing, sample, **given, **spec.params_at(step))
        except UsageError as error:
            when = f" at step {step} of its schedule" if spec.schedule else ""
            raise UsageError(f"reward {spec.display!r}{when}: {error}") from error
        except FoveaError:
            continue  # it needs more of a sample than there is here; rows are another matter


def _check_type(name: str, key: str, value: object, default: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = number and value == int(value), "a whole number"  # type: ignore[call-overload]
    elif isinstance(default, float):
        fits, wanted = number and math.isfinite(value), "a number"  # type: ignore[arg-type]
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str), "a text"
    else:
        return
    if not fits:
        raise UsageError(f"reward {name!r}: parameter {key!r} needs {wanted}, got {value!r}")


def applies(reward: Reward, sample: Sample) -> bool:
    """Whether a reward scores a sample: not when the target is absent and the reward is about places.

    Raises:
        UsageError: any other kind the reward has no rule for; silence would hide that nothing is rewarded.
    """
    if not reward.kinds or sample.kind in reward.kinds:
        return True
    if sample.kind == "absent":
        return False
    raise UsageError(
        f"reward {reward.name!r} scores targets of kind {', '.join(reward.kinds)}; sample {sample.id!r} is of kind "
        f"{sample.kind!r}. Add `kinds: [{', '.join(reward.kinds)}]` to the reward to leave such samples out"
    )


async def _result(values: Awaitable[Any]) -> Any:
    return await values


def _undecorated(function: Callable[..., Any], name: str) -> Reward:
    """A plain ``f(answer, sample, **params)`` named by import path, as a `Reward` of unknown range."""
    parameters = list(inspect.signature(function).parameters.values())
    params = {p.name: p.default for p in parameters[2:] if p.kind is not p.VAR_KEYWORD}
    for key, default in params.items():
        if default is inspect.Parameter.empty:
            raise UsageError(f"reward {name!r}: parameter {key!r} has no default; declare it with @reward(needs=...)")
    group = parameters[0].name == "answers"
    return Reward(name, function, (-math.inf, math.inf), name, (), group, False, (), params)


def _trl_function(found: Callable[..., Any], names: list[str], spec: RewardSpec) -> Callable[..., Any]:
    """A function with TRL's signature as it is; anything else is taken for a factory that returns one."""
    if any(key != "weight" for key in spec.schedule):
        raise UsageError(f"reward {spec.name!r}: only `weight` of a function from outside can have a schedule")
    if {"completions", "completion_ids"} & set(names):
        if spec.params:
            raise UsageError(f"reward {spec.name!r} takes its arguments from TRL, `params:` must be empty")
        return found
    try:
        made = found(**spec.params)
    except (TypeError, ValueError) as error:
        raise UsageError(f"reward {spec.name!r} with params {dict(spec.params)}: {error}") from error
    if not callable(made):
        raise UsageError(f"reward {spec.name!r} is neither a reward function nor makes one")
    return made  # type: ignore[no-any-return]

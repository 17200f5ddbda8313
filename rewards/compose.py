"""From a recipe's list of rewards to the functions TRL's GRPOTrainer calls.

    specs = read_specs(recipe["rewards"])
    functions = build_rewards(specs, dialect="qwen3_vl", grammar="think", answer_kind="box")
    GRPOTrainer(reward_funcs=functions, args=GRPOConfig(reward_weights=weights(specs), ...), ...)

The functions share one `Reader`, so a completion is parsed once however many rewards look at it. They return None
where a reward does not apply (another source or kind), which TRL leaves out of the sum. Weights stay TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounding.completion import Grammar
from grounding.dialects import Dialect
from grounding.errors import UsageError
from grounding.geometry import at_least
from rewards.adapters import RemoteScorer, Scorer, Scores, build_scorer
from rewards.monitor import statistics
from rewards.reader import Completion, Reader, RewardBatch
from rewards.spec import Condition, RewardSpec, has_weight_schedule, read_specs, weights

__all__ = ["RewardFunction", "build_rewards", "has_weight_schedule", "read_specs", "weights"]


def build_rewards(
    specs: Sequence[str | Mapping[str, Any] | RewardSpec],
    dialect: str | Dialect,
    grammar: Grammar = "think",
    *,
    answer_kind: str | None = None,
) -> list[RewardFunction]:
    """Build the reward functions of a GRPO stage.

    Args:
        specs: the recipe's `rewards:` list, or what `read_specs` made of it.
        dialect: the policy's coordinate dialect.
        grammar: the completion format, see `grounding.completion`.
        answer_kind: what every prompt asks for; a column `answer_kind` says it row by row.

    Raises:
        UsageError: an unknown reward, parameter or condition, with the nearest name.
    """
    entries = read_specs(specs)
    reader = Reader(dialect, grammar, answer_kind)
    labels = {spec.display: spec for spec in entries}
    return [RewardFunction(spec, reader, labels, observes=spec is entries[0]) for spec in entries]


def columns_read(functions: Sequence[Any]) -> frozenset[str]:
    """The columns of the batch that some of these functions ask for by name; those with TRL's own signature ask for
    none."""
    return frozenset[str]().union(*(getattr(function, "columns", ()) for function in functions))


class RewardFunction:
    """One reward as TRL calls it: ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``.

    Attributes:
        __name__: what TRL's logs call it.
        spec: the recipe's entry.
        columns: of the batch, that the reward or a condition of it asks for by name.
        remote: the reward or a condition of it asks a judge over the network.
    """

    def __init__(
        self,
        spec: RewardSpec,
        reader: Reader,
        labels: Mapping[str, RewardSpec],
        observes: bool,
    ):
        self.spec = spec
        self.__name__ = spec.display
        self._reader = reader
        self._observes = observes
        self._score = build_scorer(spec)
        self._conditions = tuple((condition, _condition_scorer(condition, spec, labels)) for condition in spec.when)
        scorers = (self._score, *(scorer for _, scorer in self._conditions))
        self.remote = any(isinstance(scorer, RemoteScorer) for scorer in scorers)
        needs = (need for scorer in scorers for need in getattr(getattr(scorer, "reward", None), "needs", ()))
        self.columns = frozenset(need.removesuffix("?") for need in needs)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> Scores:
        """Score a batch of N completions; None where the reward does not apply.

        The first function of a recipe also hands the step's `monitor.statistics` to TRL's log.

        Raises:
            BrokenRow: a row's sample, sizes or target cannot be used.
            UsageError: a column, or part of a group, is missing; a target of a kind the reward cannot score.
        """
        if completion_ids is not None:
            columns["completion_ids"] = completion_ids
        batch = RewardBatch(self._reader, prompts, completions, columns)
        if self._observes and "log_metric" in columns and "sample" in columns:
            seen = statistics([r.answer for r in batch.rollouts], [r.sample for r in batch.rollouts])
            for metric, value in seen.items():
                columns["log_metric"](metric, value)
        wanted = self._wanted(batch)
        scores = self._score(batch, wanted)
        for condition, scorer in self._conditions:
            met = _met(condition, scorer, batch, wanted)
            scores = [s if s is None or ok else self.spec.otherwise for s, ok in zip(scores, met, strict=True)]
        if self.spec.clip is not None:
            low, high = self.spec.clip
            scores = [s if s is None else min(max(s, low), high) for s in scores]
        return scores

    def _wanted(self, batch: RewardBatch) -> Sequence[bool]:
        sources, kinds = self.spec.sources, self.spec.kinds
        if not sources and not kinds:
            return [True] * len(batch)
        return [
            (not sources or rollout.sample.source in sources) and (not kinds or rollout.sample.kind in kinds)
            for rollout in batch.rollouts
        ]


def _condition_scorer(condition: Condition, spec: RewardSpec, labels: Mapping[str, RewardSpec]) -> Scorer | None:
    if condition.reward is None:
        return None
    if condition.reward == spec.display:
        raise UsageError(f"reward {spec.display!r}: `when` refers to itself")
    return build_scorer(labels.get(condition.reward) or RewardSpec(name=condition.reward))


def _met(condition: Condition, scorer: Scorer | None, batch: RewardBatch, wanted: Sequence[bool]) -> list[bool]:
    if scorer is not None:
        return [s is not None and at_least(s, condition.at_least) for s in scorer(batch, wanted)]
    if condition.format == "strict":
        return [rollout.answer.ok and rollout.answer.strict for rollout in batch.rollouts]
    return [rollout.answer.ok for rollout in batch.rollouts]

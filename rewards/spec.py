"""A recipe's list of rewards, read from YAML and checked before anything is loaded.

rewards:
  - format                                            # a name alone: weight 1, default parameters
  - name: iou
    weight: 2.0                                       # handed to TRL as `reward_weights`
    params: {max_area: 0.8}
    when: {format: strict}                            # ok | strict, or {reward: NAME, at_least: 0.5}, or a list
    otherwise: 0.0                                    # the value where `when` does not hold
    clip: [0.0, 0.9]
    schedule: {weight: [[0, 0.5], [200, 2.0]]}        # piecewise linear over steps, for weight or a parameter
    sources: [refcoco, miniwob]                       # rows of other sources are left out (None, NaN in TRL)
    kinds: [box]                                      # the same by kind of target
    label: iou_late                                   # the name in logs, when a reward stands here twice
  - my/rewards.py:inside                              # of a file of yours
  - name: trl.rewards.get_soft_overlong_punishment    # TRL's and anybody's, by import path
    params: {max_completion_len: 256, soft_punish_cache: 64}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from grounding.errors import UsageError
from grounding.settings import Number, Section, Two
from grounding.targets import TARGET_KINDS

Kind: TypeAlias = Literal[tuple(TARGET_KINDS)]  # type: ignore[valid-type]


def _ordered(clip: tuple[float, float]) -> tuple[float, float]:
    if clip[0] > clip[1]:
        raise ValueError(f"{list(clip)} is not in order")
    return clip


def _growing(knots: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if any(left[0] >= right[0] for left, right in pairwise(knots)):
        raise ValueError(f"steps must grow, got {[step for step, _ in knots]}")
    return knots


Knots = Annotated[tuple[Two, ...], Field(min_length=1), AfterValidator(_growing)]


class Condition(Section):
    """One thing that must hold for a reward to count: a format, or the value of a reward before weight and clip."""

    format: Literal["ok", "strict"] | None = Field(
        None, description="`ok`: an answer could be read; `strict`: the whole completion keeps the format"
    )
    reward: str | None = Field(
        None, description="label of another reward here, or any reward's name with its default parameters"
    )
    at_least: Number = Field(0.0, description="the value that reward has to reach")

    @model_validator(mode="before")
    @classmethod
    def _one_of_two(cls, value: Any) -> Any:
        given = set(value) if isinstance(value, Mapping) else set()
        if given == {"reward", "at_least"} or (given == {"format"} and value["format"] in ("ok", "strict")):
            return value
        raise ValueError(
            f"needs {{format: ok}}, {{format: strict}} or {{reward: NAME, at_least: NUMBER}}, got {value!r}"
        )


class RewardSpec(Section):
    """One entry of a recipe's `rewards:`, a name alone or these keys."""

    name: str = Field(
        min_length=1,
        description="of a reward of `python -m rewards list`, an import path, or `path/to/file.py:function`",
    )
    weight: Number = Field(1.0, description="handed to TRL as `reward_weights`")
    params: dict[str, Any] = Field({}, description="the reward's own parameters")
    when: tuple[Condition, ...] = Field(
        (), description="`{format: ok}`, `{format: strict}` or `{reward: NAME, at_least: NUMBER}`, or a list of these"
    )
    otherwise: Number = Field(0.0, description="the value where `when` does not hold")
    clip: Annotated[Two, AfterValidator(_ordered)] | None = Field(None, description="lowest and highest value")
    schedule: dict[str, Knots] = Field(
        {}, description="`weight` or a parameter -> `[[step, value], ...]`, piecewise linear over steps"
    )
    sources: tuple[str, ...] = Field((), description="rows of other sources are left out")
    kinds: tuple[Kind, ...] = Field((), description="rows with other kinds of target are left out")
    label: str = Field("", description="the name in logs, where a reward stands here twice")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, entry: Any) -> Any:
        if not isinstance(entry, (str, Mapping, RewardSpec)):
            raise ValueError(f"a name or a mapping is needed, got {entry!r}")
        return {"name": entry} if isinstance(entry, str) else entry

    @field_validator("when", mode="before")
    @classmethod
    def _one_condition(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]

    @property
    def display(self) -> str:
        """What logs call it: the label, else the last part of the name."""
        return self.label or self.name.replace(":", ".").rpartition(".")[2]

    @property
    def steps(self) -> tuple[int, ...]:
        """Step 0 and every other step at which a schedule has a value of its own."""
        return tuple(sorted({0, *(int(step) for knots in self.schedule.values() for step, _ in knots)}))

    def weight_at(self, step: int) -> float:
        """The weight at a training step."""
        knots = self.schedule.get("weight")
        return interpolate(knots, step) if knots else self.weight

    def params_at(self, step: int) -> dict[str, Any]:
        """The parameters at a training step."""
        moving = {key: interpolate(knots, step) for key, knots in self.schedule.items() if key != "weight"}
        return {**self.params, **moving}


def interpolate(knots: Knots, step: float) -> float:
    """Piecewise-linear value at `step`; constant before the first knot and after the last."""
    if step <= knots[0][0]:
        return knots[0][1]
    for (left, low), (right, high) in pairwise(knots):
        if step <= right:
            return low + (high - low) * (step - left) / (right - left)
    return knots[-1][1]


def check_specs(specs: Sequence[RewardSpec]) -> tuple[RewardSpec, ...]:
    """The entries of a list; raises ValueError where two have one label."""
    seen: set[str] = set()
    for spec in specs:
        if spec.display in seen:
            raise ValueError(f"{spec.display!r} stands there twice; give one of them another `label:`")
        seen.add(spec.display)
    return tuple(specs)


RewardSpecs = Annotated[tuple[RewardSpec, ...], AfterValidator(check_specs)]


class _RewardList(Section):
    rewards: RewardSpecs


def read_specs(config: Sequence[str | Mapping[str, Any] | RewardSpec]) -> tuple[RewardSpec, ...]:
    """Read a recipe's `rewards:` list.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a value of the wrong shape, two equal labels.
    """
    specs = _RewardList.from_mapping({"rewards": config}, "").rewards
    if not specs:
        raise UsageError("rewards: the list is empty; name at least one, see `python -m rewards list`")
    return specs


def weights(specs: Sequence[RewardSpec], step: int = 0) -> list[float]:
    """TRL's `reward_weights` at a training step.

    Weights stay TRL's, under either `multi_objective_aggregation`. They are constant unless an entry has a
    `schedule:` for its weight (see `has_weight_schedule`); then the trainer sets them anew at every step.
    """
    return [spec.weight_at(step) for spec in specs]


def has_weight_schedule(specs: Sequence[RewardSpec]) -> bool:
    """Whether `weights` changes over the steps."""
    return any("weight" in spec.schedule for spec in specs)

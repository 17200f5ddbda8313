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
  - name: trl.rewards.get_soft_overlong_punishment    # TRL's and anybody's, by import path
    params: {max_completion_len: 256, soft_punish_cache: 64}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.targets import TARGET_KINDS

Knots = tuple[tuple[float, float], ...]

KEYS = ("name", "weight", "params", "when", "otherwise", "clip", "schedule", "sources", "kinds", "label")


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold for a reward to count.

    Attributes:
        format: ``"ok"`` (an answer could be read) or ``"strict"`` (the whole completion keeps the format).
        reward: label of another reward of the recipe, or any reward's name with its default parameters.
        at_least: the value that reward must reach, before its weight and clip.
    """

    format: str | None = None
    reward: str | None = None
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One entry of a recipe's `rewards:`; attributes are the YAML keys (see the module's example)."""

    name: str
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Condition, ...] = ()
    otherwise: float = 0.0
    clip: tuple[float, float] | None = None
    schedule: Mapping[str, Knots] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    label: str = ""

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


def read_specs(config: Sequence[str | Mapping[str, Any] | RewardSpec]) -> tuple[RewardSpec, ...]:
    """Read a recipe's `rewards:` list.

    Raises:
        UsageError: an unknown key (with the nearest valid one), a value of the wrong shape, two equal labels.
    """
    if isinstance(config, (str, Mapping)) or not isinstance(config, Sequence):
        raise UsageError(f"rewards: a list is needed, got {type(config).__name__}")
    specs = tuple(
        entry if isinstance(entry, RewardSpec) else _read(entry, f"rewards.{i}") for i, entry in enumerate(config)
    )
    if not specs:
        raise UsageError("rewards: the list is empty; name at least one, see `python -m rewards list`")
    seen: set[str] = set()
    for spec in specs:
        if spec.display in seen:
            raise UsageError(f"rewards: {spec.display!r} stands there twice; give one of them another `label:`")
        seen.add(spec.display)
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


def _read(entry: str | Mapping[str, Any], where: str) -> RewardSpec:
    if isinstance(entry, str):
        return RewardSpec(entry)
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where}: a name or a mapping is needed, got {entry!r}")
    for key in entry:
        if key not in KEYS:
            raise UsageError(f"{where}: unknown key {key!r}{nearest(str(key), list(KEYS))}")
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        raise UsageError(f"{where}: `name:` is missing")
    params = entry.get("params") or {}
    if not isinstance(params, Mapping):
        raise UsageError(f"{where}.params: a mapping is needed, got {params!r}")
    kinds = _names(entry, "kinds", where)
    for kind in kinds:
        if kind not in TARGET_KINDS:
            raise UsageError(f"{where}.kinds: unknown kind {kind!r}{nearest(kind, list(TARGET_KINDS))}")
    return RewardSpec(
        name=entry["name"],
        weight=_number(entry.get("weight", 1.0), f"{where}.weight"),
        params={str(key): value for key, value in params.items()},
        when=_conditions(entry.get("when"), f"{where}.when"),
        otherwise=_number(entry.get("otherwise", 0.0), f"{where}.otherwise"),
        clip=_clip(entry.get("clip"), f"{where}.clip"),
        schedule=_schedule(entry.get("schedule"), f"{where}.schedule"),
        sources=_names(entry, "sources", where),
        kinds=kinds,
        label=str(entry.get("label") or ""),
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{where}: a finite number is needed, got {value!r}")
    return float(value)


def _names(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key) or ()
    if isinstance(value, str) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{where}.{key}: a list of names is needed, got {value!r}")
    return tuple(value)


def _conditions(value: Any, where: str) -> tuple[Condition, ...]:
    if value is None:
        return ()
    return tuple(_condition(item, where) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _condition(value: Any, where: str) -> Condition:
    if isinstance(value, Mapping) and set(value) == {"format"} and value["format"] in ("ok", "strict"):
        return Condition(format=value["format"])
    if isinstance(value, Mapping) and set(value) == {"reward", "at_least"}:
        return Condition(reward=str(value["reward"]), at_least=_number(value["at_least"], f"{where}.at_least"))
    raise UsageError(
        f"{where}: needs {{format: ok}}, {{format: strict}} or {{reward: NAME, at_least: NUMBER}}, got {value!r}"
    )


def _pair(value: Any, where: str) -> tuple[float, float]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence) or len(value) != 2:
        raise UsageError(f"{where}: two numbers are needed, got {value!r}")
    return _number(value[0], where), _number(value[1], where)


def _clip(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = _pair(value, where)
    if low > high:
        raise UsageError(f"{where}: [{low}, {high}] is not in order")
    return low, high


def _schedule(value: Any, where: str) -> dict[str, Knots]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: a mapping from `weight` or a parameter to [[step, value], ...] is needed")
    schedule = {}
    for key, points in value.items():
        if isinstance(points, (str, Mapping)) or not isinstance(points, Sequence) or not points:
            raise UsageError(f"{where}.{key}: a list of [step, value] is needed, got {points!r}")
        knots = tuple(_pair(point, f"{where}.{key}") for point in points)
        if any(left[0] >= right[0] for left, right in pairwise(knots)):
            raise UsageError(f"{where}.{key}: steps must grow, got {[step for step, _ in knots]}")
        schedule[str(key)] = knots
    return schedule

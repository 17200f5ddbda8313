"""Verifiable rewards: pure functions of a parsed answer and its sample, found by name, composed in YAML.

    @reward("iou", range=(0, 1), source="...", kinds=("box",))
    def iou(answer: Answer, sample: Sample, *, max_area: float = 0.9) -> float: ...

`rewards.compose.build_rewards` turns a recipe's list of names into what TRL's GRPOTrainer calls. One family a
file; a new file in this folder, or a module of your own named by import path, adds a reward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grounding.registry import Registry

REWARDS: Registry[Reward] = Registry("reward", package="rewards")


@dataclass(frozen=True)
class Reward:
    """A reward and what is known about it. Calling it calls the function.

    Attributes:
        name: what recipes call it.
        function: ``f(answer, sample, *, needs..., params...) -> float``; with `group`,
            ``f(answers, sample, *, ...) -> list[float]`` over all answers to one prompt.
        range: lowest and highest value it can return, whatever the answer.
        source: the paper or code the formula comes from.
        kinds: target kinds it can score (`grounding.targets.TARGET_KINDS`); empty for any.
        group: it sees the whole group of answers to one prompt.
        remote: it waits for a network; answers are scored on several threads, and it may return None for
            "could not be judged".
        needs: keyword arguments beyond answer and sample: ``text``, ``tokens``, ``messages``, ``prompt``, ``sizes``,
            ``places`` of the thought, else the name of a data set or rollout column. With "?" at the
            end, the argument is None where there is no such column.
        params: what a recipe may set, with the defaults.
    """

    name: str
    function: Callable[..., Any]
    range: tuple[float, float]
    source: str
    kinds: tuple[str, ...]
    group: bool
    remote: bool
    needs: tuple[str, ...]
    params: Mapping[str, Any]

    def __reduce__(self) -> tuple[Callable[[str], Reward], tuple[str]]:
        """By name, so that reward functions travel to a worker process."""
        return _named, (self.name,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's value."""
        return self.function(*args, **kwargs)

    @property
    def family(self) -> str:
        """The file it lives in: ``"box"`` for `rewards/box.py`."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def doc(self) -> str:
        """The function's docstring: formula, meaning of the parameters."""
        return inspect.getdoc(self.function) or ""


def _named(name: str) -> Reward:
    return REWARDS.get(name)


def reward(
    name: str,
    *,
    range: tuple[float, float],
    source: str,
    kinds: tuple[str, ...] = (),
    group: bool = False,
    remote: bool = False,
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Reward]:
    """Decorator that describes a reward function and adds it to `REWARDS`; arguments as in `Reward`."""

    def describe(function: Callable[..., Any]) -> Reward:
        keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        wanted = {need.removesuffix("?") for need in needs}
        params = {p.name: p.default for p in keywords if p.name not in wanted}
        missing = [p for p, default in params.items() if default is inspect.Parameter.empty]
        if missing:
            raise TypeError(f"reward {name!r}: parameter {missing[0]!r} has no default and is not in needs")
        entry = Reward(name, function, range, source, kinds, group, remote, needs, params)
        return REWARDS.register(name)(entry)

    return describe

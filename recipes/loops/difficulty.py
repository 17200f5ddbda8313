"""Which rows are asked next: a running reward of each, and a draw that favors what is neither always right nor never.

Pure: no trainer, no file. The same on every process, because every process is told the rewards of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from grounding.fingerprint import derived
from grounding.settings import Section, Whole

Share = Annotated[float, Field(gt=0, le=1)]


class SamplingConfig(Section):
    """Which prompts a grpo stage asks."""

    low: float = Field(0.1, description="up to this running reward a row counts as never right")
    high: float = Field(0.9, description="from this running reward on a row counts as always right")
    share: Share = Field(0.1, description="how likely such a row is drawn, against 1 for the others and new ones")
    decay: float = Field(0.5, ge=0, lt=1, description="of the running reward, when a new group's mean joins it")
    reward: str | None = Field(
        None, description="label of the reward that is followed; null: the weighted sum over the sum of weights"
    )
    extra: Whole = Field(
        0,
        ge=0,
        description="prompts asked at most beyond a generation batch, in place of groups whose rewards are all equal",
    )
    replay: Whole = Field(
        0,
        ge=0,
        description="rows of a generation batch that are drawn among rare successes first, as far as there are any: "
        "rows with an answer of at least `high` in their newest group and a running reward of at most `rare`",
    )
    rare: Share = Field(0.25, description="see `replay`")

    @model_validator(mode="after")
    def _ordered(self) -> SamplingConfig:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: nothing lies between")
        return self


class ChosenRows:
    """Draws chunks of distinct rows; a row may come again in the next chunk.

    The chunks of an epoch are remembered: a resumed run, which skips what it has trained on, gets the same ones.

    Args:
        config: the recipe's.
        count: rows of the data set.
        seed: of all draws.

    Attributes:
        means: row -> running reward, of the rows that were asked.
        rare: the rare successes.
    """

    def __init__(self, config: SamplingConfig, count: int, seed: int):
        self.means: dict[int, float] = {}
        self.rare: set[int] = set()
        self._config, self._count, self._seed = config, count, seed
        self._weights = np.ones(count)
        self._epoch = 0
        self._chunks: list[list[int]] = []

    def begin(self, epoch: int) -> None:
        """An epoch begins, or goes on after a resume."""
        if epoch != self._epoch:
            self._epoch, self._chunks = epoch, []

    def chunk(self, number: int, size: int) -> list[int]:
        """The rows of an epoch's chunk: replayed ones, then the others in order of drawing."""
        while number >= len(self._chunks):
            use = self._epoch, len(self._chunks)
            again = self._replayed(min(size, self._config.replay), *use)
            self._chunks.append([*again, *self._draw(size - len(again), again, "chunk", *use)])
        return self._chunks[number]

    def more(self, size: int, without: Collection[int], step: int) -> list[int]:
        """Further rows for a step, fewer where there are not so many."""
        return self._draw(min(size, self._count - len(set(without))), without, "more", step)

    def update(self, rows: Sequence[int], rewards: Sequence[float], best: Sequence[float] = ()) -> None:
        """Take in the mean reward of groups, and the highest of each; what is not a number is left out."""
        for row, reward, highest in zip(rows, rewards, best or rewards, strict=True):
            if np.isfinite(reward):
                before = self.means.get(row, reward)
                self._set(row, self._config.decay * before + (1 - self._config.decay) * reward)
                is_rare = highest >= self._config.high and self.means[row] <= self._config.rare
                (self.rare.add if is_rare else self.rare.discard)(row)

    @property
    def inside(self) -> float:
        """Share of the rows asked so far that lie between the thresholds; 1 before any was."""
        return float(np.mean([self._is_inside(mean) for mean in self.means.values()])) if self.means else 1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        rows = [[row, mean] for row, mean in sorted(self.means.items())]
        known = {"rows": self._count, "means": rows, "rare": sorted(self.rare)}
        return {**known, "epoch": self._epoch, "chunks": self._chunks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.means, self._weights = {}, np.ones(self._count)
        for row, mean in state["means"]:
            self._set(int(row), float(mean))
        self.rare = set(map(int, state.get("rare", ())))
        self._epoch, self._chunks = int(state["epoch"]), [list(chunk) for chunk in state["chunks"]]

    def _set(self, row: int, mean: float) -> None:
        self.means[row] = mean
        self._weights[row] = 1.0 if self._is_inside(mean) else self._config.share

    def _is_inside(self, mean: float) -> bool:
        return self._config.low < mean < self._config.high

    def _replayed(self, size: int, *use: str | int) -> list[int]:
        found = np.array(sorted(self.rare), dtype=int)
        np.random.default_rng(derived(self._seed, "replay", *use)).shuffle(found)
        return [int(row) for row in found[:size]]

    def _draw(self, size: int, without: Collection[int], *use: str | int) -> list[int]:
        """Weighted, without replacement: the largest keys log(u) / w (Efraimidis and Spirakis, 2006)."""
        uniform = np.random.default_rng(derived(self._seed, *use)).random(self._count)
        keys = np.log(uniform + np.finfo(float).tiny) / self._weights
        keys[list(without)] = -np.inf
        best = np.argpartition(-keys, min(size, self._count - 1))[:size]
        return [int(row) for row in best[np.argsort(-keys[best], kind="stable")]]

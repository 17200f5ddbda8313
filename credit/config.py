"""The `credit:` mapping of a recipe.

credit:
  strategy: coupled_rhythm          # a name of `credit.strategies`, or an import path
  params: {q: 0.4, amplification: 1.5}   # the strategy's own parameters
  normalize: response               # mean weight 1 per response | per batch | none (as published)
  sign: both                        # both | positive | negative advantages
  layers: middle                    # five in the middle third, or a list of layer indices
  window: 10                        # W of WAAD
  horizon: [10, 100]                # H_lo, H_hi of FAI; null for H_hi: to the end of the response
  tail: neutral                     # the last H_lo tokens: neutral | amplify | zero
  sentence_skip: 4                  # sentences at least so much later count for influence
  sink_ratio: 8.0                   # an image token with so many times the average attention, always, is a sink
  heads: {share: 0.3, image_share: 0.2, keys: all, refresh: 0, file: null}
  seed: 0                           # beside the recipe's own seed, for other draws in the same run
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from credit.strategies import STRATEGIES, Strategy
from grounding.errors import UsageError
from grounding.registry import nearest

TAILS = ("neutral", "amplify", "zero")


@dataclass(frozen=True)
class HeadConfig:
    """Which heads to listen to.

    Attributes:
        share: of the captured heads, taken as local (lowest mean distance) and as global (highest); in (0, 0.5].
        image_share: of the captured heads, taken as image-reading (most attention on image tokens); in (0, 1].
        keys: "all", distances over all keys as published, or "response", over response keys only: in a
            vision-language model a long distance may only mean that the head reads the image.
        refresh: measure again every so many credit passes; 0 means once.
        file: where a selection is kept. Read at the start when it exists, written after each measurement.
    """

    share: float = 0.3
    image_share: float = 0.2
    keys: str = "all"
    refresh: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise UsageError(f"credit.heads.share is {self.share}, must be in (0, 0.5]")
        if not 0 < self.image_share <= 1:
            raise UsageError(f"credit.heads.image_share is {self.image_share}, must be in (0, 1]")
        if self.keys not in ("all", "response"):
            raise UsageError(f"credit.heads.keys is {self.keys!r}, must be 'all' or 'response'")
        if self.refresh < 0:
            raise UsageError(f"credit.heads.refresh is {self.refresh}, must be at least 0")

    @property
    def path(self) -> Path | None:
        return Path(self.file) if self.file else None


@dataclass(frozen=True)
class CreditConfig:
    """See the module's docstring; `from_mapping` reads and checks a recipe's mapping."""

    strategy: str = "uniform"
    params: Mapping[str, Any] = field(default_factory=dict)
    normalize: str = "response"
    sign: str = "both"
    layers: str | tuple[int, ...] = "middle"
    window: int = 10
    horizon: tuple[int, int | None] = (10, 100)
    tail: str = "neutral"
    sentence_skip: int = 4
    sink_ratio: float = 8.0
    heads: HeadConfig = field(default_factory=HeadConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for key, known in (
            ("normalize", ("response", "batch", "none")),
            ("sign", ("both", "positive", "negative")),
            ("tail", TAILS),
        ):
            if getattr(self, key) not in known:
                raise UsageError(f"credit.{key} is {getattr(self, key)!r}, must be one of {', '.join(known)}")
        if isinstance(self.layers, str) and self.layers != "middle":
            raise UsageError(f"credit.layers is {self.layers!r}, must be 'middle' or a list of layer indices")
        if self.window < 1:
            raise UsageError(f"credit.window is {self.window}, must be at least 1")
        if self.sentence_skip < 1 or self.sink_ratio <= 1:
            raise UsageError("credit: sentence_skip must be at least 1, and sink_ratio more than 1")
        low, high = self.horizon
        if low < 0 or (high is not None and high < low):
            raise UsageError(f"credit.horizon is {list(self.horizon)}, must be 0 <= low <= high")
        check_params(self.function, self.params, self.strategy)

    @property
    def function(self) -> Strategy:
        return STRATEGIES.get(self.strategy)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> CreditConfig:
        """Read a recipe's mapping.

        Raises:
            UsageError: naming an unknown key (with the nearest valid one) or a value out of range.
        """
        values = dict(mapping)
        check_keys(values, [f.name for f in fields(cls)], "credit")
        heads = dict(values.pop("heads", None) or {})
        check_keys(heads, [f.name for f in fields(HeadConfig)], "credit.heads")
        for key in ("horizon", "layers"):
            if key in values and not isinstance(values[key], str):
                values[key] = tuple(values[key])
        if len(values.get("horizon", (0, 0))) != 2:
            raise UsageError(f"credit.horizon is {list(values['horizon'])}, must be two numbers [low, high]")
        values["params"] = dict(values.get("params") or {})
        return cls(heads=HeadConfig(**heads), **values)


def check_params(function: Strategy, params: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for a parameter the strategy does not take, with the nearest one it does."""
    accepted = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return
    known = list(accepted)[2:]
    for key in params:
        if key not in known:
            hint = nearest(key, known) if known else "; it takes none"
            raise UsageError(f"credit.params: strategy {name!r} has no parameter {key!r}{hint}")


def check_keys(values: Mapping[str, Any], known: list[str], where: str) -> None:
    """Raise UsageError for an unknown key, with the nearest known one."""
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{nearest(key, known)}")

"""The `credit:` mapping of a recipe.

credit:
  strategy: coupled_rhythm          # a name of `credit.strategies`, or an import path
  params: {q: 0.4, amplification: 1.5}   # the strategy's own parameters
  layers: middle
  horizon: [10, 100]
  heads: {share: 0.3, keys: response}

Every key with its default and meaning is a field below or of `AttentionSpec`; docs/training.md lists them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from attention.specification import AttentionSpec
from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.settings import Whole, named_key


class CreditConfig(AttentionSpec):
    """Which tokens of a response deserve the reward; `from_mapping` reads and checks a recipe's mapping."""

    strategy: str = Field("uniform", description="a name of `credit.strategies`, or an import path")
    params: dict[str, Any] = Field({}, description="the strategy's own parameters")
    normalize: Literal["response", "batch", "none"] = Field(
        "response", description="mean weight 1 per response, per batch, or as published"
    )
    sign: Literal["both", "positive", "negative"] = Field("both", description="which advantages are weighted")
    seed: Whole = Field(0, description="beside the recipe's own seed, for other draws in the same run")

    @model_validator(mode="after")
    def _of_the_strategy(self) -> CreditConfig:
        try:
            check_params(self.function, self.params, self.strategy)
        except UsageError as error:
            raise named_key(error) from error
        return self

    @property
    def function(self) -> Any:
        """The strategy: ``f(signals, mask (B, T), **params) -> weights (B, T)``."""
        from credit.strategies import STRATEGIES  # noqa: PLC0415 - torch, which a recipe without credit does not need

        return STRATEGIES.get(self.strategy)

    @classmethod
    def from_mapping(cls, content: Any, where: str = "credit") -> CreditConfig:
        return super().from_mapping(content, where)


def check_params(function: Any, params: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for a parameter the strategy does not take, with the nearest one it does."""
    accepted = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values()):
        return
    known = list(accepted)[2:]
    for key in params:
        if key not in known:
            hint = nearest(key, known) if known else "; it takes none"
            raise UsageError(f"params: strategy {name!r} has no parameter {key!r}{hint}")

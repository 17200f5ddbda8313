"""The `credit:` mapping of a recipe.

credit:
  strategy: coupled_rhythm          # a name of `credit.strategies`, or an import path
  params: {q: 0.4, amplification: 1.5}   # the strategy's own parameters
  layers: middle
  horizon: [10, 100]
  heads: {share: 0.3, keys: response}

Every key with its default and meaning is a field below; docs/training.md lists them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.settings import Section, Whole, named_key, refuse


def _layers(value: Any) -> Any:
    if value == "middle" or (isinstance(value, (list, tuple)) and all(type(layer) is int for layer in value)):
        return value if isinstance(value, str) else tuple(value)
    raise refuse(value, "'middle' or a list of layer indices")


Layers = Annotated[str | tuple[int, ...], BeforeValidator(_layers)]


class HeadConfig(Section):
    """Which heads to listen to."""

    share: float = Field(0.3, gt=0, le=0.5, description="of the captured heads, taken as local and as global")
    image_share: float = Field(
        0.2, gt=0, le=1, description="of the captured heads, taken as image-reading: most attention on image tokens"
    )
    keys: Literal["all", "response"] = Field(
        "all",
        description="distances over all keys, as published, or over response keys only: in a vision-language model a "
        "long distance may only mean that the head reads the image",
    )
    refresh: Whole = Field(0, ge=0, description="measure again every so many credit passes; 0 means once")
    file: str | None = Field(
        None, description="where a selection is kept: read at the start, written after each measurement"
    )

    @property
    def path(self) -> Path | None:
        return Path(self.file) if self.file else None


class CreditConfig(Section):
    """Which tokens of a response deserve the reward; `from_mapping` reads and checks a recipe's mapping."""

    strategy: str = Field("uniform", description="a name of `credit.strategies`, or an import path")
    params: dict[str, Any] = Field({}, description="the strategy's own parameters")
    normalize: Literal["response", "batch", "none"] = Field(
        "response", description="mean weight 1 per response, per batch, or as published"
    )
    sign: Literal["both", "positive", "negative"] = Field("both", description="which advantages are weighted")
    layers: Layers = Field("middle", description="five in the middle third, or a list of layer indices")
    window: Whole = Field(10, ge=1, description="W of WAAD, in tokens")
    horizon: tuple[Whole, Whole | None] = Field(
        (10, 100), description="H_lo and H_hi of FAI, in tokens; null for H_hi: to the end of the response"
    )
    tail: Literal["neutral", "amplify", "zero"] = Field("neutral", description="what the last H_lo tokens get")
    sentence_skip: Whole = Field(4, ge=1, description="sentences at least so much later count for influence")
    sink_ratio: float = Field(
        8.0, gt=1, description="an image token with so many times the average attention, always, is a sink"
    )
    heads: HeadConfig = Field(HeadConfig(), description="which heads to listen to")
    seed: Whole = Field(0, description="beside the recipe's own seed, for other draws in the same run")

    @field_validator("horizon", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise refuse(value, "two numbers [low, high]")
        low, high = value
        if type(low) is int and low >= 0 and (high is None or (type(high) is int and high >= low)):
            return tuple(value)
        raise refuse(list(value), "0 <= low <= high, whole numbers")

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

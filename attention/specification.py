"""How attention is read: one specification behind the sections `credit` and `attention` of a recipe. No torch.

`credit:` has the keys of `AttentionSpec` beside its own (`credit.schema`), `attention:` those of `MapConfig`:

attention:                     # for rewards that read attention
  rows: answer                 # who looks: the tokens of the answer's coordinates
  layers: middle
  image_share: 0.2
  query: Write a general description of the image.   # what the contrast divides by

Every key with its default and meaning is a field below; docs/training.md lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from grounding.settings import Section, Whole, refuse


def _layers(value: Any) -> Any:
    if value == "middle" or (isinstance(value, (list, tuple)) and all(type(layer) is int for layer in value)):
        return value if isinstance(value, str) else tuple(value)
    raise refuse(value, "'middle' or a list of layer indices")


Layers = Annotated[
    str | tuple[int, ...],
    BeforeValidator(_layers),
    Field(description="five in the middle third, or a list of layer indices"),
]
ImageShare = Annotated[
    float,
    Field(gt=0, le=1, description="of the captured heads, taken as image-reading: most attention on image tokens"),
]
Refresh = Annotated[Whole, Field(ge=0, description="choose heads again every so many passes; 0 means once")]
SinkRatio = Annotated[
    float, Field(gt=1, description="an image token with so many times the average attention, always, is a sink")
]


class HeadConfig(Section):
    """Which heads to listen to."""

    share: float = Field(0.3, gt=0, le=0.5, description="of the captured heads, taken as local and as global")
    image_share: ImageShare = 0.2
    keys: Literal["all", "response"] = Field(
        "all",
        description="distances over all keys, as published, or over response keys only: in a vision-language model a "
        "long distance may only mean that the head reads the image",
    )
    refresh: Refresh = 0
    file: str | None = Field(
        None, description="where a selection is kept: read at the start, written after each measurement"
    )

    @property
    def path(self) -> Path | None:
        return Path(self.file) if self.file else None


class AttentionSpec(Section):
    """Which layers and heads are read, and how signals are computed from them."""

    layers: Layers = "middle"
    window: Whole = Field(10, ge=1, description="W of WAAD, in tokens")
    horizon: tuple[Whole, Whole | None] = Field(
        (10, 100), description="H_lo and H_hi of FAI, in tokens; null for H_hi: to the end of the response"
    )
    tail: Literal["neutral", "amplify", "zero"] = Field("neutral", description="what the last H_lo tokens get")
    sentence_skip: Whole = Field(4, ge=1, description="sentences at least so much later count for influence")
    sink_ratio: SinkRatio = 8.0
    heads: HeadConfig = Field(HeadConfig(), description="which heads to listen to")

    @field_validator("horizon", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise refuse(value, "two numbers [low, high]")
        low, high = value
        if type(low) is int and low >= 0 and (high is None or (type(high) is int and high >= low)):
            return tuple(value)
        raise refuse(list(value), "0 <= low <= high, whole numbers")


class MapConfig(Section):
    """How the maps are read that rewards on attention judge."""

    rows: Literal["answer", "thought", "response"] = Field(
        "answer", description="whose attention: the tokens of the answer's coordinates, of the thought, or all"
    )
    layers: Layers = "middle"
    image_share: ImageShare = 0.2
    refresh: Refresh = 0
    sink_ratio: SinkRatio = 8.0
    query: str = Field(
        "Write a general description of the image.", description="what `attention_contrast` divides by"
    )

    @field_validator("query")
    @classmethod
    def _something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value

    @property
    def spec(self) -> AttentionSpec:
        heads = HeadConfig(image_share=self.image_share, refresh=self.refresh)
        return AttentionSpec(layers=self.layers, sink_ratio=self.sink_ratio, heads=heads)

    @classmethod
    def from_mapping(cls, content: Any, where: str = "attention") -> MapConfig:
        return super().from_mapping(content, where)

"""What a model may call before it answers: another look at a part of the picture, in several turns.

A tool is a class under `@TOOLS.register("name")`, in a file of this folder or anywhere (an import path in the
recipe). It sees the sample's own pictures and nothing else; what it cannot do it answers with `CallRefused`, whose
words the model reads.

    class Brighten(Tool):
        description = "Shows the picture brighter."
        takes_region = False

        def run(self, call, view):
            return Shown(ImageEnhance.Brightness(view.picture()).enhance(self.factor), view.crop)

`tools.episode.ToolEpisode` holds the budgets and the frame of coordinates, `tools.loop` runs episodes in batches,
`tools.protocols` knows how a family of models writes calls and reads replies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from grounding.crops import Crop
from grounding.registry import Registry
from grounding.targets import Box, Point

TOOLS: Registry[type[Tool]] = Registry("tool", package="tools")


class CallRefused(Exception):
    """A call that cannot be carried out; its words are told to the model. Never leaves an episode."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call, read from a turn.

    Attributes:
        name: of the tool.
        region: where to, canonical in the *original* image; None for a tool without a place.
        arguments: what else the model wrote, as JSON has it; only for protocols and tools that take it.
    """

    name: str
    region: Box | Point | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class ToolView:
    """What a tool may look at.

    Attributes:
        images: the sample's pictures in their original pixels, RGB.
        crop: which part of which of them the model was shown last.
        marks: boxes that were drawn so far, canonical; `mark` adds to them.
        max_pixels: the largest area at which the model's processor shows a picture; None where it has no limit.
    """

    images: Sequence[Image.Image]
    crop: Crop
    marks: list[Box] = field(default_factory=list)
    max_pixels: int | None = None

    def picture(self, crop: Crop | None = None) -> Image.Image:
        """The original pixels of a crop, by default of the one shown last."""
        crop = crop or self.crop
        return self.images[crop.image].crop(crop.pixels)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a tool shows: a picture, the part of the sample's image that it is of, and words for the model."""

    picture: Image.Image
    crop: Crop
    words: str = ""


class Tool(ABC):
    """Something a model can call. Parameters of a recipe are the keyword arguments of its `__init__`.

    Attributes:
        name: what the model writes; the name it is registered under, else the class's in lower case.
        description: one sentence for the model.
        takes_region: a call names a place, in the words of the model's dialect.
        takes_point: a point is a place too.
    """

    name: str = ""
    description: ClassVar[str] = ""
    takes_region: ClassVar[bool] = True
    takes_point: bool = False

    @abstractmethod
    def run(self, call: ToolCall, view: ToolView) -> Shown | str:
        """Carry out a call: a picture, or words alone. Raises `CallRefused` for what cannot be done."""

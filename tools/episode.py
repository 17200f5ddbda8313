"""One question answered in several turns: what was said, what was shown, what may still be asked for.

An episode ends with the first turn that calls no tool, with the last turn it may have, or with one that was cut off.
Whatever a model writes, `take` raises nothing and the budgets hold: what cannot be done is answered in words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from typing import Protocol as Interface

from PIL import Image

from grounding.answer import Answer, ImageSize, Status
from grounding.completion import Grammar
from grounding.crops import Crop
from grounding.dialects import Dialect
from grounding.targets import Box, Point
from rewards.tools import ExecutedCall
from tools import CallRefused, Shown, Tool, ToolCall, ToolView
from tools.protocols import CallText, Protocol
from tools.section import ToolsConfig

_SHOWN_CROP = "Shown is the region you asked for. Coordinates now refer to this picture."
_SHOWN_IMAGE = "Shown is the region you asked for. Coordinates still refer to the whole image."


class Viewer(Interface):
    """How a model's processor shows a picture."""

    max_pixels: int | None

    def size(self, width: int, height: int) -> ImageSize:
        """The size at which it is seen. Raises ValueError for a shape the processor refuses."""

    def tokens(self, width: int, height: int) -> int:
        """How many image tokens it takes."""


@dataclass(frozen=True, slots=True)
class ToolReply:
    """What the model is told after a call.

    Attributes:
        tool: the tool's name.
        words: what it reads.
        pictures: what it is shown, none or one.
    """

    tool: str
    words: str
    pictures: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class EpisodeTurn:
    """One turn of the model and what came of it.

    Attributes:
        text: as the model wrote it.
        tool: the tool it called; None for the answer.
        region: where to, canonical in the original image.
        reply: what it was told.
        crop: the part of the image it was then shown; None without a picture.
        strict: in the form asked for, to the letter: a thought and a call, or a thought and an answer.
        error: the call was refused, for the reason in `reply`.
    """

    text: str
    tool: str | None = None
    region: Box | Point | None = None
    reply: str = ""
    crop: Crop | None = None
    strict: bool = False
    error: bool = False


class ToolEpisode:
    """The state of one episode.

    Args:
        config: budgets and the frame of coordinates.
        tools, protocol: what can be called, and how a call is written.
        dialect, grammar: how the model points and what stands around an answer.
        images: the sample's pictures in their original pixels.
        viewer: how the model's processor shows pictures.
        question: the user's text, for replies that repeat it.
        answer_kind: the kind asked for.
    """

    def __init__(
        self,
        config: ToolsConfig,
        *,
        tools: dict[str, Tool],
        protocol: Protocol,
        dialect: Dialect,
        grammar: Grammar,
        images: Sequence[Image.Image],
        viewer: Viewer,
        question: str = "",
        answer_kind: str | None = None,
    ):
        self.config, self._tools, self._protocol = config, tools, protocol
        self._dialect, self._grammar, self._answer_kind = dialect, grammar, answer_kind
        self._viewer, self._question = viewer, question
        self._whole = tuple(viewer.size(*image.size) for image in images)
        self._view = ToolView(tuple(images), Crop.whole(0, *images[0].size), max_pixels=viewer.max_pixels)
        self._seen: ImageSize | None = None  # the picture shown last, once a tool has shown one
        self.turns: list[EpisodeTurn] = []
        self.calls: list[ExecutedCall] = []
        self.tokens_left = config.image_tokens
        self.answer: Answer | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more is to be said; `answer` is then there."""
        return self.answer is not None

    @property
    def sizes(self) -> tuple[ImageSize, ...]:
        """What the numbers of the next turn refer to."""
        cropped = self.config.coordinates == "crop" and self._seen is not None
        return (self._seen,) if cropped and self._seen else self._whole

    @property
    def cropped(self) -> bool:
        """Whether a tool has shown a picture."""
        return self._seen is not None

    @property
    def crop(self) -> Crop:
        """The part of the image that was shown last; all of the first image in the beginning."""
        return self._view.crop

    def take(self, text: str, *, ended: bool = True) -> ToolReply | None:
        """What the model said. Returns what it is told; None when the episode is over.

        Args:
            ended: the model ended the turn itself, it was not cut off.

        Raises:
            RuntimeError: the episode is over.
        """
        if self.done:
            raise RuntimeError("the episode is over")
        call = self._protocol.read(text, self._grammar, self._tools) if ended else None
        if call is None:
            self._finish(text)
            return None
        if len(self.turns) + 1 >= self.config.turns:
            turn = EpisodeTurn(text, call.name, reply="No turns are left.", error=True)
            self._close(turn, Answer(Status.NO_ANSWER))
            return None
        try:
            made, shown = self._carry_out(call)
        except CallRefused as refused:
            words = f"Error: {refused}"
            self.turns.append(EpisodeTurn(text, call.name, reply=words, strict=False, error=True))
            return ToolReply(call.name, words)
        words = shown if isinstance(shown, str) else self._words(shown)
        if call.more:
            words = f"{words} Only the first of {call.more + 1} calls was carried out.".strip()
        crop = shown.crop if isinstance(shown, Shown) else None
        self.turns.append(EpisodeTurn(text, call.name, made.region, words, crop, call.strict))
        self.calls.append(ExecutedCall(call.name, made.region if crop is None else crop.box, crop is not None))
        return ToolReply(call.name, words, (shown.picture,) if isinstance(shown, Shown) else ())

    def stop(self, why: str) -> None:
        """End the episode without an answer: a reply would not fit."""
        if self.turns and not self.done:
            self.turns[-1] = replace(self.turns[-1], reply=why, error=True)
        self.answer = Answer(Status.NO_ANSWER)

    def _finish(self, text: str) -> None:
        answer = self._dialect.parse(text, self.sizes, grammar=self._grammar, answer_kind=self._answer_kind)
        if self.config.coordinates == "crop" and self._seen is not None:
            answer = self._view.crop.answer(answer)
        self._close(EpisodeTurn(text, strict=answer.strict), answer)

    def _close(self, turn: EpisodeTurn, answer: Answer) -> None:
        self.turns.append(turn)
        self.answer = answer

    def _carry_out(self, call: CallText) -> tuple[ToolCall, Shown | str]:
        """The call and what came of it, within the budget. Raises `CallRefused`."""
        tool = self._tools.get(call.name)
        if tool is None:
            raise CallRefused(f"There is no tool of that name; there is {', '.join(self._tools)}.")
        if call.words is None:
            raise CallRefused("The call cannot be read.")
        region = self._region(call.words, tool) if tool.takes_region else None
        made = ToolCall(call.name, region, _arguments(call.words))
        marks = list(self._view.marks)
        shown = tool.run(made, self._view)
        if isinstance(shown, str):
            return made, shown
        try:
            seen = self._viewer.size(*shown.picture.size)
            needed = self._viewer.tokens(*shown.picture.size)
        except ValueError:
            self._view.marks[:] = marks
            raise CallRefused("The region is too narrow to be shown.") from None
        if needed > self.tokens_left:
            self._view.marks[:] = marks
            raise CallRefused("No more pictures can be shown. Give the answer.")
        self.tokens_left -= needed
        self._seen, self._view.crop = seen, shown.crop
        return made, shown

    def _region(self, words: str, tool: Tool) -> Box | Point:
        """The place a call names, canonical in the original image."""
        answer = self._dialect.parse(words, self.sizes, grammar="bare", answer_kind="box")
        if answer.status is Status.OUT_OF_RANGE:
            raise CallRefused("The region lies outside the image.")
        if answer.status is Status.AMBIGUOUS:
            raise CallRefused("More than one region is named.")
        place: Box | Point | None = answer.box
        if place is None and tool.takes_point and answer.points:
            place = answer.points[0]
        if not answer.ok or place is None:
            raise CallRefused("No region can be read from the call.")
        if self.config.coordinates == "crop" and self._seen is not None:
            place = self._view.crop.to_image(place)
        return place

    def _words(self, shown: Shown) -> str:
        if shown.words:
            return shown.words
        if self.config.reply is not None:
            return self.config.reply.replace("{question}", self._question)
        return _SHOWN_CROP if self.config.coordinates == "crop" else _SHOWN_IMAGE


def _arguments(words: str) -> dict[str, Any]:
    try:
        found = json.loads(words)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

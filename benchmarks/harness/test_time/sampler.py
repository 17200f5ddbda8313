"""Asking a backend and reading what it says: what every inference-time method is written in terms of.

Requests and outputs only, never an item or its truth. Regions of a crop are mapped back here, in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from attention.maps import PromptAttention
from benchmarks.harness.backends.generate import Backend, Decoding, Output, Request, SupportsAttention
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.targets import Box, Point, TextBox, kind_of
from grounding.wording import MARK, numbered

VOTES = 8
TEMPERATURE = 0.7
_OPEN = re.compile(r"[\s\[(]*")  # what stands between the place an answer is read from and its first digit


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """What one output says about one image: a region in [0, 1], and the words where words are asked for; None where
    it says nothing."""

    output: Output
    region: Box | Point | None
    text: str | None = None

    @property
    def click(self) -> Point | None:
        return self.region.center if isinstance(self.region, Box) else self.region


class Method(Protocol):
    """A function from a backend and requests to one output per request."""

    def __call__(self, look: Sampler, requests: Sequence[Request], seed: int) -> list[Output]: ...


class Sampler:
    """Ask the wrapped backend and read what it says.

    Args:
        answer_kind: "box", "point" or "text_box", what the benchmark asks for.
        image_first: where a second image stands in a text that places none.
    """

    def __init__(
        self,
        backend: Backend,
        decoding: Decoding,
        dialect: str,
        grammar: str,
        answer_kind: str,
        *,
        image_first: bool = True,
    ):
        self._backend = backend
        self.decoding = decoding
        self._dialect = get_dialect(dialect)
        self._grammar = grammar
        self.answer_kind = answer_kind
        self._image_first = image_first

    def once(self, requests: Sequence[Request], seed: int) -> list[SampledAnswer]:
        """One answer per request; greedy, unless samples are wanted of the method itself."""
        decoding = replace(self.decoding, samples=min(1, self.decoding.samples))
        return [answers[0] for answers in self._ask(requests, decoding, seed)]

    def several(self, requests: Sequence[Request], seed: int, n: int = VOTES) -> list[list[SampledAnswer]]:
        """`n` sampled answers per request."""
        return self._ask(requests, replace(self.decoding, samples=n, temperature=TEMPERATURE), seed)

    def prompt_attention(self, requests: Sequence[Request]) -> list[PromptAttention]:
        """Where the model looks as it is about to write its first coordinate; one pass, nothing generated.

        The answer is opened for it in the dialect's words and without a thought, so that the last token of the
        prompt is the one that has to find the place.
        """
        if not isinstance(self._backend, SupportsAttention):
            return []
        return self._backend.prompt_attention(requests, self._opening())

    def redistribution(self) -> AbstractContextManager[None]:
        """Within it, answers are generated with the attention of sinks given to other image tokens (VAR)."""
        return self._backend.redistribution() if isinstance(self._backend, SupportsAttention) else nullcontext()

    def _opening(self) -> str:
        if self.answer_kind == "text_box":
            said = TextBox("words", (Box(0.25, 0.25, 0.75, 0.75),))
            return self._dialect.render(said, [ImageSize(1000, 1000)]).partition("words")[0]
        region = Point(0.5, 0.5) if self.answer_kind == "point" else Box(0.25, 0.25, 0.75, 0.75)
        size = [ImageSize(1000, 1000)]
        if kind_of(region) not in self._dialect.kinds:
            region = Box(0.25, 0.25, 0.75, 0.75) if isinstance(region, Point) else Point(0.5, 0.5)
        text = self._dialect.render(region, size)
        where = self._dialect.parse(text, size, grammar="bare").char_span or (0, 0)
        return text[: where[0]] + (_OPEN.match(text[where[0] :]) or [""])[0]

    def say(self, region: Box | Point, like: Output, request: Request) -> str:
        """`region` in the dialect's words, for the image sizes of `request`."""
        return self._dialect.render(region, self._sizes(request, like))

    def text_beside(self, text: str) -> str:
        """The text of a question about one image for that image and a part of it."""
        told = f"{text} The second image is a part of the first, enlarged."
        if MARK in told:
            return told.replace(MARK, MARK * 2, 1)
        return numbered(told, 2, self._dialect.numbering, self._image_first)

    def say_words(self, output: Output, request: Request, view: tuple[Image.Image, Box]) -> Output:
        """An answer in words about an image and its part (`view`, and where it lies) as one about the image alone."""
        sizes = self._sizes(Request(request.text, (*request.images, view[0])), output)
        answer = self._dialect.parse(output.text, sizes, grammar=self._grammar, answer_kind=self.answer_kind)
        alone = replace(output, seen=output.seen[:1])
        if answer.text is None or not answer.ok or answer.absent:
            return alone
        boxes = tuple(replace(outward(box, view[1]), label=box.label) if box.image else box for box in answer.boxes)
        return replace(alone, text=self._dialect.render(TextBox(answer.text, boxes), sizes[:1]))

    def _ask(self, requests: Sequence[Request], decoding: Decoding, seed: int) -> list[list[SampledAnswer]]:
        answers = self._backend.generate(requests, decoding, seed)
        return [[self._read(o, r) for o in outputs] for r, outputs in zip(requests, answers, strict=True)]

    def _read(self, output: Output, request: Request) -> SampledAnswer:
        answer = self._dialect.parse(
            output.text, self._sizes(request, output), grammar=self._grammar, answer_kind=self.answer_kind
        )
        if self.answer_kind == "text_box":
            told = answer.text if answer.ok and not answer.absent else None
            return SampledAnswer(output, answer.boxes[0] if answer.boxes else None, told)
        regions = (*answer.points, *answer.boxes) if self.answer_kind == "point" else (*answer.boxes, *answer.points)
        return SampledAnswer(output, regions[0] if regions else None)

    @staticmethod
    def _sizes(request: Request, output: Output) -> list[ImageSize]:
        seen = output.seen or tuple((0, 0) for _ in request.images)
        return [ImageSize(i.width, i.height, *s) for i, s in zip(request.images, seen, strict=True)]


def spent(output: Output, answers: Sequence[SampledAnswer]) -> Output:
    """`output` with the cost of all answers behind it."""
    cost: dict[str, int] = {}
    for answer in answers:
        for key, value in answer.output.cost.items():
            cost[key] = cost.get(key, 0) + value
    return replace(output, cost=cost)


def reply(look: Sampler, request: Request, place: Box | Point | None, answers: Sequence[SampledAnswer]) -> Output:
    """An output that says `place`; the first answer as it is when there is none, or when it already says so."""
    first = answers[0]
    if place is None or place == first.region:
        return spent(first.output, answers)
    return spent(replace(first.output, text=look.say(place, first.output, request)), answers)


def click_of(place: Box | Point | None) -> Point:
    if place is None:
        raise ValueError("no place to click")
    return place.center if isinstance(place, Box) else place


def around(point: Point, side: float) -> Box:
    """A window of `side` around a point, pushed inside the image."""
    x = min(max(point.x - side / 2, 0.0), 1.0 - side)
    y = min(max(point.y - side / 2, 0.0), 1.0 - side)
    return Box(x, y, min(1.0, x + side), min(1.0, y + side))


def snapped(window: Box, request: Request) -> Box:
    """`window` moved to whole pixels of the request's only image, at least one each way: the crop there really is."""
    image = request.images[0]

    def edges(low: float, high: float, side: int) -> tuple[float, float]:
        first = min(round(low * side), side - 1)
        return first / side, max(round(high * side), first + 1) / side

    (x1, x2), (y1, y2) = edges(window.x1, window.x2, image.width), edges(window.y1, window.y2, image.height)
    return Box(x1, y1, x2, y2)


def cropped(request: Request, window: Box) -> Request:
    """The request about a part of its only image; `window` is `snapped`."""
    image = request.images[0]
    sides = (image.width, image.height) * 2
    corners = tuple(round(c * side) for c, side in zip(window.xyxy, sides, strict=True))
    return Request(request.text, (image.crop(corners),))


def outward(region: Box | Point, window: Box) -> Box | Point:
    """A region of a crop as a region of the whole image."""
    width, height = window.x2 - window.x1, window.y2 - window.y1

    def x(value: float) -> float:
        return min(1.0, window.x1 + value * width)

    def y(value: float) -> float:
        return min(1.0, window.y1 + value * height)

    if isinstance(region, Point):
        return Point(x(region.x), y(region.y))
    return Box(x(region.x1), y(region.y1), x(region.x2), y(region.y2))

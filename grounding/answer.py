"""A parsed completion in the canonical frame: all that rewards and benchmarks see of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from grounding.targets import Box, Point, Span


class Status(StrEnum):
    """Outcome of parsing an answer."""

    OK = "ok"  # exactly one answer was found, in the dialect's grammar, in range
    NO_ANSWER = "no_answer"  # nothing that looks like an answer
    MALFORMED = "malformed"  # something like an answer, but not readable (truncated JSON, three numbers, NaN)
    OUT_OF_RANGE = "out_of_range"  # readable, but outside the image or with swapped corners
    AMBIGUOUS = "ambiguous"  # several answers that contradict each other where one was asked for


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Sizes of one image in pixels.

    Attributes:
        width, height: the original image, which ground truth refers to.
        input_width, input_height: the image the model was shown, after its processor's resizing. Dialects that
            answer in pixels mean these. Equal to the original when the processor does not resize.
    """

    width: int
    height: int
    input_width: int = 0
    input_height: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_width", self.input_width or self.width)
        object.__setattr__(self, "input_height", self.input_height or self.height)
        if min(self.width, self.height, self.input_width, self.input_height) <= 0:
            raise ValueError(f"image size {self.width}x{self.height} is not positive")


@dataclass(frozen=True, slots=True)
class OutOfBounds:
    """A point or box that reaches outside its image or has swapped corners. It is not an answer, but some official
    rules score it as it is.

    Attributes:
        coords: x y or x1 y1 x2 y2 as written, canonical but not within [0, 1].
        image: index of its image.
        label: what it marks, where the model says.
        rank: how many boxes (or points) of the answer stand before it in the text.
    """

    coords: tuple[float, ...]
    image: int = 0
    label: str | None = None
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed completion.

    Geometry is present whenever it could be read and lies in the canonical frame, also when `status` is
    AMBIGUOUS (then all candidates are listed); a scorer that is not strict may use it. With MALFORMED,
    OUT_OF_RANGE and NO_ANSWER there is none; what lies outside the image is kept apart in `out_of_bounds`.

    Attributes:
        status: outcome of parsing.
        boxes, points, spans: what was pointed at, in the order of the text.
        text: the answer in words, where the dialect or the task has one.
        absent: the model says the target is not there.
        thought: what stands between <think> and </think>, without the tags; None when there is none.
        strict: the whole completion matches the format asked for, nothing before, between or after.
        char_span: character range [start, end) in the completion that the answer was read from; the coordinate
            tokens lie inside. None without an answer.
        out_of_bounds: what reaches outside the image, for benchmarks whose rule takes it; never a reward's business.
    """

    status: Status
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    spans: tuple[Span, ...] = ()
    text: str | None = None
    absent: bool = False
    thought: str | None = None
    strict: bool = False
    char_span: tuple[int, int] | None = None
    out_of_bounds: tuple[OutOfBounds, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status is Status.OK

    @property
    def box(self) -> Box | None:
        """The first box, None when there is none."""
        return self.boxes[0] if self.boxes else None

    @property
    def click(self) -> Point | None:
        """Where the model clicks: its first point, else the center of its first box, else None."""
        if self.points:
            return self.points[0]
        return self.boxes[0].center if self.boxes else None

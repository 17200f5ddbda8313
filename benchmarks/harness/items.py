"""The types a benchmark is made of: what is asked, what is right, what was answered, how it was judged."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from grounding.answer import Status

XY: TypeAlias = tuple[float, float]
XYXY: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ItemImage:
    """An image of an item: path relative to the image folder, size in pixels (0, 0 when the file does not say)."""

    path: str
    width: int = 0
    height: int = 0

    @property
    def known(self) -> bool:
        return self.width > 0 and self.height > 0


@dataclass(frozen=True, slots=True)
class Truth:
    """What is right, in the item's frame. Which fields are filled depends on the benchmark.

    Attributes:
        boxes, box_images: right regions, and the image each lies in.
        polygons: outlines, for sets that have them; a point is right when inside any.
        points: reference points.
        spans: right moments, seconds.
        labels: category or phrase of each box.
        text: the right words, for sets that ask a question as well.
        mask: path of a mask image whose non-zero pixels are right, relative to the image folder.
        absent: nothing in the image fits; the right answer says so.
    """

    boxes: tuple[XYXY, ...] = ()
    box_images: tuple[int, ...] = ()
    polygons: tuple[tuple[XY, ...], ...] = ()
    points: tuple[XY, ...] = ()
    spans: tuple[XY, ...] = ()
    labels: tuple[str, ...] = ()
    text: str | None = None
    mask: str | None = None
    absent: bool = False

    def image_of(self, index: int) -> int:
        """Image of box `index`; 0 for sets of one image."""
        return self.box_images[index] if self.box_images else 0


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """One question of a benchmark.

    Attributes:
        id: unique within the benchmark's split.
        images: what is shown; frames for video, empty when only spans are scored.
        instruction: the official words.
        truth: what is right.
        answer_kind: what is asked for: "point", "box", "boxes", "points", "span", "text_box", "text_span". It belongs
            to the benchmark, never to the item's ground truth.
        groups: sub-group per axis, for instance ``{"ui_type": "icon", "group": "CAD"}``.
        frame: unit of the coordinates in `truth`: "pixel" of the original image, or "unit" in [0, 1].
        meta: further facts a scorer needs (duration in seconds, size class, video id).
    """

    id: str
    images: tuple[ItemImage, ...]
    instruction: str
    truth: Truth
    answer_kind: str
    groups: Mapping[str, str] = field(default_factory=dict)
    frame: str = "pixel"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one output says, in the frame of its item; never clamped, so that it scores as the official script does.

    Attributes:
        status: how reading went.
        strict: the output has exactly the format asked for.
        boxes, points, spans: in the order of the text.
        images: image of each box (or point, when there are no boxes).
        labels, scores: per box, where the output has them.
        text: words, where the task asks for them.
        absent: the model says there is nothing.
        mask: what was segmented, COCO's run-length encoding ``{"size": [h, w], "counts": ...}``.
        saliency: a score per two-second clip, for highlights.
        thought: what the model reasoned before.
    """

    status: Status
    strict: bool = False
    boxes: tuple[XYXY, ...] = ()
    points: tuple[XY, ...] = ()
    spans: tuple[XY, ...] = ()
    images: tuple[int, ...] = ()
    labels: tuple[str | None, ...] = ()
    scores: tuple[float, ...] = ()
    text: str | None = None
    absent: bool = False
    thought: str | None = None
    mask: Mapping[str, Any] | None = None
    saliency: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Nothing could be read."""
        told = self.boxes or self.points or self.spans or self.absent or self.saliency
        return not told and self.text is None and self.mask is None

    def box(self, pick: str) -> XYXY | None:
        """The box that counts under `Rule.pick`."""
        if not self.boxes or (pick == "only" and self.status is not Status.OK):
            return None
        return self.boxes[-1 if pick == "last" else 0]

    def span(self, pick: str) -> XY | None:
        """The moment that counts under `Rule.pick`."""
        if not self.spans or (pick == "only" and self.status is not Status.OK):
            return None
        return self.spans[-1 if pick == "last" else 0]

    @property
    def clicks(self) -> tuple[XY, ...]:
        """All points, else the centers of all boxes."""
        return self.points or tuple(((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in self.boxes)

    def click(self, pick: str) -> XY | None:
        """Where the model clicks: its point, else the center of its box."""
        if self.points and not (pick == "only" and self.status is not Status.OK):
            return self.points[-1 if pick == "last" else 0]
        box = self.box(pick)
        return None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


MISSING = Prediction(Status.NO_ANSWER)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a benchmark decides. Defaults of each benchmark are the official ones; every field is a flag of eval.py.

    Attributes:
        boundary: is a click on the edge inside: "closed" (all edges), "half_open" (left and top), "open".
        iou_op: "ge" counts an IoU equal to the threshold, "gt" does not.
        thresholds: IoU thresholds to report; the one at `main` decides right or wrong.
        main: the threshold behind `correct`.
        average: the headline is "micro" (over items) or "macro" (mean over the sub-groups of `over`).
        over: the group axis macro averages run over.
        pick: several answers where one was asked: take the "first", the "last", or "only" a single one counts.
        failure: an unreadable answer is "wrong", or is left out as some originals do ("skip", counted apart).
    """

    boundary: str = "closed"
    iou_op: str = "ge"
    thresholds: tuple[float, ...] = (0.5,)
    main: float = 0.5
    average: str = "micro"
    over: str | None = None
    pick: str = "first"
    failure: str = "wrong"


RULE_CHOICES = {
    "boundary": ("closed", "half_open", "open"),
    "iou_op": ("ge", "gt"),
    "average": ("micro", "macro"),
    "pick": ("first", "last", "only"),
    "failure": ("wrong", "skip"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer was judged.

    Attributes:
        correct: right by the rule.
        value: what lies behind it: IoU, share of points inside, F1; 1 or 0 where there is nothing finer.
        skipped: left out of the score, because the rule skips unreadable answers.
    """

    correct: bool
    value: float
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """A number somebody else reported: percent, with its source."""

    model: str
    value: float
    source: str
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True)
class Card:
    """What a user should know before using a benchmark.

    Attributes:
        title: the benchmark's name.
        paper: where it was introduced.
        get: where its annotations and images come from.
        license: of the data, as its authors state it; "not stated" is a fact too.
        files: what the data folder must contain.
        rule: the official rule in words, with its source.
        size: number of items per split, for a check after reading.
        published: numbers of other models, percent.
    """

    title: str
    paper: str
    get: str
    license: str
    files: str
    rule: str
    size: Mapping[str, int] = field(default_factory=dict)
    published: tuple[Published, ...] = ()


def read_card(module: str, name: str) -> Card:
    """The card `name` of `cards.toml` in the folder of a module, given by its `__file__`."""
    about = _cards(Path(module).parent / "cards.toml")[name]
    return Card(**about | {"published": tuple(Published(**number) for number in about.get("published", ()))})


@cache
def _cards(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))

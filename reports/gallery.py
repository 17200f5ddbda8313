"""Which screens to show, the answers to each, and its picture as a data URI."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from grounding.errors import FoveaError
from grounding.io import open_image
from grounding.sample import ImageRef
from reports import places
from reports.places import Shape
from reports.read_run import Evaluation

MAX_CARDS = 150
MAX_PICTURE_CHARACTERS = 3_500_000
MAX_TEXT = 1500
MAX_SIDE = 720  # pixels of an embedded picture
_SMALL_PNG = 12_000  # bytes


@dataclass(frozen=True, slots=True)
class SaidTurn:
    """A turn before the answer: what was said, asked for and shown.

    Attributes:
        region: where to, as something to draw; None for a call without a place, or of another image.
        shown: what the tool showed, without pixels where the page has no room for them; None where it showed nothing.
        reply: what the model was told.
    """

    text: str
    tool: str
    region: Shape | None
    shown: Picture | None
    reply: str
    error: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What the model of one evaluation answered to one question; `distance` as in `places.distance`.

    Attributes:
        turns: those before the answer, where it may call tools.
    """

    verdict: str
    strict: bool
    value: float
    distance: float
    places: tuple[Shape, ...]
    click: tuple[float, float] | None
    words: str
    thought: str
    output: str
    turns: tuple[SaidTurn, ...] = ()

    @property
    def rank(self) -> float:
        """Failures by how far off they are, then right answers."""
        return -1.0 if self.verdict == "right" else round(self.distance, 4) if math.isfinite(self.distance) else 0.0

    @property
    def off(self) -> str:
        """How far off, in words."""
        if math.isfinite(self.distance) and 0 < self.distance < places.NOWHERE:
            return f"{self.distance:.0%} of the screen's diagonal away"
        return f"overlap {self.value:.2f}" if 0 < self.value < 1 else ""

    def describe(self, instruction: str) -> str:
        """The picture in words, for those who do not see it."""
        where = f"clicks at {self.click[0]:.0%} from the left, {self.click[1]:.0%} from the top" if self.click else ""
        return ", ".join(part for part in (instruction, self.verdict, where, self.off) if part)


@dataclass(frozen=True, slots=True)
class GalleryCard:
    """One question.

    Attributes:
        rank: its position on the page.
        place: its position in the data.
        answers: one per evaluation, None where it was not asked.
    """

    id: str
    rank: int
    place: int
    instruction: str
    groups: Mapping[str, str]
    picture: Picture | None
    truth: tuple[Shape, ...]
    truth_words: str
    answers: tuple[Said | None, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The cards, and what was left out and why."""

    cards: tuple[GalleryCard, ...]
    notes: tuple[str, ...]


def gallery(evaluations: Sequence[Evaluation], main: int) -> Gallery:
    """Cards for the questions of evaluation `main`, each with every evaluation's answer to it."""
    asked = [one.first_answers() for one in evaluations]
    questions = list(asked[main].values())
    chosen = choose(questions)
    notes = []
    if len(chosen) < len(questions):
        notes.append(
            f"{len(chosen)} of {len(questions)} questions are shown: the answers furthest off first, then right ones."
        )
    root = next((one.image_root for one in (evaluations[main], *evaluations) if one.image_root), None)
    position = {id_: index for index, id_ in enumerate(asked[main])}
    cards: list[GalleryCard] = []
    spent = unread = full = 0
    for row in chosen:
        image = places.image_of_interest(row)
        picture = None
        if places.size(row, image) != (1, 1):
            enough = spent > MAX_PICTURE_CHARACTERS
            picture = embed(None if enough else root, row["images"][image]["path"], *places.size(row, image))
            spent += len(picture.uri)
            full += enough
            unread += not enough and not picture.uri
        cards.append(
            GalleryCard(
                id=row["id"],
                rank=len(cards),
                place=position[row["id"]],
                instruction=clip(row["instruction"]),
                groups={str(axis): str(name) for axis, name in row["groups"].items()},
                picture=picture,
                truth=places.right_places(row, image),
                truth_words=places.words(row["truth"]),
                answers=tuple(
                    _said(rows.get(row["id"]), image, root if picture is not None and picture.uri else None)
                    for rows in asked
                ),
            )
        )
        spent += sum(len(turn.shown.uri) for said in cards[-1].answers if said for turn in said.turns if turn.shown)
    if full:
        notes.append(f"{full} screens are drawn without their pixels, to keep the page small enough to send around.")
    if unread:
        notes.append(f"{unread} screens are drawn without their pixels: the files cannot be read{_named(root)}.")
    return Gallery(tuple(cards), tuple(notes))


def _named(root: Path | None) -> str:
    """Where they were looked for, without the folders of this machine: the page may be sent around."""
    return "" if root is None else f" in {root if not root.is_absolute() else root.name}"


def choose(rows: Sequence[Mapping[str, Any]], most: int = MAX_CARDS) -> list[Mapping[str, Any]]:
    """Failures, the worst first, then right answers in their order: at most `most`, a third of them right answers
    as long as there are so many of both."""
    wrong = sorted((row for row in rows if not row["correct"]), key=places.how_bad, reverse=True)
    right = [row for row in rows if row["correct"]]
    wrong = wrong[: max(most - most // 3, most - len(right))]
    return wrong + right[: most - len(wrong)]


def clip(text: object, most: int = MAX_TEXT) -> str:
    """`text`, cut where it is longer than anybody reads."""
    words = "" if text is None else str(text)
    return words if len(words) <= most else f"{words[:most]} … ({len(words) - most} more characters)"


def _said(row: Mapping[str, Any] | None, image: int, root: Path | None) -> Said | None:
    if row is None:
        return None
    return Said(
        verdict=places.verdict(row),
        strict=bool(row.get("strict")),
        value=float(row.get("value") or 0.0),
        distance=places.distance(row),
        places=places.said_places(row, image),
        click=places.click(row),
        words=places.words(row["prediction"]),
        thought=clip(row["prediction"].get("thought")),
        output=clip(row.get("output")),
        turns=tuple(_turn(row, turn, image, root) for turn in row.get("turns") or () if turn["tool"]),
    )


def _turn(row: Mapping[str, Any], turn: Mapping[str, Any], image: int, root: Path | None) -> SaidTurn:
    region, shown, own = turn["region"], turn["shown"], int(turn["image"])
    drawn = None
    if region is not None and own == image:
        drawn = Shape("box" if len(region) == 4 else "point", tuple(region))
    picture = None
    if shown is not None and own < len(row["images"]):
        picture = embed(root, row["images"][own]["path"], *places.size(row, own), part=shown)
    return SaidTurn(clip(turn["text"]), turn["tool"], drawn, picture, clip(turn["reply"]), bool(turn["error"]))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page. Without `uri` only the marks are drawn, on an empty field of the same shape."""

    width: int
    height: int
    uri: str = ""


def fit(width: int, height: int, side: int = MAX_SIDE) -> tuple[int, int]:
    """The size scaled down to at most `side`; never up."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def embed(
    root: Path | None, path: str, width: int, height: int, part: Sequence[float] = (0.0, 0.0, 1.0, 1.0)
) -> Picture:
    """The image, or a part of it (canonical xyxy), as a picture of the page; without its pixels when the file cannot
    be read or is not as stated."""
    pixels = [round(value * side) for value, side in zip(part, (width, height) * 2, strict=True)]
    empty = Picture(*fit(max(1, pixels[2] - pixels[0]), max(1, pixels[3] - pixels[1])))
    if root is None:
        return empty
    try:
        image = open_image(root, ImageRef(path, width, height))
    except (FoveaError, ValueError):
        return empty
    image = image.crop(tuple(pixels)) if tuple(pixels) != (0, 0, *image.size) else image
    return Picture(*fit(*image.size), uri=data_uri(image))


def data_uri(image: Image.Image, side: int = MAX_SIDE) -> str:
    """PNG while that is small (drawn screens), WebP otherwise (photographs)."""
    size = fit(*image.size, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    for form, options in (("png", {"optimize": True}), ("webp", {"quality": 80})):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        if form == "webp" or buffer.tell() <= _SMALL_PNG:
            break
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

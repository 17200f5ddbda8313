"""Conversations in the shapes of LLaVA, ShareGPT and LLaMA-Factory, reduced to question and answer.

{"image": "a.png" | ["a.png", ...], "conversations": [{"from": "human", "value": "<image>..."}, {"from": "gpt", ...}]}
{"images": [...], "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.spaces import Spaces
from grounding.answer import Answer, ImageSize, Status
from grounding.completion import ANSWER, END_ANSWER, END_THINK, THINK, split_completion
from grounding.dialects import Dialect, get_dialect
from grounding.targets import Absent, Box, Boxes, Point, Points, Target
from grounding.wording import MARK, split_head, write_place

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_REFERENCE = re.compile(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>|<ref>(.*?)</ref>", re.DOTALL)


def image_names(row: dict[str, Any]) -> list[str]:
    """The paths of a row's images."""
    names = row.get("images", row.get("image"))
    names = [names] if isinstance(names, str) else names
    if not names or not all(isinstance(name, str) for name in names):
        raise Rejected("missing image", "the row names no image")
    return [name.removeprefix("./") for name in names]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer of the assistant and what was asked before it.

    Attributes:
        question, answer: the texts, with `<image>` marks; a `Rejected` in place of one that is no text.
        shown: how many images the user has placed by marks up to here.
    """

    question: str | Rejected
    answer: str | Rejected
    shown: int


def exchanges(row: dict[str, Any]) -> Iterator[Exchange]:
    """Every answer of a row, in order; several answers in a row share their question.

    Raises:
        Rejected: there is no conversation in a known shape.
    """
    turns = row.get("conversations", row.get("messages"))
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError as error:
            raise Rejected("wrong format", f"conversations are not JSON: {error}") from None
    if not isinstance(turns, list):
        raise Rejected("wrong format", "no conversations and no messages")
    question: str | Rejected = Rejected("no question", "the assistant speaks first")
    answered, shown = True, 0
    for turn in turns:
        if not isinstance(turn, dict):
            raise Rejected("wrong format", f"a turn that is no object: {turn!r}")
        role, text = _ROLES.get(str(turn.get("from", turn.get("role")))), _text(turn)
        if role == "user":
            shown += text.count(MARK) if isinstance(text, str) else 0
            joined = not answered and isinstance(question, str) and isinstance(text, str)
            question, answered = f"{question}\n{text}" if joined else text, False
        elif role == "assistant":
            yield Exchange(question, text, shown)
            answered = True


def _text(turn: dict[str, Any]) -> str | Rejected:
    text = turn.get("value", turn.get("content"))
    if isinstance(text, list) and all(isinstance(part, dict) for part in text):
        pieces = (MARK if "image" in str(part.get("type")) else part.get("text") or "" for part in text)
        return "".join(map(str, pieces))
    return text if isinstance(text, str) else Rejected("wrong format", f"a turn without text: {turn}")


def sound(text: str | Rejected) -> str:
    """A text of an exchange; raises the `Rejected` that stands in its place."""
    if isinstance(text, Rejected):
        raise text
    return text


def without_references(text: str) -> str:
    """`text` without the marks around the phrases that boxes belong to."""
    return _REFERENCE.sub(lambda match: match[1] or match[2] or "", text).strip()


def placed(question: str, shown: int, images: int) -> tuple[str, int]:
    """The question with one mark for each of its images (or none), and how many of the row's images it is about.

    A row shows its images once, at the first turn that speaks of them, or again in every turn.

    Raises:
        Rejected: "image marks differ".
    """
    own = question.count(MARK)
    if own == images or not shown or (not own and shown > images):
        return question, images
    if shown > images:
        raise Rejected("image marks differ", f"{shown} {MARK} marks, {images} images")
    return (MARK * (shown - own) + question if own else question), shown


def without_bare_marks(question: str) -> tuple[str, str]:
    """The marks that say where images stand, with their labels, and the words; marks that only begin or end the text
    without a label say nothing, and are left to the recipe (`image_first`)."""
    head, words = split_head(question)
    if head.count(MARK) + words.count(MARK) == 1:
        words = words.rstrip().removesuffix(MARK)
    if MARK in words or head.replace(MARK, "").strip(" \t\n,;"):
        return head, words
    return "", words


class AnswerReader:
    """Reads the answers of a training set.

    Args:
        dialect: the words they are written in.
        spaces: is told every number, to find out whether the dialect is the right one.
    """

    def __init__(self, dialect: str, spaces: Spaces):
        self.dialect: Dialect = get_dialect(dialect)
        self._spaces = spaces

    def __call__(self, text: str, question: str, sizes: Sequence[ImageSize]) -> tuple[Target, str | None]:
        """What an answer points at, and the thought that leads there (canonical places).

        With several images, the answer or else the question must say which one is meant.

        Raises:
            Rejected: "image not named", "answer is no_answer" and the like: not readable, or out of range.
        """
        thought, said, _, closed = split_completion(text, "bare")
        if not closed:
            thought, said = None, text
        said = without_references(said)
        target, image = self._target(said, question, sizes)
        thought = canonical(thought or "", self.dialect, sizes, image).strip()
        if any(tag in thought for tag in (THINK, END_THINK, ANSWER, END_ANSWER)):
            raise Rejected("thought has tags", thought[:200])
        return target, thought or None

    def _target(self, said: str, question: str, sizes: Sequence[ImageSize]) -> tuple[Target, int]:
        parts = self._parts(said, question, sizes)
        if len(parts) == 1 and parts[0][0].absent:
            return Absent(), parts[0][1] or 0
        boxes: list[Box] = []
        points: list[Point] = []
        for answer, image in parts:
            if answer.status not in (Status.OK, Status.AMBIGUOUS):  # several boxes are several targets here
                raise Rejected(f"answer is {answer.status.value}", said[:200])
            if answer.out_of_bounds:
                raise Rejected("answer is out_of_range", said[:200])
            boxes += [_in(box, image) for box in answer.boxes]
            points += [_in(point, image) for point in answer.points]
        flat = next((box for box in boxes if box.area == 0), None)
        if flat is not None:
            raise Rejected("empty box", str(flat.xyxy))
        if boxes:  # a point beside its box says nothing more
            return (boxes[0] if len(boxes) == 1 else Boxes(tuple(boxes))), boxes[0].image
        if points:
            return (points[0] if len(points) == 1 else Points(tuple(points))), points[0].image
        raise Rejected("answer is no_answer", "neither box nor point")

    def _parts(self, said: str, question: str, sizes: Sequence[ImageSize]) -> list[tuple[Answer, int | None]]:
        """Answers, each with the index of the image it is about; None where its regions say so themselves."""
        if len(sizes) == 1:
            return [(self._parse(said, sizes, 0), 0)]
        if self.dialect.multi_image and _JSON_IMAGE.search(said):
            return [(self._parse(said, sizes, None), None)]
        named = images_named(said, len(sizes))
        if any(index >= len(sizes) for _, index in named):
            raise Rejected("image not named", f"an image beyond {len(sizes)}: {said[:200]}")
        if len({index for _, index in named}) > 1:
            ends = [start for start, _ in named[1:]] + [len(said)]
            pieces = [(said[start:end], index) for (start, index), end in zip(named, ends, strict=True)]
            parts = [(self._parse(piece, sizes, index), index) for piece, index in pieces]
            if all(answer.boxes or answer.points or answer.out_of_bounds for answer, _ in parts):
                return list(parts)
            raise Rejected("image not named", f"several images, not one for each place: {said[:200]}")
        index = image_named(said, len(sizes))
        index = image_named(question, len(sizes)) if index is None else index
        if index is None:
            raise Rejected("image not named", question[:200])
        return [(self._parse(said, sizes, index), index)]

    def _parse(self, text: str, sizes: Sequence[ImageSize], image: int | None) -> Answer:
        """What `text` says about one image (or, with None, about the images it names)."""
        own = sizes if image is None else [sizes[image]]
        answer = self.dialect.parse(text, own, grammar="bare")
        space = self.dialect.space
        if not space.bins:
            regions = [(region, region.xyxy) for region in answer.boxes]
            regions += [(region, (region.x, region.y)) for region in answer.points]  # type: ignore[misc, list-item]
            regions += [(stray, stray.coords) for stray in answer.out_of_bounds]  # type: ignore[misc, list-item]
            for region, coords in regions:
                size = own[region.image] if region.image < len(own) else own[0]
                whole = (space.scale or size.input_width, space.scale or size.input_height)
                numbers = [value * whole[i % 2] for i, value in enumerate(coords)]
                self._spaces.add([round(n, 6) for n in numbers], (size.width, size.height), whole)
        return answer


def _in(region: Any, image: int | None) -> Any:
    if image is None:
        return region
    if isinstance(region, Box):
        return Box(*region.xyxy, image, region.label)
    return Point(region.x, region.y, image, region.label)


_NUMBER = r"-?\d+(?:\.\d+)?"
_TWO_CORNERS = re.compile(
    rf"(?:<\|box_start\|>|<box>)\s*\(?({_NUMBER}\s*,\s*{_NUMBER})\)?\s*,\s*\(?({_NUMBER}\s*,\s*{_NUMBER})\)?\s*"
    r"(?:<\|box_end\|>|</box>)"
)
_BELONGS = re.compile(r"\s*+(?:of|in|from)\s++(?:the\s++)?")
_BRACKET = re.compile(r"(?:\bimage (?P<image>\d{1,4}) )?(?P<place>[\[(][\d\s.,]{3,80}[\])])")


def canonical(
    text: str, dialect: Dialect, sizes: Sequence[ImageSize], image: int = 0, *, boxes_only: bool = False
) -> str:
    """A thought or a question with the dialect's numbers turned into canonical places; brackets that are none stay.

    A place lies in the image named right after it ("of Image-2"), else in the one that the text named last, else in
    number `image`.

    Args:
        boxes_only: two numbers in brackets are no place.
    """
    text = _TWO_CORNERS.sub(r"[\1, \2]", without_references(text))
    named = images_named(text, len(sizes)) if len(sizes) > 1 else []
    named = [(start, index) for start, index in named if index < len(sizes)]

    def rewrite(match: re.Match[str]) -> str:
        after = _BELONGS.match(text, match.end())
        own = [index for start, index in named if after and start == after.end()]
        own += [index for start, index in reversed(named) if start < match.start("place")]
        index = own[0] if own else image
        index = int(match["image"]) - 1 if match["image"] else index
        places = dialect.read_thought(f"image {index + 1} {match['place']}", sizes)
        good = len(places) == 1 and (isinstance(places[0], Box) or not boxes_only)
        said = f"image {match['image']} " if match["image"] and not index else ""  # `write_place` leaves out image 1
        return said + write_place(places[0]) if good else match.group()

    return _BRACKET.sub(rewrite, text)


_NUMBER_WORDS = {
    word: number
    for number, words in enumerate(
        ("first|one", "second|two", "third|three", "fourth|four", "fifth|five", "sixth|six", "seventh|seven",
         "eighth|eight", "ninth|nine", "tenth|ten"), 1)
    for word in words.split("|")
}  # fmt: skip
_ORDINAL = "|".join(word for word in _NUMBER_WORDS if word.endswith("th") or word in ("first", "second", "third"))
_JSON_IMAGE = re.compile(r'"image"\s*:')
_IN_IMAGE = re.compile(
    rf"\b(?:(?P<ordinal>{_ORDINAL}|last)|(?P<nth>\d{{1,3}})(?:st|nd|rd|th))\s+(?:image|picture|frame|photo)\b"
    r"|\b(?:image|picture|frame|photo)[\s_-]*(?P<number>\d{1,3})\b",
    re.IGNORECASE,
)


def images_named(text: str, count: int) -> list[tuple[int, int]]:
    """(where it stands, index) of every image that `text` names ("in the second image", "Image-2"), in order.

    The index may be beyond the `count` images there are.
    """
    found: list[tuple[int, int]] = []
    for match in _IN_IMAGE.finditer(text):
        if match["ordinal"]:
            word = match["ordinal"].lower()
            number = count if word == "last" else _NUMBER_WORDS[word]
        else:
            number = int(match["nth"] or match["number"])
        if number:
            found.append((match.start(), number - 1))
    return found


def image_named(text: str, count: int) -> int | None:
    """Index of the one image that the words of `text` name; None when they name none or several.

    The labels of the images themselves ("Image-1: <image>") name nothing.
    """
    found = {index for _, index in images_named(split_head(text)[1], count)}
    return found.pop() if len(found) == 1 and max(found) < count else None

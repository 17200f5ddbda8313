"""What stands inside the words of a question or a thought: image marks, places, other words in quotes.

**Images** stand where a question has an `<image>` mark, one for each, in order. A text without marks leaves the
place to whoever asks: before or after the text, numbered in the model family's words where there are several.
Frames of a video come each after its time, which the dialect writes as its family does.

    "Image-1: <image>\nImage-2: <image>\nFind the dog of Image-1 in Image-2."
    "<0.0 seconds><image><12.5 seconds><image>\na door opens"

**Places** are canonical ([0, 1] of the image), written as [x, y] or [x1, y1, x2, y2] with three decimals. A dialect
turns them into a model's numbers. They refer to the first image unless the words "image N " (counted from 1) stand
right before the bracket. Anything else in brackets is left alone.

    "the red circle at [0.250, 0.500] in image 2 [0.100, 0.100, 0.400, 0.900]"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count

from grounding.errors import UsageError
from grounding.targets import Box, Point

MARK = "<image>"
NUMBERED = f"Image {{number}}: {MARK}\n"
TIMED = f"<{{time:.1f}} seconds>{MARK}"
_LABEL = r"(?:[^\n<>:?!]{1,40}:|<\d{1,9}(?:\.\d{1,9})? seconds>)"
_HEAD = re.compile(rf"(?:{_LABEL}?\s*+{MARK}\s*+[,;]?\s*+)+")


def split_head(text: str) -> tuple[str, str]:
    """The marks that `text` begins with, with the labels before them ("Image-1:"), and the words after them."""
    match = _HEAD.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def words_alone(text: str) -> str:
    """`text` for a reader who is not shown the images: no marks before the words, "image 2" for one among them."""
    if MARK not in text:
        return text.strip()
    head, words = split_head(text)
    first, *others = words.split(MARK)
    start = head.count(MARK) + 1
    return "".join([first, *(f"image {number}{part}" for number, part in enumerate(others, start))]).strip()


def timed(times: Sequence[float]) -> str:
    """Marks of frames, each after its time: `<12.5 seconds><image>`; `retimed` makes a family's words of it."""
    return "".join(f"<{_seconds(time)} seconds>{MARK}" for time in times) + "\n"


def _seconds(time: float) -> str:
    told = f"{time:.3f}".rstrip("0")
    return told + "0" if told.endswith(".") else told


_TIMED = re.compile(rf"<(?P<time>\d{{1,9}}(?:\.\d{{1,9}})?) seconds>{MARK}(?P<gap>\n?)")


def retimed(head: str, form: str) -> str:
    """The marks of `timed` in a family's own words.

    Args:
        form: of one frame, with `{time}` (seconds, a float) and `{number}` (from 1) in it.
    """
    numbers = count(1)

    def write(match: re.Match[str]) -> str:
        told = form.format(time=float(match["time"]), number=next(numbers))
        return told if told.endswith("\n") else told + match["gap"]

    return _TIMED.sub(write, head)


def numbered(text: str, images: int, form: str, image_first: bool = True) -> str:
    """`text` with marks for its images, numbered by `form` (`{number}`, from 1).

    It stays as it is where there is one image, or where it has marks of its own.
    """
    if images < 2 or MARK in text:
        return text
    marks = "".join(form.format(number=number) for number in range(1, images + 1))
    return marks + text if image_first else f"{text}\n{marks.rstrip()}"


def arrange(text: str, images: int, image_first: bool = True) -> list[str | None]:
    """The parts of a question in order: its text, None where an image stands.

    Args:
        text: with one mark an image, or without marks.
        images: how many images the question has.
        image_first: images before a text without marks; otherwise after it.

    Raises:
        UsageError: another number of marks than of images.
    """
    text = numbered(text, images, NUMBERED, image_first)
    marks = text.count(MARK)
    if not marks and images:
        text = MARK + text if image_first else text + MARK
    elif marks != images:
        raise UsageError(f"{marks} {MARK} marks for {images} images in the question {text[:80]!r}")
    parts: list[str | None] = []
    for number, words in enumerate(text.split(MARK)):
        parts += [None] if number else []
        parts += [words] if words else []
    return parts


_UNIT = r"(?:0\.\d{3}|1\.000)"
_PLACE = re.compile(
    rf"(?P<image>\bimage (?P<number>\d{{1,4}}) )?\[(?P<coords>{_UNIT}, {_UNIT}(?:, {_UNIT}, {_UNIT})?)\]"
)


def write_place(region: Box | Point) -> str:
    """A region in the convention; it loses its label and what lies beyond three decimals."""
    coords = region.xyxy if isinstance(region, Box) else (region.x, region.y)
    prefix = f"image {region.image + 1} " if region.image else ""
    return f"{prefix}[{', '.join(f'{value:.3f}' for value in coords)}]"


def read_places(thought: str) -> tuple[Box | Point, ...]:
    """The regions a thought in the convention names, in order; boxes with swapped corners are left out."""
    places = (_region(match) for match in _PLACE.finditer(thought))
    return tuple(place for place in places if place is not None)


def rewrite_places(thought: str, write: Callable[[Box | Point], str]) -> str:
    """`thought` with every bracketed place replaced by `write(region)`; the words "image N " before it stay."""

    def replace(match: re.Match[str]) -> str:
        region = _region(match)
        return match.group() if region is None else (match["image"] or "") + write(region)

    return _PLACE.sub(replace, thought)


def _region(match: re.Match[str]) -> Box | Point | None:
    coords = [float(value) for value in match["coords"].split(", ")]
    image = max(int(match["number"] or 1) - 1, 0)
    if len(coords) == 2:
        return Point(coords[0], coords[1], image)
    x1, y1, x2, y2 = coords
    return Box(x1, y1, x2, y2, image) if x1 <= x2 and y1 <= y2 else None


_ASKS_FOR = re.compile(
    r"(?:please\s+)?(?:(?:click|tap|press)(?:\s+on)?|find|locate|show\s+me|look\s+for|point\s+(?:at|to)"
    r"|where\s+(?:is|are))\s+(?=(?:the|a|an|every|all)\s)(?P<thing>.+)",
    re.IGNORECASE | re.DOTALL,
)


def quoted(text: str) -> str:
    """`text` in quotes, without the full stops at its end; of another kind than those in it."""
    text = text.strip().rstrip(".")
    if '"' not in text:
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"


def thing(instruction: str) -> str | None:
    """What an instruction asks to find, without the asking: "the red star" of "Where is the red star?".

    None where it is something else: a name ("left man"), a task ("open the file menu"), another question.
    """
    match = _ASKS_FOR.fullmatch(instruction.strip().rstrip(" .?!"))
    return match["thing"] if match else None


def request(instruction: str) -> str:
    """A sentence that says what is asked for: "I look for the red star.", "The request is "open the file menu"."."""
    named = thing(instruction)
    if named is not None:
        return f"I look for {named}."
    if instruction.rstrip().endswith("?"):
        return f"The question is {quoted(instruction)}"
    return f"The request is {quoted(instruction)}."

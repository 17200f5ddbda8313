"""Where the images of a question stand in its text: one `<image>` mark each, in order.

    "Image-1: <image>\nImage-2: <image>\nFind the dog of Image-1 in Image-2."

A text without marks leaves the place to whoever asks: before or after the text, numbered where there are several.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from grounding.errors import UsageError

MARK = "<image>"
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
    """Marks of a video's frames, each after its time in seconds, as Qwen3-VL's processor writes times."""
    return "".join(f"<{_seconds(time)} seconds>{MARK}" for time in times) + "\n"


def _seconds(time: float) -> str:
    told = f"{time:.2f}"
    return told[:-1] if told.endswith("0") else told


def arrange(text: str, images: int, image_first: bool = True) -> list[str | None]:
    """The parts of a question in order: its text, None where an image stands.

    Args:
        text: with one mark an image, or without marks.
        images: how many images the question has.
        image_first: images before a text without marks; otherwise after it.

    Raises:
        UsageError: another number of marks than of images.
    """
    marks = text.count(MARK)
    if not marks and images:
        placed = MARK if images == 1 else "\n".join(f"Image {number}: {MARK}" for number in range(1, images + 1))
        gap = "\n" if images > 1 else ""
        text = placed + gap + text if image_first else text + gap + placed
    elif marks != images:
        raise UsageError(f"{marks} {MARK} marks for {images} images in the question {text[:80]!r}")
    parts: list[str | None] = []
    for number, words in enumerate(text.split(MARK)):
        parts += [None] if number else []
        parts += [words] if words else []
    return parts

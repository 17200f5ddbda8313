"""A model's answer drawn on its images: one PNG, whatever was asked about and however many turns it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from grounding.answer import Answer
from grounding.region_drawing import ANSWER_COLOR, Color, draw_regions, thumbnail
from grounding.targets import Box, Point

TURN_COLOR: Color = (20, 90, 220)
SIDE = 320  # pixels of the longer side of a frame, or of what a tool showed
ACROSS = 6  # frames in a row
MOST_FRAMES = 36


def draw_answer(
    images: Sequence[Image.Image],
    answer: Answer,
    turns: Sequence[Mapping[str, Any]] = (),
    times: Sequence[float] = (),
) -> Image.Image | None:
    """The images with what was answered (red) and where the turns before looked (blue); None without any place.

    Below stands what tools showed. Of a video it is a sheet of frames with their seconds, red where the answer's span
    holds them.

    Args:
        turns: as `Output.episode` has them.
        times: seconds of the images, where they are frames.
    """
    asked = [(region, TURN_COLOR) for turn in turns if (region := region_of_turn(turn)) is not None]
    marks = [*asked, *((region, ANSWER_COLOR) for region in (*answer.boxes, *answer.points))]
    if times:
        return _frames(images, answer, marks, times) if marks or answer.spans else None
    if not marks:
        return None
    sheet = draw_regions(images, marks)
    shown = [
        draw_regions([thumbnail(picture, SIDE)], [], caption=f"turn {number}: {turn['tool']}")
        for number, turn in enumerate(turns, start=1)
        if (picture := shown_in_turn(images, turn)) is not None
    ]
    return _stacked([[sheet], shown]) if shown else sheet


def region_of_turn(turn: Mapping[str, Any]) -> Box | Point | None:
    """Where a turn asked its tool to look."""
    place = turn.get("region")
    if place is None:
        return None
    return Box(*place, turn["image"]) if len(place) == 4 else Point(*place, turn["image"])


def shown_in_turn(images: Sequence[Image.Image], turn: Mapping[str, Any]) -> Image.Image | None:
    """The part of the image that a turn's tool showed, in its original pixels."""
    if turn.get("shown") is None:
        return None
    image = images[turn["image"]]
    left, top, right, bottom = (
        round(value * side) for value, side in zip(turn["shown"], image.size * 2, strict=True)
    )
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def pixels_of(region: Box | Point, size: tuple[int, int]) -> tuple[str, list[float]]:
    """A region's kind, and its numbers in pixels of an image of `size` (width, height)."""
    coords = region.xyxy if isinstance(region, Box) else (region.x, region.y)
    pixels = [round(value * size[index % 2], 1) for index, value in enumerate(coords)]
    return "box" if isinstance(region, Box) else "point", pixels


def _frames(
    images: Sequence[Image.Image], answer: Answer, marks: Sequence[tuple[Box | Point, Color]], times: Sequence[float]
) -> Image.Image:
    """Frames in rows: those with a mark, and others evenly spread, `MOST_FRAMES` at most."""
    inside = [any(span.start <= time <= span.end for span in answer.spans) for time in times]
    marked = {region.image for region, _ in marks}
    step = -(-len(images) // MOST_FRAMES)
    chosen = [at for at in range(len(images)) if at in marked or at % step == 0][:MOST_FRAMES]
    tiles = []
    for at in chosen:
        own = [(replace(region, image=0), color) for region, color in marks if region.image == at]
        whole = [(Box(0, 0, 1, 1), ANSWER_COLOR)] if inside[at] else []
        tiles.append(draw_regions([thumbnail(images[at], SIDE)], [*whole, *own], caption=f"{times[at]:g} s"))
    return _stacked([tiles[at : at + ACROSS] for at in range(0, len(tiles), ACROSS)])


def _stacked(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures as one, on white."""
    gap = 6
    heights = [max(image.height for image in row) + gap for row in rows]
    widths = [sum(image.width + gap for image in row) for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights)), (255, 255, 255))
    for number, row in enumerate(rows):
        left = 0
        for image in row:
            sheet.paste(image, (left, sum(heights[:number])))
            left += image.width + gap
    return sheet

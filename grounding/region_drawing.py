"""Images with places drawn on them: of an answer, a target, a row of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw

from grounding.targets import Box, Point, Polygon, Span

ANSWER_COLOR = (230, 30, 60)
TARGET_COLOR = (0, 150, 80)
Color: TypeAlias = tuple[int, int, int]
_WHITE: Color = (255, 255, 255)


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy at most `side` pixels wide and high, never enlarged."""
    made = image.copy()
    made.thumbnail((side, side))
    return made


def draw_regions(
    images: Sequence[Image.Image], regions: Sequence[tuple[Box | Point | Polygon | Span, Color]], caption: str = ""
) -> Image.Image:
    """The images side by side with the regions in their colors; spans are left out.

    Args:
        images: RGB; `region.image` counts them.
        caption: is written below.
    """
    foot = 14 if caption else 0
    height = max(image.height for image in images)
    sheet = Image.new("RGB", (sum(image.width for image in images), height + foot), _WHITE)
    lefts = [sum(image.width for image in images[:number]) for number in range(len(images))]
    for left, image in zip(lefts, images, strict=True):
        sheet.paste(image, (left, 0))
    pen = ImageDraw.Draw(sheet)
    width = max(2, height // 200)
    for region, color in regions:
        if isinstance(region, Span):
            continue
        left, image = lefts[region.image], images[region.image]
        if isinstance(region, Polygon):
            corners = [(left + x * image.width, y * image.height) for x, y in region.vertices]
            pen.line([*corners, corners[0]], fill=color, width=width)
        elif isinstance(region, Box):
            x1, y1, x2, y2 = region.xyxy
            frame = (left + x1 * image.width, y1 * image.height, left + x2 * image.width, y2 * image.height)
            pen.rectangle(frame, outline=color, width=width)
        else:
            x, y = left + region.x * image.width, region.y * image.height
            for radius, shade in ((4 * width, _WHITE), (3 * width, color)):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=shade, width=width)
    if caption:
        pen.text((2, height + 1), caption, fill=(0, 0, 0))
    return sheet

"""What a thing looks like, in words: its color, where it is clear, and the part of the picture it lies in."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image

from grounding.targets import Box

CLEAR = 0.6  # share of the pixels from which a color is the thing's color
TRACE = 0.15  # share up to which nobody would call a thing by the color
MIDDLE = 0.6  # of each side: what lies around it is often background
COVERED = 0.2  # share of the middle that a smaller thing may cover
SAMPLES = 20  # the middle is looked at in so many steps along each side
MIN_PIXELS = 8  # of the middle's shorter side
HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (195, "cyan"), (255, "blue"), (310, "purple"),
        (345, "pink"), (361, "red"))  # fmt: skip
"""Up to which angle of the color circle a hue has which name."""

Shares = Mapping[str, float]
"""Name of a color -> share of the pixels."""


def ninth(column: float, row: float) -> str:
    """The ninth of a picture in which a point lies; its place is given in thirds of the sides, 0 to 3."""
    words = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))
    return words[min(2, int(row))][min(2, int(column))]


def color_name(rgb: Sequence[int]) -> str:
    """A plain word for a color (0..255 each): its hue, or black, grey, white where there is little of it.

    "" in between: one calls it grey, another blue.
    """
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    chroma = saturation * (1 - abs(2 * light - 1))
    if chroma < 0.12:
        return "black" if light < 0.2 else "white" if light > 0.93 else "grey"
    if chroma < 0.2:
        return ""
    return next(name for limit, name in HUES if 360 * hue < limit)


def name_of(rgb: Sequence[int]) -> str:
    """`color_name`, and brown for what is a dark orange."""
    name = color_name(rgb)
    _, light, _ = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    return "brown" if name == "orange" and light < 0.42 else name


def color_shares(picture: Image.Image, box: Box, others: Sequence[Box] = ()) -> Shares:
    """How much of the middle of `box` has which color; empty where it is too small or covered by something else.

    Args:
        picture: RGB.
        others: boxes of the same image; smaller ones may lie in front.
    """
    middle = _middle(box)
    if any(other.area < box.area and _overlap(other, middle) > COVERED * middle.area for other in others):
        return {}
    left, top, right, bottom = (
        round(value * side) for value, side in zip(middle.xyxy, picture.size * 2, strict=True)
    )
    if min(right - left, bottom - top) < MIN_PIXELS:
        return {}
    small = picture.crop((left, top, right, bottom)).resize((SAMPLES, SAMPLES), Image.Resampling.BOX)
    data = small.tobytes()
    counts = Counter(name_of(data[i : i + 3]) for i in range(0, len(data), 3))
    return {name: count / SAMPLES**2 for name, count in counts.items()}


def clear_color(shares: Shares) -> str | None:
    """The color that most of the pixels have; None where there is none, and for grey, which shade turns all into."""
    name = max(shares, key=lambda name: shares[name], default="")
    return name if name and name != "grey" and shares[name] >= CLEAR else None


def _middle(box: Box) -> Box:
    dx, dy = (1 - MIDDLE) / 2 * (box.x2 - box.x1), (1 - MIDDLE) / 2 * (box.y2 - box.y1)
    return Box(box.x1 + dx, box.y1 + dy, box.x2 - dx, box.y2 - dy)


def _overlap(a: Box, b: Box) -> float:
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(0.0, width) * max(0.0, height)

"""A picture of a reward: what a click, or a box of the target's size, would earn at every place of a screen."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from grounding.answer import Answer, Status
from grounding.errors import UsageError
from grounding.geometry import FloatArray
from grounding.sample import ImageRef, Sample
from grounding.targets import Box, Point
from rewards import Reward

WIDTH, HEIGHT = 640, 400
CELL = 16  # pixels a value is worked out for
TARGET = Box(0.52, 0.58, 0.78, 0.74)
LOW, MIDDLE, HIGH = np.array((38, 56, 140)), np.array((243, 231, 155)), np.array((196, 35, 46))


def example() -> tuple[Image.Image, Sample]:
    """A small dialogue window, and the sample that asks for its Save button."""
    screen = Image.new("RGB", (WIDTH, HEIGHT), (236, 238, 242))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((80, 50, 560, 340), fill="white", outline=(150, 155, 165), width=2)
    draw.rectangle((80, 50, 560, 84), fill=(70, 84, 110))
    draw.text((96, 60), "Unsaved changes", fill="white", font_size=15)
    draw.text((110, 120), "Do you want to keep what you wrote?", fill=(50, 50, 55), font_size=16)
    draw.rectangle((110, 160, 530, 196), outline=(170, 175, 185), width=1)
    for name, box in (("Discard", Box(0.20, 0.58, 0.46, 0.74)), ("Save", TARGET)):
        corners = (box.x1 * WIDTH, box.y1 * HEIGHT, box.x2 * WIDTH, box.y2 * HEIGHT)
        draw.rectangle(corners, fill=(225, 229, 236), outline=(120, 126, 138), width=2)
        center = (box.center.x * WIDTH, box.center.y * HEIGHT)
        draw.text(center, name, fill=(30, 30, 35), font_size=18, anchor="mm")
    image = ImageRef("example.png", WIDTH, HEIGHT)
    return screen, Sample("example", (image,), "the Save button", TARGET, "example", "CC0-1.0")


def has_heat_map(reward: Reward) -> bool:
    """Whether a reward depends on the place of one answer and on nothing else."""
    return "box" in reward.kinds and not (reward.group or reward.remote or reward.needs)


def values(reward: Reward) -> FloatArray:
    """The reward of an answer at the center of every cell, (HEIGHT / CELL, WIDTH / CELL).

    The answer is a click; for rewards that a click does not move, a box of the target's size, kept inside the image.
    """
    _, sample = example()
    xs = (np.arange(WIDTH // CELL) + 0.5) * CELL / WIDTH
    ys = (np.arange(HEIGHT // CELL) + 0.5) * CELL / HEIGHT

    def grid(answer_at: partial[Answer]) -> FloatArray:
        return np.array([[reward(answer_at(x=float(x), y=float(y)), sample) for x in xs] for y in ys])

    clicks = grid(partial(_click))
    return clicks if np.ptp(clicks) > 0 else grid(partial(_box))


def _click(x: float, y: float) -> Answer:
    return Answer(Status.OK, points=(Point(x, y),), strict=True)


def _box(x: float, y: float) -> Answer:
    width, height = TARGET.x2 - TARGET.x1, TARGET.y2 - TARGET.y1
    left, top = min(max(x - width / 2, 0.0), 1 - width), min(max(y - height / 2, 0.0), 1 - height)
    return Answer(Status.OK, boxes=(Box(left, top, left + width, top + height),), strict=True)


def draw_heat_map(reward: Reward) -> Image.Image:
    """The example screen under the reward's colors, blue for the lowest value of its range, red for the highest.

    Raises:
        UsageError: the reward is not about the place of one answer.
    """
    if not has_heat_map(reward):
        raise UsageError(f"reward {reward.name!r} does not depend on a place alone, so there is no heat map of it")
    screen, _ = example()
    low, high = reward.range
    share = (values(reward) - low) / (high - low)
    upper = np.clip(share * 2 - 1, 0, 1)[..., None]
    lower = np.clip(share * 2, 0, 1)[..., None]
    colors = np.where(upper > 0, MIDDLE + (HIGH - MIDDLE) * upper, LOW + (MIDDLE - LOW) * lower)
    heat = Image.fromarray(colors.round().astype(np.uint8)).resize(screen.size, Image.Resampling.BILINEAR)
    picture = Image.blend(screen, heat, 0.6)
    draw = ImageDraw.Draw(picture)
    corners = (TARGET.x1 * WIDTH, TARGET.y1 * HEIGHT, TARGET.x2 * WIDTH, TARGET.y2 * HEIGHT)
    draw.rectangle(corners, outline="black", width=3)
    draw.text((10, HEIGHT - 26), f"{reward.name}: {low:g} blue, {high:g} red", fill="white", font_size=16,
              stroke_width=2, stroke_fill="black")  # fmt: skip
    return picture

"""Coordinates in thoughts: the convention they are written in."""

from __future__ import annotations

import pytest

from grounding.targets import Box, Point
from grounding.wording import read_places, rewrite_places, write_place


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (Point(0.25, 1), "[0.250, 1.000]"),
        (Box(0, 0.1234, 0.5, 1), "[0.000, 0.123, 0.500, 1.000]"),
        (Point(0, 0, image=1), "image 2 [0.000, 0.000]"),
    ],
)
def test_writing_and_reading(region: Box | Point, text: str) -> None:
    assert write_place(region) == text
    assert [write_place(place) for place in read_places(f"it is at {text}.")] == [text]


@pytest.mark.parametrize(
    "text",
    ["[1]", "[0.5, 0.5]", "[0.100, 0.200, 0.300]", "[1.500, 0.100]", "(0.100, 0.200)", "[0.900, 0.1, 0.2, 0.3]"],
)
def test_other_brackets_are_left_alone(text: str) -> None:
    assert read_places(text) == ()
    assert rewrite_places(text, lambda region: "!") == text


def test_swapped_corners_are_no_place() -> None:
    text = "[0.900, 0.100, 0.200, 0.300]"
    assert read_places(text) == ()
    assert rewrite_places(text, lambda region: "!") == text


def test_rewriting_keeps_the_words_around() -> None:
    text = "from [0.100, 0.200] to image 2 [0.000, 0.000, 1.000, 1.000]"
    assert rewrite_places(text, lambda region: f"<{region.image}>") == "from <0> to image 2 <1>"

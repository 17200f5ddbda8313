"""Coordinates through crops of crops, and what a crop is cut from."""

from __future__ import annotations

import random

import pytest

from grounding.answer import Answer, ImageSize, OutOfBounds, Status
from grounding.crops import Crop
from grounding.dialects import get_dialect
from grounding.targets import Box, Point


def random_box(rng: random.Random, image: int = 0) -> Box:
    x1, x2 = sorted(rng.random() for _ in range(2))
    y1, y2 = sorted(rng.random() for _ in range(2))
    return Box(x1, y1, x2, y2, image)


def nested(rng: random.Random, width: int, height: int, depth: int) -> list[Crop]:
    """A crop of an image, a crop of that crop, ..."""
    crops = [Crop.whole(0, width, height)]
    for _ in range(depth):
        region = crops[-1].to_image(random_box(rng))
        crops.append(Crop.around(region, width, height, min_side=rng.choice((1, 8, 40)), square=rng.random() < 0.5))
    return crops


@pytest.mark.parametrize("name", ["fovea", "qwen3_vl", "qwen2_5_vl"])
def test_coordinates_survive_crops_of_crops_to_the_dialects_resolution(name):
    dialect, rng = get_dialect(name), random.Random(1)
    checked = 0
    for _ in range(400):
        width, height = rng.randint(30, 4000), rng.randint(30, 4000)
        crop = nested(rng, width, height, rng.randint(1, 4))[-1]
        shown = crop.to_image(random_box(rng))  # something the last crop shows
        inner = crop.to_crop(shown)
        assert inner is not None
        factor = rng.uniform(1, 4)
        size = ImageSize(*crop.size, max(1, int(crop.size[0] * factor)), max(1, int(crop.size[1] * factor)))
        told = dialect.parse(dialect.render(inner, (size,)), (size,), grammar="bare", answer_kind="box")
        if not told.ok:  # thinner than the family's numbers: swapped by nothing, merely without a line
            continue
        back = crop.to_image(told.boxes[0])
        x, y = dialect.tolerance(size)
        across, down = crop.size
        for found, meant, most in zip(
            back.xyxy, shown.xyxy, (x * across / width, y * down / height) * 2, strict=True
        ):
            assert abs(found - meant) <= most + 1e-12
        checked += 1
    assert checked > 390


def test_a_place_goes_into_a_crop_and_back():
    rng = random.Random(2)
    for _ in range(500):
        width, height = rng.randint(1, 3000), rng.randint(1, 3000)
        crop = nested(rng, width, height, 3)[-1]
        point = crop.to_image(Point(rng.random(), rng.random()))
        assert crop.to_crop(point) is not None
        again = crop.to_image(crop.to_crop(point))
        assert again.x == pytest.approx(point.x, abs=1e-12) and again.y == pytest.approx(point.y, abs=1e-12)


def test_the_corners_of_a_crop_are_its_own_zero_and_one():
    crop = Crop(1, (10, 20, 40, 80), 100, 200)
    assert crop.box == Box(0.1, 0.1, 0.4, 0.4, 1)
    assert crop.to_crop(crop.box) == Box(0.0, 0.0, 1.0, 1.0)
    assert crop.to_image(Box(0, 0, 1, 1)) == crop.box
    assert crop.to_crop(Box(0.0, 0.1, 0.4, 0.4, 1)) is None  # reaches out
    assert crop.to_crop(Point(0.2, 0.2, 0)) is None  # of another image


@pytest.mark.parametrize(
    ("box", "given", "pixels"),
    [
        (Box(0.25, 0.5, 0.75, 0.75), {}, (25, 100, 75, 150)),  # whole pixels stay
        (Box(0.251, 0.5, 0.749, 0.75), {}, (25, 100, 75, 150)),  # pixels it touches
        (Box(0.0, 0.0, 0.02, 0.01), {"min_side": 20}, (0, 0, 20, 20)),  # grown, and moved inside
        (Box(0.98, 0.99, 1.0, 1.0), {"min_side": 20}, (80, 180, 100, 200)),
        (Box(0.4, 0.45, 0.6, 0.55), {"min_side": 30}, (35, 85, 65, 115)),  # about its center
        (Box(0.2, 0.4, 0.8, 0.5), {"square": True}, (20, 60, 80, 120)),
        (Box(0.4, 0.4, 0.6, 0.6), {"pad": 0.5}, (30, 60, 70, 140)),
        (Box(0.1, 0.1, 0.2, 0.2), {"min_side": 500}, (0, 0, 100, 200)),  # larger than the image
    ],
)
def test_a_region_becomes_whole_pixels_of_the_image(box, given, pixels):
    assert Crop.around(box, 100, 200, **given).pixels == pixels


def test_every_crop_lies_in_its_image_and_holds_its_region():
    rng = random.Random(3)
    for _ in range(2000):
        width, height = rng.randint(1, 500), rng.randint(1, 500)
        box, least = random_box(rng), rng.randint(1, 600)
        crop = Crop.around(box, width, height, min_side=least, square=rng.random() < 0.5, pad=rng.choice((0, 0.2)))
        left, top, right, bottom = crop.pixels  # __post_init__ checked the rest
        assert left <= box.x1 * width + 1e-6 and right >= box.x2 * width - 1e-6
        assert top <= box.y1 * height + 1e-6 and bottom >= box.y2 * height - 1e-6
        assert right - left >= min(least, width) and bottom - top >= min(least, height)


def test_an_answer_is_mapped_whole():
    crop = Crop(1, (50, 0, 100, 50), 100, 100)
    outside = OutOfBounds((0.5, 0.5, 1.5, 1.0))
    answer = Answer(
        Status.AMBIGUOUS, (Box(0, 0, 1, 1, label="a"),), (Point(0.5, 1),), out_of_bounds=(outside,), thought="t"
    )
    mapped = crop.answer(answer)
    assert mapped.boxes == (Box(0.5, 0.0, 1.0, 0.5, 1, "a"),)
    assert mapped.points == (Point(0.75, 0.5, 1),)
    assert mapped.out_of_bounds == (OutOfBounds((0.75, 0.25, 1.25, 0.5), 1),)
    assert mapped.status is Status.AMBIGUOUS and mapped.thought == "t"


def test_a_thoughts_places_are_those_of_the_crop():
    crop = Crop(0, (50, 50, 100, 100), 100, 100)
    assert crop.thought("It is at [0.750, 0.500].") == "It is at [0.500, 0.000]."
    with pytest.raises(ValueError, match="does not show"):
        crop.thought("It is at [0.250, 0.500].")


def test_a_crop_outside_its_image_is_refused():
    with pytest.raises(ValueError, match="no part of an image"):
        Crop(0, (0, 0, 101, 10), 100, 100)

"""Places that an instruction names reach the model in its own numbers."""

import pytest

from grounding.answer import ImageSize
from grounding.dialects import DIALECTS, get_dialect
from grounding.errors import UsageError
from grounding.targets import Box, Point
from grounding.wording import read_places, write_place

SIZES = (ImageSize(200, 100, 400, 200), ImageSize(50, 50, 100, 100))  # the processor doubles every side
ASKED = "What is at [0.250, 0.500, 0.750, 0.900], next to [0.100, 0.200]?"
BY_HAND = {
    "qwen3_vl": "What is at [250, 500, 750, 900], next to [100, 200]?",  # thousandths
    "qwen2_5_vl": "What is at [100, 100, 300, 180], next to [40, 40]?",  # pixels of the resized image
    "internvl": "What is at [250, 500, 750, 900], next to [100, 200]?",
    "gemini": "What is at [500, 250, 900, 750], next to [200, 100]?",  # y first
    "aguvis": "What is at [0.2500, 0.5000, 0.7500, 0.9000], next to [0.1000, 0.2000]?",
    "molmo": "What is at [25.0, 50.0, 75.0, 90.0], next to [10.0, 20.0].",  # percent
    "fovea": "What is at [250, 500, 750, 900], next to [100, 200]?",
    "florence2": "What is at <loc_250><loc_500><loc_750><loc_900>, next to <loc_100><loc_200>?",
    "paligemma": "What is at <loc0512><loc0256><loc0922><loc0768>, next to <loc0205><loc0102>?",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_places_are_written_in_the_dialects_numbers(name):
    assert BY_HAND[name].rstrip("?.") in get_dialect(name).prompt(ASKED, "box", "bare", SIZES)


@pytest.mark.parametrize("name", list(DIALECTS))
def test_every_dialect_has_words_for_places(name):
    told = get_dialect(name).prompt(ASKED, "box", "bare", SIZES)
    assert "[0.250, 0.500" not in told
    assert get_dialect(name).prompt(ASKED, "box", "bare") != told  # without sizes nothing is translated
    assert ASKED.rstrip("?") in get_dialect(name).prompt(ASKED, "box", "bare")


def test_the_image_a_place_lies_in_decides_its_numbers():
    asked = f"Which of {write_place(Point(0.5, 0.5, 0))} and {write_place(Box(0, 0, 0.5, 1, 1))} is older?"
    told = get_dialect("qwen2_5_vl").prompt(asked, "text_box", "bare", SIZES)
    assert "Which of [200, 100] and image 2 [0, 0, 50, 100] is older?" in told
    with pytest.raises(UsageError, match="image 2 is named, but 1 image sizes"):
        get_dialect("qwen2_5_vl").prompt(asked, "text_box", "bare", SIZES[:1])


def test_numbers_that_are_no_places_stay():
    asked = "the price [1] of (0.5, 0.5), [0.5, 0.5] and [12, 40]"
    assert asked in get_dialect("qwen3_vl").prompt(asked, "box", "bare", SIZES)
    assert read_places(asked) == ()

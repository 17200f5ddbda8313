"""Image marks, places and quotes in the words of a question or a thought."""

from __future__ import annotations

import pytest

from data_prep.curate.negatives import does_it_fit
from grounding.answer import ImageSize
from grounding.dialects import DIALECTS, get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.sample import ImageRef, Sample, from_row, to_row
from grounding.targets import Box, Point, Span
from grounding.wording import (
    arrange,
    quoted,
    read_places,
    request,
    rewrite_places,
    split_head,
    words_alone,
    write_place,
)

PAIR = "Image-1: <image>\nImage-2: <image>\nFind the dog in Image-2."
INLINE = "Where in <image> is the thing shown in <image>?"
WHOLE = Box(0, 0, 1, 1)


def sample(instruction, images, target=WHOLE, **meta):
    refs = tuple(ImageRef(f"images/{n}.png", 20, 10) for n in range(images))
    return Sample("a", refs, instruction, target, "test", "unknown", meta=meta)


def test_marks_place_the_images():
    parts = ["Image-1: ", None, "\nImage-2: ", None, "\nFind the dog in Image-2."]
    assert arrange(PAIR, 2) == arrange(PAIR, 2, image_first=False) == parts
    assert arrange(INLINE, 2) == ["Where in ", None, " is the thing shown in ", None, "?"]


def test_a_text_without_marks_numbers_its_images():
    assert arrange("the dog", 1) == [None, "the dog"]
    assert arrange("the dog", 1, image_first=False) == ["the dog", None]
    assert arrange("the dog", 2) == ["Image 1: ", None, "\nImage 2: ", None, "\nthe dog"]
    assert arrange("the dog", 2, image_first=False) == ["the dog\nImage 1: ", None, "\nImage 2: ", None]
    assert arrange("the dog", 0) == ["the dog"]


def test_as_many_marks_as_images():
    with pytest.raises(UsageError, match="1 <image> marks for 2 images"):
        arrange("<image>the dog", 2)
    row = to_row(sample(PAIR, 2))
    assert from_row(row) == sample(PAIR, 2)
    with pytest.raises(BrokenRow, match=r"t\.jsonl:3: instruction has 2 <image> marks, the sample has 1 images"):
        from_row({**row, "images": row["images"][:1]}, "t.jsonl:3")
    with pytest.raises(ValueError, match="instruction is empty"):
        sample("Image-1: <image>\n<image> ", 2)


@pytest.mark.parametrize("name", [name for name in DIALECTS if get_dialect(name).thinks])
def test_the_question_is_about_the_words_not_about_the_marks(name):
    dialect = get_dialect(name)
    head = "Image-1: <image>\nImage-2: <image>\n"
    assert split_head(PAIR) == (head, "Find the dog in Image-2.")
    assert dialect.prompt(PAIR, "box", "bare") == head + dialect.prompt("Find the dog in Image-2.", "box", "bare")


def test_words_for_a_reader_without_images():
    assert words_alone(PAIR) == sample(PAIR, 2).words == "Find the dog in Image-2."
    assert words_alone(INLINE) == "Where in image 1 is the thing shown in image 2?"
    assert words_alone("the dog") == "the dog"


# Qwen3-VL: Qwen3VLProcessor of transformers (f"<{curr_time:.1f} seconds>"). InternVL: its model card, a line each,
# "Frame1: <image>", to which we add the time. Qwen2.5-VL: TimeLens, evaluation/utils.py: "The numbers before each
# video frame indicate its sampling timestamp (in seconds)"; how a number is spelled is ours.
TIMES = {
    "qwen3_vl": "<0.0 seconds><image><0.2 seconds><image><12.5 seconds><image>\n",
    "qwen2_5_vl": "0.0s<image>0.2s<image>12.5s<image>\n",
    "internvl": "Frame1 at 0.0s: <image>\nFrame2 at 0.2s: <image>\nFrame3 at 12.5s: <image>\n",
}


def test_frames_are_told_with_their_times():
    film = sample("a door opens", 3, Span(0, 1), frame_times="0 0.25 12.5")
    assert film.question == "<0.0 seconds><image><0.25 seconds><image><12.5 seconds><image>\na door opens"
    for name, times in TIMES.items():
        told = get_dialect(name).prompt(film.question, "box", "bare")
        assert told == times + get_dialect(name).prompt("a door opens", "box", "bare")
    assert film.words == film.instruction == "a door opens"
    with pytest.raises(ValueError, match="2 times for 3 images"):
        sample("a door opens", 3, frame_times="0 1")


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


LEFT, RIGHT = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("instruction", "told"),
    [
        ("left man", '"left man"'),
        ("Click Save.", '"Click Save"'),
        ("Where is it?", '"Where is it?"'),
        ('Click "Billing".', "'Click \"Billing\"'"),
        ('Click "Bob\'s".', f'{LEFT}Click "Bob\'s"{RIGHT}'),
    ],
)
def test_quotes_do_not_clash(instruction, told):
    assert quoted(instruction) == told
    assert told in get_dialect("qwen3_vl").prompt(instruction, "box", "bare")


@pytest.mark.parametrize(
    ("instruction", "asked", "pair"),
    [
        ("Locate the yellow circle.", "I look for the yellow circle.", "Does HERE show the yellow circle?"),
        ("Where is the blue field?", "I look for the blue field.", "Does HERE show the blue field?"),
        ("Click on the Save button", "I look for the Save button.", "Does HERE show the Save button?"),
        ("left man", 'The request is "left man".', 'Does HERE fit the request "left man"?'),
        ("Select all text", 'The request is "Select all text".', 'Does HERE fit the request "Select all text"?'),
        ("Click Save.", 'The request is "Click Save".', 'Does HERE fit the request "Click Save"?'),
        ("the chosen row...", 'The request is "the chosen row".', 'Does HERE fit the request "the chosen row"?'),
        ("What is it?", 'The question is "What is it?"', 'Does HERE answer the question "What is it?"'),
    ],
)
def test_sentences(instruction, asked, pair):
    assert (request(instruction), does_it_fit("HERE", instruction)) == (asked, pair)

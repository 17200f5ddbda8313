"""Images stand in a question where its text says so; otherwise they are numbered before or after it."""

import pytest

from grounding.dialects import DIALECTS, get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.sample import ImageRef, Sample, from_row, to_row
from grounding.targets import Box, Span
from grounding.wording import arrange, split_head, words_alone

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


def test_frames_are_told_with_their_times():
    film = sample("a door opens", 3, Span(0, 1), frame_times="0 0.25 12.5")
    assert film.question == "<0.0 seconds><image><0.25 seconds><image><12.5 seconds><image>\na door opens"
    told = get_dialect("qwen3_vl").prompt(film.question, "span", "bare")
    asked = get_dialect("qwen3_vl").prompt("a door opens", "span", "bare")
    assert arrange(told, 3) == [
        "<0.0 seconds>", None, "<0.25 seconds>", None, "<12.5 seconds>", None, f"\n{asked}"
    ]  # fmt: skip
    assert film.words == film.instruction == "a door opens"
    with pytest.raises(ValueError, match="2 times for 3 images"):
        sample("a door opens", 3, frame_times="0 1")

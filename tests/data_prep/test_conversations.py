"""Conversations become questions with their images in place, targets, and thoughts in canonical places."""

from __future__ import annotations

import json

import pytest

from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.targets import Box, Boxes
from tests.data_prep.helpers_data import convert, reasons, write_json, write_picture

BOX = '{"bbox_2d": [100, 200, 300, 400]}'
AREA = (0.1, 0.2, 0.3, 0.4)


def talk(root, *turns, images=1, dialect="qwen3_vl", flags=(), **row):
    """What `sharegpt` makes of one row whose turns alternate between user and assistant."""
    names = [f"{n}.png" for n in range(images)]
    for name in names:
        write_picture(root / name, 1000, 500)
    said = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, turns, strict=False)]
    write_json(root / "d.json", [{"images": names, "messages": said, **row}])
    return convert("sharegpt", root, "--dialect", dialect, *flags)


def test_a_bad_exchange_costs_no_other(tmp_path):
    items, rejects = talk(tmp_path, "<image>Describe", "A dog in a park.", "Where is the dog?", BOX)
    assert [(item.sample.id, item.sample.instruction) for item in items] == [("d.json:1-2", "Where is the dog?")]
    assert [(reject.where, reject.reason) for reject in rejects] == [("d.json:1-1", "answer is no_answer")]


def test_a_turn_without_text_costs_no_other(tmp_path):
    items, rejects = talk(tmp_path, "<image>the dog", None, "the cat", BOX, None, BOX, "the cow", BOX)
    assert [item.sample.instruction for item in items] == ["the cat", "the cow"]
    assert reasons(rejects) == ["wrong format", "wrong format"]


def test_answers_in_a_row_share_their_question_and_none_is_dropped_in_silence(tmp_path):
    write_picture(tmp_path / "a.png", 1000, 500)
    roles = [("assistant", "Hello!"), ("user", "<image>"), ("user", "the dog"), ("assistant", "Let me see."),
             ("assistant", BOX)]  # fmt: skip
    messages = [{"role": role, "content": text} for role, text in roles]
    write_json(tmp_path / "d.json", [{"images": ["a.png"], "messages": messages}])
    items, rejects = convert("sharegpt", tmp_path, "--dialect", "qwen3_vl")
    assert [item.sample.instruction for item in items] == ["the dog"]
    assert reasons(rejects) == ["no question", "answer is no_answer"]


def test_images_stay_where_the_text_has_them(tmp_path):
    asked = "Image-1: <image>\nImage-2: <image>\nFind: the dog in Image-2"
    (item,), _ = talk(tmp_path, asked, BOX, images=2, flags=("--strip", "^Find: "))
    assert item.sample.instruction == "Image-1: <image>\nImage-2: <image>\nthe dog in Image-2"
    assert item.sample.target == Box(*AREA, image=1)
    (item,), _ = talk(tmp_path, "Where in <image> is the thing of <image>?", f"In the first image: {BOX}", images=2)
    assert item.sample.instruction == "Where in <image> is the thing of <image>?"


@pytest.mark.parametrize("asked", ["<image>\n<image>\nthe dog of image 1", "the dog of image 1"])
def test_marks_that_say_nothing_are_left_to_the_recipe(tmp_path, asked):
    (item,), _ = talk(tmp_path, asked, BOX, images=2)
    assert item.sample.instruction == "the dog of image 1" and len(item.sample.images) == 2


def test_each_exchange_has_the_images_shown_up_to_it(tmp_path):
    turns = "<image>the dog", BOX, "<image>the cat of image 2", BOX, "the hat of image 1", BOX
    items, rejects = talk(tmp_path, *turns, images=2)
    assert [len(item.sample.images) for item in items] == [1, 2, 2] and not rejects
    assert items[1].sample.instruction == "the cat of image 2" and items[1].sample.target.image == 1


def test_marks_and_images_that_do_not_add_up_are_rejected(tmp_path):
    items, rejects = talk(tmp_path, "<image><image><image>the dog of image 1", BOX, images=2)
    assert not items and reasons(rejects) == ["image marks differ"]


def test_content_in_parts_keeps_its_images_in_place(tmp_path):
    parts = [{"type": "text", "text": "In "}, {"type": "image"}, {"type": "text", "text": " or "}, {"type": "image"},
             {"type": "text", "text": ", the dog of image 2"}]  # fmt: skip
    (item,), _ = talk(tmp_path, parts, BOX, images=2)
    assert item.sample.instruction == "In <image> or <image>, the dog of image 2"


def test_thoughts_are_kept_with_canonical_places(tmp_path):
    said = "<think>The dog [100, 200, 300, 400] is left of (500, 600).</think>\n<answer>" + BOX + "</answer>"
    (item,), _ = talk(tmp_path, "<image>the dog", said)
    assert item.sample.thought == "The dog [0.100, 0.200, 0.300, 0.400] is left of [0.500, 0.600]."
    assert get_dialect("qwen3_vl").render_thought(item.sample.thought, [ImageSize(1000, 500)]) == (
        "The dog [100, 200, 300, 400] is left of [500, 600]."
    )
    (item,), _ = talk(tmp_path, "<image>the dog", BOX)
    assert item.sample.thought is None


def test_chains_that_do_not_hold_are_rejected_where_that_is_asked(tmp_path):
    def thought(chain, *flags):
        said = f"<think>{chain}</think>{BOX}"
        items, rejects = talk(tmp_path, "<image>the dog", said, flags=flags)
        return (items[0].sample.thought if items else None), reasons(rejects)

    elsewhere = "I look for the dog. It is at [700, 700, 800, 800]."
    assert thought(elsewhere)[0] == "I look for the dog. It is at [0.700, 0.700, 0.800, 0.800]."
    assert thought(elsewhere, "--check-thoughts") == (None, ["does not meet the target"])
    assert thought("The car is far away here.", "--check-thoughts") == (None, ["does not name the target"])
    right = "The dog is at [100, 200, 300, 400]."
    assert thought(right, "--check-thoughts") == ("The dog is at [0.100, 0.200, 0.300, 0.400].", [])


def test_thoughts_of_mgrounding_name_their_images(tmp_path):
    names = ["0.jpg", "1.jpg"]
    for name in names:
        write_picture(tmp_path / name, 400, 300)
    box = "<|box_start|>(100,200),(300,400)<|box_end|>"
    answer = f"<think>In Image-1 it is at {box}; Image-2 shows it at {box}.</think>In Image-2: {box}"
    turns = [{"from": "human", "value": "<image><image>the dog"}, {"from": "gpt", "value": answer}]
    write_json(tmp_path / "MGrounding-630k.json", [{"images": names, "conversations": turns}])
    (item,), _ = convert("mgrounding", tmp_path)
    place = "[0.100, 0.200, 0.300, 0.400]"
    assert item.sample.thought == f"In Image-1 it is at {place}; Image-2 shows it at image 2 {place}."
    assert item.sample.target == Box(*AREA, image=1)


def test_an_answer_about_several_images_keeps_them_apart(tmp_path):
    boxes = Boxes((Box(*AREA, image=0), Box(*AREA, image=1)))
    (item,), _ = talk(tmp_path, "every dog", f"Image-1: {BOX}, Image-2: {BOX}", images=2)
    assert item.sample.target == boxes
    said = json.dumps([{"bbox_2d": [100, 200, 300, 400], "image": n} for n in (1, 2)])
    (item,), _ = talk(tmp_path, "every dog", said, images=2)
    assert item.sample.target == boxes
    for unclear in (f"Image-1 and Image-2: {BOX}", f"Image-3: {BOX}"):
        _, rejects = talk(tmp_path, "the dog of image 1", unclear, images=2)
        assert reasons(rejects) == ["image not named"]


def test_one_place_outside_is_not_left_out_of_the_target(tmp_path):
    said = '[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [100, 200, 1300, 400]}]'
    items, rejects = talk(tmp_path, "<image>every dog", said)
    assert not items and reasons(rejects) == ["answer is out_of_range"]


def test_resized_pixels_need_the_size_that_was_seen(tmp_path):
    ask = ("<image>the dog", '{"point_2d": [60, 110]}')
    with pytest.raises(UsageError, match=r'd\.json:1: dialect qwen2_5_vl .* pixels.*"seen": .*--seen original'):
        talk(tmp_path, *ask, dialect="qwen2_5_vl")
    (item,), _ = talk(tmp_path, *ask, dialect="qwen2_5_vl", seen=[[500, 250]])
    assert (item.sample.target.x, item.sample.target.y) == (0.12, 0.44)
    (item,), _ = talk(tmp_path, *ask, dialect="qwen2_5_vl", flags=("--seen", "original"))
    assert (item.sample.target.x, item.sample.target.y) == (0.06, 0.22)
    for wrong in ([500, 250], [[500, 0]], [["a", "b"]], [[500, 250], [500, 250]]):
        _, rejects = talk(tmp_path, *ask, dialect="qwen2_5_vl", seen=wrong)
        assert reasons(rejects) == ["wrong format"]


def test_source_and_license_are_the_users(tmp_path):
    flags = ("--source", "my_dogs", "--license", "CC0-1.0")
    (item,), _ = talk(tmp_path, "<image>the dog", BOX, flags=flags)
    assert (item.sample.source, item.sample.license) == ("my_dogs", "CC0-1.0")
    (item,), _ = talk(tmp_path, "<image>the dog", BOX)
    assert (item.sample.source, item.sample.license) == ("sharegpt", "unknown")


def test_boxes_in_a_question_become_canonical(tmp_path):
    names = ["0.jpg", "1.jpg"]
    for name in names:
        write_picture(tmp_path / name, 400, 300)
    box = "<|box_start|>(100,200),(300,400)<|box_end|>"
    asked = f"<image><image>In Image-2, what is like {box} of the second image, not like {box} of image 1 (see 3, 4)?"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"In Image-2: {box}"}]
    write_json(tmp_path / "MGrounding-630k.json", [{"images": names, "conversations": turns}])
    (item,), _ = convert("mgrounding", tmp_path)
    place = "[0.100, 0.200, 0.300, 0.400]"
    assert item.sample.instruction == (
        f"In Image-2, what is like image 2 {place} of the second image, not like {place} of image 1 (see 3, 4)?"
    )
    seen = [ImageSize(400, 300, 800, 600), ImageSize(400, 300)]
    told = get_dialect("qwen2_5_vl").prompt(item.sample.question, "box", "bare", seen)
    assert "image 2 [40, 60, 120, 120]" in told and "not like [80, 120, 240, 240]" in told

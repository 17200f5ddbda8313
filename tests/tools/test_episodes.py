"""Episodes, their budgets, and what a model may write without harm."""

from __future__ import annotations

import json
import random
import sys
from functools import cache

import pytest
from PIL import Image

from grounding.answer import ImageSize, Status
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.targets import Box
from tools import TOOLS, CallRefused, Tool
from tools.episode import ToolEpisode
from tools.protocols import PROTOCOLS
from tools.section import ToolsConfig

THOUGHT = "<think>There.</think>\n"


class PlainViewer:
    """A processor that shows pictures as they are, at most 100 x 100 pixels, a token for every 10 x 10."""

    max_pixels = 100 * 100

    def size(self, width, height):
        if max(width, height) > 20 * min(width, height):
            raise ValueError("too long")
        factor = min(1.0, (self.max_pixels / (width * height)) ** 0.5)
        return ImageSize(width, height, max(1, int(width * factor)), max(1, int(height * factor)))

    def tokens(self, width, height):
        seen = self.size(width, height)
        return max(1, seen.input_width // 10) * max(1, seen.input_height // 10)


@cache
def picture(width=400, height=400):
    """Every pixel says where it is: red is x, green is y, in 400ths of 255."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // width, y * 255 // height, 0) for y in range(height) for x in range(width)])
    return image


def episode(protocol="text", images=None, grammar="think", dialect="qwen3_vl", answer_kind="box", **settings):
    config = ToolsConfig.from_given({"use": ["zoom"], **settings})
    return ToolEpisode(
        config,
        tools=config.build(),
        protocol=PROTOCOLS[protocol],
        dialect=get_dialect(dialect),
        grammar=grammar,
        images=images or [picture()],
        viewer=PlainViewer(),
        question="Where?",
        answer_kind=answer_kind,
    )


def zoom(*numbers):
    return f'{THOUGHT}zoom({{"bbox_2d": {list(numbers)}}})'


def answer(*numbers):
    return f'{THOUGHT}{{"bbox_2d": {list(numbers)}}}'


def test_a_zoom_shows_the_original_pixels_enlarged():
    one = episode()
    reply = one.take(zoom(500, 250, 625, 375))
    assert reply.pictures[0].size == (100, 100)  # 50 x 50 pixels, at the limit of the model
    assert one.crop.pixels == (200, 100, 250, 150)
    red, green, _ = reply.pictures[0].getpixel((50, 50))
    assert abs(red - 225 * 255 // 400) <= 2 and abs(green - 125 * 255 // 400) <= 2
    assert one.tokens_left == 4096 - 100
    assert one.calls[0].region == Box(0.5, 0.25, 0.625, 0.375) and one.calls[0].showed_image
    assert one.turns[0].strict and not one.done


@pytest.mark.parametrize(("coordinates", "said"), [("crop", (500, 500, 1000, 1000)), ("image", (562, 312, 625, 375))])
def test_the_answer_is_of_the_whole_image_whatever_it_was_said_in(coordinates, said):
    one = episode(coordinates=coordinates)
    one.take(zoom(500, 250, 625, 375))
    assert one.take(answer(*said)) is None
    assert one.done and one.answer.strict
    assert one.answer.box.xyxy == pytest.approx((0.5625, 0.3125, 0.625, 0.375), abs=0.001)


def test_crops_of_crops_are_cut_from_the_original():
    one = episode(turns=4)
    one.take(zoom(0, 0, 500, 500))
    reply = one.take(zoom(500, 500, 750, 750))
    assert one.crop.pixels == (100, 100, 150, 150)
    assert reply.pictures[0].size == (100, 100)
    one.take(answer(0, 0, 1000, 1000))
    assert one.answer.box == Box(0.25, 0.25, 0.375, 0.375)


def test_numbers_that_are_pixels_are_those_of_the_picture_shown():
    one = episode(dialect="qwen2_5_vl")  # the model sees 100 x 100 of the 400 x 400
    one.take(zoom(50, 25, 75, 50))
    assert one.crop.pixels == (200, 100, 300, 200)
    one.take(answer(0, 0, 50, 100))  # of the 100 x 100 crop
    assert one.answer.box == Box(0.5, 0.25, 0.625, 0.5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (zoom(100, 100, 100, 300), "no area"),
        (zoom(100, 100, 1200, 300), "outside"),
        (zoom(300, 100, 100, 300), "outside"),
        (f"{THOUGHT}zoom(here)", "No region"),
        (f"{THOUGHT}zoom(", "cannot be read"),
        (f'{THOUGHT}zoom({{"bbox_2d": [1, 2, 3, 4]}}, {{"bbox_2d": [10, 20, 300, 400]}})', "More than one"),
    ],
)
def test_a_bad_call_is_answered_in_words(text, why):
    one = episode()
    reply = one.take(text)
    assert why in reply.words and not reply.pictures
    assert one.tokens_left == 4096 and not one.calls and one.turns[0].error
    one.take(answer(0, 0, 500, 500))  # still of the whole image
    assert one.answer.box == Box(0, 0, 0.5, 0.5)


def test_no_picture_is_shown_beyond_the_budget():
    one = episode(image_tokens=150, turns=9)
    assert one.take(zoom(0, 0, 500, 500)).pictures
    reply = one.take(zoom(0, 0, 500, 500))
    assert not reply.pictures and "Give the answer" in reply.words
    assert one.tokens_left == 50
    assert one.crop.pixels == (0, 0, 200, 200)  # coordinates stay those of the picture shown last


def test_the_last_turn_is_for_the_answer():
    one = episode(turns=2)
    one.take(zoom(0, 0, 500, 500))
    assert one.take(zoom(0, 0, 500, 500)) is None
    assert one.done and one.answer.status is Status.NO_ANSWER
    with pytest.raises(RuntimeError, match="over"):
        one.take("more")


def test_a_turn_that_was_cut_off_calls_nothing():
    one = episode()
    assert one.take(zoom(0, 0, 500, 500), ended=False) is None
    assert one.done and not one.calls


def test_a_call_inside_a_thought_is_no_call():
    one = episode()
    assert one.take('<think>zoom({"bbox_2d": [0, 0, 500, 500]})</think>\n{"bbox_2d": [1, 2, 3, 4]}') is None
    assert one.answer.ok and not one.calls


def test_a_point_is_a_region_where_zoom_grows_it():
    one = episode(use=[{"name": "zoom", "min_side": 40}])
    one.take(f'{THOUGHT}zoom({{"point_2d": [500, 500]}})')
    assert one.crop.pixels == (180, 180, 220, 220)
    one = episode(use=[{"name": "zoom", "min_side": 1}])
    assert "No region" in one.take(f'{THOUGHT}zoom({{"point_2d": [500, 500]}})').words


def test_a_region_too_narrow_for_the_processor_is_told():
    one = episode(use=[{"name": "zoom", "min_side": 1}])
    assert "too narrow" in one.take(zoom(0, 0, 1000, 1)).words
    assert one.crop.pixels == (0, 0, 400, 400)


def test_mark_draws_what_it_names_and_keeps_the_coordinates():
    one = episode(use=[{"name": "mark", "color": "#0000ff"}], turns=4)
    text = zoom(250, 250, 500, 500).replace("zoom", "mark")
    shown = one.take(text).pictures[0]
    assert shown.size == (400, 400)  # the processor shrinks it, as it did the first time
    assert shown.getpixel((100, 150)) == (0, 0, 255) and shown.getpixel((150, 150))[2] == 0
    one.take(zoom(750, 750, 1000, 1000).replace("zoom", "mark"))
    one.take(answer(250, 250, 500, 500))
    assert one.answer.box == Box(0.25, 0.25, 0.5, 0.5)


def test_a_reply_may_repeat_the_question():
    assert episode(reply="Again: {question}").take(zoom(0, 0, 500, 500)).words == "Again: Where?"


class TestTemplateCalls:
    def test_json_calls_as_qwen3_vl_writes_them(self):
        one = episode("template", grammar="bare")
        call = '<tool_call>\n{"name": "zoom", "arguments": {"bbox_2d": [500, 250, 625, 375]}}\n</tool_call>'
        assert one.take(call).pictures and one.crop.pixels == (200, 100, 250, 150)
        assert one.turns[0].strict

    def test_calls_in_tags_as_qwen3_5_writes_them(self):
        one = episode("template", grammar="bare")
        inner = "<function=zoom>\n<parameter=bbox_2d>\n[500, 250, 625, 375]\n</parameter>\n</function>"
        call = f"<tool_call>\n{inner}\n</tool_call>"
        assert one.take(call).pictures and one.crop.pixels == (200, 100, 250, 150)

    def test_only_the_first_of_several_calls_is_carried_out(self):
        one = episode("template", grammar="bare")
        call = '<tool_call>{"name": "zoom", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'
        assert "Only the first of 2" in one.take(call * 2).words
        assert len(one.calls) == 1 and not one.turns[0].strict

    def test_an_unknown_tool_is_told_which_there_are(self):
        one = episode("template", grammar="bare")
        assert "there is zoom" in one.take('<tool_call>{"name": "look", "arguments": {}}</tool_call>').words


PIECES = (
    "zoom(", "mark(", ")", "{", "}", "[", "]", '{"bbox_2d": [', "]}", "1e999", "-5", "NaN", "999999999999", "0",
    "1000", "500", ", ", "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "zoom", "arguments": ',
    '"/etc/passwd"', "../../x.png", "images/0.png", '"path": ', "<function=zoom>", "<parameter=bbox_2d>",
    "</parameter>", "\n", "image 2", '"image": 7', "\x00", "é", "[[[[[[", '"point_2d": [5, 5]', "open('x')",
    '"bbox_2d": null', "{}", "\\", '"',
)  # fmt: skip


@pytest.mark.parametrize("protocol", ["text", "template"])
def test_ten_thousand_fuzzed_calls_break_nothing(protocol):
    """No exception, no budget exceeded, no file opened."""
    rng, opened, watching = random.Random(protocol), [], [False]

    def audit(event, args):
        if watching[0] and event in ("open", "os.listdir", "subprocess.Popen", "socket.connect"):
            opened.append((event, args))

    sys.addaudithook(audit)
    images, shown, calls = [picture(60, 40), picture(3, 50)], 0, 0
    while calls < 5000:
        turns, tokens = rng.randint(1, 4), rng.randint(0, 300)
        settings = {"turns": turns, "image_tokens": tokens, "coordinates": rng.choice(("crop", "image"))}
        settings["use"] = [{"name": "zoom", "min_side": rng.choice((1, 8, 64))}, "mark"]
        one = episode(
            protocol, images, rng.choice(("think", "bare")), rng.choice(("qwen3_vl", "qwen2_5_vl")), **settings
        )
        watching[0] = True
        while not one.done:
            one.take(_fuzzed(rng, protocol))
            calls += 1
        watching[0] = False
        assert len(one.turns) <= turns and 0 <= one.tokens_left <= tokens
        pictures = sum(turn.crop is not None for turn in one.turns)
        assert one.tokens_left <= tokens - pictures  # every picture was paid for
        shown += pictures
        for call in one.calls:
            assert call.region is None or 0 <= call.region.image < 2
    assert shown > 200 and not opened


def _fuzzed(rng, protocol):
    if rng.random() < 0.8:  # nearly right
        numbers = [
            rng.choice((rng.randint(-50, 1100), rng.random() * 1000)) for _ in range(rng.choice((2, 3, 4, 4, 4, 4)))
        ]
        if rng.random() < 0.7:
            numbers = sorted(numbers[: len(numbers) // 2]) + sorted(numbers[len(numbers) // 2 :])
            numbers = [numbers[i] for i in (0, 2, 1, 3)] if len(numbers) == 4 else numbers
        place = json.dumps({"bbox_2d": numbers, **({"image": rng.randint(0, 4)} if rng.random() < 0.3 else {})})
        name = rng.choice(("zoom", "mark", "zoom", "rm"))
        call = f"{name}({place})"
        if protocol == "template":
            call = f'<tool_call>{{"name": "{name}", "arguments": {place}}}</tool_call>'
        return rng.choice(("", THOUGHT)) + call
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 25)))


class TestSection:
    def test_short_forms_mean_the_same(self):
        assert ToolsConfig.from_given("zoom,mark") == ToolsConfig.from_given(["zoom", "mark"])
        assert ToolsConfig.from_given("zoom") == ToolsConfig.from_given({"use": "zoom"})

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"use": ["zoom"], "turn": 2}, "did you mean 'turns'"),
            ({"use": []}, "a tool's name"),
            ({"use": ["zom"]}, "did you mean 'zoom'"),
            ({"use": [{"name": "zoom", "min_sid": 3}]}, "did you mean 'min_side'"),
            ({"use": ["zoom", "zoom"]}, "two tools"),
            ({"use": ["zoom"], "turns": 0}, "at least 1"),
            ({"use": ["zoom"], "coordinates": "screen"}, "known: crop, image"),
            ({"use": ["os.system"]}, "standard library"),
            ({"use": ["grounding.targets.Box"]}, "no subclass"),
            (3, "a mapping is needed"),
        ],
    )
    def test_what_is_wrong_is_named(self, given, message):
        with pytest.raises(UsageError, match=message):
            ToolsConfig.from_given(given)

    def test_a_tool_may_come_from_anywhere(self):
        tools = ToolsConfig.from_given({"use": [{"name": f"{__name__}:Refuses", "why": "No."}]}).build()
        assert list(tools) == ["refuses"]
        assert "zoom" in TOOLS and "refuses" not in TOOLS


class Refuses(Tool):
    """A tool of a user's own."""

    takes_region = False

    def __init__(self, why):
        self.why = why

    def run(self, call, view):
        raise CallRefused(self.why)

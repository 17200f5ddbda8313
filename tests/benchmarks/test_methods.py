"""Inference-time methods on a backend whose eyesight is known."""

from __future__ import annotations

import pytest
from PIL import Image

from benchmarks.harness.backends.generate import Decoding, Output, Request
from benchmarks.harness.test_time.attention_guided import ATTENTIVE
from benchmarks.harness.test_time.methods import METHODS, wrap
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import UsageError

TARGET = (420, 180)  # the middle of a red dot in a white image of 600x400
WORDS = get_dialect("qwen3_vl")


def question():
    image = Image.new("RGB", (600, 400), "white")
    image.paste((255, 0, 0), (TARGET[0] - 4, TARGET[1] - 4, TARGET[0] + 5, TARGET[1] + 5))
    return Request("point at the dot", (image,))


class Coarse:
    """Sees the dot, but answers on a grid of ten by ten cells of whatever image it is shown: crops help it."""

    name = "coarse"

    def __init__(self, fooled=0):
        self.fooled = fooled  # so many of its samples are elsewhere
        self.seen = []

    def generate(self, requests, decoding, seed):
        self.seen += [r.images[0].size for r in requests]
        return [[self._answer(r.images[0], k) for k in range(decoding.rollouts)] for r in requests]

    def _answer(self, image, sample):
        red = [
            (x, y) for x in range(image.width) for y in range(image.height) if image.getpixel((x, y)) == (255, 0, 0)
        ]
        if not red:
            return Output("I cannot find it", (), {"passes": 1, "tokens": 2})
        x, y = (sum(axis) / len(red) for axis in zip(*red, strict=True))
        cell = lambda v, side: int((int(10 * v / side) + 0.5) * 100)  # noqa: E731
        place = (
            [100 * sample, 100 * sample] if sample < self.fooled else [cell(x, image.width), cell(y, image.height)]
        )
        return Output(f'{{"point_2d": {place}}}', (), {"passes": 1, "tokens": 9})


def distance(output):
    """How far, in pixels, an output's click is from the dot."""
    point = WORDS.parse(output.text, [ImageSize(600, 400)], grammar="bare", answer_kind="point").click
    return max(abs(point.x * 600 - TARGET[0]), abs(point.y * 400 - TARGET[1]))


def run(method, backend):
    ((output,),) = wrap(backend, method, "qwen3_vl", "bare", "point").generate([question()], Decoding(), 0)
    return output


def test_narrowing_gets_closer_with_every_crop_and_counts_its_passes():
    plain = Coarse().generate([question()], Decoding(), 0)[0][0]
    backend = Coarse()
    output = run("narrowing", backend)
    assert backend.seen == [(600, 400), (300, 200), (150, 100)]
    assert distance(output) < 8 < distance(plain)
    assert output.cost == {"passes": 3, "tokens": 27}


@pytest.mark.parametrize("method", ["self_consistency", "voting"])
def test_a_majority_outvotes_stray_samples(method):
    fooled = Coarse(fooled=3)
    output = run(method, fooled)
    assert distance(output) <= 33  # a cell is 60x40: half a cell, and the voting grid's own steps
    assert output.cost["passes"] == 8


def test_crop_search_prefers_what_several_views_support():
    output = run("crop_search", Coarse())
    assert distance(output) <= 33
    assert output.cost["passes"] == 6


def test_fast_slow_thinks_longer_only_where_two_answers_disagree():
    assert run("fast_slow", Coarse()).cost["passes"] == 2
    unsure = run("fast_slow", Coarse(fooled=1))
    assert unsure.cost["passes"] == 10
    assert distance(unsure) <= 33


def test_methods_can_be_chained():
    output = run("voting+narrowing", Coarse())
    assert output.cost["passes"] == 24
    assert distance(output) <= 20


def test_samples_of_a_method_are_sampled_and_its_own_answer_is_greedy():
    class Asked(Coarse):
        def generate(self, requests, decoding, seed):
            self.seen.append((decoding.samples, seed))
            return [[self._answer(r.images[0], 0)] for r in requests]

    greedy, sampled = Asked(), Asked()
    wrap(greedy, "narrowing", "qwen3_vl", "bare", "point").generate([question()], Decoding(), 5)
    assert {samples for samples, _ in greedy.seen} == {0}
    wrap(sampled, "narrowing", "qwen3_vl", "bare", "point").generate([question()], Decoding(samples=2), 5)
    assert [samples for samples, _ in sampled.seen] == [1] * 6
    assert len({seed for _, seed in sampled.seen}) == 6


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ATTENTIVE])
def test_a_model_that_finds_nothing_is_left_to_say_so(method):
    class Blind(Coarse):
        def _answer(self, image, sample):
            return Output("I cannot find it", (), {"passes": 1})

    assert run(method, Blind()).text == "I cannot find it"


def test_unknown_methods_and_kinds_are_refused():
    with pytest.raises(UsageError, match="did you mean 'voting'"):
        wrap(Coarse(), "votin", "qwen3_vl", "bare", "point")
    with pytest.raises(UsageError, match="asks for span"):
        wrap(Coarse(), "voting", "qwen3_vl", "bare", "span")

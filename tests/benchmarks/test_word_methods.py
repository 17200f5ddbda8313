"""Inference-time methods on answers in words: a reader that sees small print only in a part of the image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from attention.maps import PromptAttention
from benchmarks.harness.backends.generate import Decoding, Output, Request
from benchmarks.harness.test_time.methods import METHODS, check, wrap
from benchmarks.harness.test_time.words import WORDS
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.targets import Box

DOT = (310, 210)  # the middle of a dot in an image of 600 x 400
WHOLE = [ImageSize(600, 400)]
WORDS_OF = get_dialect("qwen3_vl")


def question():
    image = Image.new("RGB", (600, 400), "white")
    image.paste((255, 0, 0), (DOT[0] - 4, DOT[1] - 4, DOT[0] + 5, DOT[1] + 5))
    return Request(WORDS_OF.prompt("What color is the dot?", "text_box", "bare", WHOLE), (image,))


class Reader:
    """Says "red" where an image of at most 360 pixels shows the dot, else "blue"; its evidence is where it saw it."""

    name = "reader"

    def __init__(self, stray=0, silent=False):
        self.stray, self.silent = stray, silent  # so many of its samples say something else; it sees nothing in parts
        self.seen = []

    def generate(self, requests, decoding, seed):
        self.seen += requests
        return [[self._answer(r, k) for k in range(decoding.rollouts)] for r in requests]

    def _answer(self, request, sample):
        cost = {"passes": 1, "tokens": 9}
        sizes = tuple(image.size for image in request.images)
        if sample < self.stray:
            return Output('{"answer": "green", "evidence": []}', sizes, cost)
        found = []
        for number, image in enumerate(request.images):
            rows, columns = np.nonzero(np.asarray(image)[..., 1] < 128)
            if len(rows):
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                found.append(
                    (image.width <= 360, number, [v / s * 1000 for v, s in zip(box, image.size * 2, strict=True)])
                )
        if self.silent and len(request.images) > 1:
            return Output("I do not know", sizes, cost)
        sharp, number, box = max(found)
        label = f', "image": {number + 1}' if number else ""
        said = f'[{{"bbox_2d": {[round(v) for v in box]}{label}}}]'
        return Output(f'{{"answer": "{"red" if sharp else "blue"}", "evidence": {said}}}', sizes, cost)

    def prompt_attention(self, requests, opening):
        """On the cell of the dot, of 8 x 12; on all alike for a general question."""
        assert opening == '{"answer": "'
        maps = []
        for request in requests:
            heat = np.full((8, 12), 0.01)
            heat[4, 6] = 0.01 if "general" in request.text else 1.0
            flat = heat.reshape(1, -1)
            maps.append(
                PromptAttention(heads=flat, sinks=np.zeros(96, dtype=bool), grids=((8, 12),), seen=((600, 400),),
                                cost={"tokens": 0, "passes": 1})
            )  # fmt: skip
        return maps

    def redistribution(self):
        from contextlib import nullcontext

        return nullcontext()


def run(method, backend):
    ((output,),) = wrap(backend, method, "qwen3_vl", "bare", "text_box").generate([question()], Decoding(), 0)
    return output, WORDS_OF.parse(output.text, WHOLE, grammar="bare", answer_kind="text_box")


def on_the_dot(answer):
    (box,) = answer.boxes
    true = Box((DOT[0] - 4) / 600, (DOT[1] - 4) / 400, (DOT[0] + 5) / 600, (DOT[1] + 5) / 400)
    return box.image == 0 and max(abs(a - b) for a, b in zip(box.xyxy, true.xyxy, strict=True)) < 0.002


@pytest.mark.parametrize(("method", "passes"), [("narrowing", 2), ("crop_search", 6), ("vicrop", 3), ("carve", 3)])
def test_a_part_beside_the_whole_image_is_read_and_its_evidence_mapped_back(method, passes):
    assert run("var", Reader())[1].text == "blue"
    backend = Reader()
    output, answer = run(method, backend)
    assert answer.text == "red" and on_the_dot(answer)
    assert output.cost["passes"] == passes and output.seen == ((600, 400),)
    both = [request for request in backend.seen if len(request.images) == 2]
    assert both and all(request.images[0].size == (600, 400) for request in both)
    assert all(request.text.startswith("Picture 1: <image>Picture 2: <image>What color") for request in both)


def test_most_samples_win():
    for method in ("self_consistency", "voting"):
        output, answer = run(method, Reader(stray=3))
        assert answer.text == "blue" and output.cost["passes"] == 8
    assert run("voting", Reader(stray=5))[1].text == "green"
    assert run("fast_slow", Reader())[0].cost["passes"] == 2
    assert run("fast_slow", Reader(stray=1))[0].cost["passes"] == 10


def test_methods_for_words_can_be_chained():
    output, answer = run("voting+narrowing", Reader())
    assert answer.text == "red" and output.cost["passes"] == 16


@pytest.mark.parametrize(("method", "passes"), [("narrowing", 2), ("vicrop", 4), ("crop_search", 6)])
def test_where_the_part_says_nothing_the_whole_image_counts(method, passes):
    output, answer = run(method, Reader(silent=True))
    assert answer.text == "blue" and output.cost["passes"] == passes


def test_every_method_answers_words_but_the_one_that_reads_a_place():
    assert set(METHODS) - set(WORDS) == {"attend"}
    with pytest.raises(UsageError, match="reads a place off attention"):
        wrap(Reader(), "attend", "qwen3_vl", "bare", "text_box")
    item = type("Item", (), {"answer_kind": "text_box", "id": "a"})()
    check("crop_search+narrowing", [item])
    with pytest.raises(UsageError, match="item 'a' asks for words"):
        check("narrowing+attend", [item])


def test_images_placed_in_the_text_keep_their_place():
    request = question()
    placed = Request("Look at <image> and say its color.", request.images)
    backend = Reader()
    wrap(backend, "narrowing", "qwen3_vl", "bare", "text_box").generate([placed], Decoding(), 0)
    assert backend.seen[1].text == (
        "Look at <image><image> and say its color. The second image is a part of the first, enlarged."
    )

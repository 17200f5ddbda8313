"""What the text says about each token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attention.response import TextReader, coordinate_ranges, overlaps
from attention.visual import region_coverage
from credit.tokens import annotate_response, rightness, sentence_ranges
from grounding.answer import Answer, ImageSize, Status
from grounding.decoding import Decoder
from grounding.dialects import get_dialect
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Boxes, Point, Polygon, Target

SIZES = (ImageSize(100, 100),)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that an accented letter spans two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def sample(target: Target, images: int = 1) -> Sample:
    refs = tuple(ImageRef(f"{i}.png", 100, 100) for i in range(images))
    return Sample("a", refs, "click", target, "test", "CC0-1.0")


def reader(tokenizer: PreTrainedTokenizerFast) -> TextReader:
    dialect = get_dialect("qwen3_vl")

    def parse(grammar: str):
        return lambda text, sizes: dialect.parse(text, sizes, grammar=grammar)

    return TextReader(Decoder(tokenizer), parse("think"), parse("bare"))


def test_spans_of_plain_text_and_special_tokens() -> None:
    tokenizer = bytes_tokenizer()
    ids = [*tokenizer("abc")["input_ids"], tokenizer.eos_token_id]
    assert Decoder(tokenizer).spans(ids) == ("abc", [(0, 1), (1, 2), (2, 3), (3, 3)])


def test_characters_of_several_tokens_end_with_the_last() -> None:
    tokenizer = bytes_tokenizer()
    text, spans = Decoder(tokenizer).spans(tokenizer("aéb")["input_ids"])
    assert text == "aéb"
    assert spans == [(0, 1), (1, 1), (1, 2), (2, 3)]
    assert Decoder(tokenizer).spans([]) == ("", [])


def test_overlaps() -> None:
    assert overlaps([(0, 2), (2, 2), (2, 5), (5, 6)], 1, 3) == [0, 2]


def test_coordinates_are_the_numbers_and_not_the_name() -> None:
    text = '<think>1</think>\n{"bbox_2d": [12, 3.5, 20, 40]}'
    start = text.index("{")
    answer = Answer(Status.OK, char_span=(start, len(text)))
    assert [text[a:b] for a, b in coordinate_ranges(text, answer)] == ["12", "3.5", "20", "40"]
    assert coordinate_ranges("<loc0001>", Answer(Status.OK, char_span=(0, 9))) == [(0, 9)]
    assert coordinate_ranges("no idea", Answer(Status.NO_ANSWER)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three", ["One. ", "Two! ", "Three"]),
        ("At [0.5, 0.25] it is.\nSo", ["At [0.5, 0.25] it is.\n", "So"]),
        ("<think>A.</think>\nB", ["<think>A.", "</think>\n", "B"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: Sequence[str]) -> None:
    ranges = sentence_ranges(text)
    assert [text[a:b] for a, b in ranges] == expected
    assert "".join(text[a:b] for a, b in ranges) == text


def test_rightness_by_hand() -> None:
    box = Box(0.0, 0.0, 0.5, 0.5)
    half = Answer(Status.OK, boxes=(Box(0.0, 0.0, 0.5, 0.25),))
    assert rightness(half, sample(box)) == pytest.approx(0.5)
    assert rightness(half, sample(Point(0.1, 0.1))) == 1.0
    assert rightness(Answer(Status.OK, points=(Point(0.6, 0.1),)), sample(box)) == 0.0
    assert rightness(Answer(Status.OK, points=(Point(0.1, 0.1),)), sample(Boxes((box, Box(0.9, 0.9, 1, 1))))) == 1.0
    assert rightness(half, sample(Absent())) is None
    assert rightness(Answer(Status.NO_ANSWER), sample(box)) is None
    elsewhere = Answer(Status.OK, boxes=(Box(0.0, 0.0, 0.5, 0.5, image=1),))
    assert rightness(elsewhere, sample(box, images=2)) == 0.0


def test_a_response_token_by_token() -> None:
    """The first sentence names the right box (IoU 1), the second a wrong one; the answer's numbers are marked."""
    tokenizer = bytes_tokenizer()
    text = (
        '<think>It is at [100, 100, 200, 200]. Not [800, 800, 900, 900].</think>\n{"bbox_2d": [100, 100, 200, 200]}'
    )
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    target = sample(Box(0.1, 0.1, 0.2, 0.2))
    coordinate, claim, sentence = annotate_response(reader(tokenizer), ids, SIZES, target)
    marked = "".join(letter for letter, mark in zip(text, coordinate, strict=False) if mark)
    assert marked == "100100200200"
    assert text.index("Not") > max(i for i, value in enumerate(claim) if value == pytest.approx(1.0))
    assert claim[text.index("It")] == pytest.approx(1.0)
    assert claim[text.index("Not")] == 0.0
    assert math.isnan(claim[text.index("bbox")])  # the answer is no thought
    assert sentence[0] == 0 and sentence[text.index("Not")] == 1 and sentence[-1] == -1
    assert len(coordinate) == len(claim) == len(sentence) == len(ids)


def test_a_response_without_an_answer() -> None:
    tokenizer = bytes_tokenizer()
    ids = tokenizer("I do not know")["input_ids"]
    coordinate, claim, sentence = annotate_response(reader(tokenizer), ids, SIZES, sample(Box(0, 0, 1, 1)))
    assert set(coordinate) == {0.0}
    assert all(math.isnan(value) for value in claim)
    assert set(sentence) == {0}


def test_coverage_of_the_cells() -> None:
    """Two images of 2x2 and 1x2 cells among text; the box covers a quarter of the first image's upper left cell and
    half of the upper right one."""
    ids = torch.tensor([1, 9, 9, 9, 9, 2, 9, 9, 3])
    target = sample(Box(0.25, 0.0, 0.75, 0.25), images=2)
    cover = region_coverage(ids, 9, [(2, 2), (1, 2)], target)
    assert cover.tolist() == [0, 0.25, 0.25, 0, 0, 0, 0, 0, 0]
    second = sample(Point(0.9, 0.5, image=1), images=2)
    assert region_coverage(ids, 9, [(2, 2), (1, 2)], second).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    whole = sample(Polygon(((0, 0), (1, 0), (1, 1)), image=0), images=2)
    assert region_coverage(ids, 9, [(2, 2), (1, 2)], whole)[1:5].tolist() == [1, 1, 1, 1]
    twice = sample(Boxes((Box(0, 0, 1, 1), Box(0, 0, 1, 1))), images=2)
    assert region_coverage(ids, 9, [(2, 2), (1, 2)], twice).max() == 1
    assert not region_coverage(ids, 9, [(2, 2)], target).any()  # a truncated prompt
    assert not region_coverage(ids, 9, [(2, 2), (1, 2)], sample(Absent(), images=2)).any()

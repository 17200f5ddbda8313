"""Prompts prepared once come out as if each had been prepared by itself."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from models.loading import load_config, load_processor
from models.sharing import PreparingOnce, alike
from tests.models.test_packing import PROMPTS, picture
from tests.recipes.tiny import DIALECTS, make_model, placeholder

ROWS = ["two", "two", "long", "two others", "plain", "long", "two others"]


@pytest.fixture(scope="module", params=list(DIALECTS))
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name == "pixel_values" or isinstance(value, torch.Tensor):
            assert torch.equal(found[name], torch.as_tensor(np.array(value))), name
        else:
            assert [list(row) for row in found[name]] == [list(row) for row in value], name


def test_rows_are_prepared_once_and_handed_out(folder):
    processor = load_processor(folder)
    watched = mock.Mock(wraps=processor)
    once = PreparingOnce(watched, load_config(folder))
    images = [[picture(index) for index in PROMPTS[row][1]] for row in ROWS]
    texts = [f"{placeholder(processor) * len(own)}{PROMPTS[row][0]}" for row, own in zip(ROWS, images, strict=True)]
    expected = processor(images=images, text=texts, padding=True, return_tensors="pt")
    same(once(images=images, text=texts, padding=True, return_tensors="pt"), expected)
    (call,) = watched.call_args_list
    assert call.kwargs["text"] == [texts[row] for row in (0, 2, 3, 4)]


def test_conversations_are_prepared_once(folder):
    processor = load_processor(folder)
    once = PreparingOnce(processor, load_config(folder))
    talks = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": picture(index)} for index in PROMPTS[row][1]),
                    {"type": "text", "text": PROMPTS[row][0]},
                ],
            }
        ]
        for row in ROWS
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    same(once.apply_chat_template(conversation=talks, **options), processor.apply_chat_template(talks, **options))
    assert once.apply_chat_template(talks[0], tokenize=False) == processor.apply_chat_template(
        talks[0], tokenize=False
    )
    assert once.tokenizer is processor.tokenizer


def test_the_same_words_with_another_picture_are_another_prompt():
    rows = [("find", [picture(2)]), ("find", [picture(3)]), ("find", [picture(2)]), ("look", [picture(2)])]
    assert alike(rows) == ([0, 1, 3], [0, 1, 0, 2])

"""The embedded model's parts: tokenizer, processor, chat format, and that a saved folder loads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.loading import load_policy, save_policy
from models.tiny import TEXT_TOKENS, build, train_tokenizer
from recipes.pretrain import corpus


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(text for _, text in zip(range(600), corpus(), strict=False))


@pytest.fixture(scope="module")
def policy(tokenizer):
    torch.manual_seed(0)
    return build(tokenizer)


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


@given(st.integers(0, 10**9))
def test_every_digit_is_a_token(tokenizer, number):
    assert [tokenizer.decode([i]) for i in tokenizer.encode(str(number))] == list(str(number))


def test_an_answer_opens_and_closes_with_one_token_each(tokenizer):
    ids = tokenizer.encode('<think>x</think>\n{"bbox_2d": [1, 2, 3, 4]}')
    words = [tokenizer.decode([i]) for i in ids]
    assert [word for word in words if word in TEXT_TOKENS] == ["<think>", "</think>", '{"bbox_2d": [', "]}"]


def test_a_screen_is_36_tokens_and_text_may_come_first(policy):
    model, processor = policy
    image = Image.fromarray(np.zeros((96, 96, 3), np.uint8))
    message = {"role": "user", "content": [{"type": "text", "text": "Find it."}, {"type": "image"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>user\nFind it.<|vision_start|>")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 36
    assert torch.isfinite(model(**inputs).logits).all()


def test_white_is_zero(policy):
    _, processor = policy
    white = Image.new("RGB", (96, 96), "white")
    assert np.abs(processor.image_processor(images=[white], return_tensors="np")["pixel_values"]).max() == 0


def test_a_saved_folder_gives_the_same_model(policy, tmp_path):
    model, processor = policy
    save_policy(tmp_path, model, processor)
    again, processor_again = load_policy(tmp_path)
    ids = torch.tensor([processor.tokenizer.encode("Click the red circle.")])
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert processor_again.tokenizer.encode("Click") == processor.tokenizer.encode("Click")

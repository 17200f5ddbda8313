"""One prefill for all rollouts of a prompt: the tokens stay, and the passes become fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache, Qwen3Config

from models.loading import load_policy
from models.packing import share_prompts
from models.sharing import GrowingLayer, grow_in_place, share_images, share_prefill
from tests.models.test_packing import make_batch, sharpen
from tests.recipes.tiny import DIALECTS, make_model

ROWS = ["two", "long", "two others", "two", "plain", "two others", "long", "two", "plain"]


@pytest.fixture(scope="module", params=list(DIALECTS))
def policy(request, tmp_path_factory):
    model, processor = load_policy(make_model(tmp_path_factory.mktemp(request.param), request.param))
    return sharpen(model).eval(), processor


def prompts(processor: Any, rows: list[str]) -> dict[str, Any]:
    batch = make_batch(processor, rows)
    length = batch["input_ids"].shape[1] - batch["logits_to_keep"]
    pictures = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
    tables = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {**pictures, **{name: batch[name][:, :length] for name in tables if name in batch}}


def draw(model: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    torch.manual_seed(0)
    return model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=10, min_new_tokens=10, **options)


def test_drawn_tokens_stay_the_same(policy):
    model, processor = policy
    inputs = prompts(processor, ROWS)
    plain = draw(model, inputs)
    share_images(model)
    sharing = share_prefill(model)
    share_prompts(model)
    assert torch.equal(draw(model, inputs), plain)
    assert (sharing.prompts, sharing.run) == (len(ROWS), 4)
    few = prompts(processor, ["two", "long"])
    several = draw(model, few, num_return_sequences=3)
    assert (sharing.prompts - len(ROWS), sharing.run - 4) == (6, 2)
    assert len({tuple(row.tolist()) for row in several}) == 6, "every rollout draws its own tokens"
    beams = model.generate(**few, num_beams=2, max_new_tokens=4)
    assert len(beams) == 2


def test_the_same_words_on_another_screen_are_another_prompt(policy):
    model, processor = policy
    sharing = share_prefill(model)
    inputs = prompts(processor, ["two", "two others"])
    assert torch.equal(inputs["input_ids"][0], inputs["input_ids"][1])
    draw(model, inputs)
    assert sharing.run == 2


def test_a_training_pass_is_left_alone(policy):
    model, processor = policy
    sharing = share_prefill(model)
    with torch.no_grad():
        model(**prompts(processor, ["two", "two"]))
    assert sharing.prompts == 0


def test_a_text_model_prefills_once():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=200, num_key_value_heads=2, head_dim=8, initializer_range=0.1, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    inputs = {"input_ids": torch.randint(10, 200, (2, 9)).repeat_interleave(3, 0)}
    plain = draw(model, inputs, pad_token_id=0)
    sharing = share_prefill(model)
    assert torch.equal(draw(model, inputs, pad_token_id=0), plain)
    assert (sharing.prompts, sharing.run) == (6, 2)


CHANGES = {
    "select": lambda cache, rows: cache.batch_select_indices(torch.arange(rows).flip(0)),
    "more": lambda cache, rows: cache.batch_repeat_interleave(2),
    "beams": lambda cache, rows: cache.reorder_cache(torch.zeros(rows, dtype=torch.long)),
    "crop": lambda cache, rows: cache.crop(-2),
}


@given(st.lists(st.one_of(st.integers(1, 80), st.sampled_from(sorted(CHANGES))), min_size=1, max_size=12))
def test_a_cache_that_grows_in_place_holds_what_transformers_does(steps):
    plain, growing = DynamicCache(), DynamicCache()
    grow_in_place(growing)
    rows = 2
    for step in [3, *steps]:
        if isinstance(step, str):
            if step == "more" and rows > 8:
                continue
            if plain.get_seq_length() > 2:
                for cache in (plain, growing):
                    CHANGES[step](cache, rows)
            rows = len(plain.layers[0].keys)
            continue
        new = [torch.rand(rows, 2, step, 4) for _ in range(2)]
        for layer in range(2):
            told, seen = plain.update(*new, layer), growing.update(*new, layer)
            assert all(torch.equal(one, other) for one, other in zip(told, seen, strict=True))
    assert {type(layer) for layer in growing.layers} == {GrowingLayer}
    assert plain.get_seq_length() == growing.get_seq_length()
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(plain.layers, growing.layers, strict=True))


def test_a_token_is_written_where_it_stays():
    cache = DynamicCache()
    grow_in_place(cache)
    places = set()
    for _ in range(40):
        keys, _ = cache.update(torch.rand(2, 1, 1, 4), torch.rand(2, 1, 1, 4), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1

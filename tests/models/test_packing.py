"""Packed rows: what TRL's own pass computes, and nothing else."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from grounding.errors import FoveaError
from models.loading import load_policy
from models.packing import pack, share_prompts, why_not
from recipes.shared_prompts import SharedPromptTrainer
from tests.recipes.tiny import DIALECTS, make_model, placeholder

SELF = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))  # all that either pass asks of a trainer
LENGTH = 12
PROMPTS = {
    "long": ("the blue square with the name of the file that was opened last", [0]),
    "two": ("find", [1, 2]),
    "two others": ("find", [1, 3]),  # the same tokens, another picture
    "plain": ("report the bounding box", []),
}
TEXT_MODELS = {"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}


def plain_pass(model: Any, batch: dict[str, Any], **more: Any) -> tuple[Any, ...]:
    return GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__(
        SELF, model, **batch, compute_entropy=True, **more
    )


def shared_pass(model: Any, batch: dict[str, Any], **more: Any) -> tuple[Any, ...]:
    given = dict(batch)
    first = (given.pop("input_ids"), given.pop("attention_mask"), given.pop("logits_to_keep"))
    return SharedPromptTrainer._shared_pass(SELF, model, *first, **given, compute_entropy=True, **more)


def picture(index: int) -> Image.Image:
    size = [(80, 50), (64, 96), (96, 64), (96, 64)][index]
    return Image.fromarray(np.random.default_rng(index).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def finish(ids: torch.Tensor, valid: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with completions of these lengths behind them."""
    completions = torch.randint(10, 200, (len(ids), LENGTH), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
    return torch.cat([ids, completions * mask], 1), torch.cat([valid, mask], 1)


def make_batch(processor: Any, rows: list[str], lengths: list[int] | None = None, **options: Any) -> dict[str, Any]:
    """Keyword arguments of TRL's pass over these prompts, each with a completion of its own."""
    shown = [[picture(index) for index in PROMPTS[row][1]] for row in rows]
    texts = [f"{placeholder(processor) * len(own)}{PROMPTS[row][0]} :" for row, own in zip(rows, shown, strict=True)]
    inputs = processor(
        images=shown if any(shown) else None,
        text=texts,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        **options,
    )
    lengths = lengths or [LENGTH - 3 * (row % 4) for row in range(len(rows))]
    ids, valid = finish(inputs["input_ids"], inputs["attention_mask"], lengths)
    fields = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    if "mm_token_type_ids" in inputs:
        fields["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, LENGTH))
    if "image_grid_thw" not in inputs and any(shown) and options.get("crop_to_patches", True):
        prepared = processor.image_processor(images=[*chain(*shown)], crop_to_patches=True, return_tensors="pt")
        tiles = iter(prepared["num_patches"].tolist())
        fields["num_tiles"] = [sum(next(tiles) for _ in own) for own in shown]
    num_images = [len(own) for own in shown]
    return {
        "input_ids": ids,
        "attention_mask": valid,
        "logits_to_keep": LENGTH,
        "num_images": num_images if any(shown) else None,
        **fields,
    }


def sharpen(model: Any) -> Any:
    """Attention and logits that are anything but flat, so that a wrong key or position is seen."""
    model.requires_grad_(True).train()
    for name, weight in model.named_parameters():
        if "q_proj.weight" in name or "k_proj.weight" in name or name == "lm_head.weight":
            weight.data.mul_(4.0)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


@pytest.fixture(scope="module", params=list(DIALECTS))
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("qwen3_vl"), "qwen3_vl")


def load(folder: Any, **options: Any) -> tuple[Any, Any]:
    model, processor = load_policy(folder, dtype=torch.float32, **options)
    return sharpen(model), processor


def outcome(model: Any, values: tuple[Any, ...], mask: torch.Tensor) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Log-probabilities, entropies, and the gradients of a loss in which every token counts differently."""
    logps, entropies, _ = values
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2)) * mask
    model.zero_grad(set_to_none=True)
    ((logps * weights).sum() + 0.1 * (entropies * weights).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logps.detach(), entropies.detach(), gradients


def assert_same(model: Any, batch: dict[str, Any], **more: Any) -> None:
    mask = batch["attention_mask"][:, -LENGTH:]
    plain = outcome(model, plain_pass(model, batch, **more), mask)
    share_prompts(model.get_base_model() if hasattr(model, "get_base_model") else model)
    shared = outcome(model, shared_pass(model, batch, **more), mask)
    torch.testing.assert_close(shared[0], plain[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(shared[1], plain[1], rtol=0, atol=2e-5)
    assert shared[2].keys() == plain[2].keys()
    assert len(plain[2]) > 4
    largest = max(gradient.norm() for gradient in plain[2].values())
    for name, gradient in plain[2].items():
        error = (shared[2][name] - gradient).norm() / (gradient.norm() + 1e-3 * largest)
        assert error < 5e-6, f"{name}: {error:.1e}"


SHUFFLED = ["two", "long", "two others", "two", "two others", "long", "two others", "two", "long", "long"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_computes_what_the_plain_pass_does(folder, attention):
    model, processor = load(folder, attn_implementation=attention)
    assert why_not(model) is None
    assert_same(model, make_batch(processor, SHUFFLED))


BATCHES = {
    "whole groups": ["long"] * 4 + ["two"] * 4 + ["two others"] * 4,
    "one prompt": ["two"] * 8,
    "nothing shared": ["long", "two"],
    "no picture": ["plain"] * 4,
}


@pytest.mark.parametrize("rows", list(BATCHES))
def test_any_mix_of_prompts_can_be_packed(qwen3, rows):
    model, processor = load(qwen3)
    assert_same(model, make_batch(processor, BATCHES[rows]))


def test_prompts_without_a_picture_are_shared_among_others(folder):
    model, processor = load(folder)
    assert_same(model, make_batch(processor, ["plain"] * 3 + ["long"] * 3))


def test_pictures_in_one_piece_are_shared_where_tiles_are_the_rule(tmp_path):
    model, processor = load(make_model(tmp_path, "internvl"))
    assert max(make_batch(processor, SHUFFLED)["num_tiles"]) > 2
    assert_same(model, make_batch(processor, SHUFFLED, crop_to_patches=False))


@pytest.mark.parametrize("name", list(TEXT_MODELS))
def test_a_text_model_shares_prompts(name):
    torch.manual_seed(0)
    config = TEXT_MODELS[name](
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.1,
    )
    model = sharpen(AutoModelForCausalLM.from_config(config))
    prompts = torch.randint(10, 200, (2, 9)).repeat_interleave(3, 0)
    valid = torch.ones_like(prompts)
    prompts[3:, :4] = valid[3:, :4] = 0
    ids, valid = finish(prompts, valid, [12, 7, 1, 12, 3, 9])
    assert why_not(model) is None
    assert_same(model, {"input_ids": ids, "attention_mask": valid, "logits_to_keep": LENGTH})


@pytest.mark.parametrize("lengths", [[0, 12, 12, 0], [1, 1, 1, 1]], ids=["left out", "one token"])
def test_completions_may_be_masked_whole(qwen3, lengths):
    model, processor = load(qwen3)
    assert_same(model, make_batch(processor, ["two"] * 2 + ["long"] * 2, lengths))


def test_a_batch_in_parts_is_shared_within_each(qwen3):
    model, processor = load(qwen3)
    assert_same(model, make_batch(processor, SHUFFLED), batch_size=5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_recomputes_packed_rows(qwen3, reentrant):
    model, processor = load(qwen3)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same(model, make_batch(processor, SHUFFLED))


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_trained_the_same(qwen3, dora):
    model, processor = load(qwen3)
    lora = LoraConfig(r=4, target_modules="all-linear", exclude_modules=".*visual.*", use_dora=dora)
    model = get_peft_model(model, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    batch = make_batch(processor, SHUFFLED)
    assert_same(model, batch)
    with model.disable_adapter(), torch.no_grad():
        assert torch.allclose(shared_pass(model, batch)[0], plain_pass(model, batch)[0], atol=2e-5)


def test_an_adapter_on_4_bit_weights_is_trained_the_same(folder):
    model, processor = load_policy(folder, dtype=torch.float32, quantize="nf4")
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    add_fused_lm_head(model.get_base_model().train(), outputs=("log_probs", "entropy"))
    assert why_not(model) is None
    assert sum(weight.dtype == torch.uint8 for weight in model.parameters()) == 2 * 7
    assert_same(model, make_batch(processor, SHUFFLED))


def test_pictures_in_completions_belong_to_their_rows(qwen3):
    """What a tool returned in a later turn: other pictures in other rows, none in the last."""
    model, processor = load(qwen3)
    rows = ["long"] * 3
    shown = [picture(0), picture(1), picture(0), picture(2), picture(0)]
    turn = [f"{placeholder(processor)} again", f"{placeholder(processor)} once more", "done"]
    text = [f"{placeholder(processor)}{PROMPTS['long'][0]} :" + own for own in turn]
    whole = processor(
        images=[shown[:2], shown[2:4], shown[4:]], text=text, padding=True, padding_side="right", return_tensors="pt"
    )
    keep = whole["input_ids"].shape[1] - make_batch(processor, rows)["input_ids"].shape[1] + LENGTH
    fields = {name: whole[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    batch = {
        "input_ids": whole["input_ids"],
        "attention_mask": whole["attention_mask"],
        "logits_to_keep": keep,
        "num_images": [2, 2, 1],
        **fields,
    }
    share_prompts(model)
    with torch.no_grad():
        packed = pack(model, batch["input_ids"], batch["attention_mask"], keep, fields=fields)
        shared, plain = shared_pass(model, batch)[0], plain_pass(model, batch)[0]
    assert len(packed.inputs["image_grid_thw"]) == 3
    torch.testing.assert_close(shared, plain, rtol=0, atol=2e-5)


def test_prompts_are_run_once_and_padding_never(qwen3):
    model, processor = load(qwen3)
    share_prompts(model)
    batch = make_batch(processor, SHUFFLED)
    valid = batch["attention_mask"]
    fields = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    packed = pack(model, batch["input_ids"], valid, LENGTH, fields=fields)
    prompts = [int(valid[SHUFFLED.index(name), :-LENGTH].sum()) for name in dict.fromkeys(SHUFFLED)]
    rows = valid[:, -LENGTH:].sum(1) + 1
    assert packed.inputs["input_ids"].shape == (1, sum(prompts) - len(prompts) + int(rows.sum()))
    assert len(packed.inputs["image_grid_thw"]) == 1 + 2 + 2


@pytest.mark.slow
def test_log_probabilities_in_bfloat16_are_as_good_as_the_plain_ones(qwen3):
    model, processor = load(qwen3)
    batch = make_batch(processor, ["two"] * 4)
    mask = batch["attention_mask"][:, -LENGTH:]
    exact = outcome(model, plain_pass(model, batch), mask)[2]
    model.to(torch.bfloat16)
    plain = outcome(model, plain_pass(model, batch), mask)[2]
    share_prompts(model)
    shared = outcome(model, shared_pass(model, batch), mask)[2]

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(float((found[name].float() - exact[name]).square().sum()) for name in exact) ** 0.5

    assert error(shared) < 1.2 * error(plain)


def swap(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flip(0)


MUTATIONS = {
    "rows see what comes after": lambda layout: {"row_mask": torch.ones_like(layout.row_mask)},
    "prefixes see what comes after": lambda layout: {
        "prefix_mask": torch.ones(len(layout.prefixes), 1, *layout.prefixes.shape[1:] * 2, dtype=torch.bool)
    },
    "another prompt's prefix": lambda layout: {
        "keys": torch.cat([layout.keys[:, : layout.prefixes.shape[1]].flip(0), layout.rows], 1)
    },
    "another row's completion": lambda layout: {
        "keys": torch.cat([layout.keys[:, : layout.prefixes.shape[1]], layout.rows.roll(1, 0)], 1)
    },
}


@pytest.mark.parametrize("mutation", list(MUTATIONS))
def test_a_wrong_layout_is_seen(qwen3, mutation):
    model, processor = load(qwen3)
    share_prompts(model)
    batch = make_batch(processor, ["two"] * 2 + ["two others"] * 2, [LENGTH] * 4)
    fields = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    packed = pack(model, batch["input_ids"], batch["attention_mask"], LENGTH, fields=fields)
    layout = packed.inputs["shared"]
    changed = {**packed.inputs, "shared": dataclasses.replace(layout, **MUTATIONS[mutation](layout))}
    with torch.no_grad():
        right, wrong = (
            packed.unpack(model(**given, fused_lm_head=True).log_probs) for given in (packed.inputs, changed)
        )
        plain = plain_pass(model, batch)[0]
    torch.testing.assert_close(right, plain, rtol=0, atol=2e-5)
    assert (wrong - plain).abs().max() > 1e-3


def test_a_wrong_picture_or_position_is_seen(qwen3):
    model, processor = load(qwen3)
    share_prompts(model)
    batch = make_batch(processor, ["two"] * 2 + ["two others"] * 2)
    with torch.no_grad():
        plain = plain_pass(model, batch)[0]
        blank = shared_pass(model, {**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])})[0]
        columns = shared_pass(model, {**batch, "mm_token_type_ids": None})[0]
    assert (blank - plain).abs().max() > 1e-3
    assert (columns - plain).abs().max() > 1e-3


def text_config(kind: Any, **more: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(vocab_size=200, num_key_value_heads=2, **sizes, **more)


def test_what_cannot_share_is_refused_with_the_reason(qwen3):
    model, _ = load_policy(qwen3)
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert "prompt-learning" in why_not(prompted)
    half = text_config(Qwen2Config, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "sliding window" in why_not(AutoModelForCausalLM.from_config(half))
    unknown = AutoModelForCausalLM.from_config(text_config(MistralConfig, sliding_window=None))
    assert "mistral has not been compared" in why_not(unknown)
    flex = AutoModelForCausalLM.from_config(text_config(Qwen2Config), attn_implementation="flex_attention")
    assert "flex_attention has not been compared" in why_not(flex)


def test_what_a_batch_must_not_hold_is_an_error(qwen3):
    model, processor = load(qwen3)
    batch = make_batch(processor, ["two"] * 2)
    with pytest.raises(FoveaError, match="attention was set to sdpa"):
        pack(model, batch["input_ids"], batch["attention_mask"], LENGTH, fields={})
    with pytest.raises(FoveaError, match="inputs token_type_ids"):
        shared_pass(model, {**batch, "token_type_ids": torch.zeros(2, 2)})
    batch["input_ids"][0, -1] = model.config.image_token_id
    with pytest.raises(FoveaError, match="did the model write an image token"):
        shared_pass(model, batch)

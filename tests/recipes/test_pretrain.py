"""Pre-training: targets line up with patches and tokens, the shared vision pass changes nothing, it can go on."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from data_prep.screens.scenes import HELD_OUT
from models.loading import load_policy
from models.tiny import build, train_tokenizer
from recipes import pretrain


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(text for _, text in zip(range(600), pretrain.corpus(), strict=False))


@pytest.fixture(scope="module")
def policy(tokenizer):
    torch.manual_seed(0)
    return build(tokenizer)


@pytest.fixture(scope="module")
def batch(policy, tokenizer):
    make = pretrain.ScreenStream(tokenizer)
    return pretrain.collate([make(i) for i in range(6)], policy[1].image_processor, tokenizer.pad_token_id)


def test_patch_labels_are_in_the_order_of_the_processor(policy):
    side = pretrain.SIZE // pretrain.PATCH
    labels = np.random.default_rng(0).integers(0, 200, (1, side, side))
    picture = labels[0].repeat(pretrain.PATCH, 0).repeat(pretrain.PATCH, 1).astype(np.uint8)
    pixels = policy[1].image_processor(images=[np.stack([picture] * 3, -1)], return_tensors="pt")["pixel_values"]
    seen = ((pixels.mean(-1) * 0.5 + 1) * 255).round().long()
    assert torch.equal(seen, pretrain.in_model_order(labels)[0])


def test_only_the_answer_is_learned(batch, tokenizer):
    for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
        text = tokenizer.decode(ids)
        learned = tokenizer.decode(labels[labels != -100])
        assert text.split("<|im_start|>assistant\n")[1].startswith(learned)
        assert learned.endswith("<|im_end|>") and "bbox_2d" in learned


def test_sharing_the_vision_pass_changes_nothing(policy, batch):
    model, _ = policy
    heads = pretrain.AuxiliaryHeads(128, 128)
    loss, log = pretrain.losses(model, heads, batch)
    assert torch.isfinite(loss)
    patches = batch.kinds.shape[1]
    pixels = batch.pixel_values.view(len(batch.grid), patches, -1)[batch.screen_of].flatten(0, 1)
    plain = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_token_type_ids=(batch.input_ids == model.config.image_token_id).int(),
        pixel_values=pixels,
        image_grid_thw=batch.grid[batch.screen_of],
        labels=batch.labels,
    ).loss
    assert log["answer_loss"] == pytest.approx(plain.item(), abs=1e-4)


def test_the_target_marks_the_tokens_it_covers(batch, tokenizer):
    make = pretrain.ScreenStream(tokenizer)
    for index in range(6):
        for question in make(index).questions:
            assert question.target.any() or "null" in tokenizer.decode(question.answer)


def test_no_screen_shows_a_held_out_combination(tokenizer):
    kinds = {index: name for name, index in pretrain.KINDS.items()}
    colors = {index: name for name, index in pretrain.COLORS.items()}
    make = pretrain.ScreenStream(tokenizer)
    for index in range(100):
        screen = make(index)
        pairs = {(colors[c], kinds[k]) for c, k in zip(screen.colors.flat, screen.kinds.flat, strict=True) if k}
        assert not pairs & HELD_OUT


def test_the_rate_warms_up_and_ends_at_zero():
    assert pretrain.rate(0, 100, 0) < pretrain.LEARNING_RATE / 100
    assert pretrain.rate(50, 100, 1000) == pretrain.LEARNING_RATE
    assert pretrain.rate(99.99, 100, 1000) < pretrain.LEARNING_RATE / 1000


@pytest.mark.slow
def test_the_command_writes_a_model_and_goes_on_from_a_checkpoint(tmp_path):
    def steps_after(minutes):
        command = [sys.executable, "-m", "recipes.pretrain", "--out", tmp_path, "--minutes", str(minutes)]
        subprocess.run(command, check=True)
        return torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]

    first = steps_after(0.1)
    model, processor = load_policy(tmp_path)
    assert first > 0 and processor.image_processor is not None and torch.isfinite(model.lm_head.weight).all()
    assert steps_after(0.2) > first

"""A GRPO trainer that shares prompts: the rollouts, rewards and weights of one that does not."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import TrainerCallback, set_seed

from recipes.runner import jobs_of
from recipes.shared_prompts import GROUP, keep_together, merged_adapter
from recipes.stage import STAGES
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return make_model(folder / "model", "qwen3_vl"), make_data(folder / "data", count=8)


def owners(batch: dict[str, Any]) -> list[int]:
    """The row of every picture."""
    return [int(row) for row, count in zip(batch["row"], batch["num_images"], strict=True) for _ in range(count)]


def part_of(rows: torch.Tensor) -> dict[str, Any]:
    """A batch in which row r has r % 3 pictures of different sizes, all pixels of which are r."""
    batch = {GROUP: rows // 4, "row": rows, "num_images": [int(row) % 3 for row in rows], "none": None}
    grid = torch.tensor([[1, 2, 2 + row % 2] for row in owners(batch)])
    pixels = torch.tensor(owners(batch)).repeat_interleave(grid.prod(-1))
    return batch | {"scalar": torch.tensor(7.0), "pixel_values": pixels.unsqueeze(1), "image_grid_thw": grid}


def test_groups_stay_whole_in_every_part():
    rows = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    dealt = keep_together([part_of(rows[:8]), part_of(rows[8:])])
    assert [len(set(batch[GROUP].tolist())) for batch in dealt] == [2, 2]
    after = torch.cat([batch["row"] for batch in dealt]).tolist()
    assert sorted(after) == list(range(16))
    order = [*dict.fromkeys((rows // 4).tolist())]
    assert [row // 4 for row in after] == [group for group in order for _ in range(4)], "the order stays random"
    for batch in dealt:
        for name, value in part_of(batch["row"]).items():
            same = torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value
            assert same, name


def make_trainer(places: Any, folder: Any, args: Any = None, lora: Any = None, **model: Any) -> Any:
    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8}
    recipe = recipe_of(*places, folder, grpo={"args": sizes | (args or {}), "lora": lora or {}})
    return STAGES.get("grpo")(
        jobs_of(recipe.model_copy(update={"model": recipe.model.model_copy(update=model)}))[0]
    ).trainer()


def losses(trainer: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trainer.model.zero_grad(set_to_none=True)
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def rolled_out(trainer: Any, count: int = 2) -> dict[str, Any]:
    """A generation batch of `count` prompts, as the trainer's loop would make it."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    set_seed(3)
    rows = [trainer.train_dataset[index] for index in range(count) for _ in range(trainer.num_generations)]
    return trainer._generate_and_score_completions(rows)


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_rollouts_and_rewards_stay_the_same(places, tmp_path, quantize):
    """With everything that asks for one more pass: old log-probabilities and a reference model."""
    args = {
        "beta": 0.1,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 3,
        "per_device_train_batch_size": 4,
    }
    plain = make_trainer(places, tmp_path / "plain", share_prompts=False, quantize=quantize, args=args)
    shared = make_trainer(places, tmp_path / "shared", quantize=quantize, args=args)
    expected, found = rolled_out(plain), rolled_out(shared)
    assert {"old_per_token_logps", "ref_per_token_logps"} < expected.keys()
    assert found.keys() == {*expected, GROUP}
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5 if value.is_floating_point() else 0)
    assert not torch.equal(found["completion_ids"][0], found["completion_ids"][1])


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_the_adapter_is_merged_for_the_rollouts_and_leaves_no_trace(places, tmp_path, lora):
    model = make_trainer(places, tmp_path, lora=lora).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ids = torch.randint(10, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with pytest.raises(KeyError), merged_adapter(model):
            assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())
            torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=0, atol=2e-5)
            raise KeyError
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain)
    model.to(torch.bfloat16)
    with merged_adapter(model):  # would draw from a rounded policy
        assert not any(getattr(layer, "merged", False) for layer in model.modules())


@pytest.fixture(scope="module")
def scored(places, tmp_path_factory):
    trainer = make_trainer(places, tmp_path_factory.mktemp("scored"), args={"beta": 0.1})
    inputs = rolled_out(trainer)
    inputs["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3, -0.3])
    return trainer, inputs


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_every_loss_has_the_gradient_of_the_plain_pass(loss, scored, monkeypatch):
    trainer, inputs = scored
    monkeypatch.setattr(trainer, "loss_type", loss)
    shared = losses(trainer, inputs)
    monkeypatch.setattr(trainer, "_share_prompts", False)
    plain = losses(trainer, inputs)
    torch.testing.assert_close(shared[0], plain[0], rtol=0, atol=2e-5)
    assert shared[1].keys() == plain[1].keys()
    largest = max(gradient.norm() for gradient in plain[1].values())
    for name, gradient in plain[1].items():
        assert (shared[1][name] - gradient).norm() / (gradient.norm() + 1e-3 * largest) < 5e-6, name


def test_training_steps_hold_whole_groups(places, tmp_path):
    args = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = make_trainer(places, tmp_path, args=args)
    prompts = []

    class Watching(TrainerCallback):
        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            prompts.extend(len(set(batch[GROUP].tolist())) for batch in trainer._buffered_inputs)

    trainer.add_callback(Watching())
    trainer.train()
    assert set(prompts) == {2}


def test_one_rollout_of_a_prompt_is_left_to_trl(places, tmp_path):
    trainer = make_trainer(places, tmp_path, args={"num_generations_eval": 1})
    with mock.patch.object(trainer, "_shared_pass", side_effect=AssertionError):
        trainer.model.eval()
        assert not trainer._shares_prompts()
        trainer._generate_and_score_completions([trainer.train_dataset[0]])
        alone = make_trainer(
            places, tmp_path, args={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
        )
        alone.model.train()
        assert not alone._shares_prompts()


def test_what_cannot_share_says_so_once(places, tmp_path, caplog):
    refused = mock.patch("recipes.shared_prompts.why_not", return_value="it has layers with a sliding window")
    with refused, caplog.at_level(logging.WARNING, "fovea"):
        trainer = make_trainer(places, tmp_path)
        rolled_out(trainer)
    found = [record.getMessage() for record in caplog.records if "share_prompts" in record.getMessage()]
    assert found == [
        "model.share_prompts: every rollout runs its own prompt, since it has layers with a sliding window"
    ]

"""Credit inside TRL's trainer: the same responses get the same weights however the step is computed."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig

from credit.assigner import WEIGHTS
from grounding.errors import UsageError
from models.loading import load_policy
from recipes.config import DataSpec, ModelSpec
from recipes.data import build_dataset
from recipes.grpo import FoveaGRPOTrainer
from tests.recipes.tiny import make_data, make_model

RHYTHM = {
    "strategy": "coupled_rhythm",
    "params": {"min_length": 1, "waad_quantile": 0.8, "delta_quantile": 0.2},
    "horizon": [1, 6],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_data(tmp_path_factory.mktemp("data"), count=4)


def make_trainer(
    model: Any,
    data: Any,
    folder: Any,
    credit: Any = RHYTHM,
    lora: Any = None,
    *,
    dialect: str = "qwen3_vl",
    share_prompts: bool = False,
    **args: Any,
) -> Any:
    policy, processor = load_policy(str(model))
    spec = ModelSpec(path=str(model), dialect=dialect)
    config = GRPOConfig(
        **{
            "output_dir": str(folder),
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "max_completion_length": 16,
            "remove_unused_columns": False,
            "gradient_checkpointing": False,
            "learning_rate": 1e-2,
            "seed": 0,
            **args,
        }
    )
    return FoveaGRPOTrainer(
        model=policy,
        reward_funcs=[lambda completions, **_: [float(i) for i in range(len(completions))]],
        args=config,
        train_dataset=build_dataset(DataSpec(path=str(data)), spec, processor),
        processing_class=processor,
        peft_config=lora,
        credit=credit,
        dialect=dialect,
        share_prompts=share_prompts,
    )


@pytest.fixture(scope="module")
def responses(model: Any, data: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One generation batch, as TRL buffers it."""
    trainer = make_trainer(model, data, tmp_path_factory.mktemp("out"))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(0)
    row = trainer.train_dataset[0]
    output = trainer._generate_and_score_completions([row] * 4)
    output["completion_mask"][1, 9:] = 0  # responses of different lengths
    return output


def weights_of(trainer: Any, responses: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = dict(responses)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return inputs[WEIGHTS], loss.detach()


VARIANTS = {
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "kl": {"beta": 0.1},
    "iterations": {"num_iterations": 2},
    "sequence": {"importance_sampling_level": "sequence"},
    "entropy": {"top_entropy_quantile": 0.5},
    "entropy bonus": {"entropy_coef": 0.01},
    "two-sided": {"delta": 2.0},
    "off-policy": {"off_policy_mask_threshold": 0.5},
    **{name: {"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")},
}


@pytest.fixture(scope="module")
def plain(model: Any, data: Any, responses: Any, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    weights, _ = weights_of(make_trainer(model, data, tmp_path_factory.mktemp("plain")), responses)
    raised = (weights - 1).abs() > 1e-6
    assert raised.any(-1).all()  # otherwise the comparisons below say nothing
    assert not raised[1, 9:].any()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_weights_are_the_plain_ones(
    variant: str, model: Any, data: Any, *, responses: Any, plain: torch.Tensor, tmp_path: Any
) -> None:
    given = dict(responses)
    if variant == "kl":
        given["ref_per_token_logps"] = torch.zeros(plain.shape)
    weights, loss = weights_of(make_trainer(model, data, tmp_path, **VARIANTS[variant]), given)
    torch.testing.assert_close(weights, plain)
    assert loss.isfinite()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_prompts_give_the_same_weights(
    checkpointing: bool, model: Any, data: Any, *, responses: Any, plain: torch.Tensor, tmp_path: Any
) -> None:
    trainer = make_trainer(model, data, tmp_path, share_prompts=True, gradient_checkpointing=checkpointing)
    with mock.patch.object(trainer, "_shared_pass", wraps=trainer._shared_pass) as shared:
        weights, _ = weights_of(trainer, responses)
    assert shared.call_count == 1
    torch.testing.assert_close(weights, plain, rtol=0, atol=1e-4)


def test_lora_starts_with_the_same_weights(
    model: Any, data: Any, responses: Any, plain: torch.Tensor, tmp_path: Any
) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    weights, _ = weights_of(make_trainer(model, data, tmp_path, lora=lora), responses)
    torch.testing.assert_close(weights, plain)


def test_splitting_the_batch_does_not_matter_once_heads_are_known(
    model: Any, data: Any, responses: Any, plain: torch.Tensor, tmp_path: Any
) -> None:
    """As gradient accumulation splits it: heads are chosen from the whole batch here, then kept."""
    trainer = make_trainer(model, data, tmp_path)
    weights_of(trainer, responses)
    patches = len(responses["pixel_values"]) // 4
    parts = []
    for half in (0, 1):
        part = {k: v[2 * half : 2 * half + 2] for k, v in responses.items() if torch.is_tensor(v) and v.dim()}
        part["pixel_values"] = responses["pixel_values"][2 * half * patches : (2 * half + 2) * patches]
        part |= {"num_images": [1, 1], "num_items_in_batch": responses["num_items_in_batch"]}
        parts.append(weights_of(trainer, part)[0])
    torch.testing.assert_close(torch.cat(parts), plain)


@pytest.mark.parametrize("strategy", ["coupled_rhythm", "vppo"])
def test_statistics_over_the_batch_do_not_depend_on_the_micro_batch(
    strategy: str, model: Any, data: Any, tmp_path: Any
) -> None:
    credit = {**RHYTHM, "strategy": strategy, "normalize": "batch"}
    if strategy == "vppo":
        credit |= {"params": {"min_length": 1, "masked": 1.0}}  # all patches: the same whatever the order of rows
    found = []
    for size in (4, 1):
        args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 1}
        trainer = make_trainer(model, data, tmp_path, credit, **args)
        responses = [[10 + 7 * at + k for k in range(12 - 2 * at)] for at in range(4)]
        trainer._generate_single_turn = lambda prompts, *_, given=responses, **__: (given, None)
        seen: dict[tuple[int, ...], Any] = {}
        inner = trainer._compute_loss

        def loss(policy: Any, inputs: Any, inner: Any = inner, seen: Any = seen) -> Any:
            value = inner(policy, inputs)
            for ids, mask, own in zip(
                inputs["completion_ids"], inputs["completion_mask"].bool(), inputs[WEIGHTS], strict=True
            ):
                seen[tuple(ids[mask].tolist())] = own[mask]
            return value

        trainer._compute_loss = loss
        trainer.train()
        found.append(seen)
    whole, parts = found
    assert len(whole) == 4 and whole.keys() == parts.keys()
    totals = [own.mean().item() for own in whole.values()]
    assert max(totals) - min(totals) > 1e-3  # otherwise the comparison says nothing
    for ids, own in whole.items():
        torch.testing.assert_close(parts[ids], own, rtol=1e-4, atol=1e-5)


def test_the_tool_results_weigh_nothing(model: Any, data: Any, responses: Any, tmp_path: Any) -> None:
    tools = torch.ones_like(responses["completion_mask"])
    tools[:, 3:6] = 0
    weights, loss = weights_of(make_trainer(model, data, tmp_path), {**responses, "tool_mask": tools})
    assert (weights[:, 3:6] == 1).all()
    inside = (responses["completion_mask"] * tools).bool()
    torch.testing.assert_close((weights * inside).sum(-1) / inside.sum(-1), torch.ones(4))
    assert loss.isfinite()


def test_later_iterations_reuse_the_weights_and_the_batch_keeps_its_advantages(
    model: Any, data: Any, responses: Any, tmp_path: Any
) -> None:
    trainer = make_trainer(model, data, tmp_path, num_iterations=2)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = dict(responses)
    trainer._compute_loss(trainer.model, inputs)
    first = inputs[WEIGHTS]
    with torch.no_grad():
        for weights in trainer.model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    trainer._compute_loss(trainer.model, inputs)
    assert inputs[WEIGHTS] is first
    assert inputs["advantages"].shape == (4,)


def test_uniform_credit_is_plain_grpo(model: Any, data: Any, responses: Any, tmp_path: Any) -> None:
    losses = []
    for credit in (None, {"strategy": "uniform"}):
        trainer = make_trainer(model, data, tmp_path, credit=credit)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        losses.append(trainer._compute_loss(trainer.model, dict(responses)).detach())
    torch.testing.assert_close(*losses)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["visual_anchor", "grounded", "vppo", "sentence", "coordinate", "visual_density"]
)
def test_strategies_that_read_text_or_image_train(strategy: str, model: Any, data: Any, tmp_path: Any) -> None:
    credit: dict[str, Any] = {"strategy": strategy}
    if strategy == "vppo":
        credit |= {"normalize": "batch", "params": {"min_length": 1}}
    trainer = make_trainer(model, data, tmp_path, credit=credit, max_steps=2, logging_steps=1)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "credit/mean" in line]
    assert len(logged) == 2
    assert all(line["credit/mean"] == pytest.approx(1.0, abs=1e-4) for line in logged)
    assert all(0 < line["credit/time_share"] < 1 and line["credit/fallback"] == 0 for line in logged)
    if strategy == "vppo":
        assert logged[0]["credit/spread"] > 0


@pytest.mark.parametrize("strategy", ["global_anchor", "visual_anchor"])
def test_a_model_whose_image_has_no_grid_is_credited_or_refused(tmp_path, data, strategy):
    """InternVL cuts pictures into tiles: attention is there, but not where the target lies in it."""
    folder = make_model(tmp_path / "internvl", "internvl")
    credit = {"strategy": strategy, "horizon": [1, 6], "params": {"min_length": 1}}
    trainer = make_trainer(folder, data, tmp_path, credit, dialect="internvl", max_steps=1, logging_steps=1)
    if strategy == "visual_anchor":
        with pytest.raises(UsageError, match=r"'visual_anchor'.*no image_grid_thw"):
            trainer.train()
        return
    trainer.train()
    assert trainer.state.log_history[0]["credit/spread"] > 0

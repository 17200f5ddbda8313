"""Recipes run for a step or two on tiny random-weight models of the real classes."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import GRPOTrainer

from grounding.errors import FoveaError, UsageError
from grounding.journal import read_journal
from models.loading import load_policy, load_processor, save_policy
from recipes.callbacks import read_metrics
from recipes.config import parse_recipe, to_container
from recipes.grpo import FoveaGRPOTrainer
from recipes.runner import jobs_of, run_recipe
from recipes.stage import STAGES
from tests.recipes.tiny import DIALECTS, make_data, make_model

CLOCKS = ("seconds", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=list(DIALECTS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(family), family)


SFT_ARGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "gradient_checkpointing": False,
}
GRPO_ARGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "learning_rate": 1e-2,
    "gradient_checkpointing": False,
}
# Random models never answer; so that there is something to learn from, one of TRL's signature without a sample.
REWARDS = [{"name": "iou"}, {"name": "format", "weight": 0.5}]


def recipe_of(model, data, output, *, sft=None, grpo=None, **more):
    stages = []
    if sft is not None:
        stages.append({"kind": "sft", **sft, "args": {**SFT_ARGS, **sft.get("args", {})}})
    if grpo is not None:
        stages.append({"kind": "grpo", "rewards": REWARDS, **grpo, "args": {**GRPO_ARGS, **grpo.get("args", {})}})
    content = {
        "name": "run",
        "model": {"path": str(model), "dialect": "qwen3_vl"},
        "data": str(data),
        "stages": stages,
        "output": str(output),
        "wandb": "disabled",
        **more,
    }
    return parse_recipe(content)


def without_clocks(lines):
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def test_both_stages_run_merge_and_are_skipped_the_second_time(family, model, data, tmp_path):
    recipe = recipe_of(model, data, tmp_path, sft={}, grpo={})
    run_recipe(recipe)
    sft, grpo = (recipe.folder / name for name in ("0-sft", "1-grpo"))
    for stage in (sft, grpo):
        assert [line["step"] for line in read_metrics(stage / "metrics.jsonl")] == [1, 2, 2]
        assert (stage / "DONE").is_file()
        assert (stage / "adapter/adapter_model.safetensors").is_file()
    assert {"rewards/iou/mean", "rewards/format/mean", "reward", "step_time"} <= read_metrics(grpo / "metrics.jsonl")[
        0
    ].keys()
    assert (recipe.folder / "resolved.yaml").is_file()
    facts = json.loads((grpo / "training.json").read_text())
    assert (facts["steps"], facts["processes"], facts["zero_stage"]) == (2, 1, None)
    assert facts["trainable_weights"] == sum(
        w.numel() for w in load_file(grpo / "adapter/adapter_model.safetensors").values()
    )
    environment = json.loads((recipe.folder / "environment.json").read_text())
    assert environment["packages"]["trl"]
    assert len(environment["git"]["revision"]) == 40

    before, after = load_file(model / "model.safetensors"), load_file(sft / "model/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name and "visual" not in name for name in changed)  # LoRA leaves the vision tower alone
    final, processor = load_policy(recipe.folder / "final")
    assert processor.image_processor is not None
    (name,) = [
        name for name in load_file(grpo / "model/model.safetensors") if name.endswith("layers.0.mlp.up_proj.weight")
    ]
    (trained,) = [
        weight
        for own, weight in final.named_parameters()
        if own.endswith("language_model.layers.0.mlp.up_proj.weight")
    ]
    assert torch.equal(trained, load_file(grpo / "model/model.safetensors")[name])

    written = {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("metrics.jsonl")}
    run_recipe(recipe)
    assert written == {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("metrics.jsonl")}
    changed_recipe = recipe_of(model, data, tmp_path, sft={"args": {"learning_rate": 5e-3}}, grpo={})
    with pytest.raises(UsageError, match=r"stages\.0\.args\.learning_rate: 0\.01 -> 0\.005.*another name"):
        run_recipe(changed_recipe)


def test_a_seed_decides_every_metric(data, tmp_path_factory):
    model = make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")
    runs = []
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        recipe = recipe_of(
            model, data, tmp_path_factory.mktemp(name), sft={}, grpo={"credit": {"strategy": "random"}}, seed=seed
        )
        run_recipe(recipe)
        runs.append([without_clocks(read_metrics(job.metrics)) for job in jobs_of(recipe)])
    timed = ("credit/seconds", "credit/time_share")
    runs = [[[{k: v for k, v in line.items() if k not in timed} for line in s] for s in run] for run in runs]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def group_size(completions, num_generations, **columns):
    """What the batch says of its groups."""
    return [float(size) for size in num_generations]


def test_held_out_samples_are_evaluated_in_between(data, tmp_path):
    model = make_model(tmp_path / "model", "qwen3_vl")
    held_out = {"split": "train", "limit": 2}
    often = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    grpo = {"eval": held_out, "args": {**often, "num_generations_eval": 1, "eval_on_start": True}}
    grpo["rewards"] = [*REWARDS, {"name": f"{__name__}.group_size"}]
    recipe = recipe_of(model, data, tmp_path, sft={"eval": held_out, "args": often}, grpo=grpo)
    run_recipe(recipe)
    for stage, key, steps in (("0-sft", "eval_loss", [1, 2]), ("1-grpo", "eval_rewards/iou/mean", [0, 1, 2])):
        lines = read_metrics(recipe.folder / stage / "metrics.jsonl")
        assert [line["step"] for line in lines if key in line] == steps
    for key, size in (("rewards/group_size/mean", 4), ("eval_rewards/group_size/mean", 1)):
        assert {line[key] for line in lines if key in line} == {size}


def test_full_fine_tuning_moves_every_weight_of_16_bits(data, tmp_path):
    """Steps of 1e-6 are lost in the rounding of most weights of 16 bits; what is trained are copies in 32 bits."""
    path = make_model(tmp_path / "model", "qwen3_vl")
    model, processor = load_policy(path, dtype=torch.bfloat16)
    save_policy(path, model, processor)
    args = {"max_steps": 20, "learning_rate": 1e-6, "lr_scheduler_type": "constant", "per_device_train_batch_size": 2}
    recipe = recipe_of(path, data, tmp_path, sft={"lora": None, "args": args})
    run_recipe(recipe)
    stage = recipe.folder / "0-sft"
    assert not (stage / "adapter").exists()
    before, trained, final = (
        load_file(folder / "model.safetensors")
        for folder in (path, stage / "checkpoints/checkpoint-20", stage / "model")
    )
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert {weight.dtype for weight in final.values()} == {torch.bfloat16}
    moved = {name: (trained[name] != before[name].float()).float().mean().item() for name in before}
    share = sum(moved[name] * before[name].numel() for name in before) / sum(w.numel() for w in before.values())
    assert share > 0.9, moved
    assert any("visual" in name and moved[name] > 0.9 for name in moved)
    assert all(torch.equal(final[name], trained[name].bfloat16()) for name in final)
    load_policy(recipe.folder / "final")


def test_the_tokenizer_and_template_that_were_trained_with_are_saved(data, tmp_path):
    path = make_model(tmp_path / "model", "qwen3_vl")
    template = tmp_path / "other.jinja"
    template.write_text(load_processor(path).chat_template + "{# of this training #}")
    args = {"max_steps": 1, "eos_token": "<|endoftext|>", "chat_template_path": str(template)}
    recipe = recipe_of(path, data, tmp_path, sft={"args": args}, grpo={"args": {"max_steps": 1}})
    run_recipe(recipe)
    for stage in ("0-sft", "1-grpo"):  # and the next one goes on with them
        model, processor = load_policy(recipe.folder / stage / "model")
        assert processor.tokenizer.eos_token == "<|endoftext|>"
        assert processor.chat_template.endswith("{# of this training #}")
        assert processor.tokenizer.chat_template in (None, processor.chat_template)
        ends = model.generation_config.eos_token_id
        assert processor.tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


@pytest.fixture(scope="module")
def batch_trainer(data, tmp_path_factory):
    """Trainers with one model and one batch, without and with credit."""
    model = make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")

    def build(credit=None, trainer=FoveaGRPOTrainer, **args):
        grpo = {"credit": credit, "args": {"num_iterations": 2, **args}}
        recipe = recipe_of(model, data, tmp_path_factory.mktemp("run"), grpo=grpo)
        stage = STAGES.get("grpo")(jobs_of(recipe)[0])
        return stage.trainer(trainer)

    return build


def test_without_credit_the_trainer_is_trls(batch_trainer):
    losses = []
    for cls in (FoveaGRPOTrainer, GRPOTrainer):
        trainer = batch_trainer(trainer=cls)
        trainer.train()
        losses.append([{k: v for k, v in line.items() if k not in CLOCKS} for line in trainer.state.log_history])
    assert losses[0] == losses[1]


def test_advantages_become_two_dimensional_between_forward_and_loss(batch_trainer, monkeypatch):
    """The buffered batch keeps (B,), the loss sees weights times advantage, both iterations the same weights."""
    trainer = batch_trainer(credit={"strategy": "random", "normalize": "none"})
    seen = []

    def loss(self, model, inputs):
        buffered = inputs["advantages"].clone()
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
            compute_entropy=True,
            **{key: inputs.get(key) for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
        )
        seen.append((buffered, inputs["advantages"]))
        return logps.sum() * 0

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss)
    trainer.train()
    assert len(seen) == 2
    for buffered, advantages in seen:
        assert buffered.dim() == 1
        assert advantages.shape[0] == len(buffered)
        assert advantages.dim() == 2
    assert torch.equal(seen[0][1], seen[1][1])


def test_completions_are_logged_to_wandb_too(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    model = make_model(tmp_path / "model", "qwen3_vl")
    grpo = {"args": {"max_steps": 1, "log_completions": True, "num_completions_to_print": 1}}
    recipe = recipe_of(model, data, tmp_path, grpo=grpo, wandb="offline")
    run_recipe(recipe)
    stage = recipe.folder / "0-grpo"
    (table,) = (stage / "checkpoints/completions").glob("*.parquet")
    prompts = pd.read_parquet(table)["prompt"]
    assert len(prompts) == 8
    assert all(prompt.startswith("<image>\n") and "square" in prompt for prompt in prompts)
    assert len(list(stage.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_scheduled_reward_weights_reach_trl(data, tmp_path):
    model = make_model(tmp_path / "model", "qwen3_vl")
    rewards = [{"name": "iou", "schedule": {"weight": [[0, 1.0], [2, 3.0]]}}, {"name": "format", "weight": 0.5}]
    recipe = recipe_of(model, data, tmp_path, grpo={"rewards": rewards, "args": {"max_steps": 3}})
    trainer = STAGES.get("grpo")(jobs_of(recipe)[0]).trainer()
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(trainer.reward_weights.tolist())

    trainer.add_callback(Watch())
    trainer.train()
    assert seen == [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]


def test_rejection_sampling_trains_on_what_was_rewarded(data, tmp_path):
    model = make_model(tmp_path / "model", "qwen3_vl")
    args = {**SFT_ARGS, "num_generations": 3, "generation_batch_size": 8, "max_completion_length": 6, "keep": 2}
    stage = {"kind": "rejection", "rewards": [{"name": "format"}], "args": {**args, "min_reward": 0.0}}
    base = recipe_of(model, data, tmp_path, sft={})
    recipe = parse_recipe({**to_container(base), "data": str(data), "stages": [stage]})
    run_recipe(recipe)
    folder = recipe.folder / "0-rejection"
    lines = list(read_journal(folder / "kept-0.jsonl"))
    assert [line["id"] for line in lines] == [f"square-{index}" for index in range(16)]
    assert all(1 <= len(set(line["kept"])) == len(line["kept"]) <= 2 for line in lines)
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2, 2]
    load_policy(recipe.folder / "final")

    stage["args"]["min_reward"] = 0.9
    strict = parse_recipe({**to_container(recipe), "name": "strict", "data": str(data), "stages": [stage]})
    with pytest.raises(FoveaError, match="no answer reached min_reward"):
        run_recipe(strict)


def test_stages_of_other_names_keys_and_sections_are_refused(data, tmp_path):
    def refused(content):
        with pytest.raises(UsageError) as caught:
            run_recipe(parse_recipe(content))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    path = str(make_model(tmp_path / "model", "qwen3_vl"))
    base = {
        "name": "run",
        "model": {"path": path, "dialect": "qwen3_vl"},
        "data": str(data),
        "output": str(tmp_path),
    }
    grpo = {"kind": "grpo", "rewards": [{"name": "iou"}], "args": GRPO_ARGS}
    assert "did you mean 'grpo'" in refused({**base, "stages": [{"kind": "grpoo"}]})
    assert "did you mean 'learning_rate'" in refused(
        {**base, "stages": [{"kind": "sft", "args": {"learningrate": 1}}]}
    )
    assert "did you mean 'lora_alpha'" in refused({**base, "stages": [{"kind": "sft", "lora": {"lora_alfa": 1}}]})
    assert "HF_TOKEN" in refused({**base, "stages": [{"kind": "sft", "args": {"hub_token": "hf_x"}}]})
    assert "has no rewards" in refused({**base, "stages": [{"kind": "sft", "rewards": [{"name": "iou"}]}]})
    assert "needs rewards" in refused({**base, "stages": [{**grpo, "rewards": []}]})
    assert "needs data" in refused({**base, "data": None, "stages": [grpo]})
    assert "did you mean 'iou'" in refused({**base, "stages": [{**grpo, "rewards": [{"name": "iuo"}]}]})
    assert "unknown credit strategy" in refused({**base, "stages": [{**grpo, "credit": {"strategy": "nope"}}]})
    assert "num_generations" in refused({**base, "stages": [{**grpo, "args": {**GRPO_ARGS, "num_generations": 3}}]})
    assert "did you mean 'qwen3_vl'" in refused(
        {**base, "model": {"path": path, "dialect": "qwen3vl"}, "stages": [{"kind": "sft"}]}
    )
    assert "no such file" in refused({**base, "data": "nowhere", "stages": [{"kind": "sft"}]})

"""Rewards on attention inside a trainer: the logged reward is that of the maps eager attention shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attention.rollout import general_prompt
from grounding.errors import UsageError
from grounding.io import open_image
from models.loading import load_policy
from recipes.callbacks import read_metrics
from recipes.runner import dry_run, jobs_of, run_recipe
from recipes.stage import STAGES
from rewards import REWARDS
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model

QUERY = "Report the point."
LOOKING = [{"name": "attention_in_target"}, {"name": "attention_contrast", "weight": 0.5}]
ATTENTION = {"rows": "response", "query": QUERY, "sink_ratio": 1.01}
SEEN: list[dict[str, Any]] = []


def witness(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
    """A reward of TRL's signature that keeps what it was given."""
    SEEN.append({"completion_ids": completion_ids, **columns})
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_data(tmp_path_factory.mktemp("data"), count=4)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


def a_recipe(model: Any, data: Any, output: Any, *, args: Any = None, **grpo: Any) -> Any:
    watched = [*LOOKING, {"name": f"{__name__}.witness", "weight": 0.0, "label": "witness"}]
    stage = {"rewards": watched, "attention": ATTENTION, "lora": None, **grpo}
    return recipe_of(model, data, output, grpo={**stage, "args": {"max_steps": 1, **(args or {})}})


def columns_of(recipe: Any) -> dict[str, Any]:
    """What one batch of rollouts shows to the rewards, from a trainer of this recipe."""
    (job,) = jobs_of(recipe)
    trainer = STAGES.get("grpo")(job).trainer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(0)
    rows = [trainer.train_dataset[index] for index in (0, 0, 0, 0, 1, 1, 1, 1)]
    trainer._generate_and_score_completions(rows)
    return {**SEEN.pop(), "metrics": trainer.rollout_attention.metrics()}


@torch.no_grad()
def eager_maps(model: Any, processor: Any, conversation: Any, image: Image.Image, response: Any) -> Any:
    """(layers, heads, N, N) of a prompt with a response, alone and unpadded, and its tokens."""
    text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], torch.tensor([response], dtype=torch.long)], 1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(response)))
    given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    maps = model(**given, output_attentions=True).attentions
    rows, columns = (inputs["image_grid_thw"][0, 1:] // 2).tolist()
    return torch.stack(maps)[:, 0].double(), ids[0] == model.config.image_token_id, (rows, columns)


@pytest.mark.slow
def test_the_logged_reward_is_that_of_eager_maps(model: Any, data: Any, tmp_path: Any) -> None:
    """A run from YAML to its metrics; every number again from completions and starting weights alone."""
    recipe = a_recipe(model, data, tmp_path)
    run_recipe(recipe)
    (seen,) = SEEN
    policy, processor = load_policy(model, attn_implementation="eager", dtype=torch.float32)
    expected: dict[str, list[float]] = {"attention_in_target": [], "attention_contrast": []}
    task, general, masses, facts = [], [], [], []
    for sample, response in zip(seen["sample"], seen["completion_ids"], strict=True):
        image = open_image(data, sample.images[0])
        prompt = next(part for part in seen["prompts"] if sample.instruction in str(part))
        conversation = [{"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": prompt[0]["content"][-1]["text"]}
        ]}]  # fmt: skip
        maps, at, shape = eager_maps(policy, processor, conversation, image, response)
        rows = maps[:, :, len(at) - len(response) - 1 : -1][..., at]
        masses.append(rows.sum(-1).mean(-1))
        task.append(rows)
        maps, at, _ = eager_maps(policy, processor, general_prompt(conversation, QUERY), image, [])
        general.append(maps[:, :, -1][..., at])
        facts.append((sample, shape))
    layers = [0, 1]  # the middle third of two layers, and both of them hold heads
    mass = torch.stack(masses).mean(0)[layers].flatten()
    heads = mass.topk(max(1, round(0.2 * len(mass)))).indices
    chosen = [(layers[int(i) // maps.shape[1]], int(i) % maps.shape[1]) for i in heads]
    for own, plain, (sample, shape) in zip(task, general, facts, strict=True):
        grids = {
            "attention": torch.stack([own[at].mean(0) for at in chosen]).mean(0).reshape(shape).numpy(),
            "general": torch.stack([plain[at] for at in chosen]).mean(0).reshape(shape).numpy(),
        }
        sinks = torch.stack([own[at].median(0).values > 1.01 * own[at].mean() for at in chosen]).float().mean(0)
        grids["sinks"] = (sinks >= 0.5).reshape(shape).numpy()
        for name, values in expected.items():
            reward = REWARDS.get(name)
            needed = {need.rstrip("?"): grids[need.rstrip("?")] for need in reward.needs}
            values.append(reward(None, sample, **needed))
    line = read_metrics(recipe.folder / "0-grpo/metrics.jsonl")[0]
    for name, values in expected.items():
        assert line[f"rewards/{name}/mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert line[f"rewards/{name}/std"] == pytest.approx(np.std(values, ddof=1), rel=1e-2)
    assert line["attention/own_pass"] == 1.0 and 0 < line["attention/time_share"] < 1


@pytest.mark.slow
def test_trl_s_own_pass_shows_the_same_as_one_more(model: Any, data: Any, tmp_path: Any) -> None:
    own = columns_of(a_recipe(model, data, tmp_path))
    reused = columns_of(a_recipe(model, data, tmp_path, args={"num_iterations": 2}))
    checkpointed = columns_of(a_recipe(model, data, tmp_path, args={"gradient_checkpointing": True}))
    assert own["metrics"]["attention/own_pass"] == 1.0 and reused["metrics"]["attention/own_pass"] == 0.0
    for other in (reused, checkpointed):
        assert other["completion_ids"] == own["completion_ids"]
        for name in ("attention", "general", "sinks"):
            for grid, expected in zip(other[name], own[name], strict=True):
                np.testing.assert_allclose(grid, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_reference_s_pass_is_not_taken_for_the_policy_s(model: Any, data: Any, tmp_path: Any) -> None:
    """An adapter that changes much, and beta: the reference is the same model with the adapter off."""
    lora = {"r": 4, "target_modules": ["q_proj", "k_proj"], "init_lora_weights": False}
    plain = columns_of(a_recipe(model, data, tmp_path, lora=lora))
    for args in ({"beta": 0.1}, {"beta": 0.1, "num_iterations": 2}):
        found = columns_of(a_recipe(model, data, tmp_path, lora=lora, args=args))
        assert found["completion_ids"] == plain["completion_ids"]
        np.testing.assert_allclose(found["attention"], plain["attention"], rtol=1e-4, atol=1e-7)
        assert found["metrics"]["attention/own_pass"] == float("num_iterations" not in args)


def test_nothing_is_captured_where_no_reward_reads_attention(model: Any, data: Any, tmp_path: Any) -> None:
    recipe = recipe_of(model, data, tmp_path, grpo={"rewards": ["iou"]})
    (job,) = jobs_of(recipe)
    trainer = STAGES.get("grpo")(job).trainer()
    assert trainer.rollout_attention is None
    assert not trainer.model.config.get_text_config()._attn_implementation.startswith("captured")


def test_dry_run_tells_what_is_looked_at(model: Any, data: Any, tmp_path: Any) -> None:
    text = "\n".join(dry_run(a_recipe(model, data, tmp_path, attention=None)))
    assert "what the answer's tokens look at, layers 0, 1" in text
    condition = [{"name": "iou", "when": {"reward": "attention_in_target", "at_least": 0.5}}]
    assert "what the answer's" in "\n".join(
        dry_run(a_recipe(model, data, tmp_path, attention=None, rewards=condition))
    )
    assert "tokens look at" not in "\n".join(
        dry_run(a_recipe(model, data, tmp_path, attention=None, rewards=["iou"]))
    )


@pytest.mark.parametrize(
    ("grpo", "message"),
    [
        ({"rewards": ["iou"]}, "no reward reads the attention"),
        ({"attention": {"rowz": "answer"}}, "attention: unknown key 'rowz'; did you mean 'rows'"),
        ({"attention": {"layers": [7]}}, "attention.layers: 7 is outside the model"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    grpo: Any, message: str, model: Any, data: Any, tmp_path: Any
) -> None:
    with pytest.raises(UsageError, match=message):
        (job,) = jobs_of(a_recipe(model, data, tmp_path, **grpo))
        stage = STAGES.get("grpo")(job)
        stage.check()
        stage.trainer()


def test_a_general_query_takes_the_place_of_the_words() -> None:
    picture = {"type": "image", "image": "picture"}
    words = [{"type": "text", "text": "click"}, picture, {"type": "text", "text": "now"}]
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": words}]
    assert general_prompt(prompt, "look") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
    ]
    assert general_prompt([{"role": "user", "content": "click"}], "look") == [{"role": "user", "content": "look"}]
    assert words[0]["text"] == "click"

"""`train` in a stage: exactly the parts it names move, in every family; the saved model is the trained one."""

from __future__ import annotations

import copy
import itertools
import json
import shutil

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BatchFeature, Qwen2Config

from grounding.errors import UsageError
from models.loading import load_config, load_policy
from models.parts import PARTS, part_of, train_only
from recipes.callbacks import read_metrics
from recipes.config import parse_recipe, to_container
from recipes.memory import estimate, weights_of
from recipes.merge import logits, sample_batch
from recipes.runner import dry_run, jobs_of, run_recipe
from recipes.training import build_lora
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import DIALECTS, make_data, make_model

HOWS = ("frozen", "lora", "full")
# What peft cannot keep apart is refused: a language model in full beside adapters
EVERY = [
    hows
    for hows in itertools.product(HOWS, repeat=3)
    if set(hows) != {"frozen"} and not (hows[0] == "full" and "lora" in hows)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=4)


@pytest.fixture(scope="module", params=list(DIALECTS))
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


def recipe_with(folder, data, output, hows, **more):
    stage = {"train": dict(zip(PARTS, hows, strict=True)), "args": {"max_steps": 1, **more.pop("args", {})}, **more}
    return recipe_of(folder, data, output, sft=stage)


def named(model: nn.Module, hows: tuple[str, ...]) -> set[str]:
    """The weights that are to be trained: of a part in full all, of one with LoRA those of its linear layers."""
    how = dict(zip(PARTS, hows, strict=True))
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    linear.discard("lm_head.weight")
    kinds = {"frozen": set(), "lora": linear, "full": {name for name, _ in model.named_parameters()}}
    return {name for name, _ in model.named_parameters() if name in kinds[how[part_of(name)]]}


def trained_step(model: nn.Module, job, batch) -> nn.Module:
    """The model after a step of training, without its adapters, which have to be added to it rightly."""
    lora = build_lora(job, model)
    if lora is None:
        train_only(model, job.spec.train.parts("full"))
    trained = model if lora is None else get_peft_model(model, lora)
    weights = [weight for weight in trained.parameters() if weight.requires_grad]
    trained(**batch, labels=batch["input_ids"]).loss.backward()
    torch.optim.AdamW(weights, lr=1e-2).step()
    if lora is None:
        return trained
    expected = logits(trained, batch)
    merged = trained.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-4)
    return merged


def test_every_combination_moves_exactly_the_named_weights(folder, data, tmp_path):
    model, processor = load_policy(folder)
    model.train()
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS)
    assert len(EVERY) == 21
    was = dict(model.named_parameters())
    batch = sample_batch(processor, True, None)
    for hows in EVERY:
        (job,) = jobs_of(recipe_with(folder, data, tmp_path, hows))
        after = trained_step(copy.deepcopy(model), job, batch)
        moved = {name for name, weight in after.named_parameters() if not torch.equal(weight, was[name])}
        assert moved == named(model, hows), hows


MIXES = {
    "qwen3_vl": ("lora", "full", "frozen"),
    "qwen2_5_vl": ("frozen", "lora", "full"),
    "internvl": ("full", "frozen", "full"),
}


def test_a_recipe_trains_them_and_merges_them_rightly(folder, data, tmp_path):
    config = load_config(folder)
    hows = MIXES[config.model_type]
    recipe = recipe_with(folder, data, tmp_path, hows)
    run_recipe(recipe)  # which compares the merged model's logits with the trained one's
    (before, _), (after, _) = load_policy(folder), load_policy(recipe.folder / "final")
    was = dict(before.named_parameters())
    moved = {name for name, weight in after.named_parameters() if not torch.equal(weight, was[name])}
    assert moved == named(before, hows)
    (job,) = jobs_of(recipe)
    lora, train = build_lora(job), job.spec.train
    told = weights_of(config, lora, train).trained  # by the dry run
    plain, held = (estimate(config, lora, batch=1, tokens=1, train=own).weights for own in (None, train))
    full = train.parts("full")
    copied = sum(weight.numel() for name, weight in before.named_parameters() if part_of(name) in full)
    assert held - plain == (0 if lora is None else 4 * copied)
    assert json.loads((job.folder / "training.json").read_text())["trainable_weights"] == sum(told.values())


def test_a_resumed_run_agrees_and_parts_have_rates_of_their_own(data, tmp_path):
    folder = make_model(tmp_path / "model", "qwen3_vl")
    train = {
        "language_model": "lora",
        "projector": {"how": "full", "learning_rate": 1e-3},
        "vision_tower": {"how": "lora", "learning_rate": 1e-5},
    }
    args = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-2}
    recipe = recipe_of(folder, data, tmp_path, sft={"train": train, "args": args})
    run_recipe(recipe)
    stage = recipe.folder / "0-sft"
    whole, _ = load_policy(stage / "model")
    lines = read_metrics(stage / "metrics.jsonl")
    for part, rate in (("language_model", 1e-2), ("projector", 1e-3), ("vision_tower", 1e-5)):
        rates = [line[f"learning_rate/{part}"] for line in lines if "loss" in line]
        assert rates == pytest.approx([rate, rate / 2]), "a linear schedule over two steps"
    assert lines[1]["learning_rate"] == lines[1]["learning_rate/language_model"]
    before, _ = load_policy(folder)
    pairs = zip(before.named_parameters(), whole.named_parameters(), strict=True)
    steps = {name: float((after - was).abs().max()) for (name, was), (_, after) in pairs}
    largest = max(step for name, step in steps.items() if part_of(name) == "projector")
    assert 1e-3 < largest < 1.6e-3, "Adam's steps are at most as large as the learning rates"

    (stage / "DONE").unlink()
    shutil.rmtree(stage / "model")
    shutil.rmtree(stage / "checkpoints/checkpoint-2")
    run_recipe(recipe)
    resumed, _ = load_policy(stage / "model")
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_grpo_trains_parts_in_full_beside_adapters_in_bfloat16(data, tmp_path):
    """What is trained in full is held in 32 bits beside a model of 16, which autocasting brings together."""
    folder = make_model(tmp_path / "model", "internvl")
    train = {"language_model": "lora", "projector": "full", "vision_tower": "full"}
    grpo = {"train": train, "args": {"max_steps": 1, "bf16": True, "beta": 0.1}}
    recipe = recipe_of(folder, data, tmp_path, grpo=grpo)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})})
    run_recipe(recipe)
    facts = json.loads((recipe.folder / "0-grpo/training.json").read_text())
    assert 0 < facts["merged_apart"] < 5e-2


@pytest.mark.parametrize("hows", [("lora", "frozen", "frozen"), ("full", "frozen", "frozen")], ids="-".join)
def test_a_text_model_is_a_language_model_as_a_whole(hows):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=99, num_key_value_heads=2, **sizes))
    was, expected = copy.deepcopy(dict(model.named_parameters())), named(model, hows)
    content = {"name": "run", "model": {"path": "x", "dialect": "qwen3_vl"}, "data": "x"}
    stage = {"kind": "sft", "train": dict(zip(PARTS, hows, strict=True))}
    (job,) = jobs_of(parse_recipe({**content, "stages": [stage]}))
    after = trained_step(model, job, BatchFeature({"input_ids": torch.arange(99)[None]}))
    assert {name for name, weight in after.named_parameters() if not torch.equal(weight, was[name])} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"projector": "frozen"}}, "nothing would be trained"),
        ({"train": {"language_model": "full", "projector": "lora"}}, "goes with other parts in full or frozen"),
        ({"train": {"vision_tower": {"how": "frozen", "learning_rate": 1}}}, "what is frozen has no learning_rate"),
        ({"train": {"vison_tower": "lora"}}, "did you mean 'vision_tower'"),
        ({"train": {"projector": "lroa"}}, "did you mean 'lora'"),
        ({"freeze": "visual"}, r"'freeze' is now called 'train: \{language_model: full\}'"),
        ({"train": {"language_model": "lora"}, "lora": None}, "lora is null; remove that"),
        ({"train": {"language_model": "full"}, "lora": {"r": 4}}, "no part in `train` is trained with it"),
        ({"train": {"language_model": "lora"}, "lora": {"exclude_modules": "x"}}, "remove one of the two"),
        (
            {"train": {"language_model": "lora", "vision_tower": "lora"}, "lora": {"target_modules": ["q_proj"]}},
            r"train\.vision_tower: lora\.target_modules fits no layer of it",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(data, tmp_path, given, said):
    folder = make_model(tmp_path / "model", "qwen3_vl")
    with pytest.raises(UsageError, match=said):
        list(dry_run(recipe_of(folder, data, tmp_path, sft=given)))


def test_settings_of_before_are_read_as_those_of_now(data, tmp_path):
    """Stages that froze nothing said so, in a key that is gone."""
    stage = to_container(recipe_of("m", data, tmp_path, sft={}))["stages"][0]
    again = type(recipe_of("m", data, tmp_path, sft={}).stages[0]).from_mapping({**stage, "freeze": []}, "settings")
    assert again.model_dump(mode="json") == stage

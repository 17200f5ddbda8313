"""Recipe files: what is read, what is refused, and what the message says."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pydantic import ValidationError

from grounding.errors import UsageError
from recipes.config import SECTIONS, load_recipe, parse_recipe, save_recipe, to_container, with_key_tables
from rewards.spec import RewardSpec

RECIPE = """
name: small
model: {path: somewhere, dialect: qwen3_vl}
data: data/squares
stages:
  - kind: sft
    args: {learning_rate: 1e-4}
  - kind: grpo
    args: {num_generations: 4}
    lora: null
    data: {path: [a.jsonl, b.parquet], limit: 10}
    rewards: [iou, {name: format, weight: 0.5}]
    credit: {strategy: uniform}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_read_into_frozen_models(file):
    recipe = load_recipe(file)
    assert recipe.name == "small"
    assert recipe.folder.as_posix() == "runs/small"
    assert recipe.model.grammar == "think"
    assert recipe.stages[0].args == {"learning_rate": 1e-4}
    assert recipe.stages[0].lora == {}
    assert recipe.stages[0].data.path == ("data/squares",)
    assert recipe.stages[1].lora is None
    assert recipe.stages[1].data.path == ("a.jsonl", "b.parquet")
    assert recipe.stages[1].data.limit == 10
    assert recipe.stages[1].rewards[1] == RewardSpec(name="format", weight=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1


def test_eval_is_another_split_of_the_same_data_unless_it_says_otherwise(file):
    spec = load_recipe(file, ["stages.0.eval.limit=5"]).stages[0].eval
    assert (spec.path, spec.split, spec.limit) == (("data/squares",), "val", 5)
    spec = load_recipe(file, ["stages.0.eval.path=other", "stages.0.eval.split=dev"]).stages[0].eval
    assert (spec.path, spec.split) == (("other",), "dev")
    assert load_recipe(file).stages[0].eval is None


def test_overrides_reach_everything_by_path_and_index(file):
    recipe = load_recipe(
        file,
        [
            "name=other",
            "seed=7",
            "model.image_first=false",
            "stages.1.rewards.1.name=gaussian_point",
            "stages.1.credit.strategy=coupled_rhythm",
            "stages.1.args.beta=0.04",
            "stages.0.lora.target_modules=[q_proj, v_proj]",
            "stages.0.data.limit=3",
            "data=data/other",
        ],
    )
    assert (recipe.name, recipe.seed, recipe.model.image_first) == ("other", 7, False)
    assert recipe.stages[1].rewards[1] == RewardSpec(name="gaussian_point", weight=0.5)
    assert recipe.stages[1].credit.strategy == "coupled_rhythm"
    assert recipe.stages[1].args == {"num_generations": 4, "beta": 0.04}
    assert (recipe.stages[0].data.path, recipe.stages[0].data.limit) == (("data/other",), 3)
    assert recipe.stages[1].data.path == ("a.jsonl", "b.parquet")
    assert recipe.stages[0].lora == {"target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.argz.x=1", "stages.0.argz"),
        ("stages.5.args.x=1", "stages.5.args"),
        ("stages.1.rewards.7.name=iou", "rewards"),
        ("learning_rate", "not key=value"),
        ("=3", "not key=value"),
        ("modell.path=x", "modell"),
        ("sead=3", "did you mean 'seed'"),
        ("model.dialekt=x", "did you mean 'dialect'"),
        ("model.grammar=thinking", "did you mean 'think'"),
        ("stages.1.data.limt=2", "did you mean 'limit'"),
        ("stages.1.data.answer_kind=bx", "stages.1.data.answer_kind is 'bx'; did you mean 'box'?"),
        ("stages.1.data.ask=box", "stages.1.data: key 'ask' is now called 'answer_kind'"),
        ("stages.1.credit.heads={shares: 1}", "stages.1.credit.heads: unknown key 'shares'; did you mean 'share'"),
        ("stages.1.credit.window=0", "stages.1.credit.window is 0, must be at least 1"),
        ("stages.1.credit.strategy=unifrm", "stages.1.credit: unknown credit strategy 'unifrm'; did you mean"),
        ("stages.1.rewards.1.wieght=2", "stages.1.rewards.1: unknown key 'wieght'; did you mean 'weight'"),
        ("seed=many", "seed"),
        ("model.image_first=sometimes", "image_first"),
        ("model.max_pixels=big", "max_pixels"),
        ("name=../escape", "folder"),
        ("wandb=maybe", "wandb"),
        ("model.path=null", "model.path is missing"),
        ("stages=[]", "stages: a list of at least one entry is needed"),
        ("stages.0.args=3", "mapping"),
        ("stages.1.rewards=iou", "list"),
        ("seed=[", "seed"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(file, override, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(file, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(UsageError, match="no\\.yaml"):
        load_recipe(tmp_path / "no.yaml")
    broken = tmp_path / "broken.yaml"
    for text in ("a: [", "- a list", "just words", ""):
        broken.write_text(text)
        with pytest.raises(UsageError, match=r"broken\.yaml"):
            load_recipe(broken)
    broken.write_text("name: x\nstages: [{kind: sft}]\n")
    with pytest.raises(UsageError, match="model is missing"):
        load_recipe(broken)
    broken.write_text("name: x\nmodel: {path: '${nothing}', dialect: a}\nstages: [{kind: sft}]\n")
    with pytest.raises(UsageError, match="nothing"):
        load_recipe(broken)


def test_the_resolved_recipe_reads_back_as_itself(file, tmp_path):
    recipe = load_recipe(file, ["seed=3"])
    save_recipe(recipe, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    assert parse_recipe(to_container(recipe)) == recipe
    assert OmegaConf.load(tmp_path / "resolved.yaml").seed == 3


def test_the_documentation_has_every_key_with_its_default_and_meaning():
    page = Path("docs/training.md").read_text(encoding="utf-8")
    assert page == with_key_tables(page), "run `python -m recipes.config docs/training.md`"
    for section in SECTIONS:
        assert f"<!-- keys: {section.__name__} -->" in page
        assert all(field.description for field in section.model_fields.values())


def test_null_is_the_default_except_where_it_means_something(file):
    recipe = load_recipe(file, ["stages.0.args=null", "stages.1.credit.heads=null", "wandb=null", "seed=null"])
    assert recipe.stages[0].args == {} and recipe.stages[1].credit.heads.share == 0.3
    assert (recipe.wandb, recipe.seed) == ("auto", 0)
    assert load_recipe(file, ["stages.0.lora=null"]).stages[0].lora is None
    assert load_recipe(file, ["stages.1.data.ask=null"]) == load_recipe(file)  # as recipes before the new name say


def test_a_recipe_may_name_one_of_several_models(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: x_${model}\nmodel: small\ndata: d\nstages: [{kind: sft}]\nmodels:\n"
        "  small: {path: s, dialect: qwen3_vl}\n  large: {path: l, dialect: internvl}\n"
    )
    small, large = load_recipe(file), load_recipe(file, ["model=large", "model.path=other", "model.max_pixels=9"])
    assert (small.name, small.model.path, small.model.dialect) == ("x_small", "s", "qwen3_vl")
    assert (large.name, large.model.path, large.model.max_pixels) == ("x_large", "other", 9)
    assert parse_recipe(to_container(large)) == large and "models" not in to_container(large)
    for override, said in (
        ("model=larg", "model 'larg' is not one of `models`; did you mean 'large'?"),
        ("models.small.pth=x", "unknown key 'pth'"),
        ("model.pth=x", "unknown key 'pth'; did you mean 'path'"),
    ):
        with pytest.raises(UsageError) as caught:
            load_recipe(file, [override])
        assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"it is now configs/recipes/refcoco\.yaml with model=qwen2_5_vl_7b"):
        load_recipe("configs/recipes/qwen2_5_vl_7b.yaml")

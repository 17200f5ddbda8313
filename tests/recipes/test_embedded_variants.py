"""The recipes in which a model makes or chooses its data, on the embedded model, each stage for a step."""

from __future__ import annotations

import copy

import pytest
import yaml

from data_prep.__main__ import main as data_prep
from recipes.catalog import FOLDER
from recipes.config import parse_recipe
from recipes.runner import jobs_of, run_recipe

MODEL = "assets/fovea-tiny"
SMALL = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "num_generations": 4,
    "generation_batch_size": 12,
    "batch_size": 12,
    "max_completion_length": 48,
    "chosen_at_least": 0.3,  # few questions, few answers
    "rejected_at_most": None,
    "min_reward": 0.0,
    "teacher_model_name_or_path": MODEL,
    "gradient_checkpointing": False,
    "save_strategy": "no",
}
NEEDED = {"gradient_checkpointing", "save_strategy", "max_steps"}  # of stages that train, wherever a recipe is silent


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screens") / "data"
    command = ["screens", "--out", str(folder), "--train-screens", "12", "--val-screens", "1", "--test-screens", "1"]
    assert data_prep(command) == 0
    return folder


def embedded(stage, data):
    """A stage with everything that costs time made small."""
    if "repeat" in stage:
        return {**stage, "stages": [embedded(one, data) for one in stage["stages"]]}
    trains = stage["kind"] not in ("select", "filter")
    args = {**stage["args"], **(dict.fromkeys(NEEDED) if trains else {})}
    stage["args"] = {key: SMALL.get(key, value) for key, value in args.items()}
    stage["data"] = {**stage.get("data", {}), **({"path": str(data)} if "path" in stage.get("data", {}) else {})}
    if "lora" in stage:
        stage["lora"] = {"r": 4}
    return stage


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    ["distill_qwen3_vl_2b", "multi_image_rl_qwen2_5_vl_7b", "ruig_qwen2_5_vl_3b", "se_gui_qwen2_5_vl_7b",
     "self_evolution_qwen3_vl_4b", "test_time_qwen2_5_vl_3b", "univg_r1_qwen2_5_vl_7b", "visrl_qwen2_5_vl_7b"],
)  # fmt: skip
def test_the_recipe_runs_on_the_embedded_model(name, screens, tmp_path):
    content = copy.deepcopy(yaml.safe_load((FOLDER / f"systems/{name}.yaml").read_text()))
    content["model"] = {"path": MODEL, "dialect": "fovea", "grammar": "think", "image_first": False}
    content["data"] = str(screens)
    content["stages"] = [embedded(stage, screens) for stage in content["stages"]]
    recipe = parse_recipe({**content, "output": str(tmp_path), "wandb": "disabled"})
    run_recipe(recipe)
    assert all((job.folder / "DONE").is_file() for job in jobs_of(recipe))
    assert (recipe.folder / "final/model.safetensors").is_file()

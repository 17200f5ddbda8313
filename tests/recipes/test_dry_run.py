"""Every recipe of the repository builds, against the configurations of the models it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig

import train
from grounding.errors import BrokenRow, FoveaError, UsageError
from models.loading import load_config
from recipes.config import load_recipe
from recipes.memory import GIB, estimate
from recipes.runner import dry_run
from recipes.training import LORA_DEFAULTS
from tests.recipes.evidence import EVIDENCE, make_evidence
from tests.recipes.families import PARAMETERS, make_family
from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [  # with each model that it names
    pytest.param((file, model), id=file.stem + (f"-{model}" if model else ""))
    for file in sorted((ROOT / "configs/recipes").rglob("*.yaml"))
    for model in yaml.safe_load(file.read_text()).get("models") or [None]
]
# model path of a recipe: the family whose folder stands in for it
STANDS_IN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    "Qwen/Qwen3-VL-2B-Instruct": "qwen3_vl_2b",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl_4b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl_8b",
    "OpenGVLab/InternVL3_5-4B-HF": "internvl3_5_4b",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = make_data(tmp_path_factory.mktemp("data"), count=32, size=(640, 480))
    for split in ("val", "test"):
        shutil.copy(folder / "train.jsonl", folder / f"{split}.jsonl")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    made = {path: make_family(root / name, name) for path, name in STANDS_IN.items()}
    return {**made, "assets/fovea-tiny": make_model(root / "tiny", "qwen3_vl")}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """Data of the recipes whose rewards need another kind of target, by the recipe's name."""
    root = tmp_path_factory.mktemp("evidence")
    return {name: make_evidence(root / name, name) for name in EVIDENCE}


@pytest.mark.parametrize("which", RECIPES)
def test_every_recipe_builds(which, folders, data, evidence, tmp_path):
    file, model = which
    data = evidence.get(file.stem, data)
    named = [f"model={model}"] if model else []
    recipe = load_recipe(file, named)
    assert recipe.name == file.stem + (f"_{model}" if model else "")
    stand_in = folders[recipe.model.path]
    assert model in (None, stand_in.name)
    overrides = [
        *named,
        f"model.path={stand_in}",
        f"data.path={data}",
        f"output={tmp_path}",
        *_stage_data(file, data),
    ]
    overrides += _teachers(file, folders)
    lines = list(dry_run(load_recipe(file, [*_data_as_mapping(file), *overrides])))
    assert sum(" -> " in line for line in lines) == len(recipe.stages)
    text = "\n".join(lines)
    assert text.count("  prompt  ") == text.count("  memory  ") == len(recipe.stages)
    assert ("click the" in text) == (file.stem not in EVIDENCE)
    assert ("  reward " in text) == any(stage.rewards for stage in recipe.stages)
    assert ("rewards " in text) == any(stage.kind in {"grpo", "rloo", "dpo"} for stage in recipe.stages)
    assert list(tmp_path.iterdir()) == []


def _stage_data(file: Path, data: Path) -> list[str]:
    stages = enumerate(yaml.safe_load(file.read_text())["stages"])
    return [f"stages.{index}.data.path={data}" for index, stage in stages if "path" in stage.get("data", {})]


def _teachers(file: Path, folders: dict[str, Path]) -> list[str]:
    stages = enumerate(yaml.safe_load(file.read_text())["stages"])
    named = ((index, stage.get("args", {}).get("teacher_model_name_or_path")) for index, stage in stages)
    return [f"stages.{index}.args.teacher_model_name_or_path={folders[name]}" for index, name in named if name]


def _data_as_mapping(file: Path) -> list[str]:
    """So that `data.path=` can be said of recipes that give the path alone."""
    given = yaml.safe_load(file.read_text())["data"]
    return [] if isinstance(given, dict) else ["data={}"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_memory_estimate_counts_the_published_number_of_weights(name, folders):
    (folder,) = [folders[path] for path, family in STANDS_IN.items() if family == name]
    config = load_config(folder)
    memory = estimate(config, LoraConfig(**LORA_DEFAULTS), batch=1, tokens=1000)
    assert memory.parameters == PARAMETERS[name]
    assert memory.weights == 2 * PARAMETERS[name]
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    hidden, forward = text.hidden_size, text.intermediate_size
    # A rank-16 pair per projection: q, k, v, o, gate, up, down
    pairs = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + forward)
    assert memory.trainable == 16 * text.num_hidden_layers * pairs
    assert memory.optimizer == 8 * memory.trainable
    full = estimate(config, None, batch=1, tokens=1000)
    assert full.trainable == full.parameters
    assert full.total > 14 * PARAMETERS[name]
    assert re.match(r"about \d+\.\d\d GiB per process before sharding \(weights ", str(full))
    longer = estimate(config, None, batch=1, tokens=2000, generated_batch=1)
    assert longer.activations == 2 * full.activations
    assert 0 < longer.cache < GIB


def test_the_command_prints_it_and_a_broken_recipe_exits_with_two(folders, data, tmp_path, capsys):
    command = [str(ROOT / "configs/recipes/quickstart.yaml"), "--dry-run"]
    command += [f"model.path={folders['assets/fovea-tiny']}", f"data={data}", f"output={tmp_path}"]
    assert train.main(command) == 0
    told = capsys.readouterr().out
    assert "0 sft: " in told and "images       those of 32 samples opened" in told
    assert "labels" in told and "</think>" in told and "<|im_end|>" in told
    assert re.search(r"iou on box square-0: right (1|0\.9\d*), wrong 0, unreadable 0", told)
    last = told.strip().splitlines()[-1]
    assert last.startswith("OK; start it with: ") and "train.py " in last and f"output={tmp_path}" in last
    assert train.main([*command, "stages.1.rewards.0.name=iouu"]) == 2
    assert "did you mean 'iou'" in capsys.readouterr().err


def test_a_lora_target_that_matches_nothing_is_a_usage_error(folders, data, tmp_path):
    overrides = [f"model.path={folders['assets/fovea-tiny']}", f"data={data}", f"output={tmp_path}"]
    recipe = load_recipe(
        ROOT / "configs/recipes/quickstart.yaml", [*overrides, "stages.0.lora.target_modules=[nope]"]
    )
    with pytest.raises(UsageError, match=r"stages\.0 \(sft\)\.lora: No modules were targeted"):
        list(dry_run(recipe))


def raising(completions, **columns):
    """A reward that fails."""
    raise RuntimeError("no such sensor")


def test_what_only_training_would_have_met_is_met(folders, tmp_path):
    data = make_data(tmp_path / "data", count=16)
    overrides = [f"model.path={folders['assets/fovea-tiny']}", f"data={data}", f"output={tmp_path}"]
    overrides.append("stages.1.eval.split=train")

    def dry(*more):
        return list(dry_run(load_recipe(ROOT / "configs/recipes/quickstart.yaml", [*overrides, *more])))

    with pytest.raises(FoveaError, match=r"raising.*no such sensor"):
        dry("stages.1.rewards.0.name=tests.recipes.test_dry_run:raising")
    (data / "images/9.png").unlink()
    with pytest.raises(BrokenRow, match=r"images/9\.png"):
        dry()

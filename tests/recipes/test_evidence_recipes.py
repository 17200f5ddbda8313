"""Recipes whose answers are words, several images or refusals: each stage takes a step on data of its own source."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recipes.callbacks import read_metrics
from recipes.config import load_recipe
from recipes.runner import jobs_of, run_recipe
from tests.recipes.evidence import EVIDENCE, make_evidence
from tests.recipes.tiny import make_model

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {"max_steps": 1, "logging_steps": 1, "gradient_accumulation_steps": 1, "save_steps": 9}
STEP = {
    "sft": {**ALWAYS, "per_device_train_batch_size": 2},
    "grpo": {**ALWAYS, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4},
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in EVIDENCE])
def test_each_stage_takes_a_step(name, tmp_path):
    file = ROOT / f"configs/recipes/{name}.yaml"
    stages = [stage.kind for stage in load_recipe(file).stages]
    changes = [
        f"stages.{n}.args.{key}={value}" for n, kind in enumerate(stages) for key, value in STEP.get(kind, {}).items()
    ]
    changes += [f"stages.{n}.args.gradient_checkpointing=false" for n, kind in enumerate(stages) if kind in STEP]
    changes += [f"stages.{n}.args.dataloader_num_workers=0" for n, kind in enumerate(stages) if kind in STEP]
    changes += [f"stages.{n}.lora={{r: 4, lora_alpha: 8}}" for n, kind in enumerate(stages) if kind in STEP]
    model = make_model(tmp_path / "model", "qwen3_vl")
    data = make_evidence(tmp_path / "data", name)
    recipe = load_recipe(
        file,
        [*changes, f"model.path={model}", "model.dialect=qwen3_vl", "model.min_pixels=1024", "model.max_pixels=9216",
         f"data={data}", f"output={tmp_path / 'run'}", "wandb=disabled"],
    )  # fmt: skip
    run_recipe(recipe)
    for job in jobs_of(recipe):
        assert (job.folder / "DONE").is_file()
        if job.spec.kind in STEP:
            losses = [line["loss"] for line in read_metrics(job.metrics) if "loss" in line]
            assert losses and all(map(math.isfinite, losses))

"""Recipes on two processes, launched as users launch them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from grounding.journal import read_journal, read_journals
from recipes.callbacks import read_metrics
from recipes.config import parse_recipe, save_recipe, to_container
from recipes.runner import run_recipe
from tests.recipes.test_stages import CLOCKS, SFT_ARGS, recipe_of
from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]


def start(config: str, recipe: Path) -> subprocess.Popen:
    """`accelerate launch` with one of the repository's configurations."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"configs/accelerate/{config}.yaml",
    ]
    port = ["--main_process_port", "0"] if config != "cpu" else []
    return subprocess.Popen(
        [*command, *port, "train.py", str(recipe)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def launch(config: str, recipe: Path) -> subprocess.CompletedProcess:
    """The same, to its end."""
    with start(config, recipe) as process:
        try:
            out, said = process.communicate(timeout=800)
        except subprocess.TimeoutExpired:
            kill(process)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def launch_and_kill(config: str, recipe: Path, when: Callable[[], bool]) -> None:
    """The same, killed with all its processes as soon as `when` holds."""
    with start(config, recipe) as process:
        end = time.monotonic() + 800
        try:
            while not when():
                assert process.poll() is None, process.stderr.read()[-3000:]
                assert time.monotonic() < end, "no progress"
                time.sleep(0.05)
        finally:
            kill(process)


def kill(process: subprocess.Popen) -> None:
    """The launcher and its workers, which have sessions of their own."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_configuration_for_two_processes_starts_two(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data", count=4)
    recipe = recipe_of(model, data, tmp_path, sft={"args": {"max_steps": 1, "per_device_train_batch_size": 2}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    done = launch("cpu_two", tmp_path / "recipe.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((recipe.folder / "0-sft/training.json").read_text())
    assert (facts["processes"], facts["distributed"]) == (2, "multi_cpu")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_usage_error_on_two_processes_is_one_line(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data", count=2)
    recipe = recipe_of(model, data, tmp_path, sft={"args": {"learning_rat": 1}})
    save_recipe(recipe, tmp_path / "recipe.yaml")
    done = launch("cpu_two", tmp_path / "recipe.yaml")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: stages.0 (sft).args: unknown key 'learning_rat'; did you mean 'learning_rate'?"
    ]


def rejection_recipe(model, data, output, name):
    """Three samples a batch, two answers each, all kept."""
    sampling = {"num_generations": 2, "generation_batch_size": 3, "max_completion_length": 4, "keep": 2}
    args = {"max_steps": 1, "per_device_train_batch_size": 2, "min_reward": 0.0, **sampling}
    stage = {"kind": "rejection", "rewards": ["format"], "args": {**SFT_ARGS, **args}}
    base = to_container(recipe_of(model, data, output, sft={}))
    return parse_recipe({**base, "name": name, "data": str(data), "stages": [stage]})


def kept_rows(recipe):
    rows = list(read_journals(recipe.folder / "0-rejection", "kept-*.jsonl"))
    lines = [row for file in recipe.folder.rglob("kept-*.jsonl") for row in read_journal(file)]
    assert len(rows) == len(lines)  # none twice
    return sorted((row["id"], row["kept"]) for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rejection_draws_the_same_rows_alone_and_on_two_processes_under_zero3(tmp_path):
    """One process is the reference; two are killed between their rows, and go on."""
    pytest.importorskip("deepspeed")
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    alone = rejection_recipe(model, data, tmp_path, "alone")
    run_recipe(alone)
    two = rejection_recipe(model, data, tmp_path, "two")
    save_recipe(two, tmp_path / "recipe.yaml")
    files = [two.folder / f"0-rejection/kept-{rank}.jsonl" for rank in (0, 1)]
    launch_and_kill("cpu_zero3", tmp_path / "recipe.yaml", lambda: any(list(read_journal(file)) for file in files))
    with files[0].open("a") as file:
        file.write('{"id": "square-')  # a torn line
    done = launch("cpu_zero3", tmp_path / "recipe.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(list(read_journal(file)) for file in files)
    assert kept_rows(two) == kept_rows(alone)
    assert len(kept_rows(two)) == 16


REWARD = "tests.recipes.test_distributed.token_sum"


def token_sum(completions, completion_ids, **columns):
    """A reward of TRL's signature that differs between responses, so that there is something to learn."""
    return [float(sum(ids) % 97) for ids in completion_ids]


RHYTHM = {
    "strategy": "coupled_rhythm",
    "params": {"min_length": 1, "waad_quantile": 0.8, "delta_quantile": 0.2},
    "horizon": [1, 6],
}


def as_killed(stage, step):
    """Leave of a finished stage what a kill right after a checkpoint leaves; later checkpoints and the model go."""
    for path in (stage / "checkpoints").glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    for folder in ("adapter", "model"):
        shutil.rmtree(stage / folder)
    for file in ("DONE", "training.json"):
        (stage / file).unlink()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", ["cpu_zero2", "cpu_zero3"])
def test_stages_killed_and_resumed_under_deepspeed_are_uninterrupted(config, tmp_path):
    """SFT, then GRPO with credit from its merged model, weights or optimizer split over two processes."""
    pytest.importorskip("deepspeed")
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    # 4 rollouts of a prompt on two processes of 2: the group is only whole when they talk to each other
    args = {"max_steps": 3, "per_device_train_batch_size": 2, "save_steps": 1, "save_total_limit": 3}
    grpo = {"args": {**args, "max_completion_length": 12}, "credit": RHYTHM, "rewards": [REWARD]}
    recipe = recipe_of(model, data, tmp_path, sft={"args": args}, grpo=grpo)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    stages = [recipe.folder / name for name in ("0-sft", "1-grpo")]

    def run():
        done = launch(config, tmp_path / "recipe.yaml")
        assert done.returncode == 0, done.stderr[-3000:]
        heads = stages[1] / "checkpoints/checkpoint-3/credit_heads.json"
        return [read_metrics(stage / "metrics.jsonl") for stage in stages], heads.read_text()

    whole, heads = run()
    for stage in stages:
        facts = json.loads((stage / "training.json").read_text())
        assert (facts["processes"], facts["distributed"], facts["zero_stage"]) == (2, "deepspeed", int(config[-1]))
    before, after = load_file(model / "model.safetensors"), load_file(stages[0] / "model/model.safetensors")
    assert {name: weight.shape for name, weight in before.items()} == {n: w.shape for n, w in after.items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name and "visual" not in name for name in changed)
    trained = [load_file(stage / "model/model.safetensors") for stage in stages]

    for stage in stages:
        as_killed(stage, 1)
    parts, heads_again = run()
    assert heads_again == heads
    for stage, one, other in zip(stages, whole, parts, strict=True):
        assert [line["step"] for line in one] == [line["step"] for line in other] == [1, 2, 3, 3]
        for uninterrupted, resumed in zip(one[:3], other[:3], strict=True):
            # TRL's SFTTrainer counts tokens from the resume on
            for key in uninterrupted.keys() - {*CLOCKS, "credit/seconds", "credit/time_share", "num_tokens"}:
                assert resumed[key] == pytest.approx(uninterrupted[key], abs=1e-6), (stage, resumed["step"], key)
    for stage, weights in zip(stages, trained, strict=True):
        again = load_file(stage / "model/model.safetensors")
        assert all(torch.equal(weights[name], again[name]) for name in weights), stage
    assert not list(recipe.folder.glob("*.before-*"))  # the second stage went on from the same first one
    assert (recipe.folder / "final/model.safetensors").is_file()

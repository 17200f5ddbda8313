"""Interruptions: a real process is terminated, then killed, then finishes; nothing is lost or done twice."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from grounding.errors import BrokenRow, FoveaError
from models.loading import load_policy
from recipes.callbacks import Alarms, MetricsFile, StopOnDivergence, StopOnSignal, read_metrics
from recipes.config import save_recipe
from recipes.grpo import WholeBatches
from recipes.records.checkpoints import last_checkpoint
from recipes.runner import jobs_of, run_recipe
from recipes.stage import STAGES
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0  # of a busy machine


def start(recipe: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", str(recipe)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_step(process: subprocess.Popen, metrics: Path, step: int) -> None:
    end = time.monotonic() + PATIENCE
    while not any(line["step"] >= step for line in read_metrics(metrics)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "no progress"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_terminated_then_killed_then_finished(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    recipe = recipe_of(model, data, tmp_path, grpo={"args": {"max_steps": 16, "save_steps": 3}})
    file = tmp_path / "recipe.yaml"
    save_recipe(recipe, file)
    stage = recipe.folder / "0-grpo"
    checkpoints = stage / "checkpoints"

    terminated = start(file)
    wait_for_step(terminated, stage / "metrics.jsonl", 2)
    terminated.send_signal(signal.SIGTERM)
    _, said = terminated.communicate(timeout=PATIENCE)
    assert terminated.returncode == 1
    last_line = said.strip().splitlines()[-1]
    assert "stopped by SIGTERM at step" in last_line
    stopped = int(last_line.partition("at step ")[2].partition(";")[0])
    assert last_checkpoint(checkpoints) == checkpoints / f"checkpoint-{stopped}"

    killed = start(file)
    wait_for_step(killed, stage / "metrics.jsonl", stopped + 4)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    (checkpoints / "checkpoint-15").mkdir()  # one that was being written
    (checkpoints / "checkpoint-15/trainer_state.json").write_text('{"global_step": 2')

    finished = start(file)
    _, said = finished.communicate(timeout=PATIENCE)
    assert finished.returncode == 0, said
    steps = [line["step"] for line in read_metrics(stage / "metrics.jsonl")]
    assert steps == [*range(1, 17), 16]
    kept = [path.name for path in checkpoints.iterdir()]
    assert len(kept) == 2 and "checkpoint-16" in kept  # those of before the kills are gone
    load_policy(recipe.folder / "final")


def test_a_crash_after_the_last_step_costs_only_the_merge(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    recipe = recipe_of(model, data, tmp_path, sft={})
    run_recipe(recipe)
    stage = recipe.folder / "0-sft"
    (stage / "DONE").unlink()
    weights = load_file(stage / "model/model.safetensors")
    (stage / "model/model.safetensors").unlink()
    (stage / "training.json").unlink()
    checkpoints = stage / "checkpoints"
    for step in (0, 1):  # killed before old ones were removed
        shutil.copytree(checkpoints / "checkpoint-2", checkpoints / f"checkpoint-{step}")
    run_recipe(recipe)
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-1", "checkpoint-2"}
    assert json.loads((stage / "training.json").read_text())["steps"] == 2
    again = load_file(stage / "model/model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert [line["step"] for line in read_metrics(stage / "metrics.jsonl")] == [1, 2, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_checkpoint_at_the_end_of_the_step(number, tmp_path):
    stop, control = StopOnSignal(), TrainerControl()
    args, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(global_step=1, max_steps=5)
    before = signal.getsignal(number)
    with stop.listening():
        stop.on_step_end(args, state, control)
        assert not control.should_save
        os.kill(os.getpid(), number)
        stop.on_step_end(args, state, control)
    assert control.should_save
    assert control.should_training_stop
    assert stop.signal == number.name
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_save_waits_for_the_end_of_the_generation_batch(accumulated):
    """Batches of 4 micro-steps, used twice: 8 of them, of which an optimizer step takes `accumulated`."""
    args = SimpleNamespace(steps_per_generation=4, num_iterations=2, gradient_accumulation_steps=accumulated)
    trainer = SimpleNamespace(_step=0)
    callback, saved = WholeBatches(trainer), []
    for step in range(1, 20):
        control = TrainerControl(should_save=step % 3 == 0)
        state = TrainerState(global_step=step, max_steps=19)
        callback.on_step_end(args, state, control)
        if control.should_save:
            saved.append(step)
    assert saved == ([8, 16, 19] if accumulated == 1 else [4, 8, 12, 16, 19])  # and at the very end
    callback.on_train_begin(args, TrainerState(global_step=12), TrainerControl())
    assert trainer._step == 12 * accumulated  # TRL would begin to count at 0, and generate at the wrong steps


def test_a_second_ctrl_c_does_not_wait():
    stop = StopOnSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_metrics_of_steps_to_be_trained_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 3, "train_runtime": 1}\n{"step": 4, "lo')
    state = TrainerState(global_step=2, is_world_process_zero=True)
    MetricsFile(path).on_train_begin(None, state, None)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    MetricsFile(path).on_train_begin(None, TrainerState(global_step=0, is_world_process_zero=True), None)
    assert read_metrics(path) == []


def test_what_cannot_be_a_number_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    state = TrainerState(global_step=1, is_world_process_zero=True)
    MetricsFile(path).on_log(None, state, None, logs={"loss": float("nan"), "reward": 1.0})
    (line,) = read_metrics(path)
    assert (line["loss"], line["reward"]) == (None, 1.0)


def test_a_gamed_reward_is_warned_of_once(caplog):
    state = TrainerState(is_world_process_zero=True)
    alarms = Alarms()
    for step in range(40):
        state.log_history.append({"step": step, "reward": step / 40, "eval_rewards/click_in_box/mean": 0.5})
        alarms.on_log(None, state, None, logs=state.log_history[-1])
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and "held-out accuracy does not" in warnings[0]


def test_a_line_in_the_middle_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(BrokenRow, match=r"metrics\.jsonl:2: not JSON"):
        read_metrics(path)


@pytest.mark.parametrize("seen", [{"loss": math.nan}, {"loss": 1.0, "grad_norm": math.inf}])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_stage(seen):
    stop, state = StopOnDivergence("stages.0 (sft)", scaled=False), TrainerState(global_step=7)
    stop.on_log(None, state, None, logs={"loss": 1.0, "grad_norm": 2.0})
    with pytest.raises(FoveaError, match=r"stages\.0 \(sft\): training diverged at step 7: .* not finite"):
        stop.on_log(None, state, None, logs=seen)


def test_a_gradient_scaler_may_meet_an_overflow():
    StopOnDivergence("stage", scaled=True).on_log(
        None, TrainerState(), None, logs={"loss": 1.0, "grad_norm": math.inf}
    )


def test_diverged_training_fails_and_leaves_the_last_good_checkpoint(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    args = {"learning_rate": 1e30, "save_steps": 1, "max_steps": 4, "lr_scheduler_type": "constant"}
    recipe = recipe_of(model, data, tmp_path, sft={"args": args})
    for _ in range(2):
        with pytest.raises(FoveaError, match=r"stages\.0 \(sft\): training diverged at step [12]: .* not finite"):
            run_recipe(recipe)
    stage = recipe.folder / "0-sft"
    assert not (stage / "DONE").exists() and not (stage / "model").exists()
    for path in (stage / "checkpoints").glob("*/adapter_model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(path).values())


def test_a_stage_without_a_step_is_not_finished(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data", count=3)
    args = {"per_device_train_batch_size": 16, "num_generations": 4, "max_steps": 3}
    (job,) = jobs_of(recipe_of(model, data, tmp_path, grpo={"args": args}))
    with pytest.raises(FoveaError, match="no optimizer step was taken"):
        STAGES.get("grpo")(job).run()
    assert not (job.folder / "model").exists()


def test_a_finished_stage_goes_on_to_more_steps(tmp_path):
    model, data = make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data")
    run_recipe(recipe_of(model, data, tmp_path, sft={"args": {"max_steps": 2}}))
    longer = recipe_of(model, data, tmp_path, sft={"args": {"max_steps": 4, "save_steps": 1}})
    run_recipe(longer)
    stage = longer.folder / "0-sft"
    steps = [line["step"] for line in read_metrics(stage / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 4]
    assert json.loads((stage / "training.json").read_text())["steps"] == 4
    assert not list((stage / "checkpoints").rglob("README.md"))
    assert "Fovea" in (stage / "adapter/README.md").read_text()

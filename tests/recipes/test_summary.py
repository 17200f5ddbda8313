"""What is said of a finished stage and run, and the card of its model."""

from __future__ import annotations

import json

import pytest
import yaml

from recipes.config import parse_recipe
from recipes.records.summary import card, run_lines, stage_lines, write_card
from recipes.runner import jobs_of
from tests.recipes.tiny import make_data


@pytest.fixture
def job(tmp_path):
    make_data(tmp_path / "squares", count=4)
    content = {
        "name": "mine",
        "model": {"path": "Qwen/Qwen3-VL-2B-Instruct", "dialect": "qwen3_vl", "grammar": "think"},
        "data": str(tmp_path / "squares"),
        "stages": [{"kind": "grpo", "rewards": ["iou", "format"], "args": {"beta": 0.04}}],
        "output": str(tmp_path / "runs"),
    }
    (made,) = jobs_of(parse_recipe(content))
    (made.folder / "model").mkdir(parents=True)
    return made


def log(job, *rewards, evaluated=()):
    rows = [{"step": step, "reward": reward} for step, reward in enumerate(rewards, 1)]
    rows += [{"step": step, "eval_reward": value} for step, value in evaluated]
    rows.append({"step": len(rewards), "train_runtime": 1.0})
    job.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_stage_tells_what_changed_with_intervals(job):
    rewards = [0.1, 0.3] + [0.5] * 16 + [0.8, 0.9]
    log(job, *rewards, evaluated=[(0, 0.25), (20, 0.75)])
    first, reward, evaluated, ask = stage_lines(job)
    assert first == f"stages.0 (grpo) is finished: {job.folder / 'model'}"
    # a tenth of 20 logs is 2: 0.2 with standard deviation 0.1414, 0.85 with 0.0707; 1.96 / sqrt(2) of each
    assert reward == "  reward 0.2 ± 0.2 -> 0.85 ± 0.098 (mean of the first and last 2 of 20 logs)"
    assert evaluated == "  eval reward 0.25 -> 0.75 (2 evaluations)"
    assert ask == f"  ask it: python predict.py --model {job.folder / 'model'} --serve"


def test_without_numbers_the_model_and_how_to_look_at_it_are_told(job):
    (job.folder / "samples.jsonl").write_text("")
    model = job.folder / "model"
    assert stage_lines(job) == [
        f"stages.0 (grpo) is finished: {model}",
        f"  rollouts: {job.folder / 'samples.html'}",
        f"  ask it: python predict.py --model {model} --serve",
    ]
    model.rmdir()
    (job.folder / "data").mkdir()
    assert stage_lines(job)[-1] == f"  see them: python -m data_prep view --root {job.folder / 'data'}"


def test_a_run_tells_the_commands_that_come_next(job, tmp_path):
    assert run_lines(job.recipe, job) == [f"kept:  {job.folder}"]  # no stage has made a model
    (job.recipe.folder / "final").symlink_to(job.folder / "model")
    model, evaluation, report = run_lines(job.recipe, job)
    assert model == f"model: {tmp_path}/runs/mine/final"
    assert evaluation == (
        f"next:  python eval.py --model {tmp_path}/runs/mine/final --data {tmp_path}/squares --split train "
        f"--out {tmp_path}/runs/mine/eval/final"
    )
    assert report == f"then:  python -m reports {tmp_path}/runs/mine"
    (tmp_path / "squares" / "val.jsonl").touch()
    assert f"--data {tmp_path}/squares --split val " in run_lines(job.recipe, job)[1]


def test_the_card_is_a_card(job, tmp_path):
    log(job, 0.1, 0.2, 0.3)
    (job.folder / "model" / "README.md").write_text("[More Information Needed]")
    write_card(job)
    text = (job.folder / "model" / "README.md").read_text()
    assert text == card(job) and "More Information Needed" not in text
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "base_model": "Qwen/Qwen3-VL-2B-Instruct",
        "tags": ["fovea", "grounding", "grpo"],
    }
    for said in (
        "# mine/0-grpo",
        "dialect `qwen3_vl`, grammar `think`, images before the text",
        "4 samples of",
        "squares, targets of kind box; license of the rows: CC0-1.0",
        "beta: 0.04",
        "- iou",
        "reward 0.1 -> 0.3",
        "Nothing was evaluated when this card was written",
    ):
        assert said in body, said

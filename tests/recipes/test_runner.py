"""When a stage's folder is taken up again, refused, or begun anew."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from grounding.errors import UsageError
from grounding.folders import writing
from recipes.runner import claim, environment, jobs_of, mark_done, open_run, read_settings, run_recipe
from tests.recipes.test_checkpoints import write
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


@pytest.fixture
def places(tmp_path):
    return make_model(tmp_path / "model", "qwen3_vl"), make_data(tmp_path / "data", count=2)


def job_of(places, output, index=0, **args):
    return jobs_of(recipe_of(*places, output, sft={"args": args}, grpo={}))[index]


def change_a_weight(model):
    weights = load_file(model / "model.safetensors")
    weights[min(weights)].view(-1)[0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def test_a_finished_stage_stays_finished(places, tmp_path):
    assert not claim(job_of(places, tmp_path))
    mark_done(job_of(places, tmp_path))
    assert claim(job_of(places, tmp_path))


@pytest.mark.parametrize("what", ["rows", "image", "model"])
def test_changed_data_or_weights_are_refused(what, places, tmp_path):
    model, data = places
    claim(job_of(places, tmp_path))
    mark_done(job_of(places, tmp_path))
    if what == "rows":
        file = data / "train.jsonl"
        file.write_text(file.read_text().replace("click", "find"))
    elif what == "image":
        (data / "images/0.png").write_bytes((data / "images/1.png").read_bytes())
    else:
        change_a_weight(model)
    named = f"model {model}" if what == "model" else f"data {data}"
    with pytest.raises(UsageError, match=rf"another content of {named}.*give the run another name"):
        claim(job_of(places, tmp_path))


def test_an_edited_reward_of_the_users_is_refused(places, tmp_path):
    model, data = places
    mine = tmp_path / "mine.py"
    mine.write_text("def half(completions, **columns):\n    return [0.5 for _ in completions]\n")

    def job():
        return jobs_of(recipe_of(model, data, tmp_path, grpo={"rewards": [f"{mine}:half", "format"]}))[0]

    assert not claim(job())
    mark_done(job())
    assert claim(job())
    assert list(read_settings(job())["inputs"]["code"]) == [f"{mine}:half"]
    mine.write_text(mine.read_text().replace("0.5", "0.25"))
    with pytest.raises(UsageError, match=rf"another content of the file of {mine}:half, which has changed"):
        claim(job())


def test_a_stage_after_one_that_was_trained_again_starts_anew(places, tmp_path):
    later = job_of(places, tmp_path, index=1)
    start = later.folder.with_name("0-sft") / "model"
    start.parent.mkdir(parents=True)
    make_model(start, "qwen3_vl")
    claim(later)
    mark_done(later)
    (later.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert claim(later)
    change_a_weight(start)
    assert not claim(later)
    assert not (later.folder / "metrics.jsonl").exists()
    assert (later.folder.with_name("1-grpo.before-1") / "metrics.jsonl").exists()


def test_what_leaves_the_trained_steps_alone_may_change(places, tmp_path, caplog):
    caplog.set_level("INFO", "fovea")
    claim(job_of(places, tmp_path, save_steps=50))
    mark_done(job_of(places, tmp_path))
    assert claim(job_of(places, tmp_path, save_steps=1, logging_steps=5))
    assert "save_steps: 50 -> 1 from here on" in caplog.text
    assert (
        json.loads((job_of(places, tmp_path).folder / "settings.json").read_text())["stages"][0]["args"]["save_steps"]
        == 1
    )


def test_a_finished_stage_may_be_made_longer(places, tmp_path):
    claim(job_of(places, tmp_path))
    mark_done(job_of(places, tmp_path))
    with pytest.raises(UsageError, match="no checkpoint to go on from"):
        claim(job_of(places, tmp_path, max_steps=4))
    write(job_of(places, tmp_path).folder / "checkpoints", 2)
    with pytest.raises(UsageError, match="max_steps=2, more than 1"):
        claim(job_of(places, tmp_path, max_steps=1))
    assert claim(job_of(places, tmp_path))
    assert not claim(job_of(places, tmp_path, max_steps=4))


def test_settings_that_cannot_be_read_are_named(places, tmp_path):
    job = job_of(places, tmp_path)
    for text in ('{"model"', "[]", '{"stages": [{}]}'):
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "settings.json").write_text(text)
        with pytest.raises(UsageError, match=r"settings\.json: not a stage's settings; remove"):
            claim(job)


def test_a_second_run_in_the_same_folder_is_refused(places, tmp_path):
    recipe = job_of(places, tmp_path).recipe
    code = f"""
from grounding.folders import writing
with writing({str(recipe.folder)!r}):
    print(1, flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    with pytest.raises(UsageError, match=rf"another run is writing here \(pid {other.pid}\)"):
        run_recipe(recipe)
    other.communicate("\n")
    with writing(recipe.folder):
        pass


def test_a_folder_of_the_users_is_refused_and_left_alone(places, tmp_path):
    recipe = job_of(places, tmp_path).recipe
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "resolved.yaml").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and no run of ours; give a new or empty folder"):
        run_recipe(recipe)
    assert [path.name for path in recipe.folder.iterdir()] == ["resolved.yaml"]
    assert (recipe.folder / "resolved.yaml").read_text() == "mine"


def test_what_a_kill_leaves_of_our_files_is_removed(places, tmp_path):
    job = job_of(places, tmp_path)
    job.folder.mkdir(parents=True)
    for name in (".DONE.a1b2c3d4", ".settings.json.a1b2c3d4", ".metrics.jsonl.a1b2c3d4"):
        (job.folder / name).touch()
    (job.recipe.folder / ".resolved.yaml.a1b2c3d4").touch()
    mine = {".mine", ".notes.md", ".notes.md.old_copy", ".config.json", ".fovea.jsonl"}
    for name in mine:
        (job.folder / name).touch()
    open_run(job.recipe)
    assert {path.name for path in job.folder.iterdir()} == mine
    assert {path.name for path in job.recipe.folder.iterdir() if path.is_file()} == {
        "resolved.yaml",
        "environment.json",
    }


def test_the_command_is_kept_without_its_secrets(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/x/train.py", "r.yaml", "a.url=http://me:hunter2@host/v1", "b.api_key=sk-hunter2"]
    )
    command = environment()["command"]
    assert command[:2] == ["train.py", "r.yaml"]
    assert "hunter2" not in " ".join(command)
    assert torch.__version__.startswith(environment()["packages"]["torch"].split("+")[0])


def test_a_folder_of_a_version_with_other_names_of_keys_goes_on(places, tmp_path):
    job = jobs_of(recipe_of(*places, tmp_path, grpo={"rewards": ["iou"]}))[0]
    claim(job)
    file = job.folder / "settings.json"
    settings = json.loads(file.read_text())
    (stage,) = settings["stages"]
    assert stage["rewards"] == [{"name": "iou"}]
    stage["rewards"], stage["data"]["ask"] = ["iou"], stage["data"].pop("answer_kind")
    file.write_text(json.dumps(settings))
    assert not claim(job)
    stage["data"]["ask"] = "point"
    file.write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="was made with other settings"):
        claim(job)

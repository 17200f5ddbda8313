"""Trackers: one run a stage, kept apart from the network where nobody is logged in; rollouts one can look at."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import recipes.grpo
import recipes.sft
from grounding.errors import UsageError
from recipes.callbacks import read_metrics
from recipes.config import load_recipe
from recipes.records.tracking import tracked
from recipes.runner import jobs_of, run_recipe
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


def job_of(folder, mode):
    return jobs_of(recipe_of("model", "data", folder, sft={}, wandb=mode))[0]


@pytest.fixture
def begun(monkeypatch):
    """What `wandb.init` was called with, instead of it."""
    calls = []

    def init(**kwargs):
        calls.append(kwargs)
        return SimpleNamespace(id=kwargs["id"] or "new", finish=lambda: None)

    monkeypatch.setattr(wandb, "init", init)
    return calls


def test_a_stage_keeps_its_run(begun, tmp_path):
    for _ in range(2):
        with tracked(job_of(tmp_path, "offline"), main_process=True):
            pass
    assert [call["id"] for call in begun] == [None, "new"]
    assert all(call["resume"] == "allow" and call["mode"] == "offline" for call in begun)


@pytest.mark.parametrize("logged_in", [True, False])
def test_who_has_logged_in_is_online(logged_in, begun, tmp_path, monkeypatch):
    """`wandb login` leaves a key in the user's netrc file; no variable is set."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password " + "0" * 40 + "\n" if logged_in else "")
    monkeypatch.setenv("NETRC", str(netrc))
    wandb.teardown()
    with tracked(job_of(tmp_path, "auto"), main_process=True):
        pass
    wandb.teardown()
    assert begun[0]["mode"] == ("online" if logged_in else "offline")


def test_nothing_is_begun_by_other_processes_or_where_it_is_disabled(begun, tmp_path):
    with tracked(job_of(tmp_path, "disabled"), main_process=True):
        pass
    with tracked(job_of(tmp_path, "auto"), main_process=False):
        pass
    assert not begun


SAID = '{"bbox_2d": [100, 200, 300, 400]}'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "qwen3_vl", "qwen3_vl")


@pytest.fixture
def answering(monkeypatch):
    """Random models never answer: what is shown of a completion is an answer all the same."""
    monkeypatch.setattr(recipes.grpo, "chat_text", lambda chat: SAID)


def run(model, folder, tracker, steps=2, log_completions=True):
    data = folder / "data"
    if not data.exists():
        make_data(data)
    args = {"max_steps": steps, "log_completions": log_completions, "num_completions_to_print": 1}
    recipe = recipe_of(model, data, folder, sft={"args": {"max_steps": 1}}, grpo={"args": args},
                       tracker=tracker, wandb="offline")  # fmt: skip
    run_recipe(recipe)
    return recipe.folder / "1-grpo"


def test_rollouts_are_in_wandb_with_target_and_answer(model, tmp_path, answering):
    stage = run(model, tmp_path, "wandb")
    files = stage.glob("wandb/offline-run-*/files/media/table/rollouts_*.table.json")
    tables = sorted((json.loads(file.read_text()) for file in files), key=lambda table: table["data"][0][0])
    assert [len(table["data"]) for table in tables] == [2, 2]
    table = tables[0]
    assert table["columns"] == ["step", "picture", "sample", "question", "completion", "rewards"]
    rows = read_metrics(stage / "samples.jsonl")
    assert [row["step"] for row in rows] == [1, 1, 2, 2]  # 8 rollouts of 2 prompts a step, one of each shown
    for cells, row in zip(table["data"], rows, strict=False):
        assert cells[0] == 1 and cells[2:5] == [row["sample"], row["question"], SAID]
        assert json.loads(cells[5]).keys() == {"iou", "format"}
    overlays = [
        json.loads(file.read_text()) for file in stage.glob("wandb/offline-run-*/files/media/metadata/**/*.json")
    ]
    shown = [tuple(box["position"].values()) for overlay in overlays for box in overlay.get("box_data", ())]
    wanted = [tuple(row["target"][0]) for row in rows]
    sides = ("minX", "minY", "maxX", "maxY")
    assert all(tuple(box["position"]) == sides for overlay in overlays for box in overlay.get("box_data", ()))
    assert set(shown) == {*wanted, (0.1, 0.2, 0.3, 0.4)}
    captions = {box["box_caption"] for overlay in overlays for box in overlay.get("box_data", ())}
    assert captions == {"target", "answer"}
    assert len(list(stage.glob("wandb/offline-run-*/files/media/images/rollouts_pictures*"))) == 4
    page = (stage / "samples.html").read_text()
    assert page.count("<img") == 4 and "step 2" in page and "bbox_2d" in page and "connect" not in page
    assert len(list(stage.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert len(list((stage.parent / "0-sft").glob("wandb/offline-run-*/*.wandb"))) == 1


def test_rollouts_are_in_tensorboard_once_a_step_across_resumes(model, tmp_path, answering):
    run(model, tmp_path, "tensorboard", steps=1)
    stage = run(model, tmp_path, "tensorboard", steps=2)  # a finished stage goes on
    shown = EventAccumulator(str(stage / "tensorboard")).Reload()
    assert [event.step for event in shown.Images("rollouts/0")] == [1, 2]
    assert [event.step for event in shown.Scalars("train/reward")] == [1, 2]
    text = shown.Tensors("rollouts/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert SAID in text and "square" in text
    assert [row["step"] for row in read_metrics(stage / "samples.jsonl")] == [1, 1, 2, 2]
    assert not list(stage.rglob("wandb"))


def test_without_a_tracker_the_folder_has_them(model, tmp_path):
    stage = run(model, tmp_path, "none", log_completions=False)
    assert (stage / "samples.html").exists() and not list(stage.rglob("*tfevents*"))


def test_a_tracker_that_is_not_installed_is_said_at_the_check(model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="tracker: trackio needs the package trackio: pip install trackio"):
        run(model, tmp_path, "trackio")


def test_project_and_entity_are_keys(begun, tmp_path):
    recipe = recipe_of("model", "data", tmp_path, sft={}, wandb="offline", project="mine", entity="us")
    with tracked(jobs_of(recipe)[0], main_process=True):
        pass
    assert (begun[0]["project"], begun[0]["entity"], begun[0]["dir"]) == ("mine", "us", tmp_path / "run" / "0-sft")


def test_where_a_tracker_is_named(tmp_path):
    for words, told in (("tracker=wndb", "tracker"), ("stages.0.args.report_to=wandb", "recipe's `tracker`")):
        with pytest.raises(UsageError, match=re.escape(told)):
            recipe = load_recipe("configs/recipes/quickstart.yaml", [words])
            recipes.sft.SupervisedStage(jobs_of(recipe)[0])

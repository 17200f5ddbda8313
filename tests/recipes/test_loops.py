"""Stages in which a model chooses or makes its own data: what they keep, what they refuse, and interruptions."""

from __future__ import annotations

import json
import re
import shutil
import zlib

import pytest
from safetensors.torch import load_file, save_file
from transformers import set_seed

from grounding.errors import FoveaError, UsageError
from grounding.io import open_image, read_samples
from grounding.journal import read_journal
from recipes import runner
from recipes.callbacks import read_metrics
from recipes.config import load_recipe, parse_recipe, to_container
from recipes.loops import drawing
from recipes.runner import claim, dry_run, jobs_of, run_recipe
from recipes.stage import STAGES
from reports.page import build
from reports.read_run import read_run
from rewards.compose import build_rewards
from tests.recipes.test_stages import GRPO_ARGS, SFT_ARGS
from tests.recipes.tiny import make_data, make_model

REWARD = "tests.recipes.test_loops:odd_text"
DRAWING = {"num_generations": 4, "generation_batch_size": 3, "max_completion_length": 6}


def odd_text(completions, **columns):
    """A reward of TRL's signature that some answers of a random model get."""
    return [float(zlib.crc32(completion[0]["content"].encode()) % 4 == 0) for completion in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data", count=10)


def stage(kind, **more):
    defaults = {
        "select": DRAWING,
        "rejection": {**SFT_ARGS, **DRAWING, "min_reward": 0.0},
        "sft": SFT_ARGS,
        "dpo": {**SFT_ARGS, **DRAWING},
        "distill": {**SFT_ARGS, "max_completion_length": 8},
        "filter": {"batch_size": 4, "max_completion_length": 8},
    }
    args = {**defaults.get(kind, GRPO_ARGS), **more.pop("args", {})}
    rewards = {} if kind in ("sft", "distill", "filter") else {"rewards": [REWARD]}
    return {"kind": kind, **rewards, **more, "args": args}


def recipe_of(model, data, output, *stages, **more):
    content = {
        "name": "run",
        "model": {"path": str(model), "dialect": "qwen3_vl"},
        "data": str(data),
        "stages": list(stages),
        "output": str(output),
        "wandb": "disabled",
        **more,
    }
    return parse_recipe(content)


def test_select_keeps_what_is_neither_always_nor_never_right_for_the_next_stage(model, data, tmp_path):
    grpo = stage("grpo", data={"kept": True}, args={"per_device_train_batch_size": 4})
    recipe = recipe_of(model, data, tmp_path, stage("select"), grpo)
    run_recipe(recipe)
    folder = recipe.folder / "0-select"
    rows = list(read_journal(folder / "rollouts-0.jsonl"))
    assert [row["id"] for row in rows] == [f"square-{index}" for index in range(10)]
    assert all(len(row["answers"]) == len(row["scores"]) == 4 for row in rows)
    wanted = {row["id"]: sum(row["scores"]) / 4 for row in rows if 0 < sum(row["scores"]) < 4}
    kept = list(read_samples(folder / "data/train.jsonl"))
    assert {sample.id: sample.meta["pass_rate"] for sample in kept} == wanted
    assert 0 < len(kept) < 10  # some of each kind, or this says nothing
    source = {sample.id: sample for sample in read_samples(data / "train.jsonl")}
    for sample in kept:
        assert (sample.target, sample.images) == (source[sample.id].target, source[sample.id].images)
        open_image(folder / "data", sample.images[0])
    facts = json.loads((folder / "kept.json").read_text())
    assert facts["kept"] == len(kept) and facts["samples"] == 10
    assert sum(facts["dropped"].values()) == 10 - len(kept)

    assert not (folder / "model").exists()
    own, grpo = jobs_of(recipe)
    assert grpo.model_path == own.model_path == str(model)
    assert json.loads((grpo.folder / "settings.json").read_text())["inputs"]["data"].keys() == {"kept"}
    assert (recipe.folder / "final").resolve() == (recipe.folder / "1-grpo/model").resolve()
    assert len(read_metrics(grpo.metrics)) == 3

    written = {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*.jsonl")}
    run_recipe(recipe)
    assert written == {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*.jsonl")}


def test_a_killed_selection_goes_on_with_the_same_answers(model, data, tmp_path, monkeypatch):
    whole = recipe_of(model, data, tmp_path, stage("select"), name="whole")
    run_recipe(whole)
    reference = list(read_journal(whole.folder / "0-select/rollouts-0.jsonl"))

    parts = recipe_of(model, data, tmp_path, stage("select"), name="parts")
    calls, draw = [], drawing.generate

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(drawing, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(parts)
    journal = parts.folder / "0-select/rollouts-0.jsonl"
    assert len(list(read_journal(journal))) == 6
    assert not (parts.folder / "0-select/DONE").exists()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed within a batch, and within a line
    calls.clear()
    monkeypatch.setattr(drawing, "generate", lambda *args: calls.append(1) or draw(*args))
    run_recipe(parts)
    assert sorted(map(str, read_journal(journal))) == sorted(map(str, reference))
    assert len(calls) == 3  # the batch that was cut, and the two that were missing
    files = [run.folder / "0-select/data/train.jsonl" for run in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_selection_that_keeps_nothing_says_so_and_chooses_again_without_new_rollouts(
    model, data, tmp_path, monkeypatch
):
    with pytest.raises(FoveaError) as caught:
        run_recipe(recipe_of(model, data, tmp_path, stage("select", args={"pass_at": 5.0})))
    assert str(caught.value).startswith("stages.0 (select): keeps none of 10 samples (10 too low); set args.above")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(drawing, "generate", None)  # nothing is drawn any more
    everything = recipe_of(model, data, tmp_path, stage("select", args={"above": None, "below": None}))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(everything)
    folder = everything.folder / "0-select/data"
    assert len(list((folder / "images").iterdir())) == 10
    for name in ("notes.txt", "images/notes.txt"):  # somebody else's
        (folder / name).write_text("mine")
    again = recipe_of(model, data, tmp_path, stage("select", args={"pass_at": 1.0}))
    (folder / "train.jsonl").write_text(rows := (folder / "train.jsonl").read_text() + "\n")
    with pytest.raises(UsageError, match=r"train\.jsonl: is not of this command, or was changed since; move it away"):
        run_recipe(again)
    assert (folder / "train.jsonl").read_text() == rows
    (folder / "train.jsonl").unlink()
    run_recipe(again)
    kept = [sample.images[0].path for sample in read_samples(folder / "train.jsonl")]
    assert 0 < len(kept) < 10
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {"train.jsonl", "notes.txt", "images/notes.txt", ".fovea.jsonl", *kept}
    assert (folder / "notes.txt").read_text() == (folder / "images/notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="made with other settings"):  # finished by now
        run_recipe(recipe_of(model, data, tmp_path, stage("select", args={"pass_at": 5.0})))


def killed(job):
    raise KeyboardInterrupt


def test_data_that_changed_under_a_selection_is_refused(model, data, tmp_path, monkeypatch):
    recipe = recipe_of(model, data, tmp_path, stage("select"))
    draw = drawing.generate
    monkeypatch.setattr(drawing, "generate", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_recipe(recipe)
    monkeypatch.setattr(drawing, "generate", draw)
    shutil.copy(data / "images/0.png", data / "images/1.png")
    with pytest.raises(
        UsageError, match=rf"0-select was made from another content of data {data}, which has changed"
    ):
        run_recipe(recipe)


def test_a_stage_whose_kept_samples_are_others_by_now_starts_anew(model, data, tmp_path):
    sft = stage("sft", data={"kept": True})
    everything = {"above": None, "below": None}
    recipe = recipe_of(model, data, tmp_path, stage("select", args=everything), sft)
    run_recipe(recipe)
    shutil.rmtree(recipe.folder / "0-select")
    other = recipe_of(model, data, tmp_path, stage("select", args=everything, data={"limit": 5}), sft)
    run_recipe(other)
    assert (recipe.folder / "1-sft.before-1/DONE").is_file()
    assert (recipe.folder / "1-sft/DONE").is_file()


def test_what_nobody_keeps_or_reads_is_refused(model, data, tmp_path):
    kept = {"kept": True}
    with pytest.raises(UsageError, match=r"stages\.0 \(sft\)\.data\.kept: no stage before this one keeps samples"):
        run_recipe(recipe_of(model, data, tmp_path, stage("sft", data=kept)))
    with pytest.raises(UsageError, match=r"stages\.0 \(select\): no later stage reads what it keeps; give one `data"):
        run_recipe(recipe_of(model, data, tmp_path, stage("select"), stage("sft")))
    with pytest.raises(UsageError, match=r"stages\.0 \(select\): no later stage reads"):
        run_recipe(recipe_of(model, data, tmp_path, stage("select"), stage("select"), stage("sft", data=kept)))
    with pytest.raises(UsageError, match=r"stages\.0\.data: `kept` stands in the place of `path`"):
        recipe_of(model, data, tmp_path, stage("sft", data={"kept": True, "path": "x"}))
    for args, said in (
        ({"above": 0.5, "below": 0.5}, "nothing lies between"),
        ({"measure": "median"}, "pass_rate or mean_reward"),
        ({"num_generations": 0}, "at least 1"),
        ({"temperature": 0.0}, "above 0"),
        ({"abov": 1}, "did you mean 'above'"),
    ):
        with pytest.raises(UsageError, match=said):
            run_recipe(recipe_of(model, data, tmp_path, stage("select", args=args)))
    assert not (tmp_path / "run").exists()


def test_too_few_kept_samples_for_a_batch_are_told_before_training(model, data, tmp_path):
    grpo = stage("grpo", data={"kept": True}, args={"per_device_train_batch_size": 40})
    recipe = recipe_of(model, data, tmp_path, stage("select"), grpo)
    with pytest.raises(UsageError, match=r"stages\.1 \(grpo\): \d samples in .*0-select/data do not fill one"):
        run_recipe(recipe)


def test_a_dry_run_shows_a_selection_and_who_reads_it(model, data, tmp_path):
    two = make_data(tmp_path / "two", count=3)
    select = stage("select", data={"path": [str(data), str(two)], "answer_kind": "point"}, args={"above": None})
    recipe = recipe_of(model, data, tmp_path / "runs", select, stage("grpo", data={"kept": True}))
    text = "\n".join(dry_run(recipe))
    assert "13 samples from" in text and "keeps        questions with a pass_rate below 1" in text
    assert "reads        what 0-select keeps" in text
    prompts = [line for line in text.splitlines() if line.startswith("  prompt  ")]
    assert len(prompts) == 2 and all("point" in line for line in prompts)  # what is asked for goes along
    assert not (tmp_path / "runs").exists()

    everything = {**select, "args": {**select["args"], "below": None, "num_generations": 1}}
    recipe = recipe_of(model, data, tmp_path / "runs", everything)
    run_recipe(recipe)
    kept = list(read_samples(recipe.folder / "0-select/data/train.jsonl"))
    assert len(kept) == len({sample.id for sample in kept}) == 13  # square-0 of both
    assert {sample.answer_kind for sample in kept} == {"point"}
    images = [open_image(recipe.folder / "0-select/data", sample.images[0]) for sample in kept]
    assert len({sample.images[0].path for sample in kept}) == len(images) == 13
    assert not (recipe.folder / "final").exists()  # no stage has trained


def half_judged(completions, **columns):
    """A judge that could not read some answers."""
    return [None if i % 2 else 1.0 for i, _ in enumerate(completions)]


def test_answers_nobody_could_score_count_neither_as_right_nor_as_wrong(model, data, tmp_path):
    rewards = build_rewards([f"{__name__}:half_judged", {"name": REWARD, "sources": ["elsewhere"]}], "qwen3_vl")
    row = {"prompt": [], "sample": next(read_samples(data / "train.jsonl")), "sizes": (), "answer_kind": "box"}
    assert drawing.score(rewards[:1], [2.0], row, ["a", "b", "c"]) == [2.0, None, 2.0]
    recipe = recipe_of(model, data, tmp_path, stage("select", rewards=[f"{__name__}:half_judged"]))
    with pytest.raises(FoveaError, match=r"\(10 too high\)"):  # a pass rate of 1, not of a half
        run_recipe(recipe)


def test_a_recipe_with_kept_samples_reads_back_as_itself(model, data, tmp_path):
    recipe = recipe_of(model, data, tmp_path, stage("select"), stage("grpo", data={"kept": True, "limit": 5}))
    again = parse_recipe(to_container(recipe))
    assert again == recipe
    assert again.stages[1].data.kept and again.stages[1].data.limit == 5
    assert jobs_of(again)[1].spec.data.limit == 5
    assert STAGES.get("select").keeps


def test_rounds_train_on_what_the_model_of_the_last_round_chose(model, data, tmp_path):
    rounds = {"repeat": 2, "stages": [stage("select", args={"above": None}), stage("sft", data={"kept": True})]}
    recipe = recipe_of(model, data, tmp_path, stage("sft"), rounds)
    run_recipe(recipe)
    names = ["0-sft", "round-1/1-select", "round-1/2-sft", "round-2/3-select", "round-2/4-sft"]
    jobs = jobs_of(recipe)
    assert [str(job.folder.relative_to(recipe.folder)) for job in jobs] == names
    assert all((recipe.folder / name / "DONE").is_file() for name in names)
    assert jobs[3].draws_with == jobs[3].model_path == jobs[4].model_path == str(jobs[2].folder / "model")
    drawn = [list(read_journal(jobs[index].folder / "rollouts-0.jsonl")) for index in (1, 3)]
    assert [row["id"] for row in drawn[0]] == [row["id"] for row in drawn[1]]
    assert drawn[0] != drawn[1]
    assert jobs[1].seed == jobs[0].seed == 0 != jobs[4].seed == jobs[3].seed
    assert (recipe.folder / "final").resolve() == (jobs[4].folder / "model").resolve()
    assert "stages.4 (sft, round 2)" in jobs[4].where

    titles = [one.title for one in read_run(recipe.folder).stages]
    assert titles == ["SFT", "select, round 1", "SFT, round 1", "select, round 2", "SFT, round 2"]
    page = build(recipe.folder).read_text()
    assert "SFT, round 2: 2 steps" in page and re.search(r"select, round 1: \d+ of 10 samples kept", page)

    written = {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*.jsonl")}
    longer = recipe_of(model, data, tmp_path, stage("sft"), {**rounds, "repeat": 3})
    assert [line.partition(":")[0] for line in dry_run(longer) if " -> " in line][-1] == "6 sft, round 3"
    run_recipe(longer)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (recipe.folder / "round-3/6-sft/DONE").is_file()


def test_rounds_that_reset_adapters_start_from_what_went_into_the_first(model, data, tmp_path):
    stages = [stage("select"), stage("rejection", data={"kept": True}), stage("sft")]
    recipe = recipe_of(
        model, data, tmp_path, stage("sft"), {"repeat": 3, "adapters": "reset", "stages": stages}, stage("sft")
    )
    jobs = jobs_of(recipe)
    after = {job.index: str(job.folder / "model") for job in jobs}
    assert [job.model_path for job in jobs if job.spec.kind != "select"] == [
        str(model),
        *(after[0], after[2]),
        *(after[0], after[5]),
        *(after[0], after[8]),
        after[9],
    ]
    drawing_with = [job.draws_with for job in jobs if job.spec.kind != "sft"]
    assert drawing_with == [after[0], after[0], after[3], after[3], after[6], after[6]]
    assert parse_recipe(to_container(recipe)) == recipe  # the rounds as they are run
    with pytest.raises(UsageError, match=r"stages\.0\.starts_with is 0: give the index of a stage before"):
        jobs_of(recipe_of(model, data, tmp_path, stage("sft", starts_with=0)))


def test_a_round_draws_with_the_newest_model_and_knows_when_that_is_another(model, data, tmp_path):
    rounds = {"repeat": 2, "adapters": "reset", "stages": [stage("rejection")]}
    recipe = recipe_of(model, data, tmp_path, rounds)
    run_recipe(recipe)
    first, second = jobs_of(recipe)
    assert second.model_path == str(model) and second.draws_with == str(first.folder / "model")
    drawn = [list(read_journal(job.folder / "kept-0.jsonl")) for job in (first, second)]
    assert drawn[0] != drawn[1]
    inputs = json.loads((second.folder / "settings.json").read_text())["inputs"]
    assert inputs["model"] == json.loads((first.folder / "settings.json").read_text())["inputs"]["model"]
    assert inputs["draws_with"] not in (None, inputs["model"])
    weights = first.folder / "model/model.safetensors"
    changed = load_file(weights)
    next(iter(changed.values())).view(-1)[0] += 1
    save_file(changed, weights, {"format": "pt"})
    assert not claim(second)
    assert second.folder.with_name("1-rejection.before-1").is_dir()


def test_a_repeat_that_cannot_be_meant_is_told_with_its_place(model, data, tmp_path):
    for block, said in (
        ({"repeat": 0, "stages": [stage("sft")]}, "stages.1.repeat is 0, must be at least 1"),
        ({"repeat": 2, "stages": []}, "stages.1.stages: a list of at least one entry is needed"),
        ({"repeat": 2}, "stages.1.stages is missing"),
        ({"repeat": 2, "stages": [stage("sft")], "adapter": "reset"}, "did you mean 'adapters'"),
        ({"repeat": 2, "stages": [stage("sft")], "adapters": "rest"}, "did you mean 'reset'"),
        ({"repeat": 2, "stages": [{"repeat": 2, "stages": []}]}, "stages.1.stages.0: a `repeat` holds no other"),
    ):
        with pytest.raises(UsageError) as caught:
            recipe_of(model, data, tmp_path, stage("sft"), block)
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_reach_into_a_repeat(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: x\nmodel: {path: m, dialect: qwen3_vl}\ndata: d\n"
        "stages: [{repeat: 2, stages: [{kind: sft}, {kind: grpo, data: other}]}]\n"
    )
    overrides = ["stages.0.repeat=3", "stages.0.stages.0.args.max_steps=7", "stages.0.stages.1.data.limit=5"]
    stages = load_recipe(file, overrides).stages
    assert [(one.kind, one.round) for one in stages] == [
        (kind, turn) for turn in (1, 2, 3) for kind in ("sft", "grpo")
    ]
    assert all(one.args == {"max_steps": 7} for one in stages[::2])
    assert all((one.data.path, one.data.limit) == (("other",), 5) for one in stages[1::2])
    assert all(one.data.path == ("d",) for one in stages[::2])

"""`kind: filter`: rules, attention and rewards of the target, by themselves and together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from transformers import set_seed

from credit.__main__ import main as credit
from grounding.errors import FoveaError, UsageError
from grounding.io import read_samples, write_samples
from grounding.journal import read_journal
from recipes.loops import drawing
from recipes.loops import filter as filtering
from recipes.runner import dry_run, run_recipe
from tests.recipes.test_loops import recipe_of, stage
from tests.recipes.tiny import make_data, make_model
from tests.rewards.serving import chat, serve

READING = {"batch_size": 4, "max_completion_length": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data", count=10)


def kept(recipe, index=0):
    folder = recipe.folder / f"{index}-filter"
    facts = json.loads((folder / "kept.json").read_text())
    return [sample.id for sample in read_samples(folder / "data/train.jsonl")], facts["dropped"]


def test_rules_alone_need_no_model_at_work(model, data, tmp_path, monkeypatch):
    samples = list(read_samples(data / "train.jsonl"))
    samples[2] = replace(samples[2], instruction="it")
    samples[5] = replace(samples[5], instruction="click at (3, 4)")
    write_samples(data / "train.jsonl", samples)
    monkeypatch.setattr(filtering, "load_for", None)
    recipe = recipe_of(model, data, tmp_path, stage("filter"), stage("sft", data={"kept": True}))
    assert "filters by   rules" in "\n".join(dry_run(recipe))
    run_recipe(recipe_of(model, data, tmp_path, stage("filter")))
    names, dropped = kept(recipe)
    assert names == [f"square-{index}" for index in range(10) if index not in (2, 5)]
    assert dropped == {"vague instruction": 1, "instruction has coordinates": 1}


def test_attention_is_read_as_the_command_reads_it_and_the_next_stage_learns_from_what_passed(model, data, tmp_path):
    scores = tmp_path / "scores.jsonl"
    command = ["attention", "--model", str(model), "--data", str(data / "train.jsonl"), "--out", str(scores)]
    command += ["--dialect", "qwen3_vl", "--grammar", "think", "--max-new-tokens", "8", "--batch-size", "4"]
    assert credit(command) == 0
    expected = {row["id"]: row for row in read_journal(scores)}
    middle = sorted(row["peak"] for row in expected.values())[4]
    args = {**READING, "attention": True, "rules": False, "min_peak": middle}
    recipe = recipe_of(model, data, tmp_path, stage("filter", args=args), stage("sft", data={"kept": True}))
    run_recipe(recipe)
    measured = {row["id"]: row for row in read_journal(recipe.folder / "0-filter/measured-0.jsonl")}
    for name, row in expected.items():
        assert {key: measured[name][key] for key in ("peak", "inside", "overall")} == pytest.approx(
            {key: row[key] for key in ("peak", "inside", "overall")}, abs=1e-4
        )
    wanted = [n for n, row in measured.items() if row["peak"] > middle and row["inside"] > row["overall"]]
    names, dropped = kept(recipe)
    assert names == wanted and 0 < len(names) < 10
    assert dropped == {"attention elsewhere": 10 - len(names)}
    assert (recipe.folder / "1-sft/DONE").is_file()


def even_samples(completions, sample, **columns):
    """A judge of labels: who sees the right answer as the model would write it."""
    for completion, one in zip(completions, sample, strict=True):
        assert '"bbox_2d"' in completion[0]["content"] and one.thought in completion[0]["content"]
    return [None if one.id == "square-3" else float(int(one.id[7:]) % 2 == 0) for one in sample]


def test_a_judge_of_labels_is_asked_once_and_its_bound_may_change_until_the_stage_is_done(
    model, data, tmp_path, monkeypatch
):
    def recipe(**args):
        judge = f"{__name__}:even_samples"
        return recipe_of(model, data, tmp_path, stage("filter", rewards=[judge], args={**READING, **args}))

    with pytest.raises(FoveaError) as caught:
        run_recipe(recipe(min_reward=2.0))
    said = str(caught.value)
    assert said.startswith("stages.0 (filter): keeps none of 10 samples (")
    assert "9 target scored too low" in said and "1 without a score" in said and "\n" not in said
    monkeypatch.setattr(drawing, "score", None)
    monkeypatch.setattr(filtering, "score", None)  # nobody is asked again
    run_recipe(recipe(min_reward=1.0))
    names, dropped = kept(recipe())
    assert names == [f"square-{index}" for index in range(0, 10, 2)]
    assert dropped == {"target scored too low": 4, "without a score": 1}


def test_a_judge_that_talks_nonsense_or_is_down_stops_the_stage_in_one_line_and_it_goes_on_later(
    model, data, tmp_path
):
    grades = [chat("9")] * 4  # the first batch
    with serve(*grades, chat("What a lovely picture."), (500, {}, b""), chat("9")) as server:
        params = {"url": server.url, "model": "judge", "retries": 0}
        judge = {"name": "judged_thought", "params": params}
        filtering_stage = stage("filter", rewards=[judge], args={**READING, "min_reward": 0.9})
        recipe = recipe_of(model, data, tmp_path, filtering_stage)
        for said in ("judge answered 'What a lovely picture.', not one of 0, 1,", "HTTP 500"):
            with pytest.raises(FoveaError, match=said) as caught:
                run_recipe(recipe)
            assert "\n" not in str(caught.value)
            assert not (recipe.folder / "0-filter/data").exists()
        run_recipe(recipe)
        assert len(server.requests) == 4 + 1 + 1 + 6  # nobody is asked twice who has answered
    assert len(kept(recipe)[0]) == 10


def test_a_filter_that_cannot_filter_is_refused(model, data, tmp_path):
    for args, said in (
        ({"rules": False}, "nothing is filtered by"),
        ({"batch_size": 0}, "at least 1"),
        ({"min_peek": 0.1}, "did you mean 'min_peak'"),
    ):
        with pytest.raises(UsageError, match=said):
            run_recipe(recipe_of(model, data, tmp_path, stage("filter", args=args)))
    other = make_model(tmp_path / "internvl", "internvl")
    with pytest.raises(UsageError, match="Qwen-VL's image tokens only"):
        run_recipe(recipe_of(other, data, tmp_path, stage("filter", args={"attention": True})))
    assert not (tmp_path / "run").exists()

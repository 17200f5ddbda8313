"""Prompts that teach: rows by their running reward, further prompts for groups without spread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed
from trl import GRPOTrainer

from grounding.errors import UsageError
from grounding.io import read_samples, write_samples
from models.prompting import encode, prompt_text
from recipes.callbacks import read_metrics
from recipes.config import save_recipe
from recipes.loops.difficulty import ChosenRows, SamplingConfig
from recipes.loops.task_scale import deviations
from recipes.runner import jobs_of, run_recipe
from recipes.stage import STAGES
from tests.recipes.test_distributed import as_killed
from tests.recipes.test_loops import recipe_of, stage
from tests.recipes.test_stages import without_clocks
from tests.recipes.tiny import make_data, make_model

ROOT = Path(__file__).resolve().parents[2]
EVERY = {"max_steps": 3, "save_steps": 1, "save_total_limit": 3}


def half_flat(completions, completion_ids, sample, **columns):
    """A reward that tells the answers to every second sample apart, and none to the others."""
    return [
        float(sum(ids) % 97) / 97 if int(one.id.rpartition("-")[2]) % 2 else 0.25
        for ids, one in zip(completion_ids, sample, strict=True)
    ]


def uneven(completions, completion_ids, sample, **columns):
    """A reward that tells the answers of one source apart by much, and those of the other by little."""
    return [
        float(sum(ids) % 97) / 97 * (1.0 if one.source == "odd" else 0.1)
        for ids, one in zip(completion_ids, sample, strict=True)
    ]


REWARD = f"{__name__}:half_flat"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=16)


@pytest.fixture
def places(model, data, tmp_path):
    return model, data, tmp_path


def sampled(model, data, output, args=None, *, rewards=(REWARD,), **sampling):
    grpo = stage("grpo", rewards=list(rewards), sampling=sampling, args=args or {})
    return recipe_of(model, data, output, grpo)


def trainer_of(recipe):
    (job,) = jobs_of(recipe)
    return STAGES.get("grpo")(job).trainer()


def test_rows_always_or_never_right_are_drawn_as_rarely_as_asked():
    rows = ChosenRows(SamplingConfig(low=0.2, high=0.8, share=0.1), 90, seed=3)
    rows.update(range(60), [0.2] * 30 + [0.8] * 30)  # on the thresholds counts as beyond; 30 were never asked
    drawn = Counter(row for number in range(4000) for row in rows.chunk(number, 1))
    for part, weight in ((range(30), 0.1), (range(30, 60), 0.1), (range(60, 90), 1.0)):
        share = sum(drawn[row] for row in part) / 4000
        assert share == pytest.approx(weight * 30 / 36, abs=0.02)
    assert rows.inside == 0.0
    rows.update([0], [0.8])  # 0.5 * 0.2 + 0.5 * 0.8
    assert rows.means[0] == pytest.approx(0.5)
    assert rows.inside == pytest.approx(1 / 60)
    rows.update([0, 89], [float("nan"), float("nan")])  # no reward applied
    assert rows.means[0] == pytest.approx(0.5) and 89 not in rows.means


def test_a_chunk_has_distinct_rows_and_further_ones_are_others():
    rows = ChosenRows(SamplingConfig(), 10, seed=0)
    assert sorted(rows.chunk(0, 10)) == list(range(10))
    assert rows.chunk(0, 10) != sorted(rows.chunk(0, 10)) != rows.chunk(1, 10)
    assert set(rows.more(4, {0, 1, 2, 3}, step=5)) <= set(range(4, 10))
    assert len(rows.more(4, range(8), step=5)) == 2  # there are no more
    assert rows.more(4, range(10), step=5) == []
    assert rows.more(4, (), step=5) == rows.more(4, (), step=5) != rows.more(4, (), step=6)


def test_rare_successes_are_asked_again_until_they_are_rare_no_more():
    rows = ChosenRows(SamplingConfig(replay=2, rare=0.25), 50, seed=0)
    rows.update([7, 8, 9], [0.125, 0.125, 0.5], [1.0, 0.0, 1.0])  # 8 had no success, 9 is not rare
    assert rows.rare == {7}
    assert [rows.chunk(number, 4)[0] for number in range(5)] == [7] * 5
    assert all(len(set(rows.chunk(number, 4))) == 4 for number in range(5))
    rows.update([3, 5], [0.1, 0.2], [0.95, 0.95])
    assert all(set(rows.chunk(number, 4)[:2]) < {3, 5, 7} for number in range(5, 10))
    rows.update([7], [0.9], [1.0])  # 0.5 * 0.125 + 0.5 * 0.9
    rows.update([3], [0.0], [0.0])  # missed this time
    assert rows.rare == {5}
    assert ChosenRows(SamplingConfig(), 50, seed=0).chunk(0, 4) != rows.chunk(0, 4)


def test_what_a_checkpoint_keeps_gives_the_same_rows_again():
    config = SamplingConfig(replay=1)

    def used(rows):
        rows.begin(2)
        for number in range(6):
            rows.update(rows.chunk(number, 3), [0.0, 0.5, 1.0], [1.0, 1.0, 1.0])
        return rows

    whole = used(ChosenRows(config, 12, seed=1))
    assert whole.rare
    again = ChosenRows(config, 12, seed=1)
    again.restore(json.loads(json.dumps(whole.state())))
    again.begin(2)
    assert [again.chunk(number, 3) for number in range(6)] == [whole.chunk(number, 3) for number in range(6)]
    assert [again.chunk(number, 3) for number in range(6, 12)] == [whole.chunk(number, 3) for number in range(6, 12)]
    assert again.state() == whole.state()
    first = whole.chunk(0, 3)
    whole.begin(3)
    assert whole.chunk(0, 3) != first  # another epoch


def test_the_running_rewards_are_those_of_the_groups_and_share_trls_layout(model, data, tmp_path):
    trainer = trainer_of(sampled(model, data, tmp_path, low=0.3, high=0.9))
    seen, score = [], GRPOTrainer._calculate_rewards

    def spy(self, inputs, *args):
        rewards = score(self, inputs, *args)
        seen.append(([row["index"] for row in inputs], rewards[:, 0].tolist()))
        return rewards

    trainer_class = type(trainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_calculate_rewards", spy)
        trainer.train()
    assert trainer_class.__name__ == "FoveaGRPOTrainer"
    expected = {}
    for rows, rewards in seen:
        assert rows[0:4] == [rows[0]] * 4 and rows[4:8] == [rows[4]] * 4 and rows[0] != rows[4]
        for start in (0, 4):
            mean = sum(rewards[start : start + 4]) / 4
            before = expected.get(rows[start], mean)
            expected[rows[start]] = 0.5 * before + 0.5 * mean
    assert trainer.chosen.means == pytest.approx(expected)
    assert trainer.chosen.state()["chunks"][: len(seen)] == [[rows[0], rows[4]] for rows, _ in seen]
    lines = [line for line in trainer.state.log_history if "sampling/inside" in line]
    assert len(lines) == len(seen) == 2
    assert all(line["sampling/seconds"] < 0.05 * line["step_time"] for line in lines)


@pytest.mark.parametrize("shared", [True, False])
def test_groups_without_spread_give_way_to_others_and_everything_goes_with_them(shared, model, data, tmp_path):
    """Rows, pictures, completions and advantages still belong together, and no loss of TRL's was copied."""
    args = {"per_device_train_batch_size": 32, "scale_rewards": "none", "max_steps": 1}
    recipe = sampled(model, data, tmp_path, args, extra=8)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"share_prompts": shared})})
    trainer = trainer_of(recipe)
    made, inside = [], type(trainer)._generate_and_score_completions

    def spy(self, inputs):
        names = [row["sample"].id for row in inputs]
        output = inside(self, inputs)
        made.append((names, inputs, output))
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer), "_generate_and_score_completions", spy)
        trainer.train()
    ((before, rows, output),) = made
    names = [row["sample"].id for row in rows]
    odd = [int(name.rpartition("-")[2]) % 2 for name in names]
    flat = sum(1 - int(name.rpartition("-")[2]) % 2 for name in before[::4])
    changed = sum(one != other for one, other in zip(before[::4], names[::4], strict=True))
    (line,) = [line for line in trainer.state.log_history if "sampling/flat" in line]
    assert line["sampling/flat"] == flat / 8 > 0
    assert line["sampling/replaced"] == changed > 0
    assert line["sampling/extra_rollouts"] == 4 * flat
    assert line["frac_reward_zero_std"] == pytest.approx((flat - changed) / 8)
    assert len(set(names)) == 8 and all(names[start : start + 4] == [names[start]] * 4 for start in range(0, 32, 4))

    ids = [
        own[mask.bool()].tolist()
        for own, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    rewards = torch.tensor([sum(own) % 97 / 97 if one else 0.25 for own, one in zip(ids, odd, strict=True)])
    groups = rewards.view(8, 4)
    assert torch.allclose(output["advantages"], (groups - groups.mean(1, keepdim=True)).flatten(), atol=1e-5)
    processor = trainer.processing_class
    texts = [prompt_text(processor, row["prompt"]) for row in rows]
    alone = encode(processor, texts, [row["images"] for row in rows])
    assert torch.equal(output["pixel_values"], alone["pixel_values"])
    asked = [own[mask.bool()] for own, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
    for own, one, mask in zip(asked, alone["input_ids"], alone["attention_mask"], strict=True):
        assert torch.equal(own, one[mask.bool()])
    assert len(trainer.chosen.means) == 8 + flat  # those that gave way count too


def test_a_killed_training_draws_the_rows_an_uninterrupted_one_draws(model, data, tmp_path):
    args = {**EVERY, "max_steps": 5, "save_total_limit": 5, "num_train_epochs": 3}
    recipe = sampled(model, data, tmp_path, args, low=0.3, high=0.6, extra=2)
    run_recipe(recipe)
    (job,) = jobs_of(recipe)

    def told():
        state = json.loads((job.folder / "checkpoints/checkpoint-5/trainer_state.json").read_text())
        return without_clocks(read_metrics(job.metrics)), state["stateful_callbacks"]["StageState"]["attributes"]

    whole, state = told()
    assert len(state["sampling"]["means"]) > 5
    assert any(line.get("sampling/replaced") for line in whole)
    as_killed(job.folder, 2)
    run_recipe(recipe)
    again, state_again = told()
    assert state_again == state
    timed = {"sampling/seconds", "num_tokens"}
    for one, other in zip(whole[:5], again[:5], strict=True):
        assert {key: other[key] for key in one.keys() - timed} == pytest.approx(
            {key: one[key] for key in one.keys() - timed}, abs=1e-6
        )


def test_the_deviation_of_a_task_is_that_of_its_rewards():
    rewards = torch.tensor([1.0, 0.0, 0.5, torch.nan, 0.25, 0.75, 3.0])
    found = deviations(rewards, ["a", "a", "b", "b", "b", "b", "c"])
    assert found.tolist() == pytest.approx([0.5**0.5] * 2 + [0.25] * 4 + [0.0])


def test_advantages_of_a_mixed_set_are_over_the_spread_of_their_own_task(model, tmp_path):
    data = make_data(tmp_path / "mixed", count=8)
    samples = [
        replace(one, source="odd" if index % 2 else "even")
        for index, one in enumerate(read_samples(data / "train.jsonl"))
    ]
    write_samples(data / "train.jsonl", samples)
    args = {"per_device_train_batch_size": 32, "max_steps": 1, "scale_rewards": "none"}
    reward = f"{__name__}:uneven"
    grpo = stage("grpo", rewards=[reward], scale_by="source", args=args)
    trainer = trainer_of(recipe_of(model, data, tmp_path, grpo))
    made, inside = [], GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        output = inside(self, inputs)
        made.append((inputs, output, output["advantages"].clone()))
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
        trainer.train()
    ((rows, output, before),) = made
    ids = [
        own[mask.bool()].tolist()
        for own, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    sources = np.array([row["sample"].source for row in rows])
    paid = np.array(uneven(None, ids, [row["sample"] for row in rows]))
    centered = (paid.reshape(8, 4) - paid.reshape(8, 4).mean(1, keepdims=True)).ravel()
    assert before.tolist() == pytest.approx(centered.tolist(), abs=1e-5)  # TRL's own
    spread = {source: paid[sources == source].std(ddof=1) for source in ("odd", "even")}
    assert spread["odd"] > 5 * spread["even"] > 0
    wanted = [own / (spread[source] + 1e-4) for own, source in zip(centered, sources, strict=True)]
    assert output["advantages"].tolist() == pytest.approx(wanted, abs=1e-4)

    for args, said in (
        ({}, r"stages\.0 \(grpo\)\.scale_by: TRL scales by group already; set args\.scale_rewards: none"),
        ({"scale_rewards": "none", "multi_objective_aggregation": "normalize_then_sum"}, "not with args.multi"),
    ):
        with pytest.raises(UsageError, match=said):
            run_recipe(recipe_of(model, data, tmp_path, stage("grpo", scale_by="source", args=args)))
    with pytest.raises(UsageError, match=r"stages\.0 \(sft\) has no scale_by"):
        run_recipe(recipe_of(model, data, tmp_path, stage("sft", scale_by="kind")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_know_the_same_of_every_row(model, data, tmp_path):
    args = {"max_steps": 4, "per_device_train_batch_size": 8}
    save_recipe(sampled(model, data, tmp_path, args, low=0.3, high=0.6, extra=4), tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu_two.yaml"]
    command += ["--main_process_port", "0", "-m", "tests.recipes.sampled_ranks"]
    done = subprocess.run(
        [*command, str(tmp_path / "recipe.yaml"), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["state"] == second["state"]
    assert len(first["state"]["means"]) > 8  # more than the first chunk of four
    assert any(first["logged"])


@pytest.mark.parametrize(
    ("sampling", "more", "said"),
    [
        ({"low": 0.5, "high": 0.5}, {}, "nothing lies between"),
        ({"share": 0.0}, {}, "stages.0.sampling.share is 0.0, must be more than 0"),
        ({"decay": 1.0}, {}, "less than 1"),
        ({"reward": "ioo"}, {"rewards": ["iou"]}, r"sampling\.reward: no reward 'ioo'; did you mean 'iou'"),
        ({"extra": 4}, {"rewards": ["attention_in_target"]}, r"sampling\.extra: not with tools or rewards on"),
        ({"thresholds": 1}, {}, "unknown key 'thresholds'"),
    ],
)
def test_sampling_that_cannot_be_meant_is_told(places, sampling, more, said):
    with pytest.raises(UsageError, match=said):
        recipe = recipe_of(*places, stage("grpo", sampling=sampling, **more))
        STAGES.get("grpo")(jobs_of(recipe)[0]).check()


def test_other_stages_have_no_sampling(model, data, tmp_path):
    with pytest.raises(UsageError, match=r"stages\.0 \(sft\) has no sampling"):
        run_recipe(recipe_of(model, data, tmp_path, stage("sft", sampling={})))


def test_one_reward_of_several_is_followed(model, data, tmp_path):
    rewards = [{"name": "iou", "weight": 3.0}, {"name": REWARD, "label": "mine"}]
    one = trainer_of(sampled(model, data, tmp_path, rewards=rewards, reward="mine"))
    both = trainer_of(sampled(model, data, tmp_path, rewards=rewards))
    given = torch.tensor([[0.5, 0.1], [torch.nan, 0.9], [torch.nan, torch.nan]])
    assert one._followed(given)[:2].tolist() == pytest.approx([0.1, 0.9])
    assert both._followed(given)[:2].tolist() == pytest.approx([1.6 / 4, 0.9 / 4])
    assert both._followed(given)[2].isnan()

"""DPO on the model's own rollouts, RLOO and distillation: TRL's trainers on every family, with images."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from transformers import set_seed
from trl import DistillationTrainer, DPOTrainer

from grounding.errors import FoveaError, UsageError
from grounding.journal import read_journal
from recipes.callbacks import read_metrics
from recipes.loops import drawing
from recipes.loops.dpo import PreferenceConfig
from recipes.runner import dry_run, jobs_of, run_recipe
from tests.recipes.test_distributed import as_killed
from tests.recipes.test_loops import recipe_of, stage
from tests.recipes.test_stages import without_clocks
from tests.recipes.tiny import DIALECTS, make_data, make_model

TEACHER = "teacher_model_name_or_path"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=10)


@pytest.fixture(scope="module", params=list(DIALECTS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def one_model(tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp("one"), "qwen3_vl")


def metrics_of(recipe, index=0):
    return without_clocks(read_metrics(jobs_of(recipe)[index].metrics))


@pytest.mark.parametrize(
    ("scores", "args", "pair"),
    [
        ([0.2, 0.9, 0.1, 0.5], {}, ("b", "c")),
        ([0.5, 0.9, 0.9, 0.5], {}, ("b", "a")),  # the first of equals
        ([0.2, 0.9, None, 0.5], {}, ("b", "a")),  # nobody judged c
        ([0.5, 0.5, 0.5, 0.5], {}, None),
        ([0.2, 0.9, 0.1, 0.5], {"margin": 0.8}, ("b", "c")),  # equal to it, up to rounding
        ([0.2, 0.9, 0.1, 0.5], {"margin": 0.81}, None),
        ([0.2, 0.9, 0.1, 0.5], {"chosen_at_least": 0.9, "rejected_at_most": 0.1}, ("b", "c")),
        ([0.2, 0.9, 0.1, 0.5], {"chosen_at_least": 0.95}, None),
        ([0.2, 0.9, 0.3, 0.5], {"rejected_at_most": 0.1}, None),
        ([None, None, None, None], {}, None),
        ([None, 1.0, None, None], {}, None),
    ],
)
def test_a_pair_is_the_best_against_the_worst_that_far_apart(scores, args, pair, tmp_path):
    config = PreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, **args)
    found = config.pair(["a", "b", "c", "d"], scores)
    assert found == ({} if pair is None else {"chosen": pair[0], "rejected": pair[1]})
    assert config.pair(["same", "same"], [1.0, 0.0]) == {}


def test_dpo_prefers_the_better_rollout_of_a_picture_to_the_worse(family, model, data, tmp_path, monkeypatch):
    seen, compute = [], DPOTrainer._compute_loss

    def spy(self, policy, inputs, return_outputs):
        tokenizer = self.processing_class.tokenizer
        said = [
            tokenizer.decode(ids[mask.bool()], skip_special_tokens=True).strip()
            for ids, mask in zip(inputs["input_ids"], inputs["completion_mask"], strict=True)
        ]
        seen.append((said, "pixel_values" in inputs, len(inputs["input_ids"])))
        return compute(self, policy, inputs, return_outputs)

    monkeypatch.setattr(DPOTrainer, "_compute_loss", spy)
    recipe = recipe_of(model, data, tmp_path, stage("dpo", args={"margin": 0.5}))
    run_recipe(recipe)
    (job,) = jobs_of(recipe)
    rows = list(read_journal(job.folder / "rollouts-0.jsonl"))
    pairs = {
        (row["answers"][row["scores"].index(1.0)].strip(), row["answers"][row["scores"].index(0.0)].strip())
        for row in rows
        if {0.0, 1.0} <= set(row["scores"])
    }
    assert len(rows) == 10 and 0 < len(pairs) < 10
    assert len(seen) == 2
    for said, pictures, count in seen:
        assert pictures and count == len(said) and count % 2 == 0
        assert set(zip(said[: count // 2], said[count // 2 :], strict=True)) <= pairs
    first, second, _ = read_metrics(job.metrics)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy is still its own reference
    assert second["loss"] != first["loss"]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert (job.folder / "model/model.safetensors").is_file()


SAID = [
    "I look for the red square. It is at the top. It is small.",
    "I look for the red square. It is at the bottom. It is large.",
    "I look for the red square. It is at the bottom.",
    "I look for the blue square. It is at the top.",
]
RED, BLUE = ("I look for the red square.", "I look for the blue square.")


@pytest.mark.parametrize(
    ("scores", "args", "pair"),
    [
        # after the first sentence 1.0 against a mean of 0.15; at the beginning a mean of 0.43 against 0.3
        ([1.0, 0.1, 0.2, 0.3], {}, (f"{RED} ", "It is at the top.", "It is at the bottom.", False, True)),
        ([0.4, 0.4, 0.4, 1.0], {}, ("", BLUE, RED, False, False)),
        ([None, 0.0, 0.0, 1.0], {}, ("", BLUE, RED, False, False)),
        ([0.5, 0.5, 0.5, 0.5], {}, None),
        ([1.0, 0.1, 0.2, 0.3], {"margin": 0.9}, None),
        ([1.0, 0.1, 0.2, 0.3], {"rejected_at_most": 0.1}, None),
    ],
)
def test_a_pair_of_sentences_is_where_answers_with_one_beginning_part_most(scores, args, pair, tmp_path):
    config = PreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, compare="sentence", **args)
    found = config.pair(SAID, scores)
    if pair is None:
        assert found == {}
        return
    beginning, chosen, rejected, *ends = pair
    assert (found["chosen"], found["rejected"]) == (beginning + chosen, beginning + rejected)
    assert (found["shared"], found["chosen_ends"], found["rejected_ends"]) == (len(beginning), *ends)
    with pytest.raises(ValueError, match="answer or sentence"):
        PreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, compare="word")


def test_dpo_on_sentences_compares_nothing_but_them(family, model, data, tmp_path, monkeypatch):
    worth = {
        "Report the box. The red square is there.</think>4 5 6": 1.0,
        "Report the box. The red square is there. Click the point.</think>4 5 6": 0.75,
        "Report the box. The blue square is there.</think>4 5 6": 0.5,
        "Report the box. The blue square is there.</think>7 8 9": 0.25,
    }
    monkeypatch.setattr(drawing, "generate", lambda *args: [list(worth)] * len(args[2]))
    monkeypatch.setattr(drawing, "score", lambda rewards, weights, row, texts: [worth[text] for text in texts])
    seen, compute = [], DPOTrainer._compute_loss

    def spy(self, policy, inputs, return_outputs):
        tokenizer = self.processing_class.tokenizer
        seen.append(
            [
                tokenizer.decode(ids[mask.bool()]).strip()
                for ids, mask in zip(inputs["input_ids"], inputs["completion_mask"], strict=True)
            ]
        )
        return compute(self, policy, inputs, return_outputs)

    monkeypatch.setattr(DPOTrainer, "_compute_loss", spy)
    run_recipe(recipe_of(model, data, tmp_path, stage("dpo", args={"compare": "sentence", "max_steps": 1})))
    ((*said,),) = seen
    half = len(said) // 2
    assert said == ["The red square is there."] * half + ["The blue square is there."] * half


def test_dpo_of_every_weight_has_a_reference_of_its_own(one_model, data, tmp_path):
    recipe = recipe_of(one_model, data, tmp_path, stage("dpo", lora=None, args={"max_steps": 3}))
    run_recipe(recipe)
    first, *_, third, _ = read_metrics(jobs_of(recipe)[0].metrics)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(third["rewards/margins"]) > 1e-3  # it stays 0 where both are one model


def test_dpo_without_a_pair_says_so_and_pairs_again_without_new_rollouts(one_model, data, tmp_path, monkeypatch):
    with pytest.raises(FoveaError) as caught:
        run_recipe(recipe_of(one_model, data, tmp_path, stage("dpo", args={"margin": 3.0})))
    assert "stages.0 (dpo): none of 10 prompts has two answers that far apart; set args.margin" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(drawing, "generate", None)  # nothing is drawn any more
    run_recipe(recipe_of(one_model, data, tmp_path, stage("dpo", args={"save_steps": 1})))
    with pytest.raises(UsageError, match="made with other settings"):
        run_recipe(recipe_of(one_model, data, tmp_path, stage("dpo", args={"margin": 0.2})))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"margin": 0.0}, "has to be above 0"),
        ({"precompute_ref_log_probs": True}, "cannot for rows with images"),
        ({"num_generations": 0}, "at least 1"),
        ({"betta": 0.1}, "did you mean 'beta'"),
    ],
)
def test_what_dpo_cannot_do_is_told_before_anything_is_drawn(one_model, data, tmp_path, args, said):
    with pytest.raises(UsageError, match=said):
        run_recipe(recipe_of(one_model, data, tmp_path, stage("dpo", args=args)))


def group_of(answers_seen):
    """A reward that keeps what it is shown."""

    def reward(completions, completion_ids, num_generations, training, sample, **columns):
        texts = [completion[0]["content"] for completion in completions]
        answers_seen.append((texts, list(num_generations), list(training), [one.id for one in sample]))
        return [float(sum(ids) % 7) for ids in completion_ids]

    return reward


SEEN: list = []
shown = group_of(SEEN)


def test_rloo_rewards_get_whole_answers_and_their_groups(family, model, data, tmp_path):
    SEEN.clear()
    rewards = [f"{__name__}:shown", {"name": "region_consistency", "weight": 0.1}]
    recipe = recipe_of(model, data, tmp_path, stage("rloo", rewards=rewards))
    run_recipe(recipe)
    lines = read_metrics(jobs_of(recipe)[0].metrics)
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert {"reward", "rewards/shown/mean", "rewards/region_consistency/mean"} <= lines[0].keys()
    assert lines[0]["grad_norm"] > 0
    for _, sizes, training, names in SEEN:
        assert set(sizes) == {4} and all(training)
        assert names[:4] == [names[0]] * 4 and len(set(names)) == 2
    if family == "internvl":  # its tokenizer has marks of its own, which TRL leaves out
        assert any("<" in text for texts, *_ in SEEN for text in texts)


@pytest.mark.parametrize("kind", ["dpo", "rloo", "distill"])
def test_a_killed_training_goes_on_as_if_it_had_not_been(kind, one_model, data, tmp_path):
    args = {"max_steps": 3, "save_steps": 1, "save_total_limit": 3}
    if kind == "distill":
        args[TEACHER] = str(make_model(tmp_path / "teacher", "qwen3_vl"))
    recipe = recipe_of(one_model, data, tmp_path, stage(kind, args=args))
    run_recipe(recipe)
    whole = metrics_of(recipe)
    (job,) = jobs_of(recipe)
    as_killed(job.folder, 1)
    run_recipe(recipe)
    again = metrics_of(recipe)
    assert [line["step"] for line in again] == [1, 2, 3, 3]
    for uninterrupted, resumed in zip(whole[:3], again[:3], strict=True):
        for key in uninterrupted.keys() - {"num_tokens"}:
            assert resumed[key] == pytest.approx(uninterrupted[key], abs=1e-5), (resumed["step"], key)


def test_distillation_draws_the_student_to_the_teacher(family, model, data, tmp_path, monkeypatch):
    pictures, compute = [], DistillationTrainer._compute_loss

    def spy(self, student, inputs, count):
        pictures.append("pixel_values" in inputs)
        return compute(self, student, inputs, count)

    monkeypatch.setattr(DistillationTrainer, "_compute_loss", spy)
    same = recipe_of(model, data, tmp_path, stage("distill", args={TEACHER: str(model)}), name="same")
    run_recipe(same)
    assert metrics_of(same)[0]["loss"] == pytest.approx(0.0, abs=1e-5)  # nothing lies between a model and itself
    teacher = make_model(tmp_path / "teacher", family)
    args = {TEACHER: str(teacher), "max_steps": 12, "lr_scheduler_type": "constant"}
    other = recipe_of(model, data, tmp_path, stage("distill", args=args), name="other")
    run_recipe(other)
    losses = [line["loss"] for line in metrics_of(other) if "loss" in line]
    assert losses[0] > 1e-3
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(pictures)
    text = "\n".join(dry_run(other))
    assert f"teacher      {teacher}" in text and "  memory  " in text


def test_a_teacher_that_is_not_there_or_reads_otherwise_is_told_before_anything_starts(one_model, data, tmp_path):
    def told(**args):
        with pytest.raises(UsageError) as caught:
            run_recipe(recipe_of(one_model, data, tmp_path, stage("distill", args=args)))
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
        return str(caught.value)

    where = rf"stages.0 (distill).args.{TEACHER}"
    assert told() == f"{where} is missing: the folder or Hub name of the larger model"
    assert told(**{TEACHER: str(tmp_path / "gone")}).startswith(f"{where}: ")
    other = make_model(tmp_path / "other", "internvl")
    assert told(**{TEACHER: str(other)}).startswith(f"{where}: its vocabulary is not that of")
    patches = tmp_path / "patches"
    shutil.copytree(one_model, patches)
    for file in (patches / "preprocessor_config.json", patches / "processor_config.json"):
        if file.is_file():
            text = json.loads(file.read_text())
            inner = text.get("image_processor", text)
            inner["image_mean"] = [0.1, 0.2, 0.3]
            file.write_text(json.dumps(text))
    assert told(**{TEACHER: str(patches)}).startswith(f"{where}: it prepares images otherwise than")


def test_a_dry_run_describes_the_other_trainers(one_model, data, tmp_path):
    recipe = recipe_of(one_model, data, tmp_path / "runs", stage("dpo"), stage("rloo"), name="x")
    text = "\n".join(dry_run(recipe))
    assert "4 rollouts a prompt are drawn before training" in text
    assert "2 prompts x 4 rollouts generated at once" in text
    assert text.count("reward       odd_text on box") == 2
    assert not (tmp_path / "runs").exists()

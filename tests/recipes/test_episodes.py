"""Episodes in training: what is learned, masked, shown, paid; against references worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from grounding.errors import BrokenRow, UsageError
from grounding.io import read_samples, write_samples
from grounding.journal import read_journals
from grounding.sample import ToolTurn
from grounding.targets import Box, TextBox
from recipes.config import parse_recipe
from recipes.data import WholeRows
from recipes.loops import dpo, drawing
from recipes.runner import jobs_of
from recipes.sft import SupervisedStage
from recipes.stage import STAGES
from recipes.training import load_for
from tests.recipes.tiny import make_data, make_model

CALL = 'zoom({"bbox_2d": [0, 0, 500, 500]})'
OTHER = 'zoom({"bbox_2d": [500, 500, 1000, 1000]})'
BAD = 'zoom({"bbox_2d": [5, 5, 5, 5]})'
ANSWER = '{"bbox_2d": [100, 100, 900, 900]}'
TOOLS = {"use": ["zoom"], "turns": 3, "image_tokens": 250, "told": "", "reply": "Look."}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("episodes")
    return {
        "qwen3_vl": make_model(folder / "qwen3_vl", "qwen3_vl"),
        "qwen2_5_vl": make_model(folder / "qwen2_5_vl", "qwen2_5_vl"),
        "data": make_data(folder / "data", count=4),
    }


def stage_of(
    places: Any, folder: Any, kind: str, *, family: str = "qwen3_vl", model: Any = None, **stage: Any
) -> Any:
    args = {"per_device_train_batch_size": 4, "max_steps": 1}
    if kind == "grpo":
        args |= {"num_generations": 2, "max_completion_length": 600, "loss_type": "grpo"}
        stage.setdefault("rewards", ["iou", {"name": "tool_when_right", "weight": 2.0}])
    if kind in ("select", "filter"):
        args = {}
    spec = {"kind": kind, "lora": None, "tools": TOOLS, **stage, "args": args | stage.get("args", {})}
    content = {
        "name": "run",
        "model": {"path": str(places[family]), "dialect": family, "grammar": "bare", **(model or {})},
        "data": str(places["data"]),
        "stages": [spec],
        "output": str(folder),
        "wandb": "disabled",
    }
    return STAGES.get(kind)(jobs_of(parse_recipe(content))[0])


def say(trainer: Any, *rounds: list[str]) -> list[Any]:
    """Let the policy say this, round by round, instead of drawing; what it was asked with is collected."""
    asked, script = [], iter(rounds)
    tokenizer, end = trainer.processing_class.tokenizer, trainer._tokenizer.eos_token_id

    def turn(ids: Any, images: Any, fields: Any, num_generations: int, has_tool_images: bool = False) -> Any:
        asked.append(([list(own) for own in ids], images, fields))
        said = next(script)
        assert len(said) == len(ids)
        return [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in said], None

    trainer._generate_single_turn = turn
    return asked


def rolled_out(trainer: Any, prompts: int = 2) -> dict[str, Any]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    set_seed(3)
    rows = [trainer.train_dataset[index] for index in range(prompts) for _ in range(trainer.num_generations)]
    return trainer._generate_and_score_completions(rows)


def two_turns(trainer: Any) -> dict[str, Any]:
    """Four rollouts: one zoom, another zoom, a call that is refused, an answer at once."""
    say(trainer, [CALL, OTHER, BAD, ANSWER], [ANSWER, ANSWER, ANSWER])
    inputs = rolled_out(trainer)
    inputs["advantages"] = torch.tensor([1.0, -1.0, 0.5, -2.0])
    return inputs


def gradients(trainer: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_loss_and_gradients_are_those_of_a_reference_built_by_hand(places, tmp_path, family):
    """Each rollout by itself, without padding or sharing; the mask is counted out from the words."""
    trainer = stage_of(places, tmp_path, "grpo", family=family).trainer()
    inputs = two_turns(trainer)
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    found = gradients(trainer, loss)

    tokenizer, processor = trainer.processing_class.tokenizer, trainer.processing_class
    words = [[CALL, ANSWER], [OTHER, ANSWER], [BAD, ANSWER], [ANSWER]]
    total = 0.0
    starts = [0, *torch.tensor(inputs["num_images"]).cumsum(0).tolist()]
    patches = [0, *inputs["image_grid_thw"].prod(-1).cumsum(0).tolist()]
    for row, (turns, advantage) in enumerate(zip(words, inputs["advantages"].tolist(), strict=True)):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        completion = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
        own = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in turns]
        mask = [1] * own[0] + [0] * (len(completion) - sum(own)) + [1] * sum(own[1:])
        ids = torch.tensor([prompt + completion])
        grid = inputs["image_grid_thw"][starts[row] : starts[row + 1]]
        pixels = inputs["pixel_values"][patches[starts[row]] : patches[starts[row + 1]]]
        kinds = (ids == trainer.model.config.image_token_id).long()
        assert kinds.sum() == grid.prod(-1).sum() // processor.image_processor.merge_size**2
        logits = trainer.model(
            input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds
        ).logits
        scaled = logits[0, len(prompt) - 1 : -1] / trainer.temperature
        logps = scaled.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        weight = torch.tensor(mask, dtype=torch.float32)
        ratio = (logps - logps.detach()).exp()
        total = total - advantage * (ratio * weight).sum() / weight.sum() / len(words)
    expected = gradients(trainer, total)
    torch.testing.assert_close(loss, total)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_sharing_prompts_changes_nothing(places, tmp_path):
    found = []
    for share in (True, False):
        trainer = stage_of(places, tmp_path / str(share), "grpo", model={"share_prompts": share}).trainer()
        assert trainer._share_prompts is share
        inputs = two_turns(trainer)
        loss = trainer._compute_loss(trainer.model, dict(inputs))
        found.append((loss.detach(), gradients(trainer, loss)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_every_round_is_shown_all_that_was_shown_before(places, tmp_path):
    trainer = stage_of(places, tmp_path, "grpo").trainer()
    asked = say(trainer, [CALL, OTHER, BAD, ANSWER], [CALL, ANSWER, ANSWER], [ANSWER])
    inputs = rolled_out(trainer)
    first, second, third = asked
    assert [len(own) for own in second[1]] == [2, 2, 1] and [len(own) for own in third[1]] == [3]
    assert all(after[: len(before)] == before for before, after in zip(first[0], second[0], strict=False))
    assert third[0][0][: len(second[0][0])] == second[0][0]
    assert inputs["num_images"] == [3, 2, 1, 1]
    assert len(inputs["image_grid_thw"]) == 7
    metrics = trainer._metrics["train"]
    assert metrics["tools/turns"] == [8 / 4] and metrics["tools/pictures"] == [3 / 4]
    assert metrics["tools/call_frequency"] == [1.0] and metrics["tools/failure_frequency"] == [0.25]


def test_rewards_see_the_answer_of_the_whole_image_and_the_calls_that_were_made(places, tmp_path):
    trainer = stage_of(places, tmp_path, "grpo", rewards=["iou", "tool_when_right", "zoom_on_target"]).trainer()
    seen: list[Any] = []
    inner = trainer._calculate_rewards

    def spy(inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> Any:
        rewards = inner(inputs, prompts, completions, completion_ids)
        seen.append((completions, [row.episode for row in trainer._played], rewards))
        return rewards

    trainer._calculate_rewards = spy
    two_turns(trainer)
    completions, episodes, rewards = seen[0]
    assert [message["role"] for message in completions[0]] == ["assistant", "tool", "assistant"]
    assert episodes[0].answer.box.xyxy == pytest.approx((0.05, 0.05, 0.45, 0.45))
    assert episodes[1].answer.box.xyxy == pytest.approx((0.55, 0.55, 0.95, 0.95))
    assert episodes[2].answer.box.xyxy == pytest.approx((0.1, 0.1, 0.9, 0.9)) and not episodes[2].calls
    samples = list(read_samples(places["data"] / "train.jsonl"))
    for row, episode in enumerate(episodes):
        target = samples[row // 2].target
        click = episode.answer.click
        hit = target.x1 <= click.x <= target.x2 and target.y1 <= click.y <= target.y2
        assert rewards[row, 1].item() == float(hit and bool(episode.calls))
    assert (rewards[:2, 0] != rewards[2, 0]).any()


@pytest.mark.parametrize("strategy", ["entropy", "coupled_rhythm"])
def test_credit_gives_no_weight_to_what_a_tool_wrote(places, tmp_path, strategy):
    model = {"share_prompts": True}
    trainer = stage_of(
        places, tmp_path, "grpo", model=model, credit={"strategy": strategy, "layers": [0, 1]}
    ).trainer()
    inputs = two_turns(trainer)
    assert (inputs["tool_mask"] == 0).any()
    trainer._compute_loss(trainer.model, inputs).backward()
    weights = inputs["credit_weights"]
    mine = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    means = (weights * mine).sum(1) / mine.sum(1)
    torch.testing.assert_close(means, torch.ones(4), rtol=1e-4, atol=1e-4)


def test_credit_that_reads_one_answer_is_refused(places, tmp_path):
    with pytest.raises(UsageError, match="needs the dialect"):
        stage_of(places, tmp_path, "grpo", credit={"strategy": "coordinate"}).trainer()


def test_rewards_on_attention_are_refused(places, tmp_path):
    with pytest.raises(UsageError, match="single-turn"):
        stage_of(places, tmp_path, "grpo", rewards=["iou", "attention_in_target"]).trainer()


@pytest.mark.slow
def test_a_stage_trains_and_resumes_on_its_own_episodes(places, tmp_path):
    stage = stage_of(places, tmp_path, "grpo", args={"max_steps": 2, "logging_steps": 1})
    stage.check()
    stage.run()
    assert (tmp_path / "run/0-grpo/model/config.json").is_file()


def teaching_data(places: Any, folder: Any, region: Box) -> Any:
    made = make_data(folder, count=4)
    turns = (ToolTurn("zoom", region, "There."),)
    samples = [replace(sample, turns=turns) for sample in read_samples(made / "train.jsonl")]
    write_samples(made / "train.jsonl", samples)
    assert list(read_samples(made / "train.jsonl")) == samples
    return {**places, "data": made}


def test_only_the_models_own_words_are_taught(places, tmp_path):
    where = teaching_data(places, tmp_path / "data", Box(0, 0, 1, 1))
    stage = stage_of(where, tmp_path, "sft", model={"grammar": "think"})
    stage.check()
    lines = dict(stage.describe())
    assert "zoom" in lines["tools"]
    taught = lines["labels"].split(": ", 1)[1]
    first, second = taught.split("<|im_end|>")[:2]
    assert first == '<think>There.</think>\\nzoom({"bbox_2d": [0, 0, 1000, 1000]})'
    assert second.startswith("<think>The ") and second.endswith("]}")
    assert "Look." not in taught and "<|image_pad|>" not in taught


def test_an_answer_in_words_is_taught_after_a_look_at_its_evidence(places, tmp_path):
    """What `data_prep viscot --look` writes, as configs/recipes/systems/argus.yaml teaches it."""
    where = teaching_data(places, tmp_path / "data", Box(0.1, 0.1, 0.9, 0.9))
    file = where["data"] / "train.jsonl"
    answered = [replace(sample, target=TextBox("red", (sample.target,))) for sample in read_samples(file)]
    write_samples(file, answered)
    tools = {**TOOLS, "coordinates": "image"}
    lines = dict(stage_of(where, tmp_path, "sft", family="qwen2_5_vl", tools=tools).describe())
    call, answer = lines["labels"].split(": ", 1)[1].split("<|im_end|>")[:2]
    assert call == 'zoom({"bbox_2d": [8, 8, 76, 76]})'  # in pixels of the picture as the model sees it
    assert answer.startswith('{"answer": "red", "evidence": [{"bbox_2d": [')


@pytest.mark.slow
def test_a_supervised_stage_learns_from_turns(places, tmp_path):
    where = teaching_data(places, tmp_path / "data", Box(0, 0, 1, 1))
    stage_of(where, tmp_path, "sft", model={"grammar": "think"}).run()
    assert (tmp_path / "run/0-sft/model/config.json").is_file()


def test_a_region_that_hides_the_answer_is_a_broken_row(places, tmp_path):
    where = teaching_data(places, tmp_path / "data", Box(0, 0, 0.01, 0.01))
    with pytest.raises(BrokenRow, match="does not show"):
        stage_of(where, tmp_path, "sft").check()


def test_learning_the_prompt_too_is_refused(places, tmp_path):
    stage = stage_of(places, tmp_path, "sft", args={"completion_only_loss": False})
    with pytest.raises(UsageError, match="only what the model writes is learned"):
        stage.check()


def test_turns_without_tools_are_told(places, tmp_path):
    where = teaching_data(places, tmp_path / "data", Box(0, 0, 1, 1))
    with pytest.raises(BrokenRow, match="has turns, but the stage has no `tools`"):
        stage_of(where, tmp_path, "sft", tools=None).check()


def test_a_stage_without_tools_for_it_says_so(places, tmp_path):
    with pytest.raises(UsageError, match="has no tools"):
        stage_of(places, tmp_path, "rloo", rewards=["iou"])


@pytest.fixture
def scripted(monkeypatch):
    """Turns that the policy says in the place of its own, round by round, the same for every batch."""
    words = [[CALL, BAD, ANSWER, OTHER], [ANSWER, ANSWER, "nothing"]]

    def speak(self: Any, rows: Any) -> Any:
        script = words[len(rows[0].episode.turns)]
        end = self._processor.tokenizer.eos_token_id
        assert len(rows) == len(script)
        return [[*self._processor.tokenizer(text)["input_ids"], end] for text in script], None

    monkeypatch.setattr(drawing.LocalTurns, "__call__", speak)


def test_rejection_keeps_episodes_and_learns_only_what_the_model_said(places, tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(SupervisedStage, "run", lambda stage: None)  # after the rollouts
    sampling = {"num_generations": 4, "generation_batch_size": 1, "max_completion_length": 600, "keep": 2}
    rewards = [{"name": "format"}, {"name": "tool_when_right", "weight": 5.0}]
    stage = stage_of(places, tmp_path, "rejection", rewards=rewards, args={**sampling, "min_reward": 0.5})
    stage.check()
    stage.job.folder.mkdir(parents=True)
    stage.run()
    rows = list(read_journals(stage.job.folder, "kept-*.jsonl"))
    assert len(rows) == 4
    for row, sample in zip(rows, read_samples(places["data"] / "train.jsonl"), strict=True):
        assert all(len(said) <= 2 for said in row["kept"]) and len(row["kept"]) == 2
        hit = sample.target.x1 <= 0.25 <= sample.target.x2 and sample.target.y1 <= 0.25 <= sample.target.y2
        assert (row["kept"][0] == [CALL, ANSWER]) or not hit, sample.id
        assert ["nothing"] not in row["kept"] and [OTHER, "nothing"] not in row["kept"]

    _, processor = load_for(stage.job)
    kept = stage.kept(processor)
    batch = WholeRows(processor)([kept[0], kept[1]])
    for labels, said in zip(batch["labels"], rows[0]["kept"], strict=True):
        learned = processor.tokenizer.decode(labels[labels != -100])
        assert learned == "".join(f"{text}<|im_end|>" for text in said)
    shown = sum(len(said) == 2 and said[0] != BAD for said in rows[0]["kept"])
    assert len(batch["image_grid_thw"]) == 2 + shown > 2


SAMPLING = {"num_generations": 4, "generation_batch_size": 1, "max_completion_length": 600}
EPISODES = [[CALL, ANSWER], [BAD, ANSWER], [ANSWER], [OTHER, "nothing"]]


def test_select_chooses_by_episodes(places, tmp_path, scripted):
    args = {**SAMPLING, "above": None, "below": 0.75}
    stage = stage_of(places, tmp_path, "select", rewards=["tool_when_right"], args=args)
    stage.check()
    assert dict(stage.describe())["tools"].startswith("zoom; ")
    stage.job.folder.mkdir(parents=True)
    stage.run()
    samples = {sample.id: sample for sample in read_samples(places["data"] / "train.jsonl")}
    rows = list(read_journals(stage.job.folder, "rollouts-*.jsonl"))
    assert len(rows) == len(samples) == 4
    for row in rows:
        box = samples[row["id"]].target
        hit = box.x1 <= 0.25 <= box.x2 and box.y1 <= 0.25 <= box.y2  # the answer's middle, of the crop, in the image
        assert row["answers"] == EPISODES
        assert row["scores"] == [float(hit), 0.0, 0.0, 0.0]
    assert len(list(read_samples(stage.job.folder / "data/train.jsonl"))) == 4


def calls(completions, executed_calls, **columns):
    """Pays for a call that showed something and was followed by an answer."""
    return [
        float(sum(call.showed_image for call in own)) * chat[-1]["content"].startswith("{")
        for own, chat in zip(executed_calls, completions, strict=True)
    ]


def test_preferred_episodes_are_compared_by_what_the_model_said_with_pictures_of_their_own(
    places, tmp_path, scripted, monkeypatch
):
    trainers: list[Any] = []
    monkeypatch.setattr(dpo, "run_training", lambda job, trainer, drawn: trainers.append(trainer))
    stage = stage_of(places, tmp_path, "dpo", rewards=[f"{__name__}:calls"], args=SAMPLING)
    stage.check()
    stage.job.folder.mkdir(parents=True)
    stage.run()
    (trainer,) = trainers
    processor = trainer.processing_class
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    learned = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    best, worst = (f"{first}<|im_end|>{ANSWER}<|im_end|>" for first in (CALL, BAD))
    assert learned == [best, best, worst, worst]
    assert len(batch["image_grid_thw"]) == 2 * 2 + 2 * 1  # only the better ones have seen a crop
    loss = trainer._compute_loss(trainer.model, batch, False)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-4)
    with pytest.raises(UsageError, match=r"args\.compare: episodes are compared as a whole"):
        stage_of(places, tmp_path, "dpo", rewards=["iou"], args={**SAMPLING, "compare": "sentence"}).check()


def test_a_filter_judges_the_episodes_of_the_samples(places, tmp_path):
    where = teaching_data(places, tmp_path / "data", Box(0, 0, 1, 1))
    rewards = [{"name": "zoom_on_target", "weight": 0.5}, {"name": "iou", "weight": 0.5}]
    args = {"rules": False, "min_reward": 0.95}
    stage = stage_of(where, tmp_path, "filter", rewards=rewards, model={"grammar": "think"}, args=args)
    stage.check()
    stage.job.folder.mkdir(parents=True)
    stage.run()
    assert len(list(read_samples(stage.job.folder / "data/train.jsonl"))) == 4
    scores = [row["score"] for row in read_journals(stage.job.folder, "measured-*.jsonl")]
    assert all(0.95 < score <= 1.0 for score in scores) and len(scores) == 4
    with pytest.raises(UsageError, match=r"args\.attention: is read of answers of one turn"):
        stage_of(where, tmp_path, "filter", args={"attention": True}).check()


@pytest.mark.slow
def test_rejection_trains_on_its_episodes(places, tmp_path, scripted):
    sampling = {"num_generations": 4, "generation_batch_size": 1, "max_completion_length": 600}
    stage = stage_of(places, tmp_path, "rejection", rewards=["format"], args={**sampling, "min_reward": 0.5})
    stage.job.folder.mkdir(parents=True)
    stage.run()
    assert (tmp_path / "run/0-rejection/model/config.json").is_file()


def test_an_unknown_key_names_the_nearest(places, tmp_path):
    with pytest.raises(UsageError, match=r"stages\.0\.tools: unknown key 'turn'; did you mean 'turns'"):
        stage_of(places, tmp_path, "grpo", tools={"use": "zoom", "turn": 2})


def test_frozen_weights_stay_as_they_are_and_the_others_do_not(places, tmp_path):
    args = {"learning_rate": 1e-2, "gradient_checkpointing": False}
    stage = stage_of(places, tmp_path, "sft", tools=None, train={"language_model": "full"}, args=args)
    stage.check()
    lines = dict(stage.describe())
    before = load_file(places["qwen3_vl"] / "model.safetensors")
    seen = sum(weight.numel() for name, weight in before.items() if "visual" in name)
    total = sum(weight.numel() for weight in before.values())
    assert seen > 0 and lines["trained"] == f"{total - seen:,} of {total:,} weights"
    stage.job.folder.mkdir(parents=True)
    stage.run()
    after = load_file(stage.job.folder / "model/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("visual" in name for name in changed)
